//! Which blocks hold nothing.

use super::super::Disk;
use super::{BLOCK_UNINIT, Group, Layout, size};
use crate::error::Error;

/// What is free, a group at a time.
#[derive(Debug)]
pub(in super::super) struct FreeMap {
    layout: Layout,
    /// The group that the map is of.
    group: Option<u64>,
    /// A bit for each block in use; empty if nothing is known to be free.
    map: Vec<u8>,
}

impl FreeMap {
    pub(in super::super) const fn new(layout: Layout) -> Self {
        Self {
            layout,
            group: None,
            map: Vec::new(),
        }
    }

    /// Whether a block holds nothing.
    pub(in super::super) fn is_free(
        &mut self,
        disk: &mut dyn Disk,
        block: u64,
    ) -> Result<bool, Error> {
        if !self.layout.holds(block) {
            return Ok(false);
        }
        let number = (block - self.layout.first_block) / self.layout.blocks_per_group;
        if self.group != Some(number) {
            let group = self.layout.group(disk, number)?;
            self.group = None;
            self.map.clear();
            let bytes = size(self.layout.blocks_per_group.div_ceil(8));
            if group.flags & BLOCK_UNINIT != 0 {
                // The kernel believes this of no first group.
                if number > 0 {
                    self.map.resize(bytes, 0);
                    self.mark_own(number, &group);
                }
            } else if self.layout.holds(group.block_map) {
                self.map.resize(bytes, 0);
                let start = self.layout.part.start + group.block_map * self.layout.block_bytes;
                disk.read(start, &mut self.map)?;
            }
            self.group = Some(number);
        }
        let place = (block - self.layout.first_block) % self.layout.blocks_per_group;
        let byte = self.map.get(size(place / 8));
        Ok(byte.is_some_and(|byte| byte >> (place % 8) & 1 == 0))
    }

    /// Marks what a group that was never written has nevertheless: the copies, and its own maps and table. What other groups
    /// have in it would have been written (`ext4_init_block_bitmap` of the kernel).
    fn mark_own(&mut self, number: u64, group: &Group) {
        let layout = &self.layout;
        let first = layout.first_of(number);
        let copies = if layout.copies.are_in(number) {
            layout.copy_blocks() + layout.reserved
        } else {
            0
        };
        let own = [
            (first, copies),
            (group.block_map, 1),
            (group.inode_map, 1),
            (group.inode_table, layout.table_blocks()),
        ];
        let blocks = first..first + layout.blocks_per_group;
        for (start, count) in own {
            let end = start.saturating_add(count).min(blocks.end);
            for place in start.max(blocks.start)..end {
                let place = place - first;
                if let Some(byte) = self.map.get_mut(size(place / 8)) {
                    *byte |= 1 << (place % 8);
                }
            }
        }
    }
}
