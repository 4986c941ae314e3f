//! Free space of a file system, and the reserve that new work must leave.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;

/// Size and free space of the file system that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Bytes it can hold.
    pub total_bytes: u64,
    /// Bytes an unprivileged program may still write.
    pub free_bytes: u64,
}

impl Space {
    /// Asks the kernel (`statvfs`).
    ///
    /// # Errors
    /// [`Error::Io`] if `dir` cannot be reached.
    pub fn of(dir: &Path) -> Result<Self, Error> {
        let fs = rustix::fs::statvfs(dir).map_err(Error::errno("read the free space of", dir))?;
        Ok(Self {
            total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
            free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
        })
    }
}

/// Makes sure that `needed_bytes` can be written in `dir` and `reserve_bytes` stay free after that.
///
/// # Errors
/// [`Error::NoSpace`] with all the numbers; [`Error::Io`] if `dir` cannot be reached.
pub fn require(dir: &Path, needed_bytes: u64, reserve_bytes: u64) -> Result<(), Error> {
    let available_bytes = Space::of(dir)?.free_bytes;
    if available_bytes < needed_bytes.saturating_add(reserve_bytes) {
        return Err(Error::NoSpace {
            needed_bytes,
            available_bytes,
            reserve_bytes,
            dir: dir.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_work_that_would_eat_the_reserve() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let free = Space::of(dir.path()).expect("free space").free_bytes;
        require(dir.path(), 1, 0).expect("one byte fits");
        let error = require(dir.path(), 1, free.saturating_mul(2)).expect_err("beyond the reserve");
        let text = error.to_string();
        assert!(
            text.contains("1 bytes more are needed")
                && text.contains(&dir.path().display().to_string()),
            "{text}"
        );
    }
}
