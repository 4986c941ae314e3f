//! The blocking half of fetching what another computer's storage keeps: bytes behind those that are here, then the same look at
//! the whole as an import takes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc;

use super::chunks::{Chunks, Pieces};
use super::target::data_runs;
use super::{HOLE_BYTES, Piece};
use crate::digest::{Digest, ExpectedSource};
use crate::error::{self, Error};
use crate::exclusive;
use crate::inspect::{self, Format, PREFIX_BYTES, Refusal, SizeLimits};
use crate::space::{self, Space};

/// How many bytes are written between two looks at the free space.
const SPACE_CHECK_BYTES: u64 = 64 << 20;

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    /// Its length.
    pub(crate) bytes: u64,
    pub(crate) sha1: Digest<20>,
    /// The disk that it is, its format and what a guest sees of it; none: a kernel, an initrd.
    pub(crate) disk: Option<(Format, u64)>,
}

/// A file that isn't whole yet. What is in it stays when the work ends early.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    /// How many of its bytes are here.
    have: u64,
}

impl Part {
    /// What is there of it; nothing if it isn't there, or is longer than announced.
    ///
    /// # Errors
    /// [`Error::InUse`] while one that was given up is at it; [`Error::Io`].
    pub(crate) fn open(path: PathBuf, announced: &Announced) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        exclusive::lock(&file, &path, &path)?;
        let length = file.metadata().map_err(Error::io("examine", &path))?.len();
        let have = match length {
            whole if whole == announced.bytes => whole,
            longer if longer > announced.bytes => 0,
            // Whole blocks, so that runs of zeroes stay holes.
            part => part - part % HOLE_BYTES as u64,
        };
        file.set_len(have).map_err(Error::io("cut", &path))?;
        Ok(Self { path, file, have })
    }

    /// How many bytes are here.
    pub(crate) const fn have(&self) -> u64 {
        self.have
    }

    /// Takes the rest, examines the whole, and flushes it.
    ///
    /// # Errors
    /// [`Error::NoSpace`] before anything is written that would eat the reserve. [`Error::Mismatch`] and [`Error::Refused`] if it
    /// isn't what was announced. What the source says. [`Error::Io`]
    pub(crate) fn complete(
        &mut self,
        pieces: mpsc::Receiver<Piece>,
        announced: &Announced,
        reserve_bytes: u64,
    ) -> Result<(), Error> {
        space::require(self.dir(), announced.bytes - self.have, reserve_bytes)?;
        let mut sha1 = Sha1::new();
        let here = (&self.file).take(self.have);
        io::copy(&mut { here }, &mut sha1).map_err(Error::io("read", &self.path))?;
        let mut pieces = Pieces::new(pieces, ExpectedSource::default());
        let mut chunks = Chunks::untouched(&mut pieces);
        let mut until_check = SPACE_CHECK_BYTES;
        loop {
            let chunk = chunks.next().map_err(|error| self.read_error(error))?;
            if chunk.is_empty() {
                break;
            }
            let end = self.have + chunk.len() as u64;
            if end > announced.bytes {
                return Err(length_mismatch(announced.bytes, "more".to_owned()));
            }
            for (start, run) in data_runs(&chunk) {
                self.file
                    .write_all_at(run, self.have + start as u64)
                    .map_err(|error| self.write_error(error, announced, reserve_bytes))?;
            }
            self.file
                .set_len(end)
                .map_err(|error| self.write_error(error, announced, reserve_bytes))?;
            sha1.update(&chunk);
            self.have = end;
            until_check = until_check.saturating_sub(chunk.len() as u64);
            if until_check == 0 {
                space::require(self.dir(), 0, reserve_bytes)?;
                until_check = SPACE_CHECK_BYTES;
            }
        }
        if self.have < announced.bytes {
            return Err(length_mismatch(announced.bytes, self.have.to_string()));
        }
        let found = Digest::from_bytes(sha1.finalize().into());
        if found != announced.sha1 {
            return Err(Error::Mismatch {
                what: "SHA-1",
                expected: announced.sha1.to_string(),
                found: found.to_string(),
            });
        }
        self.examine(announced)?;
        self.file
            .sync_all()
            .map_err(|error| self.write_error(error, announced, reserve_bytes))
    }

    /// No program opens a disk that names other files, or is another than its document says.
    fn examine(&self, announced: &Announced) -> Result<(), Error> {
        let Some((format, virtual_bytes)) = announced.disk else {
            return match announced.bytes {
                0 => Err(Refusal::Empty.into()),
                _ => Ok(()),
            };
        };
        let limits = SizeLimits {
            max_virtual_bytes: virtual_bytes,
            // How much may be in how little was judged when it was imported.
            max_virtual_per_byte: u64::MAX,
        };
        let mut prefix = Vec::new();
        let mut from_start = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        from_start
            .by_ref()
            .take(PREFIX_BYTES as u64)
            .read_to_end(&mut prefix)
            .map_err(Error::io("read", &self.path))?;
        let inspected = inspect::first_bytes(&prefix, Some(format), &limits)?;
        inspect::whole_file(&self.file, &self.path, &inspected, &limits)?;
        let found = inspected.virtual_bytes(announced.bytes);
        if found != virtual_bytes {
            return Err(Error::Mismatch {
                what: "size of the disk in bytes",
                expected: virtual_bytes.to_string(),
                found: found.to_string(),
            });
        }
        Ok(())
    }

    fn write_error(&self, error: io::Error, announced: &Announced, reserve_bytes: u64) -> Error {
        if error::is_full(&error) {
            return Error::NoSpace {
                needed_bytes: announced.bytes.saturating_sub(self.have),
                available_bytes: Space::of(self.dir()).map_or(0, |space| space.free_bytes),
                reserve_bytes,
                dir: self.dir().to_owned(),
            };
        }
        Error::io("write", &self.path)(error)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn read_error(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::io("read the source of", &self.path)(error),
        }
    }
}

fn length_mismatch(announced: u64, found: String) -> Error {
    Error::Mismatch {
        what: "size of the file in bytes",
        expected: announced.to_string(),
        found,
    }
}
