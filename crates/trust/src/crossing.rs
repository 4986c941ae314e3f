//! What a host says to be connected with the other host of a machine that goes from one to the other while its guest runs.

use std::str;

use cimi::{MachineId, Timestamp};

/// What is spoken, instead of HTTP, on such a connection: it sends a [`CrossingRequest`] and waits for [`MET`]; what comes then is of the
/// other host, [`HERE`] first. Who is refused finds the connection closed before.
pub const CROSSING_PROTOCOL: &[u8] = b"stratus-crossing";
/// What an entry says once the other host has come, too.
pub const MET: u8 = b'+';
/// What the host that the machine leaves says then, and the other one answers: that it is still there. Each of the two may have gone on
/// to another entry in that moment.
pub const HERE: u8 = b'!';

/// Bytes of the local part of an id, and of a name.
const ID_BYTES: usize = 36;
const NAME_BYTES: usize = 16;
/// Bytes of a request.
pub const CROSSING_REQUEST_BYTES: usize = ID_BYTES + 16 + NAME_BYTES;

/// Which of the connections of which way: the local part of the machine's id, when its way was asked for, in milliseconds (16 digits
/// to the base 16), and the name of the connection, filled up with spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CrossingRequest {
    /// The machine.
    pub machine: MachineId,
    /// Its way.
    pub way: Timestamp,
    /// Letters, digits and hyphens.
    pub name: String,
}

impl CrossingRequest {
    /// As it is sent; none for ids and names that aren't ours.
    #[must_use]
    pub fn to_bytes(&self) -> Option<[u8; CROSSING_REQUEST_BYTES]> {
        let (machine, way) = (self.machine.local(), self.way.as_millis());
        let text = format!("{machine}{way:016x}{:NAME_BYTES$}", self.name);
        let is_ours = machine.len() == ID_BYTES && is_name(&self.name);
        text.into_bytes().try_into().ok().filter(|_| is_ours)
    }

    /// What was sent; none if that is no request.
    #[must_use]
    pub fn of_bytes(bytes: &[u8; CROSSING_REQUEST_BYTES]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let (machine, rest) = text.split_at_checked(ID_BYTES)?;
        let (way, name) = rest.split_at_checked(16)?;
        let name = name.trim_end_matches(' ');
        Some(Self {
            machine: MachineId::from_local(machine).ok()?,
            way: Timestamp::from_millis(i64::from_str_radix(way, 16).ok()?),
            name: Some(name).filter(|name| is_name(name))?.to_owned(),
        })
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES && name.bytes().all(is_plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_heard() {
        let named = |name: &str| CrossingRequest {
            machine: MachineId::generate(),
            way: Timestamp::now(),
            name: name.to_owned(),
        };
        for name in ["control", "disk-63", "sixteen-letters-"] {
            let asked = named(name);
            let sent = asked.to_bytes().unwrap();
            assert_eq!(CrossingRequest::of_bytes(&sent), Some(asked));
        }
        for name in ["", "seventeen-letters", "a b", "../x"] {
            assert_eq!(named(name).to_bytes(), None);
        }
        for wrong in [[b'x'; _], [0; _], [0xc3; _], [b' '; _]] {
            assert_eq!(CrossingRequest::of_bytes(&wrong), None);
        }
    }
}
