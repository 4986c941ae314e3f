//! Shows volumes to hosts by iSCSI, as long as they are to have them: whoever may, and until when, is what it is in NBD
//! ([`VolumeServer`]), and of both ways one at a time.
//!
//! A target is of one attachment of a volume to a machine of one host: so is the name of its initiator, and its secret, which is
//! made of a key that is kept with the volumes. After a restart both are what they were, and initiators log in again.

use std::{
    fmt, fs,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use cimi::Timestamp;
use futures::{FutureExt as _, future::BoxFuture};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use super::{
    Claim, Part, Portal, TargetDaemon, User, VolumeServer,
    iscsi::{Names, Showing},
    portal::Led,
    server::USERS,
    starts::Starts,
    way::Way,
};
use crate::{durable, error::Error, inspect::Format};

/// How the names of targets and initiators begin: StratusLab's.
const IQN: &str = "iqn.2011-01.eu.stratuslab:";
/// Who logs in; the secret says for what.
const LOGIN: &str = "stratus";
/// The file with the key of the secrets, in the folder of images and volumes, and its bytes.
const KEY_FILE: &str = "iscsi-key";
const KEY_BYTES: usize = 32;
/// Bytes of a secret, before it is written in hexadecimal digits: more than what initiators ask for, and no more than they take.
const SECRET_BYTES: usize = 16;

/// By what volumes are shown by iSCSI.
#[derive(Clone)]
pub struct Targets {
    daemon: TargetDaemon,
    portal: Portal,
    key: hmac::Key,
    starts: Starts,
    /// Whether machines that begin to use a volume are to use it so.
    is_usual: bool,
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets")
            .field("portal", &self.portal)
            .field("is_usual", &self.is_usual)
            .finish_non_exhaustive()
    }
}

/// Why a target is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyTarget {
    /// To begin to use the volume, by iSCSI if that is how it is to be.
    Anew,
    /// To go on: a guest has it by iSCSI already.
    Again,
    /// To have all fail that a guest still wants of one that was taken from it.
    Lost,
}

/// A volume that is shown. Killed when dropped, which doesn't wait for it: see [`Offer::until`].
pub struct Offer {
    /// Where it is.
    pub portal: SocketAddr,
    /// Its name.
    pub target: String,
    /// Who may log in.
    pub initiator: String,
    /// By which name.
    pub user: &'static str,
    /// By which secret.
    pub secret: String,
    // In this order.
    led: Led,
    claim: Option<Claim>,
    tenure_ends: BoxFuture<'static, ()>,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("portal", &self.portal)
            .field("target", &self.target)
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

impl Targets {
    /// With the key in this folder, which is made.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Mismatch`] for a key that isn't whole.
    pub fn open(
        daemon: TargetDaemon,
        portal: Portal,
        folder: &Path,
        is_usual: bool,
    ) -> Result<Self, Error> {
        let path = folder.join(KEY_FILE);
        let mut key = [0; KEY_BYTES];
        match fs::read(&path) {
            Ok(kept) => {
                key = kept.try_into().map_err(|kept: Vec<u8>| Error::Mismatch {
                    what: "length of the iSCSI key",
                    expected: KEY_BYTES.to_string(),
                    found: kept.len().to_string(),
                })?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let unsure = |_| std::io::Error::other("there is no randomness");
                SystemRandom::new()
                    .fill(&mut key)
                    .map_err(unsure)
                    .map_err(Error::io("make", &path))?;
                make(&path, &key)?;
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        }
        Ok(Self {
            daemon,
            portal,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            starts: Starts::new(),
            is_usual,
        })
    }

    /// Takes the connections of initiators, as long as this runs.
    pub async fn run(&self) {
        self.portal.run().await;
    }

    /// The names of a target and of its initiator, and their secret.
    fn names(&self, user: &User) -> (String, String, String) {
        let User { host, of } = user;
        let (volume, machine) = (of.volume.local(), of.machine.local());
        let taken = of.taken.map_or(0, Timestamp::as_millis);
        let target = format!("{IQN}{volume}");
        let initiator = format!("{IQN}{}:{machine}:{taken}", host.local());
        let tag = hmac::sign(&self.key, format!("{target} {initiator}").as_bytes());
        let secret = tag.as_ref().iter().take(SECRET_BYTES);
        let secret = secret.map(|byte| format!("{byte:02x}")).collect();
        (target, initiator, secret)
    }
}

/// Makes a file that only we read.
fn make(path: &Path, content: &[u8]) -> Result<(), Error> {
    use std::io::Write as _;
    let unfinished = path.with_extension("new");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            file.sync_all()
        });
    written.map_err(Error::io("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::io("rename", &unfinished))?;
    durable::sync_parent(path)
}

impl VolumeServer {
    /// Has a volume shown to a host by iSCSI; none: it is not, and is to be used in NBD.
    ///
    /// # Errors
    /// Why the host doesn't get it: for the log.
    pub async fn offer(&self, user: &User, why: WhyTarget) -> Result<Option<Offer>, String> {
        let tenure_ends = match &self.tenure {
            Some(tenure) => tenure.ended().boxed(),
            None => std::future::pending().boxed(),
        };
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.is_held()) {
            return Err("this daemon can't say just now that it keeps the volumes".to_owned());
        }
        let Some(targets) = &self.targets else {
            return match why {
                WhyTarget::Anew => Ok(None),
                _ => Err(
                    "it was shown by iSCSI, and `storage.iscsi_portal` is set no more".to_owned(),
                ),
            };
        };
        // Strangers speak to it.
        let Some(uid_base) = self.uid_base else {
            return Err("no `tgtd` is run as root: `machines.uid_base` has to be set".to_owned());
        };
        if why == WhyTarget::Lost {
            // Whatever volume it is of, and whoever has that: there is nothing in it.
            let machine = self.documents.machines.get(user.of.machine.local());
            let machine = machine.ok_or("the machine that had it is gone")?;
            if machine.host.as_ref() != Some(&user.host) {
                return Err(format!("{}, which had it, is not on this host", machine.id));
            }
            let uid = uid_base + machine.vmid.0 % USERS;
            let shown = targets.shown(user, (None, uid), None, tenure_ends);
            return shown.await.map(Some);
        }
        // Before anybody else loses it.
        let found = self.find(user)?;
        let is_plain = matches!(&found.parts[..], [part] if part.format == Format::Raw);
        if !is_plain || (why == WhyTarget::Anew && !targets.is_usual) {
            return match why {
                WhyTarget::Anew => Ok(None),
                _ => Err("it was shown by iSCSI, and is no plain file any more".to_owned()),
            };
        }
        let Some(claim) = self.exports.claim(user.clone()).await else {
            return Err("it waited, and another came before it was free".to_owned());
        };
        // From here on, whoever changes who has it finds the claim.
        let found = self.find(user)?;
        let uid = uid_base + found.vmid % USERS;
        let part = found.parts.into_iter().next();
        let shown = targets
            .shown(user, (part, uid), Some(claim), tenure_ends)
            .await?;
        tracing::info!(host = %user.host, volume = %user.of.volume, "a host uses a volume by iSCSI");
        Ok(Some(shown))
    }
}

impl Offer {
    /// Shows it until `gone`, or until it is to end otherwise. When this returns, nobody writes it for that host. To be driven to
    /// its end.
    pub async fn until(mut self, user: &User, gone: impl Future<Output = ()>) {
        let is_cut = async {
            match &self.claim {
                Some(claim) => claim.cut().await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = &mut self.tenure_ends => "another daemon may keep the volumes now",
            () = is_cut => "somebody else is to have it",
            () = gone => "its host is gone, or its connection ended",
        };
        self.led.end().await;
        // Before the next one can have it, so that a log tells who had it when.
        tracing::info!(host = %user.host, volume = %user.of.volume, machine = %user.of.machine, why, "a host uses a volume by iSCSI no more");
        drop(self.claim);
    }
}

impl Targets {
    async fn shown(
        &self,
        user: &User,
        (part, uid): (Option<Part>, u32),
        claim: Option<Claim>,
        tenure_ends: BoxFuture<'static, ()>,
    ) -> Result<Offer, String> {
        let (target, initiator, secret) = self.names(user);
        let names = Names {
            target: target.clone(),
            initiator: initiator.clone(),
            user: LOGIN,
            secret: secret.clone(),
        };
        let showing = Showing {
            daemon: self.daemon.clone(),
            file: part,
            user: uid,
            names,
        };
        let way = Way::new(showing, user.host.clone(), self.starts.clone());
        // Where it can't be shown, that is known now. What shows nothing is started when somebody comes.
        if let Some(claim) = &claim {
            let prepared = tokio::select! {
                prepared = way.prepare() => prepared.map_err(|error| error.to_string()),
                () = claim.cut() => Err("another came before it was shown".to_owned()),
            };
            if let Err(reason) = prepared {
                way.end().await;
                return Err(reason);
            }
        }
        let led = self.portal.lead(&target, &initiator, way);
        Ok(Offer {
            portal: self.portal.address(),
            target,
            initiator,
            user: LOGIN,
            secret,
            led,
            claim,
            tenure_ends,
        })
    }
}
