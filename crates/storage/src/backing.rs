//! Which files overlays stand on, read from the overlays themselves.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// QEMU reads no longer names.
const MAX_NAME_BYTES: u32 = 1023;
/// Directories below the given ones that are looked into.
const DEPTH: u32 = 2;

/// The backing files of all overlays in `dirs` and the directories in them. A directory that is missing has none.
/// Blocks.
///
/// # Errors
/// [`Error::Io`] if something there can't be read: then nobody knows what stands on what.
pub(crate) fn backing_files(dirs: &[PathBuf]) -> Result<HashSet<PathBuf>, Error> {
    let mut found = HashSet::new();
    for dir in dirs {
        collect(dir, DEPTH, &mut found)?;
    }
    Ok(found)
}

fn collect(dir: &Path, depth: u32, found: &mut HashSet<PathBuf>) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        // Files come and go while we look.
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("examine", &path))?,
        };
        if metadata.is_dir() && depth > 0 {
            collect(&path, depth - 1, found)?;
        } else if metadata.is_file() && is_overlay(&path) {
            match backing_file(&path) {
                Ok(backing) => found.extend(backing),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
    }
    Ok(())
}

/// By its name: what lies in other files the guest writes as it likes, also into the first bytes of a raw disk.
fn is_overlay(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "qcow2")
}

/// The backing file that a qcow2 header names (offset of the name at byte 8, its length at byte 16), if it is one.
fn backing_file(path: &Path) -> io::Result<Option<PathBuf>> {
    let file = File::open(path)?;
    let mut header = [0; 20];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [
        b'Q',
        b'F',
        b'I',
        0xfb,
        _,
        _,
        _,
        _,
        o0,
        o1,
        o2,
        o3,
        o4,
        o5,
        o6,
        o7,
        l0,
        l1,
        l2,
        l3,
    ] = header
    else {
        return Ok(None);
    };
    let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if offset == 0 || length == 0 || length > MAX_NAME_BYTES {
        return Ok(None);
    }
    let mut name = vec![0; length as usize];
    match file.read_exact_at(&mut name, offset) {
        // A guest may write what it likes into a raw disk; what isn't a name stands on nothing.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(std::ffi::OsString::from_vec(name).into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, inspect::Format, qcow2};

    #[test]
    fn overlays_are_found_in_folders_of_folders_and_nothing_else_is_mistaken_for_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("machine/disks");
        fs::create_dir_all(&folder).expect("folders");
        let base = PathBuf::from("/srv/cache/base");
        let backing = Some(qcow2::Backing {
            path: &base,
            format: Format::Raw,
        });
        qcow2::create(
            &folder.join("root.qcow2"),
            1 << 30,
            backing,
            Durability::Cached,
        )
        .expect("overlay");
        qcow2::create(
            &folder.join("alone.qcow2"),
            1 << 30,
            None,
            Durability::Cached,
        )
        .expect("disk");
        // A guest writes the header of an overlay into its own raw disk.
        let pinned = PathBuf::from("/srv/cache/pinned");
        let backing = Some(qcow2::Backing {
            path: &pinned,
            format: Format::Raw,
        });
        qcow2::create(
            &folder.join("volatile0.raw"),
            1 << 30,
            backing,
            Durability::Cached,
        )
        .expect("raw disk");
        let mut hostile = b"QFI\xfb\0\0\0\x03".to_vec();
        hostile.extend([0xff; 8]);
        hostile.extend(100_u32.to_be_bytes());
        fs::write(folder.join("hostile.qcow2"), hostile).expect("write");
        fs::write(folder.join("short.qcow2"), "QFI").expect("write");
        let found =
            backing_files(&[dir.path().to_owned(), dir.path().join("missing")]).expect("read");
        assert_eq!(found, HashSet::from([base]));
    }
}
