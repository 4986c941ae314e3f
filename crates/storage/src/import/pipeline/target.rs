//! The file an image is written to: holes, examination, conversion, the last flush.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use tokio::sync::watch;

use super::chunks::Chunks;
use super::hashing::Hashing;
use super::{CHUNKS_IN_FLIGHT, HOLE_BYTES, digest};
use crate::confine::QemuImg;
use crate::digest::{Digests, Expected, Wanted};
use crate::error::{self, Error};
use crate::foreign::ForeignFormat;
use crate::import::{Content, Converted, Image, ImageStore, Inner, Limits, Progress};
use crate::inspect::{self, Inspected, PREFIX_BYTES};

/// How many bytes are written between two looks at the free space.
const SPACE_CHECK_BYTES: u64 = 64 << 20;
/// How many bytes are written before they are flushed in the background.
const FLUSH_BYTES: u64 = 32 << 20;

/// What came, and is in the file now.
pub(super) struct Streamed {
    pub(super) inspected: Inspected,
    /// It must be converted; `inspected` is then of no meaning.
    foreign: Option<ForeignFormat>,
    pub(super) bytes: u64,
    pub(super) digests: Digests,
}

/// The file an image is written to.
pub(super) struct Target<'a> {
    pub(super) store: &'a ImageStore,
    pub(super) path: PathBuf,
    pub(super) limits: &'a Limits,
}

impl Target<'_> {
    pub(super) fn create(&self) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(Error::io("create", &self.path))
    }

    /// Decompressed bytes to file and digests, until the end of the stream.
    pub(super) fn stream(
        &self,
        content: &mut Chunks<'_>,
        file: &File,
        expected: &Expected,
        progress: &watch::Sender<Progress>,
    ) -> Result<Streamed, Error> {
        // Nothing is written before the header has been examined.
        let first = content.first().map_err(|error| self.read_error(error))?;
        let foreign = match (self.store.inner.content, expected.format) {
            (Content::Disks, None) if self.store.inner.options.qemu_img.is_some() => {
                inspect::convertible(&first)
            }
            _ => None,
        };
        let inspected = match self.store.inner.content {
            _ if foreign.is_some() => Inspected::Raw,
            Content::Files if first.is_empty() => return Err(inspect::Refusal::Empty.into()),
            Content::Files => Inspected::Raw,
            Content::Disks => inspect::first_bytes(&first, expected.format, &self.limits.size)?,
        };
        let limit_bytes = self.limits.max_image_bytes;
        // What is converted can't be read again later.
        let wanted = match foreign {
            Some(_) => Wanted::ALL,
            None => Wanted::by(expected),
        };
        thread::scope(|scope| {
            let hashing = Hashing::start(scope, wanted);
            let (to_writer, chunks) = sync_channel(CHUNKS_IN_FLIGHT);
            let (flush, flushes) = sync_channel::<()>(1);
            // A failure is told once, to whoever flushes first after it: the last flush would not know of it.
            let flusher =
                scope.spawn(move || flushes.into_iter().try_for_each(|()| file.sync_data()));
            let writer = scope.spawn(move || self.write(file, &chunks, &flush));
            let mut bytes = 0_u64;
            let mut chunk = first;
            while !chunk.is_empty() {
                bytes += chunk.len() as u64;
                if bytes > limit_bytes {
                    return Err(Error::TooLarge {
                        what: "image",
                        limit_bytes,
                    });
                }
                // Stated sizes are binding: no need to fill the disk to find out.
                if let Some(stated) = expected.bytes.filter(|stated| bytes > *stated) {
                    let found = format!("more than {stated}");
                    return Err(Error::Mismatch {
                        what: "size in bytes",
                        expected: stated.to_string(),
                        found,
                    });
                }
                hashing.send(&chunk)?;
                if to_writer.send(chunk).is_err() {
                    break; // the writer has an error to tell
                }
                progress.send_modify(|progress| progress.bytes_written = bytes);
                chunk = content.next().map_err(|error| self.read_error(error))?;
            }
            drop(to_writer);
            writer.join().unwrap_or(Err(Error::Cancelled))?;
            let flushed = flusher
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("flushing ended")));
            flushed.map_err(|error| self.write_error(error, 0))?;
            Ok(Streamed {
                inspected,
                foreign,
                bytes,
                digests: hashing.finish()?,
            })
        })
    }

    /// Whether what came must be converted, from which format and by which program.
    pub(super) fn converter(
        &self,
        file: &File,
        streamed: &Streamed,
        expected: &Expected,
    ) -> Result<Option<(&QemuImg, ForeignFormat)>, Error> {
        let Inner {
            options, content, ..
        } = &*self.store.inner;
        let Some(qemu_img) = options
            .qemu_img
            .as_ref()
            .filter(|_| *content == Content::Disks)
        else {
            return Ok(None);
        };
        // The end of the file tells more than its beginning only for a disk that nobody said to be raw.
        let fixed = || {
            let seems_raw = streamed.inspected == Inspected::Raw && expected.format.is_none();
            Ok::<_, Error>(seems_raw && inspect::is_fixed_vhd(file, &self.path)?)
        };
        Ok(match streamed.foreign {
            Some(format) => Some((qemu_img, format)),
            None if fixed()? => Some((qemu_img, ForeignFormat::Vpc)),
            None => None,
        })
    }

    /// Puts a qcow2 of the same disk in the place of the file, and writes into `image` what it is now.
    pub(super) fn convert(
        &self,
        file: &File,
        qemu_img: &QemuImg,
        format: ForeignFormat,
        image: &mut Image,
        cancelled: &OwnedFd,
    ) -> Result<File, Error> {
        if Wanted::ALL.missing_in(&image.digests).is_any() {
            // A fixed VHD, which was known by its end.
            let mut whole = File::open(&self.path).map_err(Error::io("open", &self.path))?;
            image.digests = digest(&mut whole, &self.path, Wanted::ALL)?.1;
        }
        // Readable by all for as long as the confined program has to open it.
        file.set_permissions(fs::Permissions::from_mode(0o444))
            .map_err(Error::io("protect", &self.path))?;
        let converted = self.path.with_file_name("converted");
        let limits = &self.limits.size;
        let room = |bytes| self.store.require_space(bytes);
        qemu_img.convert_now(&self.path, format, &converted, limits, &room, cancelled)?;
        fs::rename(&converted, &self.path).map_err(Error::io("rename", &converted))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(Error::io("open", &self.path))?;
        // The program has read a stranger's file: what it wrote is a stranger's, too.
        let mut prefix = [0; PREFIX_BYTES];
        let length = file.metadata().map_err(Error::io("examine", &self.path))?;
        let known = usize::try_from(length.len()).map_or(PREFIX_BYTES, |l| l.min(PREFIX_BYTES));
        let prefix = prefix.get_mut(..known).unwrap_or_default();
        file.read_exact_at(prefix, 0)
            .map_err(Error::io("read", &self.path))?;
        let inspected = inspect::first_bytes(prefix, Some(inspect::Format::Qcow2), limits)?;
        inspect::whole_file(&file, &self.path, &inspected, limits)?;
        let (bytes, digests) = digest(&mut file, &self.path, Wanted::LEAST)?;
        image.format = inspected.format();
        image.virtual_bytes = inspected.virtual_bytes(bytes);
        image.converted = Some(Converted {
            from: format.as_str().to_owned(),
            bytes,
            digests,
        });
        Ok(file)
    }

    /// Writes chunks one behind the other, leaving out blocks of zeroes.
    fn write(
        &self,
        file: &File,
        chunks: &Receiver<Bytes>,
        flush: &SyncSender<()>,
    ) -> Result<(), Error> {
        let mut offset = 0_u64;
        let mut written_since_check = 0;
        let mut written_since_flush = 0;
        for chunk in chunks {
            for (start, run) in data_runs(&chunk) {
                file.write_all_at(run, offset + start as u64)
                    .map_err(|error| self.write_error(error, run.len()))?;
                written_since_check += run.len() as u64;
                written_since_flush += run.len() as u64;
            }
            offset += chunk.len() as u64;
            // One that is still at the last flush takes this along with the next.
            if written_since_flush >= FLUSH_BYTES && flush.try_send(()).is_ok() {
                written_since_flush = 0;
            }
            if written_since_check >= SPACE_CHECK_BYTES {
                self.store.require_space(0)?;
                written_since_check = 0;
            }
        }
        file.set_len(offset)
            .map_err(|error| self.write_error(error, 0))
    }

    /// Last look by the real program, then read-only and flushed.
    pub(super) fn finish(
        &self,
        file: &File,
        image: &Image,
        cancelled: &OwnedFd,
    ) -> Result<(), Error> {
        let protect = |mode| {
            file.set_permissions(fs::Permissions::from_mode(mode))
                .map_err(Error::io("protect", &self.path))
        };
        if let (inspect::Format::Qcow2, Some(qemu_img)) =
            (image.format, &self.store.inner.options.qemu_img)
        {
            // Readable by all for as long as the confined program has to open it.
            protect(0o444)?;
            qemu_img.accepts(file, image.virtual_bytes, Some(cancelled))?;
        }
        protect(self.store.inner.content.mode())?;
        file.sync_all().map_err(|error| self.write_error(error, 0))
    }

    pub(super) fn write_error(&self, error: io::Error, needed: usize) -> Error {
        if error::is_full(&error) {
            return Error::NoSpace {
                needed_bytes: needed as u64,
                available_bytes: self.store.space().map_or(0, |space| space.free_bytes),
                reserve_bytes: self.store.inner.options.reserve_bytes,
                dir: self.store.inner.dir.clone(),
            };
        }
        Error::io("write", &self.path)(error)
    }

    /// Errors of this crate come through the decoders unchanged; what else may come is the decoder's own.
    pub(super) fn read_error(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io("read the source of", &self.path)(error),
        }
    }
}

/// The parts of a chunk that are not blocks of zeroes, with their offsets. Chunks start at block boundaries, because
/// all but the last are whole blocks.
pub(super) fn data_runs(chunk: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const ZEROES: [u8; HOLE_BYTES] = [0; HOLE_BYTES];
    let mut start = 0;
    std::iter::from_fn(move || {
        let block_is_zero = |at: usize| {
            chunk
                .get(at..)
                .map(|rest| &rest[..rest.len().min(HOLE_BYTES)])
                .is_some_and(|block| block == &ZEROES[..block.len()])
        };
        while start < chunk.len() && block_is_zero(start) {
            start += HOLE_BYTES;
        }
        let mut end = start;
        while end < chunk.len() && !block_is_zero(end) {
            end = (end + HOLE_BYTES).min(chunk.len());
        }
        let run = chunk
            .get(start..end)
            .filter(|run| !run.is_empty())
            .map(|run| (start, run));
        start = end;
        run
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_every_byte_that_is_not_zero(
            blocks in proptest::collection::vec((any::<bool>(), 0_usize..HOLE_BYTES), 0..12),
            tail in 0_usize..HOLE_BYTES,
        ) {
            let mut chunk = Vec::new();
            for (data, at) in blocks {
                let start = chunk.len();
                chunk.resize(start + HOLE_BYTES, 0);
                if data {
                    chunk[start + at] = 1;
                }
            }
            chunk.resize(chunk.len() + tail, 0);
            if let Some(last) = chunk.last_mut() {
                *last = 1;
            }
            let mut copy = vec![0; chunk.len()];
            for (start, run) in data_runs(&chunk) {
                prop_assert_eq!(start % HOLE_BYTES, 0);
                copy[start..start + run.len()].copy_from_slice(run);
            }
            prop_assert_eq!(copy, chunk);
        }
    }
}
