//! The authorities of endorsers, and their revocation lists, read from the operator's files when they are needed: a change counts at once.

use std::fmt::Display;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marketplace::policy::{Authorities, Revocation};
use parking_lot::Mutex;

/// Bytes of one file, and of all.
const FILE_AT_MOST: u64 = 64 << 20;
const ALL_AT_MOST: u64 = 512 << 20;
/// Files of a folder.
const FILES_AT_MOST: usize = 10_000;
/// Files that can't be used, told one by one.
const TOLD_AT_MOST: usize = 10;

/// What tells files from what they were: path, inode, length and time of change.
type Stamp = Vec<(PathBuf, u64, u64, i64, i64)>;

/// Where they are: a PEM file, or a folder like `/etc/grid-security/certificates`. Cheap to clone; clones share what was read last.
#[derive(Debug, Clone)]
pub struct AuthoritiesSource(Arc<Source>);

#[derive(Debug)]
struct Source {
    path: PathBuf,
    revocation: Revocation,
    read: Mutex<Option<(Stamp, Authorities)>>,
}

impl AuthoritiesSource {
    /// Those at a path. Whether authorities in a folder must have a revocation list is `revocation`; of a file those count that are in it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, revocation: Revocation) -> Self {
        Self(Arc::new(Source {
            path: path.into(),
            revocation,
            read: Mutex::default(),
        }))
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// As they are now. Blocks on files; they are read anew only when they have changed.
    ///
    /// # Errors
    /// What can't be read, or that there is no authority: nobody's certificate will do then.
    pub fn read(&self) -> Result<Authorities, String> {
        let Source {
            path,
            revocation,
            read,
        } = &*self.0;
        let mut read = read.lock();
        let stamp = stamp(path).map_err(|error| error.to_string())?;
        if let Some((before, authorities)) = &*read
            && *before == stamp
        {
            return Ok(authorities.clone());
        }
        let authorities = if path.is_dir() {
            of_folder(&stamp, *revocation)
        } else {
            of_file(path)
        }?;
        *read = Some((stamp, authorities.clone()));
        Ok(authorities)
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let one = |path: PathBuf| {
        // Links are what they lead to: folders of authorities are full of them.
        let metadata = std::fs::metadata(&path)?;
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        std::io::Result::Ok((path, metadata.ino(), metadata.len(), seconds, nanoseconds))
    };
    if !path.is_dir() {
        return Ok(vec![one(path.to_owned())?]);
    }
    let entries = std::fs::read_dir(path)?.flatten().take(FILES_AT_MOST);
    let mut all: Stamp = entries.filter_map(|entry| one(entry.path()).ok()).collect();
    all.sort_unstable();
    Ok(all)
}

fn of_file(path: &Path) -> Result<Authorities, String> {
    let content = content(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(content).map_err(|_| "it is no PEM".to_owned())?;
    Authorities::from_pem(&text).map_err(|error| error.to_string())
}

fn of_folder(stamp: &Stamp, revocation: Revocation) -> Result<Authorities, String> {
    let mut files = Vec::new();
    let mut left = ALL_AT_MOST;
    let mut told = 0;
    let mut tell = |path: &Path, problem: &dyn Display| {
        told += 1;
        if told <= TOLD_AT_MOST {
            let path = path.display();
            tracing::warn!(%path, %problem, "a file of the authorities of endorsers can't be used");
        }
    };
    for (path, _, length, ..) in stamp {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.is_dir() {
            continue;
        }
        if *length > FILE_AT_MOST.min(left) {
            tell(path, &"it is too large");
            continue;
        }
        left -= length;
        match content(path) {
            Ok(content) => files.push((name, content)),
            Err(error) => tell(path, &error),
        }
    }
    let given = files
        .iter()
        .map(|(name, content)| (*name, content.as_slice()));
    let (authorities, problems) =
        Authorities::from_files(given, revocation).map_err(|error| error.to_string())?;
    for problem in problems {
        tell(Path::new(&problem.name), &problem.problem);
    }
    Ok(authorities)
}

fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_AT_MOST + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > FILE_AT_MOST {
        return Err(std::io::Error::other("it is too large"));
    }
    Ok(content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_authority_lets_nobody_through() {
        let folder = tempfile::tempdir().unwrap();
        let source = AuthoritiesSource::new(folder.path(), Revocation::Required);
        assert!(source.read().is_err());
        std::fs::write(folder.path().join("a.pem"), "nothing").unwrap();
        assert!(source.read().is_err());
        let missing = folder.path().join("missing.pem");
        assert!(
            AuthoritiesSource::new(&missing, Revocation::IfPresent)
                .read()
                .is_err()
        );
    }
}
