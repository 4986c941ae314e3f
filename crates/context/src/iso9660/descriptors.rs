//! Volume descriptors (ECMA-119 §8): where everything is.

use super::records::{
    Dates, Extent, NO_DATE, both_endian_16, both_endian_32, directory_record, ucs2,
};
use super::{SECTOR_BYTES, VolumeLabel};

/// Which of the two trees a descriptor, path table or folder belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// 8.3 names with Rock Ridge.
    Primary,
    /// UCS-2 names.
    Joliet,
}

/// What a descriptor says about its tree.
pub(super) struct Volume<'a> {
    pub label: &'a VolumeLabel,
    pub sectors: u32,
    pub path_table_bytes: u32,
    pub little_path_table_sector: u32,
    pub big_path_table_sector: u32,
    pub root: Extent,
    pub dates: &'a Dates,
}

const SYSTEM: &str = "LINUX";
const APPLICATION: &str = "STRATUS";

/// §8.4 and §8.5.
pub(super) fn volume_descriptor(view: View, volume: &Volume<'_>) -> Vec<u8> {
    let mut sector = Vec::with_capacity(SECTOR_BYTES);
    sector.push(if view == View::Primary { 1 } else { 2 });
    sector.extend_from_slice(b"CD001\x01\x00");
    push_text(&mut sector, view, SYSTEM, 32);
    push_text(&mut sector, view, volume.label.as_str(), 32);
    sector.extend_from_slice(&[0; 8]);
    sector.extend_from_slice(&both_endian_32(volume.sectors));
    let mut escape_sequences = [0; 32];
    if view == View::Joliet {
        // UCS-2 level 3.
        escape_sequences[..3].copy_from_slice(b"%/E");
    }
    sector.extend_from_slice(&escape_sequences);
    sector.extend_from_slice(&both_endian_16(1));
    sector.extend_from_slice(&both_endian_16(1));
    sector.extend_from_slice(&both_endian_16(SECTOR_BYTES as u16));
    sector.extend_from_slice(&both_endian_32(volume.path_table_bytes));
    sector.extend_from_slice(&volume.little_path_table_sector.to_le_bytes());
    sector.extend_from_slice(&[0; 4]);
    sector.extend_from_slice(&volume.big_path_table_sector.to_be_bytes());
    sector.extend_from_slice(&[0; 4]);
    sector.extend_from_slice(&directory_record(
        &[0],
        volume.root,
        true,
        volume.dates,
        &[],
    ));
    for (text, bytes) in [
        ("", 128),
        ("", 128),
        (APPLICATION, 128),
        (APPLICATION, 128),
        ("", 37),
        ("", 37),
        ("", 37),
    ] {
        push_text(&mut sector, view, text, bytes);
    }
    for date in [
        &volume.dates.in_descriptors,
        &volume.dates.in_descriptors,
        &NO_DATE,
        &NO_DATE,
    ] {
        sector.extend_from_slice(date);
    }
    sector.push(1);
    sector.resize(SECTOR_BYTES, 0);
    sector
}

/// §8.3.
pub(super) fn terminator() -> Vec<u8> {
    let mut sector = b"\xffCD001\x01".to_vec();
    sector.resize(SECTOR_BYTES, 0);
    sector
}

/// `text` padded with blanks to `bytes`, in the tree's characters.
fn push_text(sector: &mut Vec<u8>, view: View, text: &str, bytes: usize) {
    let (mut field, blank) = match view {
        View::Primary => (text.as_bytes().to_vec(), b" ".to_vec()),
        View::Joliet => (ucs2(text), ucs2(" ")),
    };
    while field.len() + blank.len() <= bytes {
        field.extend_from_slice(&blank);
    }
    // The odd last byte of Joliet's 37-byte fields.
    field.resize(bytes, 0);
    sector.extend_from_slice(&field);
}
