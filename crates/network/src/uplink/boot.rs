//! What makes the bridge at the next boot: the files of whatever sets up the interface there. Pure but for reading and writing
//! them; each change is a whole text before and a whole text after, so undoing it is exact.

mod ifupdown;
mod networkd;
mod others;

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::holdings::Holdings;
use crate::address::MacAddr;
use crate::error::{NetworkError, Result};
use crate::name::InterfaceName;

/// What the files depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) bridge: &'a InterfaceName,
    pub(super) port: &'a InterfaceName,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    pub(super) holdings: &'a Holdings,
}

/// A file as it is and as it is to be; none: there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// Who sets up an interface when the computer starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Somebody whose files can be changed so.
    Files {
        name: &'static str,
        changes: Vec<Change>,
    },
    /// Somebody who must be told by the operator, and how.
    Told { name: &'static str, how: String },
    /// Nobody that is known here.
    Nobody,
}

impl Keeper {
    /// Whoever sets up this interface. `root` is the root of the file system.
    ///
    /// # Errors
    /// A file can't be read, or is such that it can't be changed.
    pub(super) fn of(root: &Path, index: u32, wanted: Wanted<'_>) -> Result<Self> {
        if let Some(told) = others::network_manager(root, index, wanted) {
            return Ok(told);
        }
        if let Some(keeper) = networkd::keeper(root, index, wanted)? {
            return Ok(keeper);
        }
        Ok(ifupdown::keeper(root, wanted)?.unwrap_or(Self::Nobody))
    }
}

/// Whether they can be made and undone: each file is as it was, or as it is to be.
///
/// # Errors
/// One is neither, or can't be read.
pub(super) fn check(changes: &[Change]) -> Result<()> {
    changes.iter().try_for_each(|change| {
        let is = read(&change.path)?;
        match is == change.before || is == change.after {
            true => Ok(()),
            false => Err(changed(&change.path)),
        }
    })
}

/// Makes the changes; those that are made already stay.
///
/// # Errors
/// A file is neither as it was nor as it is to be, or can't be written.
pub(super) fn make(changes: &[Change]) -> Result<()> {
    changes
        .iter()
        .try_for_each(|change| replace(&change.path, &change.before, &change.after))
}

/// Undoes them.
///
/// # Errors
/// As [`make`].
pub(super) fn undo(changes: &[Change]) -> Result<()> {
    changes
        .iter()
        .rev()
        .try_for_each(|change| replace(&change.path, &change.after, &change.before))
}

fn replace(path: &Path, from: &Option<String>, to: &Option<String>) -> Result<()> {
    let is = read(path)?;
    if is == *to {
        return Ok(());
    }
    if is != *from {
        return Err(changed(path));
    }
    match to {
        Some(text) => write(path, text),
        None => fs::remove_file(path).map_err(NetworkError::file(path)),
    }
}

fn changed(path: &Path) -> NetworkError {
    NetworkError::File {
        path: path.to_owned(),
        source: std::io::Error::other(
            "was changed by somebody since, so it isn't touched: make it as it was for the moment, or change it by hand",
        ),
    }
}

/// The text of a file; none if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NetworkError::file(path)(error)),
    }
}

/// Replaces a file whole, durably: it is read when the computer starts, maybe after a power cut.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    // What is elsewhere in truth stays there.
    let target = fs::canonicalize(path);
    let path = target.as_deref().unwrap_or(path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(NetworkError::file(folder))?;
    // A hidden one: no program takes it for a part of the configuration.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.stratus-new"));
    let written = || {
        let mut file = File::create(&new)?;
        if let Ok(known) = fs::metadata(path) {
            file.set_permissions(known.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(NetworkError::file(path))
}
