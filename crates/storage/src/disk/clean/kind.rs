//! What a part of a disk holds.

use super::super::Disk;
use super::super::ext4::Layout;
use super::super::partitions::{Part, Partition, Role};
use super::behind::member;
use super::swap::{Swap, swap};
use crate::error::Error;

/// Read at once where nothing is expected.
const STEP: u64 = 1 << 20;
/// Partitions for boot loaders are of some MiB; what is larger holds something else.
const LARGEST_LOADER: u64 = 64 << 20;

/// What a part of a disk holds.
pub(super) enum Kind {
    /// Nothing but zeroes, or what a machine starts from and nobody works in.
    Harmless,
    /// A file system of those that are cleaned.
    Ext(Layout),
    /// Pages that were in memory.
    Pages(Part),
    /// The memory of a system that sleeps.
    Hibernated,
    /// Something that can't be cleaned, for people.
    Other(&'static str),
}

/// Signs by where they are; the order is that of the looking.
type Sign = (u64, &'static [u8], &'static str);

/// What file systems are put into. Making a file system overwrites these, but not the other way round: they come first.
const CONTAINERS: [Sign; 9] = [
    (0, b"LUKS\xba\xbe", "encrypted"),
    (3, b"-FVE-FS-", "encrypted"),
    (0, b"LABELONE", "part of a volume group (LVM)"),
    (512, b"LABELONE", "part of a volume group (LVM)"),
    (1024, b"LABELONE", "part of a volume group (LVM)"),
    (1536, b"LABELONE", "part of a volume group (LVM)"),
    (0, b"\xfc\x4e\x2b\xa9", "part of a RAID"),
    (4096, b"\xfc\x4e\x2b\xa9", "part of a RAID"),
    (
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache device",
    ),
];
const FILE_SYSTEMS: [Sign; 15] = [
    (
        0x438,
        b"\x53\xef",
        "an ext file system of an unknown layout",
    ),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0x8000, b"JFS1", "a JFS file system"),
    (0x10034, b"ReIsEr", "a ReiserFS file system"),
    (0x1055c, b"\x19\x01\x54\x19", "a UFS file system"),
    (0x1055c, b"\x19\x54\x01\x19", "a UFS file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (0x36, b"FAT1", FAT),
    (0x52, b"FAT32", FAT),
];
const FAT: &str = "a FAT file system";

/// Finds out what a partition holds. Reads all of it if it holds nothing but zeroes.
pub(super) fn kind(disk: &mut dyn Disk, partition: &Partition) -> Result<Kind, Error> {
    let part = partition.part;
    if let Some(kind) = signed(disk, part, &CONTAINERS)? {
        return Ok(Kind::Other(kind));
    }
    if let Some(layout) = Layout::read(disk, part)? {
        return Ok(Kind::Ext(layout));
    }
    match signed(disk, part, &FILE_SYSTEMS)? {
        Some(FAT) if partition.role == Role::Boot => return Ok(Kind::Harmless),
        Some(kind) => return Ok(Kind::Other(kind)),
        None => {}
    }
    let found = swap(part.length, |offset, buffer| {
        disk.read(part.start + offset, buffer)
    })?;
    Ok(match found {
        Some(Swap::Behind(header)) => {
            let pages = Part {
                start: part.start + header,
                length: part.length - header,
            };
            match member(disk, part, &[pages])? {
                None => Kind::Pages(pages),
                Some(group) => Kind::Other(group),
            }
        }
        Some(Swap::Hibernated) => Kind::Hibernated,
        None if partition.role == Role::Loader && part.length <= LARGEST_LOADER => Kind::Harmless,
        None if is_blank(disk, part)? => Kind::Harmless,
        None => Kind::Other("something unknown"),
    })
}

/// What all of a disk is, whatever its table of partitions says: a file system or container, or a member of a group that is known
/// by what is in the `gaps` of the table.
pub(super) fn all_of(disk: &mut dyn Disk, gaps: &[Part]) -> Result<Option<&'static str>, Error> {
    let whole = Part {
        start: 0,
        length: disk.bytes(),
    };
    for signs in [&CONTAINERS[..], &FILE_SYSTEMS] {
        if let Some(kind) = signed(disk, whole, signs)? {
            return Ok(Some(kind));
        }
    }
    member(disk, whole, gaps)
}

fn signed(disk: &mut dyn Disk, part: Part, signs: &[Sign]) -> Result<Option<&'static str>, Error> {
    for (offset, sign, kind) in signs {
        let mut bytes = vec![0; sign.len()];
        if offset + sign.len() as u64 <= part.length {
            disk.read(part.start + offset, &mut bytes)?;
            if bytes == *sign {
                return Ok(Some(kind));
            }
        }
    }
    Ok(None)
}

fn is_blank(disk: &mut dyn Disk, part: Part) -> Result<bool, Error> {
    let mut buffer = vec![0; STEP as usize];
    let mut at = part.start;
    while at < part.end() {
        let length = STEP.min(part.end() - at);
        if disk.may_hold_data(at, length)? {
            let bytes = buffer.get_mut(..usize::try_from(length).unwrap_or_default());
            let bytes = bytes.unwrap_or_default();
            disk.read(at, bytes)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        at += length;
    }
    Ok(true)
}
