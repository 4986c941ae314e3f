//! What lies in a partition behind its file system. A file system that was made smaller left all there that it had there.

use super::super::Disk;
use super::super::ext4::Layout;
use super::super::partitions::Part;
use crate::error::Error;

const KIB: u64 = 1024;
const RAID: &str = "part of a RAID";
const DRBD: &str = "part of a DRBD device";
/// What a member of a RAID of Linux ends with (md(4), formats 0.90 and 1.0), in either order of bytes.
const MD: [[u8; 4]; 2] = [*b"\xfc\x4e\x2b\xa9", *b"\xa9\x2b\x4e\xfc"];
/// What others know their members by, and how far before the end it begins: DRBD 8.0, 8.4 and 9, which have it 60 bytes into
/// their last 4 KiB; the firmware of Intel; the common format of firmware (SNIA DDF).
const OTHERS: [(u64, &[u8], &str); 5] = [
    (4 * KIB - 60, b"\x83\x74\x02\x6b", DRBD),
    (4 * KIB - 60, b"\x83\x74\x02\x6c", DRBD),
    (4 * KIB - 60, b"\x83\x74\x02\x6d", DRBD),
    (KIB, b"Intel Raid ISM Cfg Sig. ", RAID),
    (KIB / 2, b"\xde\x11\xde\x11", RAID),
];

/// What lies behind a file system.
pub(super) enum Behind {
    /// Nothing that belongs to anything any more.
    Nothing(Part),
    /// What the members of a group of disks know each other by; what the group is, for people.
    Member(&'static str),
}

/// Looks behind a file system.
pub(super) fn behind(disk: &mut dyn Disk, layout: &Layout) -> Result<Behind, Error> {
    let behind = layout.behind();
    Ok(match member(disk, layout.part, &[behind])? {
        None => Behind::Nothing(behind),
        Some(group) => Behind::Member(group),
    })
}

/// Of what group of disks a part is a member, by what it ends with. Only a sign that lies in one of these `stretches` counts:
/// elsewhere it may be the content of a file.
pub(super) fn member(
    disk: &mut dyn Disk,
    part: Part,
    stretches: &[Part],
) -> Result<Option<&'static str>, Error> {
    // Format 0.90 is in the last whole 64 KiB, 1.0 in the last 4 KiB that are 8 KiB or more before the end.
    let of_old = (part.length / (64 * KIB)).checked_sub(1);
    let of_new = part.length.checked_sub(8 * KIB);
    let places = [
        of_old.map(|number| number * 64 * KIB),
        of_new.map(|place| place / (4 * KIB) * 4 * KIB),
    ];
    let of_md = places
        .into_iter()
        .flatten()
        .flat_map(|place| MD.iter().map(move |sign| (place, &sign[..], RAID)));
    let of_others = OTHERS.iter().filter_map(|(before, sign, group)| {
        let place = part.length.checked_sub(*before)?;
        Some((place, *sign, *group))
    });
    for (place, sign, group) in of_md.chain(of_others) {
        let at = part.start + place;
        let counts = stretches
            .iter()
            .any(|stretch| (stretch.start..stretch.end()).contains(&at));
        let mut bytes = vec![0; sign.len()];
        if counts {
            disk.read(at, &mut bytes)?;
        }
        if bytes == sign {
            return Ok(Some(group));
        }
    }
    Ok(None)
}
