//! Disks that come and go with a machine: swap space, and empty volatile disks. Both are sparse raw files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use uuid::Uuid;

use crate::durable::{self, Durability};
use crate::error::Error;

const PAGE: u64 = 4096;
/// The kernel refuses a swap area of fewer pages.
const MIN_PAGES: u64 = 10;
/// Where the header lies in the first page, behind the room for a boot sector.
const HEADER: u64 = 1024;
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// Bytes of a label; the kernel's header has 16 with the final zero.
const MAX_LABEL_BYTES: usize = 15;

/// Creates a sparse raw file that is swap space of `bytes`, rounded down to pages of 4 KiB.
///
/// The guest needs no `mkswap`: `swapon` works at once. Format: version 1 of the kernel's `union swap_header`.
///
/// # Errors
/// [`Error::Exists`]; [`Error::Invalid`] below 40 KiB, above 16 TiB or with a label over 15 bytes; [`Error::Io`].
pub fn create_swap(
    path: &Path,
    bytes: u64,
    uuid: Uuid,
    label: &str,
    durability: Durability,
) -> Result<(), Error> {
    let pages = bytes / PAGE;
    let invalid = |what, value: String, reason: &str| {
        Err(Error::Invalid {
            what,
            value,
            reason: reason.to_owned(),
        })
    };
    let last_page = match u32::try_from(pages.saturating_sub(1)) {
        Ok(last_page) if pages >= MIN_PAGES => last_page,
        _ => {
            return invalid(
                "swap size",
                bytes.to_string(),
                "it must be between 40 KiB and 16 TiB",
            );
        }
    };
    if label.len() > MAX_LABEL_BYTES || label.contains('\0') {
        return invalid(
            "swap label",
            label.to_owned(),
            "it has at most 15 bytes and no zero byte",
        );
    }
    let mut header = Vec::with_capacity(44);
    header.extend(1_u32.to_le_bytes()); // version
    header.extend(last_page.to_le_bytes());
    header.extend(0_u32.to_le_bytes()); // bad pages
    header.extend(uuid.as_bytes());
    header.extend(label.as_bytes());
    durable::create_whole(path, durability, |temporary| {
        let file = sparse(temporary, pages * PAGE)?;
        file.write_all_at(&header, HEADER)
            .and_then(|()| file.write_all_at(MAGIC, PAGE - MAGIC.len() as u64))
            .map_err(Error::io("write", temporary))?;
        Ok(file)
    })
}

/// Creates a sparse raw file of `bytes` that reads as zeroes.
///
/// # Errors
/// [`Error::Exists`]; [`Error::Invalid`] unless `bytes` is a positive multiple of 512; [`Error::Io`].
pub fn create_empty(path: &Path, bytes: u64, durability: Durability) -> Result<(), Error> {
    check_size(bytes)?;
    durable::create_whole(path, durability, |temporary| sparse(temporary, bytes))
}

/// A raw disk has whole sectors, and a size that file offsets can express.
pub(crate) fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes == 0 || !bytes.is_multiple_of(512) || i64::try_from(bytes).is_err() {
        return Err(Error::Invalid {
            what: "disk size",
            value: bytes.to_string(),
            reason: "it must be a positive multiple of 512 bytes".to_owned(),
        });
    }
    Ok(())
}

fn sparse(path: &Path, bytes: u64) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", path))?;
    file.set_len(bytes)
        .map_err(Error::io("set the size of", path))?;
    Ok(file)
}
