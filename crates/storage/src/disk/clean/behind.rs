//! What lies in a partition behind its file system. A file system that was made smaller left all there that it had there.

use super::super::Disk;
use super::super::ext4::Layout;
use super::super::partitions::Part;
use crate::error::Error;

/// What a member of a RAID of Linux ends with (md(4), formats 0.90 and 1.0), in either order of bytes.
const RAID: [[u8; 4]; 2] = [*b"\xfc\x4e\x2b\xa9", *b"\xa9\x2b\x4e\xfc"];
const KIB: u64 = 1024;

/// What lies behind a file system.
pub(super) enum Behind {
    /// Nothing that belongs to anything any more.
    Nothing(Part),
    /// What the members of a RAID know each other by.
    Raid,
}

/// Looks behind a file system.
pub(super) fn behind(disk: &mut dyn Disk, layout: &Layout) -> Result<Behind, Error> {
    let (part, behind) = (layout.part, layout.behind());
    // Format 0.90 is in the last whole 64 KiB, 1.0 in the last 4 KiB that are 8 KiB or more before the end.
    let of_old = (part.length / (64 * KIB)).checked_sub(1);
    let of_new = part.length.checked_sub(8 * KIB);
    let places = [
        of_old.map(|number| number * 64 * KIB),
        of_new.map(|place| place / (4 * KIB) * 4 * KIB),
    ];
    for at in places.into_iter().flatten() {
        let mut sign = [0; 4];
        disk.read(part.start + at, &mut sign)?;
        if part.start + at >= behind.start && RAID.contains(&sign) {
            return Ok(Behind::Raid);
        }
    }
    Ok(Behind::Nothing(behind))
}
