//! Shows volumes to hosts, as long as they are to have them.
//!
//! A host gets a volume as long as a machine that is placed on it has it, and for that attachment only: what a guest still wants
//! to write of an earlier one doesn't come into what others made of the volume since. Whatever changes that, whoever asked for it, ends the
//! use first of all, and with it the process that writes the volume: a host that is cut off by the network, or that doesn't do
//! what it is told, writes nothing any more.

use std::io;

use cimi::resources::{MediumFormat, VolumeLocation};
use documents::Documents;
use store::{Tenure, cache::Changed};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{Exports, Part, StorageDaemon, Targets, User};
use crate::inspect::Format;

/// How many users there are for processes; that of a machine elsewhere is nobody's here.
pub(super) const USERS: u32 = 60_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct VolumeServer {
    /// Who has what.
    pub documents: Documents,
    /// What is shown now, for all who write volumes here.
    pub exports: Exports,
    /// None: this computer has no such program, and hosts get no volumes.
    pub daemon: Option<StorageDaemon>,
    /// By which volumes are shown by iSCSI, too; none: they are not.
    pub targets: Option<Targets>,
    /// The processes run as users from this one on, that of each machine as another; none: as we do.
    pub uid_base: Option<u32>,
    /// Whether this daemon keeps the volumes of its cloud; none: no other one could.
    pub tenure: Option<Tenure>,
}

/// A volume that a machine of a host has.
pub(super) struct Found {
    pub(super) parts: Vec<Part>,
    pub(super) vmid: u32,
}

impl VolumeServer {
    /// Shows a volume to a host that is known, until `relay` has led what is said in NBD between them to its end, `until` is
    /// cancelled, or somebody else is to have it: then what `relay` gave is dropped. When this returns, nobody writes it for
    /// that host. To be driven to its end.
    pub async fn serve<R: Future<Output = io::Result<()>>>(
        &self,
        user: &User,
        relay: impl FnOnce(UnixStream) -> R,
        until: &CancellationToken,
    ) {
        let User { host, of } = user;
        let (volume, machine) = (&of.volume, &of.machine);
        if let Err(reason) = self.shown(user, relay, until).await {
            tracing::warn!(%host, %volume, %machine, reason, "a host doesn't get a volume");
        }
    }

    async fn shown<R: Future<Output = io::Result<()>>>(
        &self,
        user: &User,
        relay: impl FnOnce(UnixStream) -> R,
        until: &CancellationToken,
    ) -> Result<(), String> {
        let tenure_ends = self.tenure.as_ref().map(Tenure::ended);
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.is_held()) {
            return Err("this daemon can't say just now that it keeps the volumes".to_owned());
        }
        // Before anybody else loses it.
        self.find(user)?;
        let daemon = self.daemon.as_ref();
        let daemon = daemon.ok_or("there is no qemu-storage-daemon here")?;
        let Some(claim) = self.exports.claim(user.clone()).await else {
            tracing::info!(host = %user.host, volume = %user.of.volume, "a host waited for a volume, and another came before it was free");
            return Ok(());
        };
        // From here on, whoever changes who has it finds the claim.
        let found = self.find(user)?;
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.is_held()) {
            return Err("this daemon can't say any more that it keeps the volumes".to_owned());
        }
        let uid = self.uid_base.map(|base| base + found.vmid % USERS);
        let shown = daemon.show(found.parts, uid).await;
        let (shown, stream) = shown.map_err(|error| error.to_string())?;
        tracing::info!(host = %user.host, volume = %user.of.volume, "a host uses a volume");
        let tenure_ends = async {
            match tenure_ends {
                Some(ends) => ends.await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            biased;
            () = tenure_ends => "another daemon may keep the volumes now",
            () = claim.cut() => "somebody else is to have it",
            () = until.cancelled() => "its connection is to end",
            relayed = relay(stream) => match relayed {
                Ok(()) => "its connection ended",
                Err(error) => {
                    tracing::warn!(host = %user.host, volume = %user.of.volume, %error, "the connection to a host broke");
                    "its connection broke"
                }
            },
        };
        shown.end().await;
        // Before the next one can have it, so that a log tells who had it when.
        tracing::info!(host = %user.host, volume = %user.of.volume, machine = %user.of.machine, why, "a host uses a volume no more");
        drop(claim);
        Ok(())
    }

    /// Takes volumes from hosts that are to have them no more, for ever.
    pub async fn run(&self) {
        let (mut volumes, mut machines) = (
            self.documents.volumes.changes(),
            self.documents.machines.changes(),
        );
        loop {
            tokio::select! {
                changed = volumes.next() => self.look_at(changed.id()),
                changed = machines.next() => {
                    // Of one that is gone, each volume changes with it.
                    if let Changed::Present(machine) = changed {
                        for attached in &machine.volumes {
                            self.look_at(attached.volume.local());
                        }
                    }
                }
            }
        }
    }

    fn look_at(&self, volume: &str) {
        if let Some(user) = self.exports.user(volume)
            && let Err(reason) = self.find(&user)
        {
            tracing::info!(host = %user.host, volume, reason, "a volume is taken from a host");
            self.exports.cut(volume);
        }
    }

    /// A volume, if it is that attachment to that machine which is wanted, and the machine is placed on that host; else why the
    /// host doesn't get it.
    pub(super) fn find(&self, user: &User) -> Result<Found, String> {
        let of = &user.of;
        let read = self.documents.volumes.get(of.volume.local());
        let read = read.ok_or("there is no such volume")?;
        let attachment = read.attachment.as_ref().ok_or("no machine has it")?;
        if attachment.machine != of.machine {
            return Err(format!("{} has it", attachment.machine));
        }
        let machine = self.documents.machines.get(of.machine.local());
        let machine = machine.ok_or("the machine that has it is gone")?;
        if machine.host.as_ref() != Some(&user.host) {
            return Err(format!("{}, which has it, is not on this host", machine.id));
        }
        let mut attached = machine.volumes.iter();
        if !attached.any(|one| one.volume == of.volume && one.taken == of.taken) {
            return Err(format!("{} has it no more, or anew", machine.id));
        }
        let location = read.location.as_ref().ok_or("it is not made yet")?;
        let part = |(path, format): (&str, MediumFormat)| Part {
            path: path.into(),
            format: match format {
                MediumFormat::Raw => Format::Raw,
                MediumFormat::Qcow2 => Format::Qcow2,
            },
        };
        Ok(Found {
            parts: VolumeLocation::files(location).map(part).collect(),
            vmid: machine.vmid.0,
        })
    }
}
