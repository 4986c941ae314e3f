//! What the source task sends, as chunks: decompressed if need be, and untouched if not.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, HOLE_BYTES, Piece};
use crate::buffers::Buffers;
use crate::decompress::{self, Packing};
use crate::digest::{ExpectedSource, SourceDigests};
use crate::error::Error;
use crate::inspect::PREFIX_BYTES;

/// Pieces from so many bytes on are handed on as they are; smaller ones are put together.
const LEAST_HANDED_ON: usize = CHUNK_BYTES / 4;
/// So many first bytes tell a compression.
const MAGIC_BYTES: usize = 6;

/// The content in chunks of whole blocks, but for the last one.
pub(super) enum Chunks<'p> {
    Plain(&'p mut Pieces, Buffers),
    Unpacked(Box<dyn Read + 'p>, Buffers),
}

impl<'p> Chunks<'p> {
    /// The content as it comes.
    pub(super) fn untouched(pieces: &'p mut Pieces) -> Self {
        Self::Plain(pieces, Buffers::of(CHUNK_BYTES))
    }

    /// The content without its compression. Where nothing is said of one, `is_plain` tells, once the source has begun, whether
    /// what looks compressed is meant as it is.
    pub(super) fn unpacked(
        pieces: &'p mut Pieces,
        packing: Packing,
        is_plain: impl Fn() -> bool,
    ) -> io::Result<Self> {
        let compression = packing
            .of(pieces.first(MAGIC_BYTES)?)
            .map_err(io::Error::other)?;
        match compression {
            None => Ok(Self::untouched(pieces)),
            Some(_) if packing == Packing::Unknown && is_plain() => Ok(Self::untouched(pieces)),
            Some(compression) => {
                let reader = decompress::reader(pieces, compression)?;
                Ok(Self::Unpacked(reader, Buffers::of(CHUNK_BYTES)))
            }
        }
    }

    /// The chunk that the header is in: [`PREFIX_BYTES`], or all there is.
    pub(super) fn first(&mut self) -> io::Result<Bytes> {
        self.filled(PREFIX_BYTES)
    }

    /// The next one; an empty one at the end.
    pub(super) fn next(&mut self) -> io::Result<Bytes> {
        if let Self::Plain(pieces, _) = self
            && pieces.fill_buf()?.len() >= LEAST_HANDED_ON
        {
            return Ok(pieces.whole_blocks());
        }
        self.filled(CHUNK_BYTES)
    }

    fn filled(&mut self, wanted: usize) -> io::Result<Bytes> {
        match self {
            Self::Plain(pieces, buffers) => fill(pieces, buffers, wanted),
            Self::Unpacked(reader, buffers) => fill(reader, buffers, wanted),
        }
    }
}

/// Reads until `wanted` bytes are there or the source ends. No more are wanted than a buffer holds.
pub(super) fn fill(
    reader: &mut (impl Read + ?Sized),
    buffers: &Buffers,
    wanted: usize,
) -> io::Result<Bytes> {
    let mut buffer = buffers.take();
    let mut filled = 0;
    let memory = buffer.memory();
    let wanted = wanted.min(memory.len());
    while let Some(rest) = memory
        .get_mut(filled..wanted)
        .filter(|rest| !rest.is_empty())
    {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.into_bytes(filled))
}

/// The pieces of the source task as a reader.
pub(super) struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    /// Of the file as it comes, if somebody said what they are.
    digests: Option<SourceDigests>,
}

impl Pieces {
    pub(super) fn new(pieces: mpsc::Receiver<Piece>, expected: ExpectedSource) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
            ended: false,
            digests: expected.is_any().then(|| SourceDigests::new(expected)),
        }
    }

    /// Takes what the decompressor left of the file, and compares all of it with what it should be.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.digests.is_none() {
            return Ok(());
        }
        while !self.fill_buf()?.is_empty() {
            self.current.clear();
        }
        let digests = self.digests.take();
        digests
            .map_or(Ok(()), SourceDigests::finish)
            .map_err(io::Error::other)
    }

    /// The next piece; none at the end.
    fn receive(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => {
                if let Some(digests) = &mut self.digests {
                    digests.update(&bytes).map_err(io::Error::other)?;
                }
                Ok(Some(bytes))
            }
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Piece::Failed(error)) => Err(io::Error::other(error)),
            None => Err(io::Error::other(Error::Cancelled)),
        }
    }

    /// The bytes to come, `wanted` at least if there are so many; they are still to come after that.
    fn first(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.current.len() < wanted
            && let Some(more) = self.receive()?
        {
            self.current = if self.current.is_empty() {
                more
            } else {
                [&self.current[..], &more[..]].concat().into()
            };
        }
        Ok(&self.current)
    }

    /// As much of the piece at hand as is whole blocks.
    fn whole_blocks(&mut self) -> Bytes {
        let blocks = self.current.len() / HOLE_BYTES;
        self.current.split_to(blocks * HOLE_BYTES)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.first(1)
    }

    fn consume(&mut self, amount: usize) {
        // As `Bytes::advance` would panic, for what no reader does.
        drop(self.current.split_to(amount.min(self.current.len())));
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}
