//! Swap: what was in memory once, and nothing that a new machine needs but the header. In a partition or in a file.
//! Format: version 1 of the kernel's `union swap_header`.

use super::super::partitions::little;
use crate::error::Error;

/// Sizes of pages; the header is one.
const PAGES: [u64; 4] = [4096, 8192, 16384, 65536];
/// What the header ends with.
const SIGN: &[u8; 10] = b"SWAPSPACE2";
/// What it ends with while a system sleeps there: the kernel's own, user space's, TuxOnIce's, and that of some tools.
const HIBERNATED: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
/// Where the version stands, and the number of the last page.
const VERSION: u64 = 1024;

/// Something for swapping.
pub(super) enum Swap {
    /// What is behind so many bytes was in memory.
    Behind(u64),
    /// It holds a system that was put to sleep.
    Hibernated,
}

/// Whether something of this length is for swapping; `read` fills a buffer from an offset.
pub(super) fn swap(
    length: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Error>,
) -> Result<Option<Swap>, Error> {
    for page in PAGES {
        if page > length {
            break;
        }
        let mut sign = [0; 10];
        read(page - sign.len() as u64, &mut sign)?;
        if HIBERNATED.iter().any(|known| sign.starts_with(known)) {
            return Ok(Some(Swap::Hibernated));
        }
        if sign != *SIGN {
            continue;
        }
        // A sign of old, at the place for pages of another size, proves nothing.
        let mut fields = [0; 8];
        read(VERSION, &mut fields)?;
        let (version, last) = (little(&fields, 0), u64::from(little(&fields, 4)));
        if version == 1 && last > 0 && last.saturating_mul(page) <= length {
            return Ok(Some(Swap::Behind(page)));
        }
    }
    Ok(None)
}
