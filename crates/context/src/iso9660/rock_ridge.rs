//! Rock Ridge: real names, owners and modes in the system use area of directory records (SUSP 1.10, RRIP 1.10).

use super::records::both_endian_32;

/// RRIP §4.1.1 `PX`: mode, links, owner and group, both 0.
pub(super) fn posix_attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut entry = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        entry.extend_from_slice(&both_endian_32(number));
    }
    entry
}

/// RRIP §4.1.4 `NM`: the name, which is at most 64 characters here.
pub(super) fn alternate_name(name: &str) -> Vec<u8> {
    let length = u8::try_from(5 + name.len()).unwrap_or(u8::MAX);
    let mut entry = vec![b'N', b'M', length, 1, 0];
    entry.extend_from_slice(name.as_bytes());
    entry
}

/// SUSP §5.3 `SP`: first in the root's own record, says that the system use areas are in use.
pub(super) fn sharing_protocol() -> Vec<u8> {
    b"SP\x07\x01\xbe\xef\x00".to_vec()
}

/// SUSP §5.1 `CE`: the system use area goes on at the start of `sector`.
pub(super) fn continuation(sector: u32, bytes: u32) -> Vec<u8> {
    let mut entry = b"CE\x1c\x01".to_vec();
    for number in [sector, 0, bytes] {
        entry.extend_from_slice(&both_endian_32(number));
    }
    entry
}

/// SUSP §5.5 `ER`: names the extension. Without it xorriso ignores Rock Ridge, and Linux prefers Joliet.
pub(super) fn extension_reference() -> Vec<u8> {
    const IDENTIFIER: &[u8] = b"RRIP_1991A";
    const DESCRIPTION: &[u8] = b"ROCK RIDGE: POSIX NAMES, OWNERS AND MODES";
    const SOURCE: &[u8] = b"ROCK RIDGE INTERCHANGE PROTOCOL, VERSION 1.10";
    const _: () = assert!(8 + IDENTIFIER.len() + DESCRIPTION.len() + SOURCE.len() <= 255);
    let lengths =
        [IDENTIFIER, DESCRIPTION, SOURCE].map(|text| u8::try_from(text.len()).unwrap_or(u8::MAX));
    let total = lengths.iter().sum::<u8>() + 8;
    let mut entry = vec![b'E', b'R', total, 1];
    entry.extend_from_slice(&lengths);
    entry.push(1);
    for text in [IDENTIFIER, DESCRIPTION, SOURCE] {
        entry.extend_from_slice(text);
    }
    entry
}
