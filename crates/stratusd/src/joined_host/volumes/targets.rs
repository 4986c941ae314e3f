//! Volumes that machines of this host use by iSCSI: QEMU connects to the target itself, and this daemon holds the connection to the
//! entry as long as which it is shown.
//!
//! ```text
//!  QEMU ──iSCSI, in the storage network──▶ the portal ──▶ its tgtd ──▶ the volume
//!  this daemon ──TLS: the host is to have it──▶ an entry ──────┘ (as long as this connection is there)
//! ```
//!
//! Which way it is to be, the entry says when a process is first to use an attachment. By its file an attachment is known to be of
//! iSCSI after a restart: `<disk>.iscsi` in the folder of the machine's volumes, with the secret. Meanwhile the guest waits, and QEMU logs in
//! again by itself.

use std::{
    collections::{HashMap, HashSet},
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use cimi::{
    MachineId, Timestamp, VolumeId,
    lifecycle::{Power, Stage},
    resources::{AttachedVolume, Machine, VolumeUse},
};
use documents::Documents;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use trust::{
    Asking, TARGET_LENGTH_BYTES, TARGET_PROTOCOL, TargetAnswer, TargetRequest, VOLUME_PROTOCOL,
    VolumeTarget,
};
use vmhost::{
    DiskId,
    controller::{VolumePlace, VolumeUser, volume_disk},
    hypervisor::RunFolder,
    launch_spec::IscsiTarget,
};

use super::{Connected, Disk, Inner, NotGiven, WhyNot, entries::CONNECTING, socket_of};

/// How long an entry may take to show a volume: who had it ends first, and a process is started.
const SHOWING: Duration = Duration::from_secs(15);
/// Rest before an entry is asked again; it grows up to the second.
const REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(8);

/// See the module.
pub(super) struct Targets {
    config: Arc<ClientConfig>,
    /// Whether QEMU has a driver for them.
    are_opened: bool,
    held: Mutex<HashMap<Disk, Held>>,
    /// Disks that are to be lost, of which an entry is being told.
    losing: Mutex<HashSet<Disk>>,
}

/// A target that is shown as long as this is there.
struct Held {
    folder: PathBuf,
    target: VolumeTarget,
    is_lost: bool,
    /// Whether it is shown now, as it was.
    is_shown: Arc<AtomicBool>,
    _holding: AbortOnDropHandle<()>,
}

impl Targets {
    /// By entries that are spoken to so.
    pub(super) fn of(mut config: ClientConfig, are_opened: bool) -> Self {
        // Of an entry that is older than this, the second.
        config.alpn_protocols = [TARGET_PROTOCOL, VOLUME_PROTOCOL]
            .map(<[u8]>::to_vec)
            .to_vec();
        Self {
            config: Arc::new(config),
            are_opened,
            held: Mutex::default(),
            losing: Mutex::default(),
        }
    }

    /// Ends what no machine needs any more.
    pub(super) fn close_unneeded(&self, id: &str, documents: &Documents) {
        let mut held = self.held.lock();
        // Not before: what is answered to one that has begun to start meanwhile, stays.
        let machine = documents.machines.get(id);
        let machine = machine.as_ref().map(|machine| &machine.document.0);
        let is_off = machine.is_none_or(is_off);
        held.retain(|(of, disk), held| {
            let is_needed = machine.is_some_and(|machine| {
                let mut all = machine.volumes.iter();
                held.is_lost || all.any(|one| volume_disk(one) == *disk)
            });
            let stays = of.local() != id || (is_needed && !is_off);
            if !stays {
                let file = secret_of(disk);
                if is_off {
                    VolumeUser::forget(&held.folder, &file);
                } else if let Err(error) = emptied(&held.folder, &file) {
                    tracing::warn!(disk, %error, "the secret of a volume that was detached stays");
                }
            }
            stays
        });
    }

    /// Ends what an earlier process of a machine had, but for what is shown now as it was; which disks these are.
    pub(super) fn begin(&self, by: &VolumeUser) -> HashSet<String> {
        let mut held = self.held.lock();
        held.retain(|(of, _), held| {
            let goes_on = held.is_of(by) && !held.is_lost && held.is_shown.load(Relaxed);
            *of != by.machine || goes_on
        });
        let of_it = held.keys().filter(|(of, _)| *of == by.machine);
        of_it.map(|(_, disk)| disk.clone()).collect()
    }

    /// Ends what is held of a disk that is used in NBD from now on.
    pub(super) fn end(&self, of: &Disk) {
        self.held.lock().remove(of);
    }

    pub(super) fn clear(&self) {
        self.held.lock().clear();
    }
}

impl Held {
    /// Whether it is of this run: a machine that has left and come again has another folder.
    fn is_of(&self, by: &VolumeUser) -> bool {
        self.folder == by.folder.0
    }
}

/// Whether a machine has no process, nor will have one soon.
pub(super) fn is_off(machine: &Machine) -> bool {
    let is_off = matches!(
        machine.observed.stage,
        Stage::Ended { .. } | Stage::Failed | Stage::Suspended
    );
    is_off && machine.desired.power != Power::On
}

/// Leaves nothing but the file itself: a guest that nobody heard of may still have the disk, and is to be told that it has lost it.
fn emptied(folder: &Path, file: &str) -> io::Result<()> {
    let path = RunFolder(folder.to_owned()).volumes().join(file);
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

pub(super) fn secret_of(disk: &str) -> String {
    format!("{disk}.iscsi")
}

/// Whether a machine has a disk by iSCSI: its secret is there, and wasn't [emptied].
fn is_kept(by: &VolumeUser, disk: &str) -> bool {
    let path = by.folder.volumes().join(secret_of(disk));
    path.metadata().is_ok_and(|found| found.len() > 0)
}

fn place(target: &VolumeTarget, disk: &str) -> VolumePlace {
    let VolumeTarget {
        portal,
        target,
        initiator,
        user,
        ..
    } = target.clone();
    let target = IscsiTarget {
        portal,
        target,
        initiator,
        user,
    };
    VolumePlace::Iscsi(target, secret_of(disk))
}

impl Inner {
    /// Where a volume is by iSCSI; none: it is used in NBD.
    pub(super) async fn target(
        self: &Arc<Self>,
        by: &VolumeUser,
        attached: &AttachedVolume,
    ) -> Result<Option<VolumePlace>, String> {
        let disk = volume_disk(attached);
        let of = (by.machine.clone(), disk.clone());
        let is_kept = is_kept(by, &disk);
        if is_kept
            && let Some(held) = self.targets.held.lock().get(&of)
            && held.is_of(by)
            && !held.is_lost
        {
            return Ok(Some(place(&held.target, &disk)));
        }
        let is_in_nbd = || {
            !self.targets.are_opened
                || self.sockets.lock().contains_key(&of)
                || by.has_socket(&socket_of(&disk))
        };
        // What QEMU has by iSCSI it can't have otherwise, whatever else is there.
        if !is_kept && is_in_nbd() {
            return Ok(None);
        }
        let of_it = by.of(attached);
        let failed = |why: String| format!("waits for {}: {why}", attached.volume);
        let shown = match is_kept {
            true => self.again(&of_it, Asking::Again).await.map(Some),
            false => self.anew(&of_it).await,
        };
        let Some((target, connected)) = shown.map_err(|not| failed(not.to_string()))? else {
            return Ok(None);
        };
        by.keep_secret(&secret_of(&disk), &target.secret)
            .map_err(|error| failed(format!("its secret can't be kept on this host: {error}")))?;
        let place = place(&target, &disk);
        tracing::info!(volume = %attached.volume, machine = %by.machine, portal = %target.portal, "a machine uses a volume by iSCSI");
        self.hold(by, disk, (of_it, Asking::Again), (target, connected));
        Ok(Some(place))
    }

    /// Whether a volume is shown at a portal that this host gets at; none: it is used in NBD. A login isn't tried: that would take
    /// the process that is ready there for QEMU, which is halted while it waits for another one.
    pub(super) async fn portal_answers(
        &self,
        by: &VolumeUser,
        attached: &AttachedVolume,
    ) -> Option<Result<(), String>> {
        let of = (by.machine.clone(), volume_disk(attached));
        let volume = &attached.volume;
        let portal = match self.targets.held.lock().get(&of) {
            Some(held) if held.is_of(by) => {
                held.is_shown.load(Relaxed).then_some(held.target.portal)
            }
            // Asked for it in NBD, an entry would take it from its target.
            _ if is_kept(by, &of.1) => None,
            _ => return None,
        };
        let Some(portal) = portal else {
            return Some(Err(format!(
                "waits for {volume}: it isn't shown by iSCSI just now"
            )));
        };
        let connected = timeout(CONNECTING, TcpStream::connect(portal)).await;
        let why = match connected {
            Ok(Ok(_)) => return Some(Ok(())),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it doesn't answer in time".to_owned(),
        };
        Some(Err(format!(
            "waits for {volume}: this host can't reach the iSCSI portal {portal}: {why}"
        )))
    }

    /// Has all fail that a guest still wants of a disk that it has by iSCSI; whether that is so.
    pub(super) fn lose_target(self: &Arc<Self>, by: &VolumeUser, disk: &DiskId) -> bool {
        let name = disk.as_str();
        if !by.has_socket(&secret_of(name)) {
            return false;
        }
        let Some(of) = use_of(&by.machine, name) else {
            return false;
        };
        let key = (by.machine.clone(), name.to_owned());
        let is_lost = |held: &Held| held.is_lost && held.is_of(by);
        if self.targets.held.lock().get(&key).is_some_and(is_lost) {
            return true;
        }
        // It is said again and again as long as the guest has it, and an entry may take longer to answer.
        if !self.targets.losing.lock().insert(key.clone()) {
            return true;
        }
        let (inner, by, name) = (Arc::clone(self), by.clone(), name.to_owned());
        tokio::spawn(async move {
            match inner.again(&of, Asking::Lost).await {
                Ok(shown) => inner.hold(&by, name, (of, Asking::Lost), shown),
                // It is asked again as long as the guest has it.
                Err(why) => {
                    tracing::warn!(disk = name, %why, "a guest can't be told yet that it has lost a volume");
                }
            }
            inner.targets.losing.lock().remove(&key);
        });
        true
    }

    fn hold(
        self: &Arc<Self>,
        by: &VolumeUser,
        disk: String,
        asked: (VolumeUse, Asking),
        (target, connected): Shown,
    ) {
        let is_shown = Arc::new(AtomicBool::new(true));
        let shown = (target.clone(), connected, Arc::clone(&is_shown));
        let is_lost = asked.1 == Asking::Lost;
        let holding = hold(Arc::clone(self), asked, shown);
        let held = Held {
            folder: by.folder.0.clone(),
            target,
            is_lost,
            is_shown,
            _holding: AbortOnDropHandle::new(tokio::spawn(holding)),
        };
        let of = (by.machine.clone(), disk);
        self.targets.held.lock().insert(of, held);
    }

    /// Where a volume is to be used that isn't yet; none: in NBD.
    async fn anew(&self, of: &VolumeUse) -> Result<Option<Shown>, NotGiven> {
        let request = TargetRequest(of.clone(), Asking::Anew);
        let config = &self.targets.config;
        // Who says that it isn't by iSCSI has the volume; nobody else is to be asked.
        let asked = self.entries.ask(config, |stream| shown(stream, &request));
        match asked.await {
            Err(not) if not.by_an_older_one() => Ok(None),
            answer => answer,
        }
    }

    /// Where a volume is that is used already.
    async fn again(&self, of: &VolumeUse, asking: Asking) -> Result<Shown, NotGiven> {
        let request = TargetRequest(of.clone(), asking);
        let config = &self.targets.config;
        let asked = self.entries.ask(config, async |stream| {
            let shown = shown(stream, &request).await?;
            shown.ok_or_else(|| "it isn't shown by iSCSI any more".into())
        });
        asked.await
    }
}

/// Where an entry shows a volume, and the connection as long as which it does.
type Shown = (VolumeTarget, Connected);

/// What an entry answers; none: the volume is used in NBD.
async fn shown(mut stream: Connected, request: &TargetRequest) -> Result<Option<Shown>, WhyNot> {
    if stream.get_ref().1.alpn_protocol() != Some(TARGET_PROTOCOL) {
        return Err(WhyNot::Older);
    }
    let request = request.to_bytes().ok_or("that is no volume of a machine")?;
    let asking = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        let mut length = [0; TARGET_LENGTH_BYTES];
        stream.read_exact(&mut length).await?;
        let length = TargetAnswer::length(length).ok_or(io::ErrorKind::InvalidData)?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        TargetAnswer::of_bytes(&answer).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    // Who is refused hears nothing.
    let answer = timeout(SHOWING, asking).await.map_err(|_| WhyNot::Silent)?;
    let TargetAnswer(target) =
        answer.map_err(|_| WhyNot::from("not to this host now; its log says why"))?;
    Ok(target.map(|target| (target, stream)))
}

/// Has a volume shown again whenever it isn't shown any more.
async fn hold(
    inner: Arc<Inner>,
    (of, asking): (VolumeUse, Asking),
    (target, mut connected, is_shown): (VolumeTarget, Connected, Arc<AtomicBool>),
) {
    let VolumeUse {
        volume, machine, ..
    } = &of;
    loop {
        // Nothing is said on it.
        let _ = connected.read_u8().await;
        is_shown.store(false, Relaxed);
        tracing::info!(%volume, %machine, "a volume isn't shown by iSCSI any more");
        let mut rest = REST;
        let again = loop {
            match inner.again(&of, asking).await {
                Ok(shown) => break shown,
                Err(why) => {
                    tracing::warn!(%volume, %machine, %why, "the guest waits for its volume");
                }
            }
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        };
        // Held also where QEMU doesn't look for it: it can be shown elsewhere only once this has ended.
        connected = again.1;
        let (was, now) = (target.portal, again.0.portal);
        if again.0 == target {
            is_shown.store(true, Relaxed);
            tracing::info!(%volume, %machine, "a volume is shown by iSCSI again");
        } else if was == now {
            tracing::error!(%volume, %machine, "the guest waits for its volume: it is shown by iSCSI with another secret now, made of another `iscsi-key`; put that back, or stop and start the machine");
        } else {
            tracing::error!(%volume, %machine, %was, %now, "the guest waits for its volume: it is shown by iSCSI at another address now; give that computer the address it was at, and set it in `storage.iscsi_portal`, or stop and start the machine");
        }
    }
}

/// Which attachment a machine's disk is, by its [name](volume_disk).
fn use_of(machine: &MachineId, disk: &str) -> Option<VolumeUse> {
    const UUID_BYTES: usize = 36;
    let (volume, taken) = disk.strip_prefix("vol-")?.split_at_checked(UUID_BYTES)?;
    let taken = match taken.strip_prefix('-') {
        Some(millis) => Some(Timestamp::from_millis(millis.parse().ok()?)),
        None => None,
    };
    Some(VolumeUse {
        volume: VolumeId::from_local(volume).ok()?,
        machine: machine.clone(),
        taken,
    })
}

#[cfg(test)]
mod tests;
