//! The blocking half of an import: bytes of the source in, a complete image directory out.
//!
//! ```text
//! source task ─channel→ this thread: decompress ─┬─channel→ a thread each: SHA-1, and what is to be compared
//!                                                └─channel→ thread: holes, write ─rings→ thread: flush
//! ```
//!
//! Every channel holds a few chunks only: the slowest part sets the pace and the memory is bounded (about 12 MiB, and
//! the window of the decompressor). What is written is flushed while more comes, so that little is left for the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use jiff::Timestamp;
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use tokio::sync::{mpsc, watch};

use super::{Content, Converted, Image, ImageStore, Imported, Inner, Limits, Progress};
use crate::confine::QemuImg;
use crate::decompress;
use crate::digest::{Digest, Digests, Expected, SourceDigests, Wanted};
use crate::durable::{self, RemoveOnDrop};
use crate::error::Error;
use crate::foreign::ForeignFormat;
use crate::identifier::ImageIdentifier;
use crate::inspect::{self, Inspected, PREFIX_BYTES};

/// Bytes handled at once: what is digested and written soon after it was decompressed is still in a processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks under way to each thread.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Zero runs are made holes in units of this, the block size of usual file systems.
const HOLE_BYTES: usize = 4096;
/// How many bytes are written between two looks at the free space.
const SPACE_CHECK_BYTES: u64 = 64 << 20;
/// How many bytes are written before they are flushed in the background.
const FLUSH_BYTES: u64 = 32 << 20;

/// What the source task sends. A channel that closes without `End` means that the task was ended.
pub(super) enum Piece {
    Data(Bytes),
    Failed(Error),
    End,
}

/// Runs the whole blocking half, and commits the image. What is unfinished when this returns is gone.
pub(super) fn run(
    store: &ImageStore,
    pieces: mpsc::Receiver<Piece>,
    expected: &Expected,
    limits: &Limits,
    progress: &watch::Sender<Progress>,
    cancelled: &OwnedFd,
) -> Result<Imported, Error> {
    let unfinished = store.incoming();
    DirBuilder::new()
        .mode(0o711)
        .create(&unfinished)
        .map_err(Error::io("create", &unfinished))?;
    let mut guard = RemoveOnDrop::new(unfinished.clone());
    let target = Target {
        store,
        path: unfinished.join("disk"),
        limits,
    };
    let file = target.create()?;

    let mut source = PieceReader {
        pieces,
        current: Bytes::new(),
        ended: false,
        digests: expected
            .source
            .is_any()
            .then(|| SourceDigests::new(expected.source)),
    };
    let mut reader: Box<dyn Read> = match store.inner.content {
        Content::Files => Box::new(&mut source),
        Content::Disks => {
            decompress::reader(&mut source, expected.compression)
                .map_err(|error| target.read_error(error))?
                .1
        }
    };
    let streamed = target.stream(&mut *reader, &file, expected, progress)?;
    drop(reader);
    source.finish().map_err(|error| target.read_error(error))?;

    let Streamed {
        bytes, ref digests, ..
    } = streamed;
    expected.check(bytes, digests)?;
    let mut image = Image {
        identifier: ImageIdentifier::from_sha1(&digests.sha1),
        format: streamed.inspected.format(),
        virtual_bytes: streamed.inspected.virtual_bytes(bytes),
        bytes,
        digests: digests.clone(),
        converted: None,
        imported: Timestamp::now(),
        path: target.path.clone(),
    };
    let mut file = file;
    if let Some((qemu_img, format)) = target.converter(&file, &streamed, expected)? {
        file = target.convert(&file, qemu_img, format, &mut image, cancelled)?;
    } else if store.inner.content == Content::Disks {
        inspect::whole_file(&file, &target.path, &streamed.inspected, &limits.size)?;
    }
    target.finish(&file, &image, cancelled)?;
    target.describe(&unfinished, &image)?;
    let imported = store.commit(&unfinished, image)?;
    if !imported.already_present {
        guard.keep();
    }
    Ok(imported)
}

/// Reads an image again and compares it with its digests.
pub(super) fn verify(image: &Image) -> Result<(), Error> {
    let mut file = File::open(&image.path).map_err(Error::io("open", &image.path))?;
    let (kept_bytes, kept) = image.kept();
    let expected = Expected {
        bytes: Some(kept_bytes),
        md5: kept.md5,
        sha1: Some(kept.sha1),
        sha256: kept.sha256,
        sha512: kept.sha512,
        ..Expected::default()
    };
    let (bytes, digests) = digest(&mut file, &image.path, Wanted::by(&expected))?;
    expected.check(bytes, &digests)
}

/// Compares an image that is there with what somebody states of it, also in ways nobody did before.
pub(super) fn compare(image: &Image, expected: &Expected) -> Result<(), Error> {
    // What was converted has them all: they can't be computed any more.
    if image.converted.is_some() || !Wanted::by(expected).missing_in(&image.digests).is_any() {
        return expected.check(image.bytes, &image.digests);
    }
    let mut file = File::open(&image.path).map_err(Error::io("open", &image.path))?;
    let (bytes, digests) = digest(&mut file, &image.path, Wanted::by(expected))?;
    expected.check(bytes, &digests)
}

/// Length and checksums of what a file holds from where it is.
fn digest(file: &mut File, path: &Path, wanted: Wanted) -> Result<(u64, Digests), Error> {
    thread::scope(|scope| {
        let hashing = Hashing::start(scope, wanted);
        let mut bytes = 0;
        loop {
            let chunk = fill(file, CHUNK_BYTES).map_err(Error::io("read", path))?;
            if chunk.is_empty() {
                break;
            }
            bytes += chunk.len() as u64;
            hashing.send(&chunk)?;
        }
        Ok((bytes, hashing.finish()?))
    })
}

/// What came, and is in the file now.
struct Streamed {
    inspected: Inspected,
    /// It must be converted; `inspected` is then of no meaning.
    foreign: Option<ForeignFormat>,
    bytes: u64,
    digests: Digests,
}

/// The file an image is written to.
struct Target<'a> {
    store: &'a ImageStore,
    path: PathBuf,
    limits: &'a Limits,
}

impl Target<'_> {
    fn create(&self) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(Error::io("create", &self.path))
    }

    /// Decompressed bytes to file and digests, until the end of the stream.
    fn stream(
        &self,
        reader: &mut dyn Read,
        file: &File,
        expected: &Expected,
        progress: &watch::Sender<Progress>,
    ) -> Result<Streamed, Error> {
        // Nothing is written before the header has been examined.
        let first = fill(reader, PREFIX_BYTES).map_err(|error| self.read_error(error))?;
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
            scope.spawn(move || {
                for () in flushes {
                    // The last flush is the one that counts, and tells what is wrong.
                    let _ = file.sync_data();
                }
            });
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
                chunk = fill(reader, CHUNK_BYTES).map_err(|error| self.read_error(error))?;
            }
            drop(to_writer);
            writer.join().unwrap_or(Err(Error::Cancelled))?;
            Ok(Streamed {
                inspected,
                foreign,
                bytes,
                digests: hashing.finish()?,
            })
        })
    }

    /// Whether what came must be converted, from which format and by which program.
    fn converter(
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
    fn convert(
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
    fn finish(&self, file: &File, image: &Image, cancelled: &OwnedFd) -> Result<(), Error> {
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

    /// Writes down, beside the image, what is known of it.
    fn describe(&self, dir: &Path, image: &Image) -> Result<(), Error> {
        let text =
            serde_json::to_vec_pretty(image).map_err(|error| self.write_error(error.into(), 0))?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(dir.join("image.json"))
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .map_err(|error| self.write_error(error, text.len()))?;
        durable::sync_directory(dir)
    }

    fn write_error(&self, error: io::Error, needed: usize) -> Error {
        if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
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
    fn read_error(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io("read the source of", &self.path)(error),
        }
    }
}

/// Threads that digest the same chunks, one for each digest.
struct Hashing<'scope> {
    senders: Vec<SyncSender<Bytes>>,
    md5: Option<Digesting<'scope, 16>>,
    sha1: Digesting<'scope, 20>,
    sha256: Option<Digesting<'scope, 32>>,
    sha512: Option<Digesting<'scope, 64>>,
}

type Digesting<'scope, const N: usize> = thread::ScopedJoinHandle<'scope, Digest<N>>;

impl<'scope> Hashing<'scope> {
    fn start(scope: &'scope thread::Scope<'scope, '_>, wanted: Wanted) -> Self {
        let mut senders = Vec::new();
        Self {
            sha1: digesting::<Sha1, _>(scope, &mut senders),
            md5: wanted.md5.then(|| digesting::<Md5, _>(scope, &mut senders)),
            sha256: wanted
                .sha256
                .then(|| digesting::<Sha256, _>(scope, &mut senders)),
            sha512: wanted
                .sha512
                .then(|| digesting::<Sha512, _>(scope, &mut senders)),
            senders,
        }
    }

    fn send(&self, chunk: &Bytes) -> Result<(), Error> {
        self.senders
            .iter()
            .try_for_each(|sender| sender.send(chunk.clone()).map_err(|_| Error::Cancelled))
    }

    fn finish(self) -> Result<Digests, Error> {
        fn end<const N: usize>(digesting: Digesting<'_, N>) -> Result<Digest<N>, Error> {
            digesting.join().map_err(|_| Error::Cancelled)
        }
        drop(self.senders);
        Ok(Digests {
            md5: self.md5.map(end).transpose()?,
            sha1: end(self.sha1)?,
            sha256: self.sha256.map(end).transpose()?,
            sha512: self.sha512.map(end).transpose()?,
        })
    }
}

fn digesting<'scope, D, const N: usize>(
    scope: &'scope thread::Scope<'scope, '_>,
    senders: &mut Vec<SyncSender<Bytes>>,
) -> Digesting<'scope, N>
where
    D: md5::Digest,
    [u8; N]: From<md5::digest::Output<D>>,
{
    let (sender, chunks) = sync_channel::<Bytes>(CHUNKS_IN_FLIGHT);
    senders.push(sender);
    scope.spawn(move || {
        let mut digest = D::new();
        for chunk in chunks {
            digest.update(&chunk);
        }
        Digest::from_bytes(digest.finalize().into())
    })
}

/// Reads until `wanted` bytes are there or the source ends.
fn fill(reader: &mut dyn Read, wanted: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; wanted];
    let mut filled = 0;
    while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(chunk.into())
}

/// The parts of a chunk that are not blocks of zeroes, with their offsets. Chunks start at block boundaries, because
/// all but the last are whole blocks.
fn data_runs(chunk: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
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

/// The pieces of the source task as a reader.
struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    /// Of the file as it comes, if somebody said what they are.
    digests: Option<SourceDigests>,
}

impl PieceReader {
    /// Takes what the decompressor left of the file, and compares all of it with what it should be.
    fn finish(&mut self) -> io::Result<()> {
        let Some(_) = &self.digests else {
            return Ok(());
        };
        io::copy(self, &mut io::sink())?;
        let digests = self.digests.take();
        digests
            .map_or(Ok(()), SourceDigests::finish)
            .map_err(io::Error::other)
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    if let Some(digests) = &mut self.digests {
                        digests.update(&bytes).map_err(io::Error::other)?;
                    }
                    self.current = bytes;
                }
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other(Error::Cancelled)),
            }
        }
        let length = self.current.len().min(buffer.len());
        let taken = self.current.split_to(length);
        if let Some(part) = buffer.get_mut(..length) {
            part.copy_from_slice(&taken);
        }
        Ok(length)
    }
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
