//! The journal of a file system: blocks as they were while it was in use, of directories and, with `data=journal`, of files.
//! A clean one has nothing that anybody will read but its header.
//! Format: the kernel's `Documentation/filesystems/ext4`, "Journal (jbd2)"; unlike the rest it is big-endian.

use super::super::ext4::{Files, Layout};
use super::super::partitions::Part;
use super::skeleton::Recorder;
use crate::error::Error;

const MAGIC: u32 = 0xc03b_3998;
/// Types of the block that a journal begins with.
const HEADERS: [u32; 2] = [3, 4];
/// Its length, and where in it the first block stands that isn't in place yet; 0 if all are.
const HEADER: u64 = 1024;
const START: usize = 28;

/// What of a journal is to read as zeroes, as bytes of the file system; or why that isn't possible.
pub(super) fn pages(recorder: &Recorder, layout: &Layout) -> Result<Vec<Part>, String> {
    let Some(number) = layout.journal else {
        return Ok(Vec::new());
    };
    let unreadable = |error: Error| format!("its journal can't be read: {error}");
    let reader = recorder.clone();
    let read = move |offset: u64, buffer: &mut [u8]| reader.read_at(offset, buffer);
    let mut files = Files::new(layout.clone(), read);
    let place = files.place_of(number, "journal").map_err(unreadable)?;
    let mut header = [0; HEADER as usize];
    if let Some(start) = place.of(0, layout.block_bytes) {
        recorder.read_at(start, &mut header).map_err(unreadable)?;
    }
    let field = |at: usize| {
        let four = header.get(at..).and_then(|rest| rest.first_chunk());
        four.map_or(0, |four| u32::from_be_bytes(*four))
    };
    if field(0) != MAGIC || !HEADERS.contains(&field(4)) {
        return Err("its journal makes no sense".to_owned());
    }
    if field(START) != 0 {
        return Err("its journal holds what isn't in place".to_owned());
    }
    Ok(place.behind(HEADER, layout.block_bytes).collect())
}
