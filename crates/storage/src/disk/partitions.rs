//! Where file systems may be on a disk: its partitions, or all of it.

use super::Disk;
use crate::error::Error;

const SECTOR: u64 = 512;
/// Most entries of tables that are read.
const MOST: u64 = 1024;
/// Most partitions that are looked into: a GPT has room for as many by default.
const MOST_PARTITIONS: usize = 128;
/// The number of the first partition in an extended one.
const FIRST_LOGICAL: u64 = 5;
/// Types of the partitions that only hold others.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the one partition that says "look at the GPT".
const PROTECTIVE: u8 = 0xee;
/// The status of the partition that the boot record starts from.
const ACTIVE: u8 = 0x80;
const EFI: u8 = 0xef;
const PREP: u8 = 0x41;
/// Types as the GPT has them (UEFI 2.10, 5.3.3): the EFI system partition, GRUB's in a BIOS, and that of POWER.
const GPT_EFI: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
const GPT_BIOS: [u8; 16] = *b"Hah!IdontNeedEFI";
const GPT_PREP: [u8; 16] = [
    0x38, 0x2d, 0x1a, 0x9e, 0x12, 0xc6, 0x16, 0x43, 0xaa, 0x26, 0x8b, 0x49, 0x52, 0x1e, 0x5a, 0x8b,
];

/// A stretch of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Part {
    pub(super) const fn end(self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// What a table says that a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Any,
    /// The firmware or the boot record looks for files to start from in it.
    Boot,
    /// A boot loader lies in it, without a file system.
    Loader,
}

/// A partition, or a whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    /// As the guest counts them, from 1; 0 is the whole disk.
    pub(super) number: u64,
    pub(super) part: Part,
    pub(super) role: Role,
}

impl Partition {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self.number {
            0 => "the disk".to_owned(),
            number => format!("partition {number}"),
        }
    }
}

/// What a disk is divided into.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order of the table; the whole disk if it has none.
    pub(super) partitions: Vec<Partition>,
    /// What of the table could not be followed, for people. Nothing is known of what lies there.
    pub(super) lost: Vec<String>,
    /// What belongs to the table itself, besides the beginning of the disk.
    own: Vec<Part>,
}

impl Table {
    fn add(&mut self, number: u64, kind: Role, part: Part) {
        self.partitions.push(Partition {
            number,
            part,
            role: kind,
        });
    }

    /// What lies in no partition, behind the first one: nothing that a guest can still reach by a name. Before the first are
    /// boot loaders. None if the table could not be followed to its end.
    pub(super) fn gaps(&self, bytes: u64) -> Vec<Part> {
        if !self.lost.is_empty() {
            return Vec::new();
        }
        let parts = self.partitions.iter().map(|partition| partition.part);
        let Some(mut at) = parts.clone().map(|part| part.start).min() else {
            return Vec::new();
        };
        let mut taken: Vec<Part> = parts.chain(self.own.iter().copied()).collect();
        taken.sort_by_key(|part| part.start);
        let end = Part {
            start: bytes,
            length: 0,
        };
        let mut gaps = Vec::new();
        for part in taken.into_iter().chain([end]) {
            if part.start > at {
                gaps.push(Part {
                    start: at,
                    length: part.start - at,
                });
            }
            at = at.max(part.end());
        }
        gaps
    }
}

/// Looks at the table of a disk.
pub(super) fn table(disk: &mut dyn Disk) -> Result<Table, Error> {
    let bytes = disk.bytes();
    let mut whole = Table::default();
    whole.add(
        0,
        Role::Any,
        Part {
            start: 0,
            length: bytes,
        },
    );
    let first = sector(disk, 0)?;
    let records = records_of(&first);
    // As Linux does: a boot sector of a file system ends like a table of partitions, but its bytes make no sense as one.
    let is_table = first.get(510..) == Some(&[0x55, 0xaa])
        && records
            .iter()
            .all(|record| [0, ACTIVE].contains(&record.status));
    if !is_table {
        return Ok(whole);
    }
    let mut found = Table::default();
    if records.iter().any(|record| record.kind == PROTECTIVE) {
        gpt(disk, &mut found)?;
    } else {
        for (number, record) in (1..).zip(&records) {
            if EXTENDED.contains(&record.kind) {
                logical(disk, record.start, &mut found)?;
            } else if record.kind != 0 && record.count > 0 {
                found.add(number, record.role(), part(record.start, record.count));
            }
        }
    }
    let (inside, outside): (Vec<_>, Vec<_>) = std::mem::take(&mut found.partitions)
        .into_iter()
        .partition(|partition| partition.part.end() <= bytes && partition.part.length > 0);
    found.lost.extend(
        outside
            .iter()
            .map(|partition| format!("{} reaches past the end of the disk", partition.name())),
    );
    for partition in inside {
        let part = partition.part;
        let overlapped = found
            .partitions
            .iter()
            .find(|other| part.start < other.part.end() && other.part.start < part.end());
        if let Some(other) = overlapped {
            found
                .lost
                .push(format!("{} overlaps {}", partition.name(), other.name()));
        } else if found.partitions.len() < MOST_PARTITIONS {
            found.partitions.push(partition);
        } else {
            found
                .lost
                .push(format!("there are more than {MOST_PARTITIONS} partitions"));
            break;
        }
    }
    Ok(if found.partitions.is_empty() {
        whole
    } else {
        found
    })
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

/// An entry of a master boot record; places in sectors.
struct Record {
    status: u8,
    kind: u8,
    start: u64,
    count: u64,
}

impl Record {
    fn role(&self) -> Role {
        match self.kind {
            EFI => Role::Boot,
            PREP => Role::Loader,
            _ if self.status == ACTIVE => Role::Boot,
            _ => Role::Any,
        }
    }
}

/// The four entries of a master boot record.
fn records_of(sector: &[u8]) -> Vec<Record> {
    let table = sector.get(446..510).unwrap_or_default();
    let entries = table.chunks_exact(16).map(|entry| Record {
        status: entry.first().copied().unwrap_or_default(),
        kind: entry.get(4).copied().unwrap_or_default(),
        start: u64::from(little(entry, 8)),
        count: u64::from(little(entry, 12)),
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
fn logical(disk: &mut dyn Disk, extended: u64, found: &mut Table) -> Result<(), Error> {
    let mut at = extended;
    let mut number = FIRST_LOGICAL;
    for _ in 0..MOST {
        let record = sector(disk, at)?;
        if record.get(510..) != Some(&[0x55, 0xaa]) {
            found
                .lost
                .push(format!("the partitions from {number} on make no sense"));
            return Ok(());
        }
        found.own.push(part(at, 1));
        let records = records_of(&record);
        if let Some(first) = records.first()
            && first.kind != 0
            && first.count > 0
        {
            found.add(
                number,
                first.role(),
                part(at.saturating_add(first.start), first.count),
            );
            number += 1;
        }
        match records.get(1) {
            Some(next) if EXTENDED.contains(&next.kind) && next.start > 0 => {
                at = extended.saturating_add(next.start);
            }
            _ => return Ok(()),
        }
    }
    found
        .lost
        .push(format!("there are more than {MOST} partitions"));
    Ok(())
}

fn gpt(disk: &mut dyn Disk, found: &mut Table) -> Result<(), Error> {
    let header = sector(disk, 1)?;
    if !header.starts_with(b"EFI PART") {
        return Ok(());
    }
    let (table, count, size) = (
        little64(&header, 72),
        little(&header, 80),
        little(&header, 84),
    );
    if !(128..=4096).contains(&size) {
        return Ok(());
    }
    // The copy of the table: its entries, then its header.
    let entries = (u64::from(count) * u64::from(size)).div_ceil(SECTOR);
    let copy = little64(&header, 32);
    found.own.push(part(
        copy.saturating_sub(entries),
        entries.saturating_add(1),
    ));
    found.own.push(part(table, entries));
    if u64::from(count) > MOST {
        found
            .lost
            .push(format!("there is room for more than {MOST} partitions"));
    }
    for number in 0..u64::from(count).min(MOST) {
        let mut entry = [0; 128];
        let offset = table
            .saturating_mul(SECTOR)
            .saturating_add(number * u64::from(size));
        disk.read(offset, &mut entry)?;
        let (first, last) = (little64(&entry, 32), little64(&entry, 40));
        let kind = entry.first_chunk::<16>().copied().unwrap_or_default();
        if kind == [0; 16] {
            continue;
        }
        if last < first || first == 0 {
            found
                .lost
                .push(format!("partition {} makes no sense", number + 1));
            continue;
        }
        let role = match kind {
            GPT_EFI => Role::Boot,
            GPT_BIOS | GPT_PREP => Role::Loader,
            _ => Role::Any,
        };
        found.add(
            number + 1,
            role,
            part(first, (last - first).saturating_add(1)),
        );
    }
    Ok(())
}
