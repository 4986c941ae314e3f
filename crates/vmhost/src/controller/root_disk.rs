//! A machine's root disk: an overlay on its image, made once and never thrown away.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use storage::{Durability, qcow2};

use super::prepare::PrepareError;

/// First bytes of a qcow2 file.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// The shortest header (version 2) of a qcow2 file. See QEMU's `docs/interop/qcow2.txt`.
const SHORTEST_HEADER_BYTES: usize = 72;
/// Up to here is what its readers must know of it, from version 3 on; and that its data is in a file that its header names.
const LOOKED_AT_BYTES: u64 = 80;
const EXTERNAL_DATA: u64 = 1 << 2;
/// Where a file goes that is no disk yet.
const ASIDE: &str = "root.unwritten";

/// What is at the place of a root disk.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Made, but a power cut came before anything of it was on the disk: nothing of a guest is in it.
    Unwritten,
    Overlay,
    /// Something else, which is left as it is.
    NoDisk(&'static str),
}

/// Makes the overlay unless it is there. What can't be read is never taken for missing: it may hold a user's data.
/// Blocks on the disk.
pub(super) fn ensure(
    path: &Path,
    size_bytes: u64,
    backing: qcow2::Backing<'_>,
) -> Result<(), PrepareError> {
    let file = |source| PrepareError::File {
        path: path.to_owned(),
        source,
    };
    let unfit = |why| PrepareError::Unfit {
        path: path.to_owned(),
        why,
    };
    match look(path).map_err(file)? {
        Found::NoDisk(why) => return Err(unfit(why)),
        Found::Overlay => return Ok(()),
        Found::Nothing => {}
        Found::Unwritten => {
            tracing::warn!(path = %path.display(), "the root disk was never written to: it is made anew");
            std::fs::rename(path, path.with_file_name(ASIDE)).map_err(file)?;
        }
    }
    Ok(qcow2::create(
        path,
        size_bytes,
        Some(backing),
        Durability::Cached,
    )?)
}

fn look(path: &Path) -> io::Result<Found> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other?,
    };
    let mut header = Vec::new();
    file.take(LOOKED_AT_BYTES).read_to_end(&mut header)?;
    if header.len() < SHORTEST_HEADER_BYTES || header.iter().all(|byte| *byte == 0) {
        return Ok(Found::Unwritten);
    }
    if has_data_elsewhere(&header) {
        return Ok(Found::NoDisk(
            "has a header that names another file, which is not opened; it is left as it is: kill the machine",
        ));
    }
    if header.starts_with(&QCOW2_MAGIC) {
        return Ok(Found::Overlay);
    }
    Ok(Found::NoDisk(
        "is no qcow2 disk; it is left as it is: put the right file there and start it again, or kill the machine",
    ))
}

/// Whether QEMU would open what the header of a disk names. None of ours says so: but one may come from another host, or have been
/// written by a guest that got the better of its QEMU. (What it stands on is told to QEMU, whatever the header says of that.)
fn has_data_elsewhere(header: &[u8]) -> bool {
    let number = |from: usize| {
        Some(u64::from_be_bytes(
            header.get(from..from + 8)?.try_into().ok()?,
        ))
    };
    // Magic and version are one number.
    let version = number(0).map_or(0, |both| both & u64::from(u32::MAX));
    let features = number(72).unwrap_or(0);
    header.starts_with(&QCOW2_MAGIC) && version >= 3 && features & EXTERNAL_DATA != 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use storage::inspect::Format;

    const SIZE: u64 = 64 << 20;

    fn make(folder: &Path) -> Result<(), PrepareError> {
        let image = folder.join("image.raw");
        std::fs::write(&image, [0; 512]).unwrap();
        let backing = qcow2::Backing {
            path: &image,
            format: Format::Raw,
        };
        ensure(&folder.join("root.qcow2"), SIZE, backing)
    }

    #[test]
    fn a_disk_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.qcow2");
        make(folder.path()).unwrap();
        let mut bytes = std::fs::read(&root).unwrap();
        bytes.extend_from_slice(b"of the guest");
        std::fs::write(&root, &bytes).unwrap();
        make(folder.path()).unwrap();
        assert_eq!(std::fs::read(&root).unwrap(), bytes);
    }

    #[test]
    fn what_can_not_be_read_is_no_missing_disk() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.qcow2");
        // Opening succeeds and reading doesn't (EISDIR), also for root.
        std::fs::create_dir(&root).unwrap();
        let error = make(folder.path()).unwrap_err();
        assert!(matches!(error, PrepareError::File { .. }), "{error}");
        assert!(root.is_dir());
        // Opening doesn't succeed (ELOOP).
        std::fs::remove_dir(&root).unwrap();
        std::os::unix::fs::symlink("root.qcow2", &root).unwrap();
        let error = make(folder.path()).unwrap_err();
        assert!(matches!(error, PrepareError::File { .. }), "{error}");
        assert!(root.is_symlink());
        // Something else than a disk.
        std::fs::remove_file(&root).unwrap();
        std::fs::write(&root, [7; 4096]).unwrap();
        let error = make(folder.path()).unwrap_err();
        assert!(matches!(error, PrepareError::Unfit { .. }), "{error}");
        assert!(error.to_string().contains("no qcow2 disk"), "{error}");
        assert_eq!(std::fs::read(&root).unwrap(), [7; 4096]);
    }

    #[test]
    fn a_disk_that_would_lead_to_another_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.qcow2");
        make(folder.path()).unwrap();
        let ours = std::fs::read(&root).unwrap();
        let with = |version: u8, features: u8| {
            let mut bytes = ours.clone();
            bytes.splice(7..8, [version]);
            bytes.splice(79..80, [features]);
            std::fs::write(&root, &bytes).unwrap();
            let made = make(folder.path()).map_err(|error| error.to_string());
            assert_eq!(std::fs::read(&root).unwrap(), bytes);
            made
        };
        // Of version 2 these bytes are none of the header.
        for (version, features) in [(3, 0), (3, 1 << 3), (2, 1 << 2)] {
            with(version, features).unwrap();
        }
        for features in [1 << 2, 0xff] {
            let refused = with(3, features).unwrap_err();
            assert!(refused.contains("names another file"), "{refused}");
        }
    }

    #[test]
    fn what_a_power_cut_left_empty_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.qcow2");
        for left in [&b""[..], &b"QFI"[..], &[0; 65536][..]] {
            std::fs::write(&root, left).unwrap();
            make(folder.path()).unwrap();
            assert!(std::fs::read(&root).unwrap().starts_with(&QCOW2_MAGIC));
            assert_eq!(std::fs::read(folder.path().join(ASIDE)).unwrap(), left);
        }
    }
}
