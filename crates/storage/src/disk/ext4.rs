//! What is needed of the layout of an ext2, ext3 or ext4 file system: where its maps are, and what they say is free.
//! Format: the kernel's `Documentation/filesystems/ext4`.

mod files;
mod free;
mod inodes;

pub(super) use self::files::Files;
pub(super) use self::free::FreeMap;
pub(super) use self::inodes::FreeInodes;
use super::Disk;
use super::partitions::{Part, little};
use crate::error::Error;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xef53;
/// Compatible features: there is a journal; an inode has the blocks that are kept for more descriptors; two groups at most
/// have a copy of the superblock.
const HAS_JOURNAL: u32 = 0x4;
const RESIZE_INODE: u32 = 0x10;
const SPARSE_SUPER2: u32 = 0x200;
/// Incompatible features: the journal holds what isn't in place yet; it is nothing but a journal; the descriptors are
/// scattered; entries are of 64 bytes.
const RECOVER: u32 = 0x4;
const JOURNAL_DEV: u32 = 0x8;
const META_BG: u32 = 0x10;
const BIT64: u32 = 0x80;
/// Read-only compatible features: few groups have a copy of the superblock; blocks are counted in clusters; the descriptors
/// have checksums, of old and of new, without which their flags say nothing.
const SPARSE_SUPER: u32 = 0x1;
const BIGALLOC: u32 = 0x200;
const SUMS: u32 = 0x10 | 0x400;
/// State: cleanly unmounted, and with errors.
const CLEAN: u32 = 1;
const ERRORS: u32 = 2;
/// The group's map was never written: nothing was ever stored there.
const BLOCK_UNINIT: u32 = 2;
const INODE_UNINIT: u32 = 1;
/// Groups are of 8,192 blocks and more unless somebody asks for smaller ones; what is held of each must not be too much.
const SMALLEST_GROUP: u64 = 1024;
const SMALLEST_INODE: u64 = 128;
/// Most bytes of descriptors: of a file system of 64 TiB and more, as they are made. All of them are held while it is looked at.
const MOST_DESCRIPTORS: u64 = 32 << 20;

/// A size or a place in memory. What is held of a file system at once is bounded far below what a `usize` counts.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The layout of a file system in a part of a disk.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) part: Part,
    pub(super) block_bytes: u64,
    blocks: u64,
    first_block: u64,
    blocks_per_group: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    descriptor_bytes: u64,
    /// Blocks behind each copy of the descriptors that are kept for more of them.
    reserved: u64,
    /// They are of no other use.
    is_reserved: bool,
    copies: Copies,
    has_sums: bool,
    /// The inode of its journal; none if it has none, or has it elsewhere.
    pub(super) journal: Option<u32>,
    /// Why nothing is to be changed in it.
    pub(super) obstacle: Option<&'static str>,
}

/// Which groups have a copy of the superblock and the descriptors.
#[derive(Debug, Clone, Copy)]
enum Copies {
    InAll,
    /// Groups 0, 1 and the powers of 3, 5 and 7.
    InSome,
    /// Group 0 and these.
    In([u32; 2]),
}

impl Copies {
    fn are_in(self, group: u64) -> bool {
        let is_power = |base: u64| {
            let powers = std::iter::successors(Some(base), |power| power.checked_mul(base));
            powers.take_while(|power| *power <= group).last() == Some(group)
        };
        group == 0
            || match self {
                Self::InAll => true,
                Self::InSome => group == 1 || [3, 5, 7].into_iter().any(is_power),
                Self::In(groups) => groups.into_iter().any(|one| u64::from(one) == group),
            }
    }
}

/// A group of blocks.
struct Group {
    block_map: u64,
    inode_map: u64,
    inode_table: u64,
    flags: u32,
}

impl Layout {
    /// Of the file system in a part; none if there is none of this kind.
    pub(super) fn read(disk: &mut dyn Disk, part: Part) -> Result<Option<Self>, Error> {
        let mut superblock = vec![0; 1024];
        disk.read(part.start.saturating_add(SUPERBLOCK), &mut superblock)?;
        let field = |at| little(&superblock, at);
        if field(0x38) & 0xffff != MAGIC || part.length < 2 * SUPERBLOCK {
            return Ok(None);
        }
        let (compatible, incompatible, read_only) = (field(0x5c), field(0x60), field(0x64));
        let block_bytes = 1024_u64
            .checked_shl(field(0x18))
            .filter(|bytes| *bytes <= 65_536);
        let Some(block_bytes) = block_bytes else {
            return Ok(None);
        };
        let high = if incompatible & BIT64 != 0 {
            field(0x150)
        } else {
            0
        };
        let blocks = u64::from(field(0x4)) | u64::from(high) << 32;
        let descriptor = u64::from(field(0xfe) & 0xffff);
        let state = field(0x3a) & 0xffff;
        let obstacle = if incompatible & JOURNAL_DEV != 0 {
            Some("it is the journal of another file system")
        } else if incompatible & RECOVER != 0 || state & CLEAN == 0 {
            Some("it was not unmounted cleanly")
        } else if state & ERRORS != 0 {
            Some("it has errors")
        } else if incompatible & META_BG != 0 || read_only & BIGALLOC != 0 {
            Some("it is laid out in an unusual way")
        } else {
            None
        };
        let mut layout = Self {
            part,
            block_bytes,
            blocks,
            first_block: u64::from(field(0x14)),
            blocks_per_group: u64::from(field(0x20)),
            inodes_per_group: u64::from(field(0x28)),
            inode_bytes: if field(0x4c) == 0 {
                128
            } else {
                u64::from(field(0x58) & 0xffff)
            },
            descriptor_bytes: if incompatible & BIT64 != 0 {
                descriptor.max(64)
            } else {
                32
            },
            reserved: u64::from(field(0xce) & 0xffff),
            is_reserved: compatible & RESIZE_INODE != 0,
            copies: if compatible & SPARSE_SUPER2 != 0 {
                Copies::In([field(0x24c), field(0x250)])
            } else if read_only & SPARSE_SUPER != 0 {
                Copies::InSome
            } else {
                Copies::InAll
            },
            has_sums: read_only & SUMS != 0,
            journal: (compatible & HAS_JOURNAL != 0 && field(0xe0) != 0).then(|| field(0xe0)),
            obstacle,
        };
        let fits = blocks
            .checked_mul(block_bytes)
            .is_some_and(|bytes| bytes <= part.length);
        let sensible = layout.blocks_per_group >= SMALLEST_GROUP
            && layout.blocks_per_group <= block_bytes * 8
            && layout.first_block < blocks
            && layout.descriptor_bytes <= 1024
            && layout.inode_bytes.is_power_of_two()
            && (SMALLEST_INODE..=block_bytes).contains(&layout.inode_bytes)
            && (1..=block_bytes * 8).contains(&layout.inodes_per_group);
        if !(fits && sensible) {
            return Ok(None);
        }
        let (_, descriptors) = layout.descriptors();
        if descriptors > MOST_DESCRIPTORS && layout.obstacle.is_none() {
            layout.obstacle = Some("it is laid out in an unusual way");
        }
        Ok(Some(layout))
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    /// The first block of a group.
    const fn first_of(&self, group: u64) -> u64 {
        self.first_block + group * self.blocks_per_group
    }

    /// Blocks of the superblock and the descriptors, or of a copy of them.
    fn copy_blocks(&self) -> u64 {
        let (_, descriptors) = self.descriptors();
        1 + descriptors.div_ceil(self.block_bytes)
    }

    /// Blocks of a table of inodes.
    const fn table_blocks(&self) -> u64 {
        (self.inodes_per_group * self.inode_bytes).div_ceil(self.block_bytes)
    }

    /// What of the part is behind the file system: that was made smaller, or is no multiple of its blocks.
    pub(super) const fn behind(&self) -> Part {
        let bytes = self.blocks * self.block_bytes;
        Part {
            start: self.part.start + bytes,
            length: self.part.length - bytes,
        }
    }

    /// The blocks that hold the descriptors of all groups, as first byte and length within the part.
    pub(super) fn descriptors(&self) -> (u64, u64) {
        let start = (self.first_block + 1) * self.block_bytes;
        (start, self.groups() * self.descriptor_bytes)
    }

    fn group(&self, disk: &mut dyn Disk, number: u64) -> Result<Group, Error> {
        let mut bytes = vec![0; usize::try_from(self.descriptor_bytes).unwrap_or(64)];
        let (start, _) = self.descriptors();
        disk.read(
            self.part.start + start + number * self.descriptor_bytes,
            &mut bytes,
        )?;
        Ok(self.group_of(&bytes))
    }

    /// What a descriptor says.
    fn group_of(&self, bytes: &[u8]) -> Group {
        let wide = |low: usize, high: usize| {
            let high = if self.descriptor_bytes >= 64 {
                little(bytes, high)
            } else {
                0
            };
            u64::from(little(bytes, low)) | u64::from(high) << 32
        };
        Group {
            block_map: wide(0x0, 0x20),
            inode_map: wide(0x4, 0x24),
            inode_table: wide(0x8, 0x28),
            flags: if self.has_sums {
                little(bytes, 0x12) & 0xffff
            } else {
                0
            },
        }
    }

    /// The blocks of all maps that were ever written.
    pub(super) fn maps(&self, disk: &mut dyn Disk) -> Result<Vec<u64>, Error> {
        let mut maps = Vec::new();
        for number in 0..self.groups() {
            let group = self.group(disk, number)?;
            for (map, unwritten) in [
                (group.block_map, BLOCK_UNINIT),
                (group.inode_map, INODE_UNINIT),
            ] {
                if group.flags & unwritten == 0 && map < self.blocks {
                    maps.push(map);
                }
            }
        }
        Ok(maps)
    }

    /// Blocks of the file system, and whether one is inside it.
    pub(super) fn holds(&self, block: u64) -> bool {
        (self.first_block..self.blocks).contains(&block)
    }
}
