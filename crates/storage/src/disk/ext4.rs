//! What is needed of the layout of an ext2, ext3 or ext4 file system: where its maps are, and what they say is free.
//! Format: the kernel's `Documentation/filesystems/ext4`.

mod files;

pub(super) use self::files::Files;
use super::Disk;
use super::partitions::{Part, little};
use crate::error::Error;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xef53;
/// Incompatible features: the journal holds what isn't in place yet; the descriptors are scattered; entries are of 64 bytes.
const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const BIT64: u32 = 0x80;
/// Feature of file systems that count clusters of blocks.
const BIGALLOC: u32 = 0x200;
/// State: cleanly unmounted, and with errors.
const CLEAN: u32 = 1;
const ERRORS: u32 = 2;
/// The group's map was never written: nothing was ever stored there.
const BLOCK_UNINIT: u32 = 2;
const INODE_UNINIT: u32 = 1;
/// Most bytes of descriptors: of a file system of 64 TiB and more, as they are made. All of them are held while it is looked at.
const MOST_DESCRIPTORS: u64 = 32 << 20;

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
    /// Why nothing is to be changed in it.
    pub(super) obstacle: Option<&'static str>,
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
        let (incompatible, read_only) = (field(0x60), field(0x64));
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
        let obstacle = if incompatible & RECOVER != 0 || state & CLEAN == 0 {
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
            obstacle,
        };
        let fits = blocks
            .checked_mul(block_bytes)
            .is_some_and(|bytes| bytes <= part.length);
        let sensible = layout.blocks_per_group > 0
            && layout.blocks_per_group <= block_bytes * 8
            && layout.first_block < blocks
            && layout.descriptor_bytes <= 1024;
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
            flags: little(bytes, 0x12) & 0xffff,
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

/// What is free, a group at a time.
#[derive(Debug)]
pub(super) struct FreeMap {
    layout: Layout,
    /// The group that the map is of.
    group: Option<u64>,
    /// A bit for each block in use; empty if nothing is known to be free.
    map: Vec<u8>,
}

impl FreeMap {
    pub(super) const fn new(layout: Layout) -> Self {
        Self {
            layout,
            group: None,
            map: Vec::new(),
        }
    }

    /// Whether a block holds nothing. What is in a group whose map was never written isn't known to be free.
    pub(super) fn is_free(&mut self, disk: &mut dyn Disk, block: u64) -> Result<bool, Error> {
        if !self.layout.holds(block) {
            return Ok(false);
        }
        let number = (block - self.layout.first_block) / self.layout.blocks_per_group;
        if self.group != Some(number) {
            let group = self.layout.group(disk, number)?;
            self.map.clear();
            if group.flags & BLOCK_UNINIT == 0 && self.layout.holds(group.block_map) {
                let bytes = self.layout.blocks_per_group.div_ceil(8);
                self.map
                    .resize(usize::try_from(bytes).unwrap_or_default(), 0);
                let start = self.layout.part.start + group.block_map * self.layout.block_bytes;
                disk.read(start, &mut self.map)?;
            }
            self.group = Some(number);
        }
        let place = (block - self.layout.first_block) % self.layout.blocks_per_group;
        let byte = self
            .map
            .get(usize::try_from(place / 8).unwrap_or(usize::MAX));
        Ok(byte.is_some_and(|byte| byte >> (place % 8) & 1 == 0))
    }
}
