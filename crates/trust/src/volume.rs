//! What a host says to have a volume.

use std::str;

use cimi::{MachineId, Timestamp, VolumeId, resources::VolumeUse};

/// What is spoken, instead of HTTP, on a connection by which a host uses a volume: it sends a [`VolumeRequest`], and then NBD goes
/// both ways. Who is refused finds the connection closed before it was greeted.
pub const VOLUME_PROTOCOL: &[u8] = b"stratus-volume";

/// Bytes of the local part of an id.
const ID_BYTES: usize = 36;
/// Bytes of a request.
pub const VOLUME_REQUEST_BYTES: usize = 2 * ID_BYTES + 16;

/// Which attachment of a volume: the local parts of the volume's and the machine's id, and when it was taken, in milliseconds
/// (16 digits to the base 16; 0: that was not noted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRequest(pub VolumeUse);

impl VolumeRequest {
    /// As it is sent; none for ids that aren't ours.
    #[must_use]
    pub fn to_bytes(&self) -> Option<[u8; VOLUME_REQUEST_BYTES]> {
        let Self(VolumeUse {
            volume,
            machine,
            taken,
        }) = self;
        let taken = taken.map_or(0, Timestamp::as_millis);
        let text = format!("{}{}{taken:016x}", volume.local(), machine.local());
        let are_ours = volume.local().len() == ID_BYTES;
        text.into_bytes().try_into().ok().filter(|_| are_ours)
    }

    /// What was sent; none if that is no request.
    #[must_use]
    pub fn of_bytes(bytes: &[u8; VOLUME_REQUEST_BYTES]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let (volume, rest) = text.split_at_checked(ID_BYTES)?;
        let (machine, taken) = rest.split_at_checked(ID_BYTES)?;
        let taken = i64::from_str_radix(taken, 16).ok()?;
        Some(Self(VolumeUse {
            volume: VolumeId::from_local(volume).ok()?,
            machine: MachineId::from_local(machine).ok()?,
            taken: (taken != 0).then(|| Timestamp::from_millis(taken)),
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_heard() {
        for taken in [None, Some(Timestamp::now())] {
            let asked = VolumeRequest(VolumeUse {
                volume: VolumeId::generate(),
                machine: MachineId::generate(),
                taken,
            });
            let sent = asked.to_bytes().unwrap();
            assert_eq!(VolumeRequest::of_bytes(&sent), Some(asked));
        }
        for wrong in [[b'x'; _], [0; _], [0xc3; _]] {
            assert_eq!(VolumeRequest::of_bytes(&wrong), None);
        }
    }
}
