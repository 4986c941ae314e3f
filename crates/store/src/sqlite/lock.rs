//! One process a database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::StoreError;

/// How long a lock may outlive its holder: one that was killed while it started a program leaves the lock with the child until
/// that has become the program.
const ORPHANED_LOCK_LIMIT: Duration = Duration::from_secs(2);

/// The exclusive lock on a database, held until dropped. The kernel lets go of it when the process ends, however it does.
///
/// It is a file of its own beside the database: SQLite's own exclusive mode would keep out our own readers too.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    _file: File,
}

impl DatabaseLock {
    /// Take the lock or say who has it.
    pub(super) fn acquire(database: &Path) -> Result<Self, StoreError> {
        let path = lock_path(database);
        let failed = |source: std::io::Error| StoreError::Database {
            path: path.clone(),
            doing: "locking the database",
            source: Arc::new(source),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    // Only for the message; whatever is in there, the lock is what counts.
                    let _ = file.rewind();
                    let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
                    let holder = holder.trim();
                    let is_gone = !holder.is_empty() && !Path::new("/proc").join(holder).exists();
                    if is_gone && began.elapsed() < ORPHANED_LOCK_LIMIT {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    let holder = match holder {
                        "" => "another process".to_owned(),
                        pid => format!("process {pid}"),
                    };
                    return Err(StoreError::Locked {
                        path: database.to_owned(),
                        holder,
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        // The process id helps the operator. A full disk must not keep the store from opening for reads.
        let told = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = told {
            tracing::warn!(path = %path.display(), %error, "could not write the process id into the lock file");
        }
        Ok(Self { _file: file })
    }
}

/// Where the lock of a database is: its name with `.lock` behind it.
fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
