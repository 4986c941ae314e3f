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
//! Of swap only the header stays. What can't be cleaned (another kind of file system, one that was not unmounted) is left as it is, and told.

mod skeleton;
mod swap;
mod traces;

use self::skeleton::{Recorder, Skeleton};
use self::swap::{Swap, swap};
use self::traces::Traces;
use super::Disk;
use super::ext4::{FreeMap, Layout};
use super::partitions::{Part, parts};
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

/// Cleans a disk. Blocks for as long as it takes to walk through the directories in question.
///
/// # Errors
/// Those of the disk; [`Error::Io`] for the skeletons, which go into `scratch`.
pub fn cleaned(
    mut disk: Box<dyn Disk>,
    debugfs: Option<&Debugfs>,
    scratch: &std::path::Path,
) -> Result<Cleaned, Error> {
    let all = parts(&mut *disk)?;
    let (mut volumes, mut left, mut files) = (Vec::new(), Vec::new(), 0);
    let mut blank = Vec::new();
    for (number, part) in all.iter().enumerate() {
        let name = if all.len() == 1 && part.start == 0 {
            "the disk".to_owned()
        } else {
            format!("partition {}", number + 1)
        };
        match swap(&mut *disk, *part)? {
            Some(Swap::Of(pages)) => {
                blank.push(pages);
                continue;
            }
            Some(Swap::Hibernated) => {
                left.push(format!("{name} holds the memory of a hibernated system"));
                continue;
            }
            None => {}
        }
        let layout = Layout::read(&mut *disk, *part)?;
        let Some(layout) = layout else {
            if let Some(kind) = other_kind(&mut *disk, *part)? {
                left.push(format!(
                    "{name} is {kind}, which can't be cleaned from outside"
                ));
            }
            continue;
        };
        if let Some(obstacle) = layout.obstacle {
            left.push(format!("{name} was not cleaned: {obstacle}"));
            continue;
        }
        let Some(debugfs) = debugfs else {
            left.push(format!(
                "{name} was not cleaned: `debugfs` is not installed on the host (Debian: e2fsprogs)"
            ));
            continue;
        };
        let recorder = Recorder::new(disk, *part);
        let outcome = clean_one(&recorder, &layout, debugfs, scratch);
        disk = recorder.into_disk()?;
        match outcome? {
            Ok((skeleton, found)) => {
                files += found.len();
                left.extend(found.skipped(&name));
                volumes.push(Volume {
                    free: FreeMap::new(layout.clone()),
                    layout,
                    skeleton,
                });
            }
            Err(why) => left.push(format!("{name} was not cleaned: {why}")),
        }
    }
    let disk: Box<dyn Disk> = Box::new(CleanDisk {
        disk,
        volumes,
        blank,
    });
    Ok(Cleaned { disk, files, left })
}

/// Cleans a file system: its skeleton and what was found, or why that isn't possible.
fn clean_one(
    recorder: &Recorder,
    layout: &Layout,
    debugfs: &Debugfs,
    scratch: &std::path::Path,
) -> Result<Result<(Skeleton, Traces), String>, Error> {
    let found = match traces::find(recorder) {
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

/// What else a part may hold that could have traces in it.
fn other_kind(disk: &mut dyn Disk, part: Part) -> Result<Option<&'static str>, Error> {
    let signs: [(u64, &[u8], &str); 5] = [
        (0, b"XFSB", "an XFS file system"),
        (0x10040, b"_BHRfS_M", "a Btrfs file system"),
        (536, b"LVM2 001", "part of a volume group (LVM)"),
        (512, b"LABELONE", "part of a volume group (LVM)"),
        (0, b"LUKS\xba\xbe", "encrypted"),
    ];
    for (offset, sign, kind) in signs {
        let mut bytes = vec![0; sign.len()];
        if offset + sign.len() as u64 <= part.length {
            disk.read(part.start + offset, &mut bytes)?;
            if bytes == sign {
                return Ok(Some(kind));
            }
        }
    }
    Ok(None)
}

/// A file system that was cleaned.
struct Volume {
    layout: Layout,
    free: FreeMap,
    skeleton: Skeleton,
}

/// See the module.
struct CleanDisk {
    disk: Box<dyn Disk>,
    volumes: Vec<Volume>,
    /// What reads as zeroes: the pages of swap.
    blank: Vec<Part>,
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
        if blank
            .iter()
            .any(|pages| offset >= pages.start && end <= pages.start + pages.length)
        {
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
                let mut overlaid = Overlaid {
                    disk: &mut **disk,
                    part,
                    skeleton: &volume.skeleton,
                };
                if !volume.free.is_free(&mut overlaid, block)? {
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
        for pages in blank {
            zero(buffer, offset, pages.start, pages.start + pages.length);
        }
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
                if volume.free.is_free(&mut overlaid, block)? {
                    let start = (part.start + block * bytes).max(from);
                    zero(
                        buffer,
                        offset,
                        start,
                        (part.start + (block + 1) * bytes).min(to),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Fills with zeroes what of the stretch from `start` to `end` is in a buffer that begins at `offset`.
fn zero(buffer: &mut [u8], offset: u64, start: u64, end: u64) {
    let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    let range = place(start).min(buffer.len())..place(end).min(buffer.len());
    if let Some(stretch) = buffer.get_mut(range) {
        stretch.fill(0);
    }
}
