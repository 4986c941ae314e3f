//! Swap partitions: what was in memory once, and nothing that a new machine needs but the header.

use super::super::Disk;
use super::super::partitions::Part;
use crate::error::Error;

/// Sizes of pages; the header is one.
const PAGES: [u64; 4] = [4096, 8192, 16384, 65536];
/// What the header ends with.
const SIGNS: [&[u8; 10]; 2] = [b"SWAPSPACE2", b"SWAP-SPACE"];
const HIBERNATED: &[u8; 9] = b"S1SUSPEND";

/// A partition for swapping.
pub(super) enum Swap {
    /// Where its pages are, without the header.
    Of(Part),
    /// They hold a system that was put to sleep.
    Hibernated,
}

/// Whether a part of a disk is for swapping.
pub(super) fn swap(disk: &mut dyn Disk, part: Part) -> Result<Option<Swap>, Error> {
    for page in PAGES {
        if page > part.length {
            continue;
        }
        let mut sign = [0; 10];
        disk.read(part.start + page - sign.len() as u64, &mut sign)?;
        if sign.starts_with(HIBERNATED) {
            return Ok(Some(Swap::Hibernated));
        }
        if SIGNS.contains(&&sign) {
            return Ok(Some(Swap::Of(Part {
                start: part.start + page,
                length: part.length - page,
            })));
        }
    }
    Ok(None)
}
