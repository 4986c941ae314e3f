//! What of the tables of inodes is of no file, and what was set aside and never written. An inode keeps, when its file is gone, where
//! that was and what it had in the inode itself: targets of links, attributes, short files.

use super::super::Disk;
use super::super::partitions::Part;
use super::{BLOCK_UNINIT, INODE_UNINIT, Layout, size};
use crate::error::Error;

/// Inodes of the first group that are never of no use, whatever its map says.
const RESERVED: u64 = 10;
/// Length of a superblock; no block is shorter.
const SUPERBLOCK_BYTES: u64 = 1024;

/// Blocks of the file system's own in a row.
#[derive(Debug, Clone, Copy)]
struct Own {
    start: u64,
    group: u32,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A map that was never written.
    Map,
    /// Blocks for descriptors that are still to come.
    Reserved,
    /// A copy of the superblock, which is shorter than the block.
    Copy,
    /// The table of inodes.
    Table,
}

/// Inodes that are of no file, a group at a time.
#[derive(Debug)]
pub(in super::super) struct FreeInodes {
    layout: Layout,
    /// By where they begin.
    own: Vec<Own>,
    /// The group that the map is of.
    group: Option<u64>,
    /// A bit for each inode in use; empty if nothing is known to be free.
    map: Vec<u8>,
}

impl FreeInodes {
    /// Reads the descriptors of all groups.
    pub(in super::super) fn new(layout: Layout, disk: &mut dyn Disk) -> Result<Self, Error> {
        let mut own = Vec::new();
        for number in 0..layout.groups() {
            let group = layout.group(disk, number)?;
            let index = u32::try_from(number).unwrap_or(u32::MAX);
            let mut add = |start, what| {
                own.push(Own {
                    start,
                    group: index,
                    what,
                });
            };
            add(group.inode_table, What::Table);
            // What the first group has is always written.
            if number == 0 {
                continue;
            }
            if group.flags & BLOCK_UNINIT != 0 {
                add(group.block_map, What::Map);
            }
            if group.flags & INODE_UNINIT != 0 {
                add(group.inode_map, What::Map);
            }
            if layout.copies.are_in(number) {
                add(layout.first_of(number), What::Copy);
                let start = layout.first_of(number) + layout.copy_blocks();
                if layout.is_reserved && layout.reserved > 0 {
                    add(start, What::Reserved);
                }
            }
        }
        own.sort_by_key(|own| own.start);
        Ok(Self {
            layout,
            own,
            group: None,
            map: Vec::new(),
        })
    }

    /// What of a block is of no file, as bytes of the file system; of blocks that are not of tables nothing.
    pub(in super::super) fn unused(
        &mut self,
        disk: &mut dyn Disk,
        block: u64,
    ) -> Result<Vec<Part>, Error> {
        let before = self.own.partition_point(|own| own.start <= block);
        let own = before.checked_sub(1).and_then(|last| self.own.get(last));
        let Some(own) = own.copied() else {
            return Ok(Vec::new());
        };
        let count = match own.what {
            What::Map | What::Copy => 1,
            What::Reserved => self.layout.reserved,
            What::Table => self.layout.table_blocks(),
        };
        if block - own.start >= count {
            return Ok(Vec::new());
        }
        let (start, length) = (block * self.layout.block_bytes, self.layout.block_bytes);
        match own.what {
            What::Map | What::Reserved => Ok(vec![Part { start, length }]),
            What::Copy => Ok(vec![Part {
                start: start + SUPERBLOCK_BYTES,
                length: length - SUPERBLOCK_BYTES,
            }]),
            What::Table => {
                let group = u64::from(own.group);
                let per_block = length / self.layout.inode_bytes;
                let first = (block - own.start) * per_block;
                self.load(disk, group)?;
                Ok(self.free(group, first..first + per_block, start))
            }
        }
    }

    /// Whether all of a block is of no file.
    pub(in super::super) fn is_unused(
        &mut self,
        disk: &mut dyn Disk,
        block: u64,
    ) -> Result<bool, Error> {
        let unused = self.unused(disk, block)?;
        Ok(unused
            .iter()
            .any(|part| part.length == self.layout.block_bytes))
    }

    fn load(&mut self, disk: &mut dyn Disk, number: u64) -> Result<(), Error> {
        if self.group == Some(number) {
            return Ok(());
        }
        let group = self.layout.group(disk, number)?;
        let bytes = size(self.layout.inodes_per_group.div_ceil(8));
        self.group = None;
        self.map.clear();
        if group.flags & INODE_UNINIT != 0 {
            if number > 0 {
                self.map.resize(bytes, 0);
            }
        } else if self.layout.holds(group.inode_map) {
            self.map.resize(bytes, 0);
            let start = self.layout.part.start + group.inode_map * self.layout.block_bytes;
            disk.read(start, &mut self.map)?;
        }
        self.group = Some(number);
        Ok(())
    }

    /// Where those of some inodes are that are of no file; the first is at this byte of the file system.
    fn free(&self, group: u64, inodes: std::ops::Range<u64>, mut at: u64) -> Vec<Part> {
        let mut free: Vec<Part> = Vec::new();
        let length = self.layout.inode_bytes;
        for inode in inodes {
            let byte = self.map.get(size(inode / 8));
            let is_free = byte.is_some_and(|byte| byte >> (inode % 8) & 1 == 0)
                && (group > 0 || inode >= RESERVED);
            match free.last_mut() {
                Some(last) if is_free && last.end() == at => last.length += length,
                _ if is_free => free.push(Part { start: at, length }),
                _ => {}
            }
            at += length;
        }
        free
    }
}
