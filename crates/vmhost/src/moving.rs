//! The files of a machine at rest, from its host to the next: a stream of frames, without the holes of the files.
//!
//! ```text
//!  "stratus machine 1\n"
//!  1 name length (u8)  name  file length (u64)            a file begins
//!  2 place (u64)  length (u32)  bytes                     what is in it there; the rest of it is zeroes
//!  3                                                      all is told: what ends before is not whole
//! ```
//!
//! Numbers are big-endian. Who reads it believes nothing: names are those of a machine's files, and amounts are bounded.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::{sync::mpsc, time::timeout};

/// The files as they go from one host to another.
pub type Packed = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

const MAGIC: &[u8] = b"stratus machine 1\n";
const FILE: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
/// The longest piece of a file in a frame.
const PIECE_BYTES: usize = 256 * 1024;
/// Frames that are read ahead.
const AHEAD: usize = 4;
/// How long nothing may come, though it isn't whole.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether there is still room, in bytes that have come.
const LOOKED_EVERY: u64 = 64 << 20;
/// A machine has some ten.
const FILES_AT_MOST: usize = 64;
const NAME_BYTES: usize = 100;

/// Whether a file goes along: disks, memory, what was said on the console. All else is made anew.
fn goes_along(name: &str) -> bool {
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let is_disk = name == "root.qcow2" || name.strip_suffix(".raw").is_some_and(|n| !n.is_empty());
    let is_memory = matches!(name, "memory" | "memory.json");
    is_plain
        && name.len() <= NAME_BYTES
        && !name.starts_with('.')
        && (is_disk || is_memory || name == "serial.log")
}

/// Packs what goes along of a machine's folder. Nothing may write it meanwhile.
#[must_use]
pub fn pack(folder: &Path) -> Packed {
    let (to, frames) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || {
        // Who doesn't listen any more needs no reason.
        let send = |bytes: Vec<u8>| {
            to.blocking_send(Ok(bytes.into()))
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        };
        if let Err(error) = pack_into(&folder, send) {
            let _ = to.blocking_send(Err(error));
        }
    });
    let next = |mut frames: mpsc::Receiver<_>| async move {
        frames.recv().await.map(|frame| (frame, frames))
    };
    Box::pin(stream::unfold(frames, next))
}

fn pack_into(folder: &Path, send: impl Fn(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    send(MAGIC.to_vec())?;
    let mut names = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if let Some(name) = entry.file_name().to_str()
                    && entry.file_type()?.is_file()
                    && goes_along(name)
                {
                    names.push(name.to_owned());
                }
            }
        }
        // A machine that never began has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort_unstable();
    for name in names {
        let mut file = File::open(folder.join(&name))?;
        let length = file.metadata()?.len();
        let mut head = vec![FILE, u8::try_from(name.len()).map_err(io::Error::other)?];
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        send(head)?;
        for (place, end) in data(&file, length)? {
            file.seek(SeekFrom::Start(place))?;
            let mut left = (&file).take(end - place);
            let mut at = place;
            loop {
                let mut frame = vec![0; 13 + PIECE_BYTES];
                let mut filled = 13;
                while filled < frame.len() {
                    match left.read(frame.get_mut(filled..).unwrap_or_default())? {
                        0 => break,
                        read => filled += read,
                    }
                }
                let bytes = filled - 13;
                if bytes == 0 {
                    break;
                }
                frame.truncate(filled);
                let number = u32::try_from(bytes).map_err(io::Error::other)?;
                let head = [&[DATA][..], &at.to_be_bytes(), &number.to_be_bytes()].concat();
                frame.splice(..13, head);
                send(frame)?;
                at += bytes as u64;
            }
            if at != end {
                return Err(io::Error::other(format!("{name} became shorter meanwhile")));
            }
        }
    }
    send(vec![END])
}

/// Where there is something in a file: from, up to.
fn data(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom as Seek, seek};
    let (mut all, mut at) = (Vec::new(), 0);
    while at < length {
        let from = match seek(file, Seek::Data(at)) {
            Ok(from) => from,
            // Nothing more.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let to = seek(file, Seek::Hole(from))?.min(length);
        all.push((from, to));
        at = to;
    }
    Ok(all)
}

/// What a folder may take of such a stream.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all files together.
    pub most: u64,
    /// Bytes that stay free on its file system: others write there meanwhile.
    pub reserve: u64,
}

/// Unpacks such a stream into a new folder, durably.
///
/// # Errors
/// If the stream breaks off, falls silent, is none, or is more than may be; then the folder holds a part. Without room it is
/// [`io::ErrorKind::StorageFull`].
pub async fn unpack(mut packed: Packed, folder: &Path, bounds: Bounds) -> io::Result<u64> {
    let (to, pieces) = mpsc::channel(AHEAD);
    let folder = folder.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let mut reader = Pieces {
            pieces,
            rest: Bytes::new(),
        };
        unpack_from(&mut reader, &folder, bounds)
    });
    loop {
        let piece = match timeout(SILENCE, packed.next()).await {
            Ok(None) => break,
            Ok(Some(piece)) => piece,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {} s", SILENCE.as_secs()),
            )),
        };
        // Who writes has found something wrong, and says what.
        if to.send(piece).await.is_err() {
            break;
        }
    }
    drop(to);
    writing.await.map_err(io::Error::other)?
}

/// What comes, as something to be read.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.rest.len());
        let piece = self.rest.split_to(length);
        into.get_mut(..length)
            .unwrap_or_default()
            .copy_from_slice(&piece);
        Ok(length)
    }
}

fn unpack_from(from: &mut impl Read, folder: &Path, bounds: Bounds) -> io::Result<u64> {
    let most = bounds.most;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(wrong("it is no machine's files"));
    }
    let mut files: Vec<(String, File, u64)> = Vec::new();
    let (mut taken, mut piece) = (0_u64, vec![0; PIECE_BYTES]);
    let mut look_at = 0;
    loop {
        if taken >= look_at {
            look_at = taken.saturating_add(LOOKED_EVERY);
            let room = storage::space::require(folder, LOOKED_EVERY, bounds.reserve);
            room.map_err(|error| match error {
                storage::Error::NoSpace { .. } => {
                    io::Error::new(io::ErrorKind::StorageFull, error.to_string())
                }
                other => io::Error::other(other),
            })?;
        }
        match number::<1>(from)?[0] {
            FILE => {
                let mut name = vec![0; usize::from(number::<1>(from)?[0])];
                from.read_exact(&mut name)?;
                let name = String::from_utf8(name).map_err(|_| wrong("a file has no name"))?;
                let length = u64::from_be_bytes(number::<8>(from)?);
                let is_new = files.iter().all(|(known, ..)| *known != name);
                if !goes_along(&name) || !is_new || files.len() == FILES_AT_MOST {
                    return Err(wrong("a file is none of a machine's"));
                }
                if length > most {
                    return Err(wrong("a file is longer than the machine's may be"));
                }
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(folder.join(&name))?;
                file.set_len(length)?;
                files.push((name, file, length));
            }
            DATA => {
                let place = u64::from_be_bytes(number::<8>(from)?);
                let bytes = u32::from_be_bytes(number::<4>(from)?);
                taken = taken.saturating_add(bytes.into());
                let (_, file, length) = files.last().ok_or_else(|| wrong("no file has begun"))?;
                let fits = place
                    .checked_add(bytes.into())
                    .is_some_and(|end| end <= *length);
                let piece = piece.get_mut(..bytes as usize);
                let piece = piece.filter(|_| fits && taken <= most);
                let piece =
                    piece.ok_or_else(|| wrong("there is more than the machine may have"))?;
                from.read_exact(piece)?;
                file.write_all_at(piece, place)?;
            }
            END => break,
            _ => return Err(wrong("it makes no sense")),
        }
    }
    for (_, mut file, _) in files {
        file.flush()?;
        file.sync_all()?;
    }
    File::open(folder)?.sync_all()?;
    // And its own name, before anybody is told that all of it is here.
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(taken)
}

fn number<const BYTES: usize>(from: &mut impl Read) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    async fn packed(folder: &Path) -> Vec<u8> {
        let pieces: Vec<_> = pack(folder)
            .map(|piece| piece.unwrap().to_vec())
            .collect()
            .await;
        pieces.concat()
    }

    async fn unpacked(bytes: &[u8], most: u64) -> (tempfile::TempDir, io::Result<u64>) {
        let folder = tempfile::tempdir().unwrap();
        // In pieces that end anywhere.
        let pieces: Vec<_> = bytes
            .chunks(7001)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let bounds = Bounds { most, reserve: 0 };
        let done = unpack(Box::pin(stream::iter(pieces)), folder.path(), bounds).await;
        (folder, done)
    }

    #[tokio::test]
    async fn what_others_need_of_the_disk_stays_free() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.qcow2"), b"a disk").unwrap();
        let (to, bounds) = (
            tempfile::tempdir().unwrap(),
            Bounds {
                most: 1 << 20,
                reserve: u64::MAX / 2,
            },
        );
        let refused = unpack(pack(folder.path()), to.path(), bounds).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_falls_silent_is_not_waited_for() {
        let to = tempfile::tempdir().unwrap();
        let begun = stream::iter([Ok(Bytes::from_static(MAGIC))]);
        let bounds = Bounds {
            most: 1 << 20,
            reserve: 0,
        };
        let silent = Box::pin(begun.chain(stream::pending()));
        // Nobody's time passes by itself while something blocks.
        let passing = tokio::spawn(async {
            loop {
                tokio::time::advance(Duration::from_secs(10)).await;
                tokio::task::yield_now().await;
            }
        });
        let done = unpack(silent, to.path(), bounds).await;
        passing.abort();
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_goes_along_arrives_as_it_was_with_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let disk: Vec<u8> = (0..700_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        std::fs::write(at("root.qcow2"), &disk).unwrap();
        let sparse = File::create(at("swap.raw")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"in the midst", 33 << 20).unwrap();
        std::fs::write(at("memory"), b"").unwrap();
        for left in [
            "launch.json",
            "qemu.log",
            ".hidden.raw",
            "memory.part",
            "context.iso",
        ] {
            std::fs::write(at(left), b"stays").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", at("passwd.raw")).unwrap();
        let bytes = packed(folder.path()).await;
        assert!(bytes.len() < 900_000, "{}", bytes.len());
        let (copy, done) = unpacked(&bytes, 65 << 20).await;
        done.unwrap();
        let mut names: Vec<_> = std::fs::read_dir(copy.path())
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["memory", "root.qcow2", "swap.raw"]);
        for name in ["memory", "root.qcow2", "swap.raw"] {
            assert!(
                std::fs::read(at(name)).unwrap() == std::fs::read(copy.path().join(name)).unwrap(),
                "{name}"
            );
        }
        let blocks = std::fs::metadata(copy.path().join("swap.raw"))
            .unwrap()
            .blocks();
        assert!(blocks < 2048, "{blocks} blocks of 512 bytes");
    }

    #[tokio::test]
    async fn a_machine_without_files_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = packed(&folder.path().join("nothing")).await;
        assert_eq!(unpacked(&bytes, 0).await.1.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_cut_off_anywhere_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.qcow2"), [7; 3000]).unwrap();
        let bytes = packed(folder.path()).await;
        for end in [
            0,
            5,
            MAGIC.len(),
            MAGIC.len() + 9,
            bytes.len() / 2,
            bytes.len() - 1,
        ] {
            let cut = unpacked(&bytes[..end], 1 << 20).await.1;
            assert_eq!(
                cut.unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof,
                "{end}"
            );
        }
    }

    #[tokio::test]
    async fn who_sends_something_else_is_not_believed() {
        let file = |name: &str, length: u64| {
            let head = [FILE, name.len() as u8];
            [&head[..], name.as_bytes(), &length.to_be_bytes()].concat()
        };
        let data = |place: u64, bytes: &[u8]| {
            let head = [
                &[DATA][..],
                &place.to_be_bytes(),
                &(bytes.len() as u32).to_be_bytes(),
            ]
            .concat();
            [&head[..], bytes].concat()
        };
        for (what, frames) in [
            ("a way out", file("../root.qcow2", 1)),
            ("a hidden file", file(".raw", 1)),
            ("another's file", file("launch.json", 1)),
            ("too long", file("root.qcow2", 101)),
            ("no file", data(0, b"x")),
            (
                "beyond its end",
                [file("a.raw", 4), data(2, b"xyz")].concat(),
            ),
            (
                "far beyond",
                [file("a.raw", 4), data(u64::MAX, b"x")].concat(),
            ),
            (
                "too much",
                [file("a.raw", 60), data(0, &[1; 60]), data(0, &[1; 60])].concat(),
            ),
            ("twice", [file("a.raw", 1), file("a.raw", 1)].concat()),
            ("nonsense", vec![9]),
        ] {
            let bytes = [MAGIC, &frames, &[END]].concat();
            let (folder, done) = unpacked(&bytes, 100).await;
            assert_eq!(
                done.unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{what}"
            );
            assert!(
                !folder.path().parent().unwrap().join("root.qcow2").exists(),
                "{what}"
            );
        }
        let (_folder, done) = unpacked(b"<html>something else</html>", 100).await;
        assert!(done.is_err());
    }
}
