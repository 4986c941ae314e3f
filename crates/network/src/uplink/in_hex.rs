//! Messages of the kernel in a note: in its own words, in hexadecimal.

use std::fmt::Write as _;

use rtnetlink::packet_core::{Emitable, Parseable};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

use super::holdings::bytes_of;

pub(super) fn serialize<T: Emitable, S: Serializer>(
    messages: &[T],
    to: S,
) -> Result<S::Ok, S::Error> {
    let in_hex = |message: &T| {
        let mut text = String::new();
        for byte in bytes_of(message) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    };
    to.collect_seq(messages.iter().map(in_hex))
}

pub(super) fn deserialize<'de, T: Parseable<[u8]>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let read = |text: &String| {
        let wrong = || D::Error::custom("no message of the kernel");
        let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        T::parse(&bytes.ok_or_else(wrong)?).map_err(|_| wrong())
    };
    Vec::<String>::deserialize(from)?.iter().map(read).collect()
}
