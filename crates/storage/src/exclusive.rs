//! One process a folder.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// How long a lock may outlive its holder. A process that is killed while it starts a program leaves the lock with the child
/// until that has become the program; closing its other descriptors (a tap, say) may take the kernel a while.
const ORPHANED_LOCK_LIMIT: Duration = Duration::from_secs(2);

/// Locks a folder by the open file `lock` in it, at `path`, for as long as the file is open. Blocks, shortly.
///
/// # Errors
/// [`Error::InUse`] if another process has it.
pub(crate) fn lock(lock: &File, path: &Path, dir: &Path) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < ORPHANED_LOCK_LIMIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::InUse {
                    dir: dir.to_owned(),
                });
            }
            Err(other) => return Err(Error::errno("lock", path)(other)),
        }
    }
}
