//! What was read of a file system, as a sparse copy that can be changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::Ext4Read;
use parking_lot::Mutex;

use super::super::Disk;
use super::super::ext4::Layout;
use super::super::partitions::Part;
use crate::error::Error;
use crate::space;

/// What was read is kept in pieces of this size.
const PIECE: u64 = 4096;
/// Most that is kept of all file systems of a disk: directories and maps of large ones take a few hundred MiB at most.
const MOST_PIECES: usize = (1 << 30) / PIECE as usize;

/// Where skeletons are put while a disk is cleaned and read.
#[derive(Debug, Clone, Copy)]
pub struct Scratch<'a> {
    /// Their directory. They have no names in it, and go with who holds them.
    pub dir: &'a Path,
    /// Bytes of its file system that they leave free.
    pub reserve_bytes: u64,
}

impl<'a> From<&'a Path> for Scratch<'a> {
    /// A directory that may be filled.
    fn from(dir: &'a Path) -> Self {
        Self {
            dir,
            reserve_bytes: 0,
        }
    }
}

/// What there is for the skeletons of a disk.
pub(super) struct Room<'a> {
    scratch: Scratch<'a>,
    pieces: usize,
}

impl<'a> Room<'a> {
    pub(super) const fn new(scratch: Scratch<'a>) -> Self {
        Self {
            scratch,
            pieces: MOST_PIECES,
        }
    }
}

struct Inner {
    disk: Option<Box<dyn Disk>>,
    pieces: BTreeSet<u64>,
    /// Most of them.
    most: usize,
}

/// A part of a disk that notes what is read of it. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Recorder {
    part: Part,
    inner: Arc<Mutex<Inner>>,
    /// Lies over the disk, once there is one.
    skeleton: Option<Skeleton>,
}

impl Recorder {
    /// Notes no more than there is room for.
    pub(super) fn new(disk: Box<dyn Disk>, part: Part, room: &Room<'_>) -> Self {
        Self {
            part,
            inner: Arc::new(Mutex::new(Inner {
                disk: Some(disk),
                pieces: BTreeSet::new(),
                most: room.pieces,
            })),
            skeleton: None,
        }
    }

    /// The disk again.
    pub(super) fn into_disk(self) -> Result<Box<dyn Disk>, Error> {
        self.inner.lock().disk.take().ok_or(Error::Cancelled)
    }

    /// The same, as it is under a skeleton.
    pub(super) fn over(&self, skeleton: &Skeleton) -> Self {
        Self {
            skeleton: Some(skeleton.clone()),
            ..self.clone()
        }
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.part.length {
            return Err(Error::Invalid {
                what: "file system",
                value: format!("byte {end}"),
                reason: "it points behind its own end".to_owned(),
            });
        }
        inner.pieces.extend(offset / PIECE..end.div_ceil(PIECE));
        if inner.pieces.len() > inner.most {
            return Err(Error::TooLarge {
                what: "metadata of all file systems of the disk",
                limit_bytes: MOST_PIECES as u64 * PIECE,
            });
        }
        let start = self.part.start + offset;
        let disk = inner.disk.as_mut().ok_or(Error::Cancelled)?;
        disk.read(start, buffer)?;
        if let Some(skeleton) = &self.skeleton {
            skeleton.overlay(self.part, start, buffer)?;
        }
        Ok(())
    }

    /// Reads what else belongs to the metadata: the descriptors of the groups, and the maps.
    pub(super) fn note_metadata(&self, layout: &Layout) -> Result<(), Error> {
        let mut block = vec![0; usize::try_from(layout.block_bytes).unwrap_or_default()];
        let (start, length) = layout.descriptors();
        self.read_at(0, &mut block)?;
        self.read_at(1024, &mut [0; 1024])?;
        let mut at = start;
        while at < start + length {
            self.read_at(at, &mut block)?;
            at += layout.block_bytes;
        }
        let maps = {
            let mut inner = self.inner.lock();
            let disk = inner.disk.as_mut().ok_or(Error::Cancelled)?;
            layout.maps(&mut **disk)?
        };
        for map in maps {
            self.read_at(map * layout.block_bytes, &mut block)?;
        }
        Ok(())
    }

    /// A sparse copy of what was read, in a file without a name.
    pub(super) fn skeleton(&self, room: &mut Room<'_>) -> Result<Skeleton, Error> {
        let Scratch { dir, reserve_bytes } = room.scratch;
        let pieces = self.inner.lock().pieces.clone();
        space::require(dir, pieces.len() as u64 * PIECE, reserve_bytes)?;
        room.pieces = room.pieces.saturating_sub(pieces.len());
        let path = dir.join(format!(
            "{}{}",
            crate::durable::UNFINISHED,
            uuid::Uuid::new_v4().simple()
        ));
        let failed = |error| Error::io("write", &path)(error);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        file.set_len(self.part.length).map_err(failed)?;
        let mut inner = self.inner.lock();
        let disk = inner.disk.as_mut().ok_or(Error::Cancelled)?;
        let mut piece = vec![0; PIECE as usize];
        for number in &pieces {
            let offset = number * PIECE;
            let length = PIECE.min(self.part.length - offset);
            let Some(bytes) = piece.get_mut(..usize::try_from(length).unwrap_or_default()) else {
                continue;
            };
            disk.read(self.part.start + offset, bytes)?;
            file.write_all_at(bytes, offset).map_err(failed)?;
        }
        Ok(Skeleton(Arc::new(Copy { file, path, pieces })))
    }
}

impl Ext4Read for Recorder {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_at(start_byte, dst)?)
    }
}

struct Copy {
    file: File,
    /// What it was called, for messages.
    path: PathBuf,
    pieces: BTreeSet<u64>,
}

/// The copy of a file system's metadata.
#[derive(Clone)]
pub(super) struct Skeleton(Arc<Copy>);

impl Skeleton {
    pub(super) fn file(&self) -> &File {
        &self.0.file
    }

    /// Whether it has any of these bytes of its part.
    pub(super) fn has(&self, offset: u64, length: u64) -> bool {
        let pieces = offset / PIECE..offset.saturating_add(length).div_ceil(PIECE);
        self.0.pieces.range(pieces).next().is_some()
    }

    /// Puts what it has over what was read from `offset` of the disk.
    pub(super) fn overlay(&self, part: Part, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = offset.saturating_add(buffer.len() as u64);
        let (from, to) = (offset.max(part.start), end.min(part.start + part.length));
        if from >= to {
            return Ok(());
        }
        let pieces = (from - part.start) / PIECE..(to - part.start).div_ceil(PIECE);
        for number in self.0.pieces.range(pieces) {
            let start = (part.start + number * PIECE).max(from);
            let stop = (part.start + (number + 1) * PIECE).min(to);
            let range = usize::try_from(start - offset).unwrap_or(usize::MAX)
                ..usize::try_from(stop - offset).unwrap_or(0);
            if let Some(bytes) = buffer.get_mut(range) {
                let read = self.0.file.read_exact_at(bytes, start - part.start);
                read.map_err(Error::io("read", &self.0.path))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeroes;

    impl Disk for Zeroes {
        fn bytes(&self) -> u64 {
            1 << 20
        }

        fn may_hold_data(&mut self, _: u64, _: u64) -> Result<bool, Error> {
            Ok(true)
        }

        fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), Error> {
            buffer.fill(0);
            Ok(())
        }
    }

    #[test]
    fn the_file_systems_of_a_disk_share_the_room() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut room = Room {
            scratch: dir.path().into(),
            pieces: 5,
        };
        let part = Part {
            start: 0,
            length: 1 << 20,
        };
        let mut three = [0; 3 * PIECE as usize];
        let first = Recorder::new(Box::new(Zeroes), part, &room);
        first.read_at(0, &mut three).expect("room");
        first.read_at(0, &mut three).expect("noted already");
        first.skeleton(&mut room).expect("skeleton");
        let second = Recorder::new(Box::new(Zeroes), part, &room);
        second.read_at(0, &mut three[..8192]).expect("room");
        let error = second.read_at(8192, &mut three[..1]).expect_err("no room");
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        // Nothing is left over in the directory, whoever holds what.
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
        room.scratch.reserve_bytes = u64::MAX;
        let third = Recorder::new(Box::new(Zeroes), part, &room);
        third.read_at(0, &mut three[..1]).expect("room");
        let refused = third.skeleton(&mut room).map(|_| ());
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    }
}
