//! Writes new qcow2 images in process: the root disk of a machine is an empty overlay on a cached image.
//!
//! Starting `qemu-img create` costs 7 to 21 ms; an overlay is a few hundred bytes of metadata, so we write it
//! ourselves. It takes the same time and space whatever the size of the disk or of what lies below.
//!
//! ```text
//! cluster 0        header, extensions, name of the backing file
//! cluster 1        refcount table, one entry
//! cluster 2        refcount block: one for each cluster that the file has now
//! cluster 3 …      L1 table, all zero (a hole): nothing is allocated, every read goes to the backing file
//! ```
//!
//! Format: QEMU's `docs/interop/qcow2`, version 3, 64 KiB clusters, 16-bit reference counts.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::durable::{self, Durability};
use crate::error::Error;
use crate::inspect::Format;

/// The largest disk: 64 TiB, so that the L1 table stays at 1 MiB.
pub const MAX_VIRTUAL_BYTES: u64 = 64 << 40;

const CLUSTER_BITS: u32 = 16;
pub(crate) const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// One L2 table of 8-byte entries fills a cluster and so maps 512 MiB.
const BYTES_PER_L1_ENTRY: u64 = CLUSTER * (CLUSTER / 8);
const REFCOUNT_TABLE: u64 = CLUSTER;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER;
const L1_TABLE: u64 = 3 * CLUSTER;
const HEADER_BYTES: u32 = 104;
const BACKING_FORMAT_EXTENSION: u32 = 0xe279_2aca;
/// QEMU reads no longer names.
const MAX_BACKING_NAME_BYTES: usize = 1023;

/// What an overlay reads where it holds nothing of its own.
#[derive(Debug, Clone, Copy)]
pub struct Backing<'a> {
    /// Absolute path. It need not exist yet, and is not opened.
    pub path: &'a Path,
    /// Its format, stated in the overlay so that QEMU never guesses.
    pub format: Format,
}

/// Creates the empty qcow2 image `path` with a disk of `virtual_bytes`, readable by its owner only.
///
/// With a `backing` it is an overlay and may be larger or smaller than that. The file appears whole or not at all.
/// Blocks for well under a millisecond unless `durability` asks for a flush.
///
/// # Errors
/// [`Error::Exists`] if there is a file already; [`Error::Invalid`] for a size that is zero, above
/// [`MAX_VIRTUAL_BYTES`] or no multiple of 512, and for a backing path that is relative or longer than QEMU reads;
/// [`Error::Io`].
pub fn create(
    path: &Path,
    virtual_bytes: u64,
    backing: Option<Backing<'_>>,
    durability: Durability,
) -> Result<(), Error> {
    check_size(virtual_bytes)?;
    let header = header(virtual_bytes, backing)?;
    durable::create_whole(path, durability, |temporary| {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)
            .map_err(Error::io("create", temporary))?;
        write(&file, virtual_bytes, &header).map_err(Error::io("write", temporary))?;
        Ok(file)
    })
}

/// The bytes a guest sees of one of our images.
///
/// # Errors
/// [`Error::Invalid`] if it is none; [`Error::Io`].
pub(crate) fn virtual_bytes(path: &Path) -> Result<u64, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    Ok(sizes(&file, path)?.0)
}

/// Lets one of our images show more bytes, which read as zeroes or as what lies below. In place, and in constant time:
/// only the header says how many there are, as long as its table of tables has room.
///
/// # Errors
/// [`Error::Invalid`] if it is none of ours, or would have to be smaller or larger than the table allows (4 TiB, for one
/// that began smaller); [`Error::Io`].
pub(crate) fn grow(path: &Path, bytes: u64) -> Result<(), Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::io("open", path))?;
    let (now, entries) = sizes(&file, path)?;
    if bytes == now {
        return Ok(());
    }
    let refuse = |reason: &str| Error::Invalid {
        what: "disk size",
        value: bytes.to_string(),
        reason: reason.to_owned(),
    };
    if bytes < now {
        return Err(refuse("disks only grow"));
    }
    if bytes > MAX_VIRTUAL_BYTES || !bytes.is_multiple_of(512) {
        return Err(refuse(
            "it must be a multiple of 512 bytes, and no more than 64 TiB",
        ));
    }
    let room = (entries * 8).next_multiple_of(CLUSTER) / 8;
    if l1_entries(bytes) > room {
        return Err(refuse(
            "that is more than its table has room for; copy the data to a new volume",
        ));
    }
    let write = |data: &[u8], offset: u64| {
        file.write_all_at(data, offset)
            .and_then(|()| file.sync_all())
    };
    // First the tables, then what is in them: a disk that shows less than its tables hold is whole.
    write(&(l1_entries(bytes) as u32).to_be_bytes(), 36).map_err(Error::io("grow", path))?;
    write(&bytes.to_be_bytes(), 24).map_err(Error::io("grow", path))
}

/// The size of the disk, and the entries of the L1 table.
fn sizes(file: &File, path: &Path) -> Result<(u64, u64), Error> {
    let mut header = [0; 40];
    file.read_exact_at(&mut header, 0)
        .map_err(Error::io("read", path))?;
    let number = |at: usize, length: usize| {
        let bytes = header.iter().skip(at).take(length);
        bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if number(0, 4) != u64::from(u32::from_be_bytes(*b"QFI\xfb"))
        || number(20, 4) != u64::from(CLUSTER_BITS)
    {
        return Err(Error::Invalid {
            what: "disk",
            value: path.display().to_string(),
            reason: "it is no overlay of ours".to_owned(),
        });
    }
    Ok((number(24, 8), number(36, 4)))
}

/// Refuses sizes that no disk of ours has.
pub(crate) fn check_size(virtual_bytes: u64) -> Result<(), Error> {
    if virtual_bytes == 0 || virtual_bytes > MAX_VIRTUAL_BYTES || !virtual_bytes.is_multiple_of(512)
    {
        return Err(Error::Invalid {
            what: "disk size",
            value: virtual_bytes.to_string(),
            reason: format!(
                "it must be a multiple of 512 bytes, at least 512 and at most {MAX_VIRTUAL_BYTES}"
            ),
        });
    }
    Ok(())
}

/// Entries of the L1 table of a disk.
pub(crate) fn l1_entries(virtual_bytes: u64) -> u64 {
    virtual_bytes.div_ceil(BYTES_PER_L1_ENTRY)
}

fn write(file: &File, virtual_bytes: u64, header: &[u8]) -> std::io::Result<()> {
    let l1_clusters = (l1_entries(virtual_bytes) * 8).div_ceil(CLUSTER);
    let clusters = L1_TABLE / CLUSTER + l1_clusters;
    file.set_len(clusters * CLUSTER)?;
    file.write_all_at(header, 0)?;
    file.write_all_at(&REFCOUNT_BLOCK.to_be_bytes(), REFCOUNT_TABLE)?;
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, REFCOUNT_BLOCK)
}

fn header(virtual_bytes: u64, backing: Option<Backing<'_>>) -> Result<Vec<u8>, Error> {
    let name = backing.map_or(Ok(&[][..]), |backing| backing_name(backing.path))?;
    let mut extensions = Vec::new();
    if let Some(backing) = backing {
        let format = backing.format.as_str().as_bytes();
        extensions.extend(BACKING_FORMAT_EXTENSION.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name_offset = if name.is_empty() {
        0
    } else {
        u64::from(HEADER_BYTES) + extensions.len() as u64
    };

    let places = Places {
        l1_table: L1_TABLE,
        refcount_table: REFCOUNT_TABLE,
        refcount_table_clusters: 1,
        name: (name_offset, name.len() as u32),
    };
    let mut bytes = fields(virtual_bytes, &places);
    bytes.extend(extensions);
    bytes.extend(name);
    Ok(bytes)
}

/// The header of an image that stands on nothing, its tables at these places of the file.
pub(crate) fn standalone_header(
    virtual_bytes: u64,
    l1_table: u64,
    refcount_table: u64,
    refcount_table_clusters: u64,
) -> Vec<u8> {
    let places = Places {
        l1_table,
        refcount_table,
        refcount_table_clusters: refcount_table_clusters as u32,
        name: (0, 0),
    };
    let mut bytes = fields(virtual_bytes, &places);
    bytes.extend([0; 8]); // no extensions
    bytes
}

/// What a header points to.
struct Places {
    l1_table: u64,
    refcount_table: u64,
    refcount_table_clusters: u32,
    /// Of the backing file: where it is, how long.
    name: (u64, u32),
}

/// The fixed part of a header.
fn fields(virtual_bytes: u64, places: &Places) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2048);
    bytes.extend(b"QFI\xfb");
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(places.name.0.to_be_bytes());
    bytes.extend(places.name.1.to_be_bytes());
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(virtual_bytes.to_be_bytes());
    bytes.extend(0_u32.to_be_bytes()); // no encryption
    bytes.extend((l1_entries(virtual_bytes) as u32).to_be_bytes());
    bytes.extend(places.l1_table.to_be_bytes());
    bytes.extend(places.refcount_table.to_be_bytes());
    bytes.extend(places.refcount_table_clusters.to_be_bytes()); // clusters of the refcount table
    bytes.extend(0_u32.to_be_bytes()); // snapshots
    bytes.extend(0_u64.to_be_bytes()); // snapshot table
    bytes.extend([0; 24]); // feature bits: incompatible, compatible, autoclear
    bytes.extend(4_u32.to_be_bytes()); // reference counts of 2^4 bits
    bytes.extend(HEADER_BYTES.to_be_bytes());
    bytes
}

fn backing_name(path: &Path) -> Result<&[u8], Error> {
    let name = path.as_os_str().as_bytes();
    // A relative name would be looked up beside the overlay; one with a colon in front of the first slash would be a
    // protocol. An absolute path is neither.
    let reason = if !path.is_absolute() {
        "it must be absolute"
    } else if name.len() > MAX_BACKING_NAME_BYTES {
        "QEMU reads at most 1023 bytes of it"
    } else if name.contains(&0) {
        "it holds a zero byte"
    } else {
        return Ok(name);
    };
    Err(Error::Invalid {
        what: "backing file",
        value: path.display().to_string(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_and_names_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("overlay");
        for size in [0, 511, 513, MAX_VIRTUAL_BYTES + 512, u64::MAX] {
            assert!(
                matches!(
                    create(&path, size, None, Durability::Cached),
                    Err(Error::Invalid { .. })
                ),
                "{size}"
            );
        }
        let long = format!("/{}", "x".repeat(1023));
        for name in ["base", "./base", long.as_str()] {
            let backing = Some(Backing {
                path: Path::new(name),
                format: Format::Raw,
            });
            assert!(
                matches!(
                    create(&path, 512, backing, Durability::Cached),
                    Err(Error::Invalid { .. })
                ),
                "{name}"
            );
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("overlay");
        std::fs::write(&path, "precious").expect("write");
        assert!(matches!(
            create(&path, 512, None, Durability::Flushed),
            Err(Error::Exists { .. })
        ));
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
