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
/// Most that is kept of the file systems of a disk: directories and maps of large ones take a few hundred MiB at most.
const MOST_PIECES: usize = (1 << 30) / PIECE as usize;
/// Most pieces that are read to find out what goes, each as often as it is read. An ordinary guest takes a few
/// hundred thousand.
const MOST_READS: u64 = 1 << 24;

/// Where skeletons are written.
#[derive(Debug, Clone, Copy)]
pub struct Scratch<'a> {
    /// A directory; the files in it have no name.
    pub dir: &'a Path,
    /// Bytes of its file system that stay free.
    pub reserve_bytes: u64,
}

/// A disk, and what may still be read and kept of the file systems on it. Somebody who wishes harm made them.
pub(super) struct Source {
    disk: Box<dyn Disk>,
    reads: u64,
    pieces: usize,
}

impl Source {
    pub(super) fn new(disk: Box<dyn Disk>) -> Self {
        Self {
            disk,
            reads: MOST_READS,
            pieces: MOST_PIECES,
        }
    }

    pub(super) fn disk(&mut self) -> &mut dyn Disk {
        &mut *self.disk
    }

    pub(super) fn into_disk(self) -> Box<dyn Disk> {
        self.disk
    }
}

struct Inner {
    source: Option<Source>,
    /// Which were read.
    pieces: BTreeSet<u64>,
    /// How many of them a skeleton has, which is there until all of the disk is saved.
    kept: usize,
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
    pub(super) fn new(source: Source, part: Part) -> Self {
        Self {
            part,
            inner: Arc::new(Mutex::new(Inner {
                source: Some(source),
                pieces: BTreeSet::new(),
                kept: 0,
            })),
            skeleton: None,
        }
    }

    /// The disk again, with what is left of its bounds.
    pub(super) fn into_source(self) -> Result<Source, Error> {
        let mut inner = self.inner.lock();
        let mut source = inner.source.take().ok_or(Error::Cancelled)?;
        source.pieces = source.pieces.saturating_sub(inner.kept);
        Ok(source)
    }

    /// The same, as it is under a skeleton.
    pub(super) fn over(&self, skeleton: &Skeleton) -> Self {
        Self {
            skeleton: Some(skeleton.clone()),
            ..self.clone()
        }
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = offset.saturating_add(buffer.len() as u64);
        if end > self.part.length {
            return Err(Error::Invalid {
                what: "file system",
                value: format!("byte {end}"),
                reason: "it points behind its own end".to_owned(),
            });
        }
        let mut inner = self.inner.lock();
        let Inner { source, pieces, .. } = &mut *inner;
        let source = source.as_mut().ok_or(Error::Cancelled)?;
        let read = offset / PIECE..end.div_ceil(PIECE);
        source.reads = source.reads.saturating_sub(read.end - read.start);
        if source.reads == 0 {
            return Err(Error::TooLarge {
                what: "reading of directories",
                limit_bytes: MOST_READS * PIECE,
            });
        }
        pieces.extend(read);
        if pieces.len() > source.pieces {
            return Err(Error::TooLarge {
                what: "metadata of the disk's file systems",
                limit_bytes: MOST_PIECES as u64 * PIECE,
            });
        }
        let start = self.part.start + offset;
        source.disk.read(start, buffer)?;
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
            let source = inner.source.as_mut().ok_or(Error::Cancelled)?;
            layout.maps(&mut *source.disk)?
        };
        for map in maps {
            self.read_at(map * layout.block_bytes, &mut block)?;
        }
        Ok(())
    }

    /// A sparse copy of what was read.
    pub(super) fn skeleton(&self, scratch: Scratch<'_>) -> Result<Skeleton, Error> {
        let mut inner = self.inner.lock();
        let pieces = inner.pieces.clone();
        let source = inner.source.as_mut().ok_or(Error::Cancelled)?;
        let needed_bytes = pieces.len() as u64 * PIECE;
        space::require(scratch.dir, needed_bytes, scratch.reserve_bytes)?;
        let path = scratch.dir.join(format!(
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
        let mut piece = vec![0; PIECE as usize];
        for number in &pieces {
            let offset = number * PIECE;
            let length = PIECE.min(self.part.length - offset);
            let Some(bytes) = piece.get_mut(..usize::try_from(length).unwrap_or_default()) else {
                continue;
            };
            source.disk.read(self.part.start + offset, bytes)?;
            file.write_all_at(bytes, offset).map_err(failed)?;
        }
        inner.kept = pieces.len();
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
            1 << 30
        }

        fn may_hold_data(&mut self, _: u64, _: u64) -> Result<bool, Error> {
            Ok(true)
        }

        fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), Error> {
            buffer.fill(0);
            Ok(())
        }
    }

    const HALF: u64 = 1 << 29;

    fn part(start: u64) -> Part {
        Part {
            start,
            length: HALF,
        }
    }

    fn source(reads: u64, pieces: usize) -> Source {
        Source {
            disk: Box::new(Zeroes),
            reads,
            pieces,
        }
    }

    fn is_too_large(read: Result<(), Error>) -> bool {
        matches!(read, Err(Error::TooLarge { .. }))
    }

    #[test]
    fn what_is_read_again_and_again_counts_each_time_for_the_whole_disk() {
        let recorder = Recorder::new(source(10, 100), part(0));
        for _ in 0..5 {
            recorder.read_at(0, &mut [0; 10]).expect("read");
        }
        let recorder = Recorder::new(recorder.into_source().expect("the disk"), part(HALF));
        recorder.read_at(0, &mut [0; 4 * 4096]).expect("read");
        assert!(is_too_large(recorder.read_at(0, &mut [0; 10])));
        assert!(is_too_large(recorder.read_at(4096, &mut [0; 10])), "and on");
    }

    #[test]
    fn all_skeletons_of_a_disk_have_one_bound_and_leave_the_reserve() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut scratch = Scratch {
            dir: dir.path(),
            reserve_bytes: 0,
        };
        let recorder = Recorder::new(source(1000, 10), part(0));
        recorder.read_at(0, &mut [0; 6 * 4096]).expect("read");
        // What was only looked at is kept nowhere.
        let recorder = Recorder::new(recorder.into_source().expect("the disk"), part(0));
        recorder.read_at(0, &mut [0; 6 * 4096]).expect("read");
        let _first = recorder.skeleton(scratch).expect("a skeleton");
        recorder.read_at(0, &mut [0; 10]).expect("read again");
        let recorder = Recorder::new(recorder.into_source().expect("the disk"), part(HALF));
        recorder.read_at(0, &mut [0; 4 * 4096]).expect("read");
        scratch.reserve_bytes = u64::MAX;
        let full = recorder.skeleton(scratch).err();
        assert!(matches!(full, Some(Error::NoSpace { .. })), "{full:?}");
        assert!(is_too_large(recorder.read_at(4 * 4096, &mut [0; 10])));
    }
}
