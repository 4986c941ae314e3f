//! The root disks of deleted machines, kept a while for a look after an incident.
//!
//! A disk is moved (no copy) to `DIR/TIME_MACHINE_DISK`, TIME in seconds since 1970. Nothing else records it, so nothing
//! can disagree.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::durable;
use crate::error::Error;

/// The directory of quarantined disks. It must be on the file system of the disks.
#[derive(Debug, Clone)]
pub struct Quarantine {
    dir: PathBuf,
}

/// One quarantined disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Since when, in whole seconds.
    pub since: Timestamp,
    /// The machine it belonged to.
    pub machine: Uuid,
    /// The name of the disk's file.
    pub disk: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Bytes it occupies.
    pub allocated_bytes: u64,
}

impl Quarantine {
    /// Opens the directory, made if missing. Blocks briefly, as all calls here.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        Ok(Self {
            dir: dir.canonicalize().map_err(Error::io("find", dir))?,
        })
    }

    /// Moves the file `disk` of a machine here. That it is missing is fine: then it was moved before, or never made.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `disk` has no usable file name, [`Error::Exists`] if the same was moved in this second,
    /// [`Error::Io`].
    pub fn put(&self, disk: &Path, machine: Uuid, now: Timestamp) -> Result<(), Error> {
        let name = disk
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::Invalid {
                what: "disk",
                value: disk.display().to_string(),
                reason: "it needs a file name that is text".to_owned(),
            })?;
        let to = self
            .dir
            .join(format!("{}_{machine}_{name}", now.as_second()));
        match durable::rename_new(disk, &to) {
            // Not so if it is this folder that is gone.
            Err(Error::Io { source, .. }) if is_absent(&source) && is_gone(disk) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                durable::sync_directory(&self.dir)?;
                durable::sync_parent(disk)
            }
        }
    }

    /// What is here, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let path = entry.map_err(Error::io("list", &self.dir))?.path();
            let Some((since, machine, disk)) =
                path.file_name().and_then(|name| parse(name.to_str()?))
            else {
                continue;
            };
            // It may be purged between the listing and now.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let allocated_bytes = metadata.blocks().saturating_mul(512);
            entries.push(Entry {
                since,
                machine,
                disk,
                path,
                allocated_bytes,
            });
        }
        entries.sort_by(|a, b| (a.since, a.machine, &a.disk).cmp(&(b.since, b.machine, &b.disk)));
        Ok(entries)
    }

    /// Removes what has been here for `period` or longer and returns it.
    ///
    /// # Errors
    /// [`Error::Io`] for the first that cannot be removed; those before it are gone.
    pub fn purge(&self, now: Timestamp, period: Duration) -> Result<Vec<Entry>, Error> {
        let period_seconds = i64::try_from(period.as_secs()).unwrap_or(i64::MAX);
        let mut expired = self.list()?;
        expired.retain(|entry| {
            now.as_second().saturating_sub(entry.since.as_second()) >= period_seconds
        });
        for entry in &expired {
            durable::remove(&entry.path)?;
        }
        Ok(expired)
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn is_gone(file: &Path) -> bool {
    matches!(fs::symlink_metadata(file), Err(error) if is_absent(&error))
}

fn parse(name: &str) -> Option<(Timestamp, Uuid, String)> {
    let (since, rest) = name.split_once('_')?;
    let (machine, disk) = rest.split_once('_')?;
    Some((
        Timestamp::from_second(since.parse().ok()?).ok()?,
        machine.parse().ok()?,
        disk.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_come_stay_and_go() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let quarantine = Quarantine::open(&dir.path().join("quarantine")).expect("open");
        let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
        let at = |second| Timestamp::from_second(second).expect("in range");
        for (machine, second) in [(new, 2000), (old, 1000)] {
            let disk = dir.path().join("root_disk.qcow2");
            fs::write(&disk, vec![1; 10_000]).expect("write");
            quarantine.put(&disk, machine, at(second)).expect("put");
            assert!(!disk.exists());
            quarantine
                .put(&disk, machine, at(second + 1))
                .expect("put again");
        }
        fs::write(dir.path().join("quarantine/notes.txt"), "an operator's").expect("write");
        let entries = quarantine.list().expect("list");
        assert_eq!(
            entries
                .iter()
                .map(|entry| entry.machine)
                .collect::<Vec<_>>(),
            [old, new]
        );
        assert!(
            entries
                .iter()
                .all(|entry| entry.allocated_bytes >= 10_000 && entry.disk == "root_disk.qcow2")
        );

        let hour = Duration::from_secs(3600);
        assert!(quarantine.purge(at(4599), hour).expect("purge").is_empty());
        let purged = quarantine.purge(at(4600), hour).expect("purge");
        assert_eq!(
            purged.iter().map(|entry| entry.machine).collect::<Vec<_>>(),
            [old]
        );
        assert_eq!(quarantine.list().expect("list").len(), 1);
        // A clock that went back purges nothing.
        assert!(quarantine.purge(at(0), hour).expect("purge").is_empty());
    }
}
