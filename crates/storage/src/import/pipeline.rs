//! The blocking half of an import: bytes of the source in, a complete image directory out.
//!
//! ```text
//! source task ─channel→ this thread: decompress ─┬─channel→ threads: SHA-1 and SHA-256, and what else is to be compared
//!                                                └─channel→ thread: holes, write ─rings→ thread: flush
//! ```
//!
//! Every channel holds a few chunks only: the slowest part sets the pace and the memory is bounded (about 12 MiB, or 24 MiB for
//! a disk that is saved, and the window of the decompressor). What is written is flushed while more comes, so that little is left
//! for the end.

mod chunks;
mod hashing;
pub(super) mod replica;
mod target;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use self::chunks::{Chunks, Pieces};
use self::hashing::Hashing;
use self::target::{Streamed, Target};
use super::{Content, Image, ImageStore, Imported, Limits, Progress};
use crate::buffers::Buffers;
use crate::digest::{Digests, Expected, Wanted};
use crate::durable::{self, RemoveOnDrop};
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::inspect;

/// Bytes handled at once: what is digested and written soon after it was decompressed is still in a processor's cache.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks under way to each thread.
const CHUNKS_IN_FLIGHT: usize = 8;
/// Zero runs are made holes in units of this, the block size of usual file systems.
const HOLE_BYTES: usize = 4096;

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

    let mut pieces = Pieces::new(pieces, expected.source);
    let mut content = match store.inner.content {
        Content::Files => Chunks::untouched(&mut pieces),
        Content::Disks => {
            // A file as long as the image is the image, whatever it begins with.
            let is_plain = || expected.bytes.is_some() && progress.borrow().total == expected.bytes;
            Chunks::unpacked(&mut pieces, expected.packing, is_plain)
                .map_err(|error| target.read_error(error))?
        }
    };
    let streamed = target.stream(&mut content, &file, expected, progress)?;
    drop(content);
    pieces.finish().map_err(|error| target.read_error(error))?;

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
    describe(&unfinished.join("image.json"), &image)
        .map_err(|error| target.write_error(error, 0))?;
    durable::sync_directory(&unfinished)?;
    let imported = store.commit(&unfinished, image)?;
    if !imported.already_present {
        guard.keep();
        return Ok(imported);
    }
    // SHA-1 finds what is there already; who made two contents of one SHA-1 must not have the one stand for the other.
    let came = match digests {
        proven if proven.is_proof() => proven.clone(),
        _ => {
            let mut file = File::open(&target.path).map_err(Error::io("open", &target.path))?;
            digest(&mut file, &target.path, Wanted::LEAST)?.1
        }
    };
    let came = Expected {
        bytes: Some(bytes),
        sha256: came.sha256,
        sha512: came.sha512,
        ..Expected::default()
    };
    compare(store, &imported.image, &came)?;
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

/// Whether an image has to be read to be compared with what somebody states of it.
pub(super) fn must_read(image: &Image, expected: &Expected) -> bool {
    // What was converted has all checksums: they can't be computed any more.
    image.converted.is_none() && Wanted::by(expected).missing_in(&image.digests).is_any()
}

/// Compares an image that is there with what somebody states of it, also in ways nobody did before: what had to be computed for
/// that is kept, so that no statement has the same content read twice.
pub(super) fn compare(store: &ImageStore, image: &Image, expected: &Expected) -> Result<(), Error> {
    if !must_read(image, expected) {
        return expected.check(image.bytes, &image.digests);
    }
    let mut file = File::open(&image.path).map_err(Error::io("open", &image.path))?;
    let (bytes, digests) = digest(&mut file, &image.path, Wanted::by(expected))?;
    // Nothing is learnt from a file that isn't what it was.
    if let Some(known) = image
        .digests
        .joined(&digests)
        .filter(|_| bytes == image.bytes)
    {
        store.learn(image, known);
    }
    expected.check(bytes, &digests)
}

/// Writes down, in a new file, what is known of an image.
pub(super) fn describe(path: &Path, image: &Image) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(image)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

/// Length and checksums of what a file holds from where it is.
fn digest(file: &mut File, path: &Path, wanted: Wanted) -> Result<(u64, Digests), Error> {
    let buffers = Buffers::of(CHUNK_BYTES);
    thread::scope(|scope| {
        let hashing = Hashing::start(scope, wanted);
        let mut bytes = 0;
        loop {
            let chunk =
                chunks::fill(file, &buffers, CHUNK_BYTES).map_err(Error::io("read", path))?;
            if chunk.is_empty() {
                break;
            }
            bytes += chunk.len() as u64;
            hashing.send(&chunk)?;
        }
        Ok((bytes, hashing.finish()?))
    })
}
