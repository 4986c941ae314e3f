//! The smallest parts: numbers, dates, directory records and path tables (ECMA-119 §7, §8.4.26, §9.1, §9.4).

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// §7.3.3: little endian, then big endian.
pub(super) fn both_endian_32(number: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

/// §7.2.3.
pub(super) fn both_endian_16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// Joliet's strings: UCS-2 big endian. Names and labels here are ASCII.
pub(super) fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// One moment in the two forms that the format wants.
pub(super) struct Dates {
    /// §9.1.5: years since 1900, month, day, hour, minute, second, quarter hours from Greenwich.
    pub in_records: [u8; 7],
    /// §8.4.26.1: sixteen digits and the quarter hours from Greenwich.
    pub in_descriptors: [u8; 17],
}

impl Dates {
    pub(super) fn of(moment: Timestamp) -> Self {
        let utc = moment.to_zoned(TimeZone::UTC).datetime();
        let (first, last) = (
            jiff::civil::date(1900, 1, 1).at(0, 0, 0, 0),
            jiff::civil::date(2155, 12, 31).at(23, 59, 59, 0),
        );
        let utc = utc.clamp(first, last);
        // All but the year are below 60, and the year is within 1900 to 2155: the fall-back values are never taken.
        let byte = |number: i8| u8::try_from(number).unwrap_or(0);
        let in_records = [
            u8::try_from(utc.year() - 1900).unwrap_or(0),
            byte(utc.month()),
            byte(utc.day()),
            byte(utc.hour()),
            byte(utc.minute()),
            byte(utc.second()),
            0,
        ];
        let digits = format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}00",
            utc.year(),
            utc.month(),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second()
        );
        let mut in_descriptors = NO_DATE;
        for (place, digit) in in_descriptors.iter_mut().zip(digits.bytes()) {
            *place = digit;
        }
        Self {
            in_records,
            in_descriptors,
        }
    }
}

/// §8.4.26.1: not specified.
pub(super) const NO_DATE: [u8; 17] = *b"0000000000000000\0";

/// The places of something in the medium.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    /// Its first sector.
    pub sector: u32,
    /// Its length.
    pub bytes: u32,
}

/// §9.1: one entry of a folder. `identifier` and `system_use` together stay well below the 255 bytes of a record, since names are
/// at most 64 characters.
pub(super) fn directory_record(
    identifier: &[u8],
    extent: Extent,
    is_folder: bool,
    dates: &Dates,
    system_use: &[u8],
) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend_from_slice(&both_endian_32(extent.sector));
    record.extend_from_slice(&both_endian_32(extent.bytes));
    record.extend_from_slice(&dates.in_records);
    record.push(if is_folder { 2 } else { 0 });
    record.extend_from_slice(&[0, 0]);
    record.extend_from_slice(&both_endian_16(1));
    record.push(length_byte(identifier));
    record.extend_from_slice(identifier);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record.extend_from_slice(system_use);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    let length = length_byte(&record);
    if let Some(first) = record.first_mut() {
        *first = length;
    }
    record
}

fn length_byte(bytes: &[u8]) -> u8 {
    debug_assert!(bytes.len() <= 255);
    u8::try_from(bytes.len()).unwrap_or(u8::MAX)
}

/// Which of the two path tables.
#[derive(Clone, Copy)]
pub(super) enum Endian {
    Little,
    Big,
}

/// §9.4: one folder in a path table; `parent_number` counts from 1.
pub(super) fn path_table_record(
    identifier: &[u8],
    sector: u32,
    parent_number: u16,
    endian: Endian,
) -> Vec<u8> {
    let mut record = vec![length_byte(identifier), 0];
    match endian {
        Endian::Little => {
            record.extend_from_slice(&sector.to_le_bytes());
            record.extend_from_slice(&parent_number.to_le_bytes());
        }
        Endian::Big => {
            record.extend_from_slice(&sector.to_be_bytes());
            record.extend_from_slice(&parent_number.to_be_bytes());
        }
    }
    record.extend_from_slice(identifier);
    if identifier.len() % 2 == 1 {
        record.push(0);
    }
    record
}
