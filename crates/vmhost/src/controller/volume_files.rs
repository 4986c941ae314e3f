//! Where volumes are on this host. A machine writes one; whether that is a file here, or is spoken to over the network, is not
//! its affair.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use cimi::VolumeId;
use futures::{FutureExt as _, future::BoxFuture};
use storage::exports::Exports;

use crate::{
    hypervisor::RunFolder,
    qemu::{ShortWay, make_volumes_folder},
};

/// A volume, as this host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlace {
    /// In the files that its document names.
    Files,
    /// Behind a socket of this name in the machine's folder of volumes, in NBD.
    Socket(String),
}

/// Who is to use a volume.
#[derive(Clone, Debug)]
pub struct VolumeUser {
    /// The machine, by the local part of its id.
    pub machine: String,
    /// The folder of its run.
    pub folder: RunFolder,
    /// Whom its process runs as; none: as we do.
    pub user: Option<u32>,
}

impl VolumeUser {
    /// Listens at a socket of this name in the machine's folder of volumes, which its process alone may connect to. One that is
    /// there is replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn listen(&self, name: &str) -> std::io::Result<tokio::net::UnixListener> {
        std::fs::create_dir_all(&self.folder.0)?;
        let folder = self.folder.volumes();
        make_volumes_folder(&folder)?;
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let way = ShortWay::to(&folder)?;
        let listener = tokio::net::UnixListener::bind(way.path(&path)?)?;
        std::os::unix::fs::chown(&path, self.user, self.user)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Removes the socket of this name, if there is one.
    pub fn forget(folder: &Path, name: &str) {
        let _ = std::fs::remove_file(RunFolder(folder.to_owned()).volumes().join(name));
    }
}

/// Where volumes are on this host.
pub trait VolumeFiles: Send + Sync {
    /// Makes a volume this machine's to use, and says where it is. Asked before it is used, and again after a restart; what is
    /// ready already is so at once.
    ///
    /// # Errors
    /// A sentence for users. The machine waits, and asks again.
    fn ready<'a>(
        &'a self,
        by: &'a VolumeUser,
        volume: &'a VolumeId,
    ) -> BoxFuture<'a, Result<VolumePlace, String>>;

    /// A volume that was taken from a machine while nobody heard of it, and that its guest still has: what that wants of it fails
    /// from now on, rather than to wait for ever.
    fn lost(&self, by: &VolumeUser, volume: &VolumeId);
}

/// On the computer where volumes are kept: once no other uses it any more.
impl VolumeFiles for Exports {
    fn ready<'a>(
        &'a self,
        _by: &'a VolumeUser,
        volume: &'a VolumeId,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async move {
            self.end(volume.local()).await;
            Ok(VolumePlace::Files)
        }
        .boxed()
    }

    /// Files don't go away.
    fn lost(&self, _by: &VolumeUser, _volume: &VolumeId) {}
}
