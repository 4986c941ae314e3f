//! Disks as guests see them, read without QEMU: what a machine that is off left on its overlay, merged with the image it
//! stands on.
//!
//! Overlays are written by QEMU on behalf of a guest nobody vouches for. Everything read from them is bounded by what
//! their header says, and the header is examined first. No name in them is ever followed: what lies below a disk is given
//! by the caller.

pub mod clean;
mod ext4;
mod flat;
mod partitions;
mod qcow2;
mod raw;

use std::fs::File;
use std::path::Path;

pub use self::flat::FlatQcow2;
use crate::error::Error;
use crate::inspect::Format;

/// A disk that is read at any place.
pub trait Disk: Send {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Whether there may be anything but zeroes from `offset` on for `length` bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] for a table that makes no sense.
    fn may_hold_data(&mut self, offset: u64, length: u64) -> Result<bool, Error>;

    /// Fills `buffer` with what the guest reads from `offset` on; zeroes behind the end.
    ///
    /// # Errors
    /// As [`may_hold_data`](Self::may_hold_data).
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;
}

/// Opens a disk and, if given, what it stands on. Blocks.
///
/// # Errors
/// [`Error::Io`]; [`Error::Refused`] and [`Error::Invalid`] for what can't be a disk of ours.
pub fn open(
    path: &Path,
    format: Format,
    below: Option<Box<dyn Disk>>,
) -> Result<Box<dyn Disk>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    Ok(match format {
        Format::Raw => Box::new(raw::RawDisk::new(file, path)?),
        Format::Qcow2 => Box::new(qcow2::Qcow2Disk::new(file, path, below)?),
    })
}
