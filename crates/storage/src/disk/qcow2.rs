//! A qcow2 disk, standalone or an overlay. Format: QEMU's `docs/interop/qcow2`.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Disk;
use super::raw::read_or_zero;
use crate::error::Error;
use crate::inspect::{PREFIX_BYTES, Qcow2Header};

/// Bits 9 to 55 of a table entry: where in the file it points.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62 of an L2 entry.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry (version 3): reads as zeroes.
const ZERO: u64 = 1;
const SECTOR: u64 = 512;

/// Where a cluster's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// In what lies below.
    Below,
    Zero,
    /// At this place of the file.
    Stored(u64),
    Compressed {
        at: u64,
        bytes: u64,
    },
}

pub(super) struct Qcow2Disk {
    file: File,
    path: PathBuf,
    length: u64,
    header: Qcow2Header,
    l1: Vec<u64>,
    /// The L2 table looked at last, and where it is.
    l2: (u64, Vec<u64>),
    /// The compressed cluster read last, and where it is.
    unpacked: (u64, Vec<u8>),
    below: Option<Box<dyn Disk>>,
}

impl Qcow2Disk {
    pub(super) fn new(
        file: File,
        path: &Path,
        below: Option<Box<dyn Disk>>,
    ) -> Result<Self, Error> {
        let length = file.metadata().map_err(Error::io("examine", path))?.len();
        let known = length.min(PREFIX_BYTES as u64);
        let mut prefix = vec![0; usize::try_from(known).unwrap_or(PREFIX_BYTES)];
        file.read_exact_at(&mut prefix, 0)
            .map_err(Error::io("read", path))?;
        let header = Qcow2Header::parse_overlay(&prefix)?;
        if header.extended_l2() {
            return Err(Error::Invalid {
                what: "disk",
                value: path.display().to_string(),
                reason: "qcow2 with extended L2 entries can't be merged; convert its image with `qemu-img convert` \
                         and import it again"
                    .to_owned(),
            });
        }
        header.check_length(length)?;
        let (offset, entries) = header.l1();
        let l1 = table(&file, path, length, offset, entries)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
            header,
            l1,
            l2: (0, Vec::new()),
            unpacked: (0, Vec::new()),
            below,
        })
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn lookup(&mut self, offset: u64) -> Result<Cluster, Error> {
        let bits = self.header.cluster_bits;
        let l2_bits = bits - 3;
        let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let l1_entry = self.l1.get(index(offset >> (bits + l2_bits))).copied();
        let l2_offset = l1_entry.unwrap_or_default() & OFFSET_MASK;
        if l2_offset == 0 {
            return Ok(Cluster::Below);
        }
        if self.l2.0 != l2_offset {
            let entries = 1 << l2_bits;
            let table = table(&self.file, &self.path, self.length, l2_offset, entries)?;
            self.l2 = (l2_offset, table);
        }
        let place = (offset >> bits) & ((1 << l2_bits) - 1);
        let entry = self.l2.1.get(index(place)).copied().unwrap_or_default();
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (bits - 8);
            let at = entry & ((1 << offset_bits) - 1);
            let sectors = (entry >> offset_bits) & ((1 << (bits - 8)) - 1);
            let bytes = (sectors + 1) * SECTOR - at % SECTOR;
            return Ok(Cluster::Compressed { at, bytes });
        }
        if entry & ZERO != 0 && self.header.version >= 3 {
            return Ok(Cluster::Zero);
        }
        Ok(match entry & OFFSET_MASK {
            0 => Cluster::Below,
            at => Cluster::Stored(at),
        })
    }

    fn unpack(&mut self, at: u64, bytes: u64) -> Result<&[u8], Error> {
        if self.unpacked.0 != at {
            let cluster_bytes = self.cluster_bytes();
            let known = bytes
                .min(self.length.saturating_sub(at))
                .min(2 * cluster_bytes);
            let mut packed = vec![0; usize::try_from(known).unwrap_or_default()];
            self.file
                .read_exact_at(&mut packed, at)
                .map_err(Error::io("read", &self.path))?;
            let mut content = Vec::new();
            // What follows the stream in its last sector is another cluster's: reading stops when this one is full.
            let unpacked = if self.header.zstd() {
                zstd::stream::read::Decoder::with_buffer(packed.as_slice()).and_then(|decoder| {
                    decoder
                        .single_frame()
                        .take(cluster_bytes)
                        .read_to_end(&mut content)
                })
            } else {
                flate2::read::DeflateDecoder::new(packed.as_slice())
                    .take(cluster_bytes)
                    .read_to_end(&mut content)
            };
            let whole = usize::try_from(cluster_bytes).unwrap_or_default();
            match unpacked {
                Ok(_) if content.len() == whole => {}
                Ok(_) => return Err(self.damaged("it ends early")),
                Err(error) => return Err(self.damaged(&error.to_string())),
            }
            self.unpacked = (at, content);
        }
        Ok(&self.unpacked.1)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Invalid {
            what: "disk",
            value: self.path.display().to_string(),
            reason: format!("a compressed cluster is damaged: {why}"),
        }
    }

    /// Calls `each` with the parts of `[offset, offset + length)` that lie in one cluster: its place, its length and
    /// where its content is.
    fn pieces(
        &mut self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(&mut Self, u64, u64, Cluster) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let cluster_end = (at | (self.cluster_bytes() - 1)).saturating_add(1);
            let piece = cluster_end.min(end) - at;
            let cluster = if at < self.header.virtual_bytes {
                self.lookup(at)?
            } else {
                Cluster::Zero
            };
            if !each(self, at, piece, cluster)? {
                return Ok(());
            }
            at += piece;
        }
        Ok(())
    }
}

impl Disk for Qcow2Disk {
    fn bytes(&self) -> u64 {
        self.header.virtual_bytes
    }

    fn may_hold_data(&mut self, offset: u64, length: u64) -> Result<bool, Error> {
        let mut found = false;
        self.pieces(offset, length, |disk, at, piece, cluster| {
            found = match cluster {
                Cluster::Zero => false,
                Cluster::Stored(_) | Cluster::Compressed { .. } => true,
                Cluster::Below => match &mut disk.below {
                    Some(below) => below.may_hold_data(at, piece)?,
                    None => false,
                },
            };
            Ok(!found)
        })?;
        Ok(found)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let length = buffer.len() as u64;
        let mut rest = buffer;
        self.pieces(offset, length, |disk, at, piece, cluster| {
            let piece = usize::try_from(piece).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(piece);
            rest = behind;
            let inside = at & (disk.cluster_bytes() - 1);
            match cluster {
                Cluster::Zero => part.fill(0),
                Cluster::Stored(start) => {
                    read_or_zero(&disk.file, disk.length, start.saturating_add(inside), part)
                        .map_err(Error::io("read", &disk.path))?;
                }
                Cluster::Compressed { at, bytes } => {
                    let content = disk.unpack(at, bytes)?;
                    let start = usize::try_from(inside).unwrap_or_default();
                    match content.get(start..start + part.len()) {
                        Some(content) => part.copy_from_slice(content),
                        None => part.fill(0),
                    }
                }
                Cluster::Below => match &mut disk.below {
                    Some(below) => below.read(at, part)?,
                    None => part.fill(0),
                },
            }
            Ok(true)
        })
    }
}

/// A table of big-endian entries, all of it inside the file. Its size is bounded by the examined header.
fn table(
    file: &File,
    path: &Path,
    length: u64,
    offset: u64,
    entries: u64,
) -> Result<Vec<u64>, Error> {
    let bytes = entries.saturating_mul(8);
    let end = offset.saturating_add(bytes);
    if end > length {
        return Err(crate::inspect::Refusal::Truncated {
            what: "a table",
            end,
            length,
        }
        .into());
    }
    let mut raw = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_exact_at(&mut raw, offset)
        .map_err(Error::io("read", path))?;
    let entries = raw.chunks_exact(8).filter_map(|entry| entry.first_chunk());
    Ok(entries.map(|entry| u64::from_be_bytes(*entry)).collect())
}
