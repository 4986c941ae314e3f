//! Files that appear whole or not at all, and stay after a power cut when they must.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::error::Error;

/// Whether a new file must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File and directory entry are flushed before the call returns.
    Flushed,
    /// The kernel writes them when it likes: for what can be made again.
    Cached,
}

/// Prefix of unfinished files; what bears it belongs to nobody after a restart.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Removes a file or directory tree on drop unless it was kept.
#[derive(Debug)]
pub(crate) struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    pub(crate) fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = remove(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
        }
    }
}

/// Removes a file or a directory tree; that it is missing is fine.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Lets `write` make a file beside `path`, then gives it that name in one step.
///
/// # Errors
/// [`Error::Exists`] if the name is taken, which leaves the existing file as it is; what `write` says.
pub(crate) fn create_whole(
    path: &Path,
    durability: Durability,
    write: impl FnOnce(&Path) -> Result<File, Error>,
) -> Result<(), Error> {
    let temporary = path.with_file_name(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
    let mut guard = RemoveOnDrop::new(temporary.clone());
    let file = write(&temporary)?;
    if durability == Durability::Flushed {
        file.sync_all().map_err(Error::io("flush", &temporary))?;
    }
    rename_new(&temporary, path)?;
    guard.keep();
    if durability == Durability::Flushed {
        sync_parent(path)?;
    }
    Ok(())
}

/// Renames without ever replacing anything.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<(), Error> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => Err(Error::Exists {
            kind: "file",
            name: to.display().to_string(),
            difference: String::new(),
        }),
        other => other.map_err(Error::errno("rename a file to", to)),
    }
}

/// Flushes the directory that holds `path`, so that its entry survives a power cut.
pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), sync_directory)
}

pub(crate) fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("flush the directory", dir))
}

/// Removes the unfinished files a crash left in `dir`. Only for the one process that works there.
pub(crate) fn sweep(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
