//! Where the blocks of a file are, without reading what is in them. Format: the kernel's `Documentation/filesystems/ext4`.
//!
//! Blocks that were set aside and never written count as well: the kernel swaps to them without marking them as written.

use std::collections::HashMap;

use super::super::partitions::{Part, little};
use super::{Layout, size};
use crate::error::Error;

/// Most blocks of maps and directories that are read for one file system: what a few TiB of files need.
const MOST_BLOCKS: usize = 1 << 20;
/// Most stretches of one file that are held.
const MOST_STRETCHES: usize = 1 << 20;
/// Most names that are held at once, and most in one directory. What is in a larger one can't be removed.
const MOST_NAMES: usize = 200_000;
const ROOT: u32 = 2;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
/// Of a link that is short enough to be in its inode.
const SHORT_LINK: u64 = 60;
/// A longer extent was never written; its length is what is above.
const UNWRITTEN: u64 = 32_768;
/// Levels of a tree of extents.
const DEEPEST: u32 = 5;

/// Blocks in a row, of the file and of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Stretch {
    pub(in super::super) of_file: u64,
    pub(in super::super) block: u64,
    pub(in super::super) count: u64,
}

/// A file's place.
#[derive(Debug, Default)]
pub(in super::super) struct Place {
    pub(in super::super) bytes: u64,
    pub(in super::super) stretches: Vec<Stretch>,
}

impl Place {
    /// Where in the file system a byte of the file is; none in a hole.
    pub(in super::super) fn of(&self, byte: u64, block_bytes: u64) -> Option<u64> {
        let wanted = byte / block_bytes;
        let stretch = self.stretches.iter().find(|stretch| {
            (stretch.of_file..stretch.of_file.saturating_add(stretch.count)).contains(&wanted)
        })?;
        Some((stretch.block + wanted - stretch.of_file) * block_bytes + byte % block_bytes)
    }

    /// What of the file is behind so many bytes, as bytes of the file system.
    pub(in super::super) fn behind(
        &self,
        bytes: u64,
        block_bytes: u64,
    ) -> impl Iterator<Item = Part> {
        self.stretches.iter().map(move |stretch| {
            let length = stretch.count * block_bytes;
            let first = stretch.of_file.saturating_mul(block_bytes);
            let skipped = bytes.saturating_sub(first).min(length);
            Part {
                start: stretch.block * block_bytes + skipped,
                length: length - skipped,
            }
        })
    }
}

/// What is read of an inode.
struct Inode {
    mode: u32,
    bytes: u64,
    flags: u32,
    /// The roots of the map.
    map: Vec<u8>,
}

impl Inode {
    const fn is_dir(&self) -> bool {
        self.mode & 0xf000 == 0x4000
    }

    const fn is_link(&self) -> bool {
        self.mode & 0xf000 == 0xa000
    }

    const fn is_file(&self) -> bool {
        self.mode & 0xf000 == 0x8000
    }
}

/// The files of a file system; `read` fills a buffer from a byte of it.
pub(in super::super) struct Files<R> {
    layout: Layout,
    read: R,
    /// How many blocks were read.
    blocks: usize,
    /// Directories that were read, none for one that is too large, and how many names they have.
    dirs: HashMap<String, Option<HashMap<Vec<u8>, u32>>>,
    names: usize,
}

impl<R: Fn(u64, &mut [u8]) -> Result<(), Error>> Files<R> {
    pub(in super::super) fn new(layout: Layout, read: R) -> Self {
        Self {
            layout,
            read,
            blocks: 0,
            dirs: HashMap::new(),
            names: 0,
        }
    }

    /// Where a file or link is. All that describes it was read then.
    ///
    /// # Errors
    /// Those of reading; [`Error::Invalid`] for what makes no sense or isn't there; [`Error::TooLarge`].
    pub(in super::super) fn place(&mut self, path: &str) -> Result<Place, Error> {
        let mut number = ROOT;
        let mut dir = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            number = self.look_up(&dir, number, name)?;
            dir.push('/');
            dir.push_str(name);
        }
        self.place_of(number, path)
    }

    /// The same by the number of its inode; it is called `name` for people.
    pub(in super::super) fn place_of(&mut self, number: u32, name: &str) -> Result<Place, Error> {
        let inode = self.inode(number)?;
        if !inode.is_file() && !inode.is_link() {
            return Err(nonsense(name, "it is no file"));
        }
        let mut place = Place {
            bytes: inode.bytes,
            stretches: Vec::new(),
        };
        self.walk(&inode, &mut place)?;
        Ok(place)
    }

    fn look_up(&mut self, dir: &str, number: u32, name: &str) -> Result<u32, Error> {
        if !self.dirs.contains_key(dir) {
            let names = self.directory(number)?;
            let count = names.as_ref().map_or(0, HashMap::len).max(1);
            if self.names + count > MOST_NAMES {
                self.dirs.clear();
                self.names = 0;
            }
            self.names += count;
            self.dirs.insert(dir.to_owned(), names);
        }
        let names = self
            .dirs
            .get(dir)
            .and_then(Option::as_ref)
            .ok_or_else(|| nonsense(name, "it is in a directory of too many names"))?;
        names
            .get(name.as_bytes())
            .copied()
            .ok_or_else(|| nonsense(name, "it isn't there"))
    }

    /// The names in a directory, none if it has too many. Blocks of an index look like entries that were deleted.
    fn directory(&mut self, number: u32) -> Result<Option<HashMap<Vec<u8>, u32>>, Error> {
        let inode = self.inode(number)?;
        let mut names = HashMap::new();
        if !inode.is_dir() {
            return Ok(Some(names));
        }
        let mut place = Place::default();
        self.walk(&inode, &mut place)?;
        let mut block = vec![0; size(self.layout.block_bytes)];
        for stretch in place.stretches {
            for number in stretch.block..stretch.block.saturating_add(stretch.count) {
                self.block(number, &mut block)?;
                let mut at = 0;
                while let Some(entry) = block.get(at..).filter(|rest| rest.len() >= 8) {
                    let (inode, rest) = (little(entry, 0), little(entry, 4));
                    let (length, name) = ((rest & 0xffff) as usize, (rest >> 16 & 0xff) as usize);
                    if length < 8 {
                        break;
                    }
                    if inode != 0
                        && let Some(name) = entry.get(8..8 + name)
                    {
                        names.insert(name.to_owned(), inode);
                        if names.len() > MOST_NAMES {
                            return Ok(None);
                        }
                    }
                    at += length;
                }
            }
        }
        Ok(Some(names))
    }

    fn inode(&self, number: u32) -> Result<Inode, Error> {
        let wrong = || nonsense(&number.to_string(), "there is no such inode");
        let index = u64::from(number.checked_sub(1).ok_or_else(wrong)?);
        let per_group = self.layout.inodes_per_group;
        if per_group == 0 || index / per_group >= self.layout.groups() {
            return Err(wrong());
        }
        let (start, _) = self.layout.descriptors();
        let mut descriptor = vec![0; size(self.layout.descriptor_bytes)];
        let at = start + index / per_group * self.layout.descriptor_bytes;
        (self.read)(at, &mut descriptor)?;
        let table = self.layout.group_of(&descriptor).inode_table;
        if !self.layout.holds(table) {
            return Err(wrong());
        }
        let mut bytes = vec![0; 128];
        let at = table * self.layout.block_bytes + index % per_group * self.layout.inode_bytes;
        (self.read)(at, &mut bytes)?;
        let field = |at| little(&bytes, at);
        let attributes = u64::from(field(0x68)) | u64::from(field(0x76) & 0xffff) << 32;
        if self.layout.holds(attributes) {
            // A file that goes takes them along.
            let mut block = vec![0; size(self.layout.block_bytes)];
            (self.read)(attributes * self.layout.block_bytes, &mut block)?;
        }
        Ok(Inode {
            mode: field(0) & 0xffff,
            bytes: u64::from(field(0x4)) | u64::from(field(0x6c)) << 32,
            flags: field(0x20),
            map: bytes.get(0x28..0x64).unwrap_or_default().to_owned(),
        })
    }

    fn block(&mut self, number: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.blocks += 1;
        if self.blocks > MOST_BLOCKS {
            return Err(Error::TooLarge {
                what: "map of the files to be removed",
                limit_bytes: MOST_BLOCKS as u64 * self.layout.block_bytes,
            });
        }
        if !self.layout.holds(number) {
            return Err(nonsense(&number.to_string(), "there is no such block"));
        }
        (self.read)(number * self.layout.block_bytes, buffer)
    }

    fn walk(&mut self, inode: &Inode, place: &mut Place) -> Result<(), Error> {
        if inode.flags & INLINE != 0 || (inode.is_link() && inode.bytes < SHORT_LINK) {
            return Ok(());
        }
        if inode.flags & EXTENTS != 0 {
            let depth = little(&inode.map, 4) >> 16;
            return self.extents(&inode.map, depth.min(DEEPEST), place);
        }
        for direct in 0..12 {
            self.note(
                place,
                Stretch {
                    of_file: direct as u64,
                    block: u64::from(little(&inode.map, direct * 4)),
                    count: 1,
                },
            )?;
        }
        let per_block = self.layout.block_bytes / 4;
        let mut first = 12;
        for level in 1..=3 {
            let root = little(&inode.map, (11 + level as usize) * 4);
            self.indirect(root, level, first, place)?;
            first += per_block.pow(level);
        }
        Ok(())
    }

    /// A node of a tree of extents, as it must be at this depth.
    fn extents(&mut self, node: &[u8], depth: u32, place: &mut Place) -> Result<(), Error> {
        let header = little(node, 0);
        if header & 0xffff != 0xf30a || little(node, 4) >> 16 != depth {
            return Err(nonsense("extents", "they make no sense"));
        }
        let entries = node.chunks_exact(12).skip(1);
        for entry in entries.take((header >> 16) as usize) {
            if depth > 0 {
                let below =
                    u64::from(little(entry, 4)) | u64::from(little(entry, 8) & 0xffff) << 32;
                let mut block = vec![0; size(self.layout.block_bytes)];
                self.block(below, &mut block)?;
                self.extents(&block, depth - 1, place)?;
                continue;
            }
            let lengths = little(entry, 4);
            let count = u64::from(lengths & 0xffff);
            let stretch = Stretch {
                of_file: u64::from(little(entry, 0)),
                block: u64::from(little(entry, 8)) | u64::from(lengths >> 16) << 32,
                count: if count > UNWRITTEN {
                    count - UNWRITTEN
                } else {
                    count
                },
            };
            self.note(place, stretch)?;
        }
        Ok(())
    }

    /// A block of numbers of blocks; those that it maps begin with this one of the file.
    fn indirect(
        &mut self,
        number: u32,
        level: u32,
        first: u64,
        place: &mut Place,
    ) -> Result<(), Error> {
        if number == 0 {
            return Ok(());
        }
        let mut block = vec![0; size(self.layout.block_bytes)];
        self.block(u64::from(number), &mut block)?;
        let each = (self.layout.block_bytes / 4).pow(level - 1);
        for (index, number) in (0..).zip(block.chunks_exact(4)) {
            let number = little(number, 0);
            let of_file = first + index * each;
            if level > 1 {
                self.indirect(number, level - 1, of_file, place)?;
            } else {
                let block = u64::from(number);
                self.note(
                    place,
                    Stretch {
                        of_file,
                        block,
                        count: 1,
                    },
                )?;
            }
        }
        Ok(())
    }

    fn note(&self, place: &mut Place, next: Stretch) -> Result<(), Error> {
        if next.block == 0 || next.count == 0 {
            return Ok(());
        }
        if !self.layout.holds(next.block) || !self.layout.holds(next.block + next.count - 1) {
            return Err(nonsense(&next.block.to_string(), "there is no such block"));
        }
        if let Some(last) = place.stretches.last_mut()
            && last.of_file + last.count == next.of_file
            && last.block + last.count == next.block
        {
            last.count += next.count;
        } else if place.stretches.len() < MOST_STRETCHES {
            place.stretches.push(next);
        } else {
            return Err(nonsense("extents", "there are too many"));
        }
        Ok(())
    }
}

fn nonsense(value: &str, reason: &str) -> Error {
    Error::Invalid {
        what: "file",
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}
