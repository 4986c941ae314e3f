//! A disk without the traces of who worked on it: what must not be in an image is removed from its ext4 file systems, and
//! what was ever deleted reads as zeroes.
//!
//! Nothing is written to the disk itself. What a removal changes, and all it reads, is metadata: that is copied, as far as it
//! was read, into a sparse *skeleton* of the file system, and `debugfs` works on the skeleton, confined as `qemu-img` is.
//! The cleaned disk is then the skeleton where that has something, zeroes where the file system says that nothing is, and
//! the disk itself elsewhere.
//!
//! ```text
//! disk ──read, noted──▶ which files go [traces] ──▶ skeleton ──debugfs: rm, truncate──▶ skeleton'
//! cleaned = skeleton' over (zeroes where skeleton' says free) over disk
//! ```
//!
//! Of swap, in partitions and files, and of the journal of a file system only the header stays; what lies between partitions,
//! and in one behind its file system, reads as zeroes. What can't be cleaned (another kind of file system, one that was not
//! unmounted, whatever isn't known) is left as it is, and told.

mod behind;
mod blank;
mod journal;
mod kind;
mod lists;
mod named;
mod skeleton;
mod swap;
mod traces;
mod tree;

use self::behind::Behind;
use self::blank::{Blank, zero};
use self::kind::{Kind, all_of, kind};
use self::named::Named;
pub use self::skeleton::Scratch;
use self::skeleton::{Recorder, Skeleton, Source};
use self::traces::Traces;
use super::Disk;
use super::ext4::{FreeInodes, FreeMap, Layout};
use super::partitions::{Part, Table, table};
use crate::confine::Debugfs;
use crate::error::Error;

/// A cleaned disk, and what is to be said of it.
pub struct Cleaned {
    /// The disk.
    pub disk: Box<dyn Disk>,
    /// How many files were removed or emptied.
    pub files: usize,
    /// What was left as it was, and why; for people.
    pub left: Vec<String>,
}

/// Cleans a disk. Blocks for as long as it takes to walk through the directories in question. That has an end whatever the disk holds: what
/// is read, held and written for it is bounded, for all file systems together. What is beyond is left as it was, and told.
///
/// # Errors
/// Those of the disk; [`Error::Io`] and [`Error::NoSpace`] for the skeletons, which go into `scratch`.
pub fn cleaned(
    mut disk: Box<dyn Disk>,
    debugfs: Option<&Debugfs>,
    scratch: Scratch<'_>,
) -> Result<Cleaned, Error> {
    let table = table(&mut *disk)?;
    let mut left = table.lost.clone();
    let mut blank = Blank::default();
    note_gaps(&mut *disk, &table, &mut blank, &mut left)?;
    let mut found = Vec::new();
    for partition in &table.partitions {
        let name = partition.name();
        match kind(&mut *disk, partition)? {
            Kind::Harmless => {}
            Kind::Pages(pages) => blank.add(pages),
            Kind::Hibernated => {
                left.push(format!("{name} holds the memory of a hibernated system"));
            }
            Kind::Other(kind) => left.push(format!(
                "{name} is {kind}, which can't be cleaned from outside"
            )),
            Kind::Ext(layout) => match (layout.obstacle, debugfs) {
                (Some(obstacle), _) => left.push(format!("{name} was not cleaned: {obstacle}")),
                (None, None) => left.push(format!(
                    "{name} was not cleaned: `debugfs` is not installed on the host (Debian: e2fsprogs)"
                )),
                (None, Some(debugfs)) => found.push((name, layout, debugfs)),
            },
        }
    }
    // What one file system says of another must be known first.
    let mut named = Named::default();
    let mut source = Source::new(disk);
    for (_, layout, _) in &found {
        let recorder = Recorder::new(source, layout.part);
        named.add(&recorder);
        source = recorder.into_source()?;
    }
    let (mut volumes, mut files) = (Vec::new(), 0);
    for (name, layout, debugfs) in found {
        let recorder = Recorder::new(source, layout.part);
        let outcome = clean_one(&recorder, &layout, &named, debugfs, scratch);
        source = recorder.into_source()?;
        match outcome? {
            Ok((_, traces)) if !blank.has_room(traces.pages.len()) => left.push(format!(
                "{name} was not cleaned: its swap and its journal are in too many pieces"
            )),
            Ok((skeleton, traces)) => {
                files += traces.len();
                left.extend(traces.left(&name));
                for pages in traces.pages {
                    blank.add(Part {
                        start: layout.part.start + pages.start,
                        ..pages
                    });
                }
                match behind::behind(source.disk(), &layout)? {
                    Behind::Nothing(part) => blank.add(part),
                    Behind::Member(group) => left.push(format!(
                        "{name} is {group}: what is behind its file system was left"
                    )),
                }
                let mut overlaid = Overlaid {
                    disk: source.disk(),
                    part: layout.part,
                    skeleton: &skeleton,
                };
                volumes.push(Volume {
                    free: FreeMap::new(layout.clone()),
                    inodes: FreeInodes::new(layout.clone(), &mut overlaid)?,
                    layout,
                    skeleton,
                });
            }
            Err(why) => left.push(format!("{name} was not cleaned: {why}")),
        }
    }
    let disk: Box<dyn Disk> = Box::new(CleanDisk {
        disk: source.into_disk(),
        volumes,
        blank,
    });
    Ok(Cleaned { disk, files, left })
}

/// What lies between partitions was deleted with those that were there, unless the disk is something else as well.
fn note_gaps(
    disk: &mut dyn Disk,
    table: &Table,
    blank: &mut Blank,
    left: &mut Vec<String>,
) -> Result<(), Error> {
    if table
        .partitions
        .iter()
        .any(|partition| partition.number == 0)
    {
        return Ok(());
    }
    let gaps = table.gaps(disk.bytes());
    if let Some(kind) = all_of(disk, &gaps)? {
        left.push(format!("the disk has partitions, but is {kind} as well"));
        return Ok(());
    }
    for gap in gaps {
        blank.add(gap);
    }
    Ok(())
}

/// Cleans a file system: its skeleton and what was found, or why that isn't possible.
fn clean_one(
    recorder: &Recorder,
    layout: &Layout,
    named: &Named,
    debugfs: &Debugfs,
    scratch: Scratch<'_>,
) -> Result<Result<(Skeleton, Traces), String>, Error> {
    let found = traces::find(recorder, layout, named).and_then(|mut found| {
        found.pages.extend(journal::pages(recorder, layout)?);
        Ok(found)
    });
    let found = match found {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    match recorder.note_metadata(layout) {
        // What is wrong with the file system is no reason not to save the disk.
        Err(error @ (Error::Invalid { .. } | Error::TooLarge { .. })) => {
            return Ok(Err(error.to_string()));
        }
        other => other?,
    }
    let skeleton = recorder.skeleton(scratch)?;
    if found.is_empty() {
        return Ok(Ok((skeleton, found)));
    }
    if let Err(error) = debugfs.edit(skeleton.file(), &found.commands()) {
        return Ok(Err(error.to_string()));
    }
    // `debugfs` says nothing by its exit status: whether all went well is seen by looking again.
    match traces::remaining(&recorder.over(&skeleton), &found) {
        Ok(None) => Ok(Ok((skeleton, found))),
        Ok(Some(path)) => Ok(Err(format!("{path} could not be removed"))),
        Err(why) => Ok(Err(why)),
    }
}

/// A file system that was cleaned.
struct Volume {
    layout: Layout,
    free: FreeMap,
    inodes: FreeInodes,
    skeleton: Skeleton,
}

/// See the module.
struct CleanDisk {
    disk: Box<dyn Disk>,
    volumes: Vec<Volume>,
    /// What reads as zeroes: the pages of swap, journals, and what is in no partition or behind its file system.
    blank: Blank,
}

/// The disk with the skeletons, before what is free counts.
struct Overlaid<'a> {
    disk: &'a mut dyn Disk,
    part: Part,
    skeleton: &'a Skeleton,
}

impl Disk for Overlaid<'_> {
    fn bytes(&self) -> u64 {
        self.disk.bytes()
    }

    fn may_hold_data(&mut self, offset: u64, length: u64) -> Result<bool, Error> {
        self.disk.may_hold_data(offset, length)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.disk.read(offset, buffer)?;
        self.skeleton.overlay(self.part, offset, buffer)
    }
}

impl Disk for CleanDisk {
    fn bytes(&self) -> u64 {
        self.disk.bytes()
    }

    fn may_hold_data(&mut self, offset: u64, length: u64) -> Result<bool, Error> {
        let Self {
            disk,
            volumes,
            blank,
        } = self;
        let end = offset.saturating_add(length);
        if blank.covers(offset, end) {
            return Ok(false);
        }
        for volume in volumes {
            let part = volume.layout.part;
            if offset < part.start || end > part.start + part.length {
                continue;
            }
            if !disk.may_hold_data(offset, length)? {
                return Ok(volume.skeleton.has(offset - part.start, length));
            }
            let bytes = volume.layout.block_bytes;
            let blocks = (offset - part.start) / bytes..(end - part.start).div_ceil(bytes);
            for block in blocks {
                let start = part.start + block * bytes;
                let mut overlaid = Overlaid {
                    disk: &mut **disk,
                    part,
                    skeleton: &volume.skeleton,
                };
                if !volume.free.is_free(&mut overlaid, block)?
                    && !blank.covers(start.max(offset), (start + bytes).min(end))
                    && !volume.inodes.is_unused(&mut overlaid, block)?
                {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        disk.may_hold_data(offset, length)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let Self {
            disk,
            volumes,
            blank,
        } = self;
        disk.read(offset, buffer)?;
        let end = offset.saturating_add(buffer.len() as u64);
        for volume in volumes {
            let part = volume.layout.part;
            let (from, to) = (offset.max(part.start), end.min(part.start + part.length));
            if from >= to {
                continue;
            }
            volume.skeleton.overlay(part, offset, buffer)?;
            let bytes = volume.layout.block_bytes;
            for block in (from - part.start) / bytes..(to - part.start).div_ceil(bytes) {
                let mut overlaid = Overlaid {
                    disk: &mut **disk,
                    part,
                    skeleton: &volume.skeleton,
                };
                let start = part.start + block * bytes;
                if volume.free.is_free(&mut overlaid, block)? {
                    zero(buffer, offset, start, start + bytes);
                    continue;
                }
                for free in volume.inodes.unused(&mut overlaid, block)? {
                    let start = part.start + free.start;
                    zero(buffer, offset, start, start + free.length);
                }
            }
        }
        // Last, for a skeleton has whole pieces: what lies beside a file's header, too.
        blank.zero(offset, buffer);
        Ok(())
    }
}
