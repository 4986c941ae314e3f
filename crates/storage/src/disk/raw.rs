//! A disk as plain sectors, its holes known from the file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use super::Disk;
use crate::error::Error;

pub(super) struct RawDisk {
    file: File,
    path: PathBuf,
    length: u64,
    /// The stretch looked at last: from, to, whether it is stored.
    stretch: (u64, u64, bool),
}

impl RawDisk {
    pub(super) fn new(file: File, path: &Path) -> Result<Self, Error> {
        let length = file.metadata().map_err(Error::io("examine", path))?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
            stretch: (0, 0, false),
        })
    }

    /// The stretch of stored bytes, or of none, that `offset` lies in.
    fn stretch_at(&mut self, offset: u64) -> Result<(u64, u64, bool), Error> {
        if (self.stretch.0..self.stretch.1).contains(&offset) {
            return Ok(self.stretch);
        }
        let failed = |errno: rustix::io::Errno| Error::io("examine", &self.path)(errno.into());
        self.stretch = match seek(&self.file, SeekFrom::Data(offset)) {
            Err(rustix::io::Errno::NXIO) => (offset, self.length, false),
            Err(error) => return Err(failed(error)),
            Ok(start) if start > offset => (offset, start, false),
            Ok(start) => {
                let end = seek(&self.file, SeekFrom::Hole(start)).map_err(failed)?;
                (start, end, true)
            }
        };
        Ok(self.stretch)
    }
}

impl Disk for RawDisk {
    fn bytes(&self) -> u64 {
        // QEMU counts a disk in sectors of 512 bytes.
        self.length.next_multiple_of(512)
    }

    fn may_hold_data(&mut self, offset: u64, length: u64) -> Result<bool, Error> {
        let end = offset.saturating_add(length).min(self.length);
        let mut at = offset;
        while at < end {
            let (_, to, stored) = self.stretch_at(at)?;
            if stored {
                return Ok(true);
            }
            if to <= at {
                break;
            }
            at = to;
        }
        Ok(false)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        read_or_zero(&self.file, self.length, offset, buffer).map_err(Error::io("read", &self.path))
    }
}

/// Reads what is inside a file of `length` bytes, and zeroes for what is behind it.
pub(super) fn read_or_zero(
    file: &File,
    length: u64,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let there = length.saturating_sub(offset).min(buffer.len() as u64);
    let there = usize::try_from(there).unwrap_or(buffer.len());
    let (inside, behind) = buffer.split_at_mut(there);
    behind.fill(0);
    file.read_exact_at(inside, offset)
}
