//! Where volumes are on this host. A machine writes one; whether that is a file here, or is spoken to over the network, is not
//! its affair.

use std::{
    collections::HashSet,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use cimi::{
    MachineId,
    resources::{AttachedVolume, VolumeUse},
};
use futures::{FutureExt as _, future::BoxFuture};
use storage::exports::Exports;
use tokio::time::timeout;

use crate::{
    DiskId,
    hypervisor::RunFolder,
    launch_spec::IscsiTarget,
    qemu::{ShortWay, make_volumes_folder},
};

/// A volume, as this host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlace {
    /// In the files that its document names.
    Files,
    /// Behind a socket of this name in the machine's folder of volumes, in NBD.
    Socket(String),
    /// At an iSCSI target, with the secret in a file of this name in the same folder.
    Iscsi(IscsiTarget, String),
}

/// How the names of volumes' disks at the hypervisor begin.
pub(crate) const VOLUME_DISK: &str = "vol-";

/// The name at the hypervisor of the disk that an attachment of a volume is: one that was taken from a machine and is given to it
/// again is another disk to its guest, lest that goes on with what it remembers of it.
#[must_use]
pub fn volume_disk(attached: &AttachedVolume) -> String {
    let volume = attached.volume.local();
    match attached.taken {
        Some(taken) => format!("{VOLUME_DISK}{volume}-{}", taken.as_millis()),
        None => format!("{VOLUME_DISK}{volume}"),
    }
}

/// Who is to use a volume.
#[derive(Clone, Debug)]
pub struct VolumeUser {
    /// The machine.
    pub machine: MachineId,
    /// The folder of its run.
    pub folder: RunFolder,
    /// Whom its process runs as; none: as we do.
    pub user: Option<u32>,
}

impl VolumeUser {
    /// What it uses an attachment of its machine's for.
    #[must_use]
    pub fn of(&self, attached: &AttachedVolume) -> VolumeUse {
        VolumeUse {
            volume: attached.volume.clone(),
            machine: self.machine.clone(),
            taken: attached.taken,
        }
    }

    /// Listens at a socket of this name in the machine's folder of volumes, which its process alone may connect to. One that is
    /// there is replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn listen(&self, name: &str) -> std::io::Result<tokio::net::UnixListener> {
        let path = self.place(name)?;
        let folder = self.folder.volumes();
        let way = ShortWay::to(&folder)?;
        let listener = tokio::net::UnixListener::bind(way.path(&path)?)?;
        std::os::unix::fs::chown(&path, self.user, self.user)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Keeps a secret in a file of this name in the machine's folder of volumes, which its process alone may read. One that is
    /// there is replaced.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep_secret(&self, name: &str, secret: &str) -> std::io::Result<()> {
        let path = self.place(name)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::os::unix::fs::fchown(&file, self.user, self.user)?;
        file.write_all(secret.as_bytes())
    }

    /// Where a socket or file of this name is to be in the machine's folder of volumes, which is made; one that is there is removed.
    fn place(&self, name: &str) -> std::io::Result<PathBuf> {
        // As whoever puts disks into it would make it, before whom this may come.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder.0)?;
        let folder = self.folder.volumes();
        make_volumes_folder(&folder)?;
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }

    /// Whether the socket or file of this name is there: it goes with the machine's folder.
    #[must_use]
    pub fn has_socket(&self, name: &str) -> bool {
        self.folder.volumes().join(name).exists()
    }

    /// Removes all sockets and files of the machine's folder of volumes but those of these names.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn forget_all_but(&self, stay: &HashSet<String>) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(self.folder.volumes()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| stay.contains(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the socket or file of this name, if there is one.
    pub fn forget(folder: &Path, name: &str) {
        let _ = std::fs::remove_file(RunFolder(folder.to_owned()).volumes().join(name));
    }
}

/// Where volumes are on this host.
pub trait VolumeFiles: Send + Sync {
    /// Forgets what an earlier process of a machine had of its volumes and nobody shows any more. None has them open, and all are made
    /// [ready](Self::ready) before one is started. Where they are files, there is nothing to forget.
    fn begin(&self, _by: &VolumeUser) {}

    /// Makes a volume this machine's to use, and says where it is. Asked before it is used, and again after a restart; what is
    /// ready already is so at once.
    ///
    /// # Errors
    /// A sentence for users. The machine waits, and asks again.
    fn ready<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<VolumePlace, String>>;

    /// Looks whether somebody answers at a volume that is ready, before a process is to open it that does nothing else while it
    /// waits for an answer. None has it open meanwhile.
    ///
    /// # Errors
    /// A sentence for users. The machine waits, and asks again.
    fn answers<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Says where a volume will be once the machine is this host's, which it comes to with its guest running: there can be opened
    /// meanwhile, and not written. Whoever uses the volume goes on with it.
    ///
    /// # Errors
    /// A sentence for users: the machine doesn't come.
    fn expected<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
        bytes: u64,
    ) -> BoxFuture<'a, Result<VolumePlace, String>>;

    /// A disk that was taken from a machine while nobody heard of it, and that its guest still has ([`volume_disk`]): what that
    /// wants of it fails from now on, rather than to wait for ever.
    fn lost(&self, by: &VolumeUser, disk: &DiskId);
}

/// How long a process may take to end that writes a volume for another host: it may wait for the computer's disk.
const ENDING: Duration = Duration::from_secs(10);

/// On the computer where volumes are kept: once no other uses it any more.
impl VolumeFiles for Exports {
    fn ready<'a>(
        &'a self,
        _by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        let volume = &attached.volume;
        async move {
            let ended = timeout(ENDING, self.end(volume.local())).await;
            ended.map(|()| VolumePlace::Files).map_err(|_| {
                format!(
                    "waits for {volume}: what another host has written of it is not on this computer's disk after {} s yet",
                    ENDING.as_secs()
                )
            })
        }
        .boxed()
    }

    fn answers<'a>(
        &'a self,
        _by: &'a VolumeUser,
        _attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    /// A hypervisor that waits for its memory leaves files alone.
    fn expected<'a>(
        &'a self,
        _by: &'a VolumeUser,
        _attached: &'a AttachedVolume,
        _bytes: u64,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async { Ok(VolumePlace::Files) }.boxed()
    }

    /// Files don't go away.
    fn lost(&self, _by: &VolumeUser, _disk: &DiskId) {}
}
