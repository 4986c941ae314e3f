//! Where file systems may be on a disk: its partitions, or all of it.

use super::Disk;
use crate::error::Error;

const SECTOR: u64 = 512;
/// Most partitions that are looked at.
const MOST: usize = 128;
/// Types of the partitions that only hold others.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the one partition that says "look at the GPT".
const PROTECTIVE: u8 = 0xee;

/// A stretch of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// The partitions, in the order of the table; the whole disk if it has no table.
pub(super) fn parts(disk: &mut dyn Disk) -> Result<Vec<Part>, Error> {
    let whole = Part {
        start: 0,
        length: disk.bytes(),
    };
    let first = sector(disk, 0)?;
    if first.get(510..) != Some(&[0x55, 0xaa]) {
        return Ok(vec![whole]);
    }
    let entries = entries_of(&first);
    if entries.iter().any(|(kind, _, _)| *kind == PROTECTIVE) {
        return Ok(inside(gpt(disk)?, whole.length));
    }
    let mut found = Vec::new();
    for (kind, start, count) in entries {
        if EXTENDED.contains(&kind) {
            found.extend(logical(disk, start)?);
        } else if kind != 0 && count > 0 {
            found.push(part(start, count));
        }
    }
    // A boot sector of a file system ends like a table of partitions; then its entries make no sense.
    let found = inside(found, whole.length);
    Ok(if found.is_empty() { vec![whole] } else { found })
}

fn inside(mut found: Vec<Part>, length: u64) -> Vec<Part> {
    found.retain(|part| {
        part.start
            .checked_add(part.length)
            .is_some_and(|end| end <= length)
    });
    found.truncate(MOST);
    found
}

fn part(start: u64, count: u64) -> Part {
    Part {
        start: start.saturating_mul(SECTOR),
        length: count.saturating_mul(SECTOR),
    }
}

fn sector(disk: &mut dyn Disk, number: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; SECTOR as usize];
    disk.read(number.saturating_mul(SECTOR), &mut bytes)?;
    Ok(bytes)
}

/// Type, first sector and number of sectors of the four entries of a master boot record.
fn entries_of(sector: &[u8]) -> Vec<(u8, u64, u64)> {
    let table = sector.get(446..510).unwrap_or_default();
    let entries = table.chunks_exact(16).map(|entry| {
        let kind = entry.get(4).copied().unwrap_or_default();
        (
            kind,
            u64::from(little(entry, 8)),
            u64::from(little(entry, 12)),
        )
    });
    entries.collect()
}

pub(super) fn little(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

fn little64(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// The chain of logical partitions in an extended one.
fn logical(disk: &mut dyn Disk, extended: u64) -> Result<Vec<Part>, Error> {
    let mut found = Vec::new();
    let mut at = extended;
    for _ in 0..MOST {
        let record = sector(disk, at)?;
        if record.get(510..) != Some(&[0x55, 0xaa]) {
            break;
        }
        let entries = entries_of(&record);
        if let Some((kind, start, count)) = entries.first()
            && *kind != 0
            && *count > 0
        {
            found.push(part(at.saturating_add(*start), *count));
        }
        match entries.get(1) {
            Some((kind, next, _)) if EXTENDED.contains(kind) && *next > 0 => {
                at = extended.saturating_add(*next)
            }
            _ => break,
        }
    }
    Ok(found)
}

fn gpt(disk: &mut dyn Disk) -> Result<Vec<Part>, Error> {
    let header = sector(disk, 1)?;
    if !header.starts_with(b"EFI PART") {
        return Ok(Vec::new());
    }
    let (table, count, size) = (
        little64(&header, 72),
        little(&header, 80),
        little(&header, 84),
    );
    if !(128..=4096).contains(&size) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for number in 0..u64::from(count).min(MOST as u64) {
        let mut entry = [0; 128];
        let offset = table
            .saturating_mul(SECTOR)
            .saturating_add(number * u64::from(size));
        disk.read(offset, &mut entry)?;
        let (first, last) = (little64(&entry, 32), little64(&entry, 40));
        if entry.iter().take(16).any(|byte| *byte != 0) && last >= first && first > 0 {
            found.push(part(first, (last - first).saturating_add(1)));
        }
    }
    Ok(found)
}
