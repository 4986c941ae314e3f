//! What a host says to have a volume by iSCSI, and what it hears.

use std::{fmt, net::SocketAddr};

use cimi::resources::VolumeUse;
use serde::{Deserialize, Serialize};

use crate::{VOLUME_REQUEST_BYTES, VolumeRequest};

/// What is spoken, instead of HTTP, on a connection by which a host has a volume shown to it by iSCSI: it sends a
/// [`TargetRequest`], hears a [`TargetAnswer`], and the volume is shown as long as the connection is there. Who is refused finds it
/// closed before it was answered.
pub const TARGET_PROTOCOL: &[u8] = b"stratus-target";

/// Bytes of a request.
pub const TARGET_REQUEST_BYTES: usize = VOLUME_REQUEST_BYTES + 1;
/// Bytes of the length of an answer, which comes before it (big-endian).
pub const TARGET_LENGTH_BYTES: usize = 4;
/// Bytes of an answer at most.
pub const TARGET_ANSWER_BYTES: usize = 4096;

/// Why a host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// To begin to use the volume, by iSCSI if that is how it is to be.
    Anew,
    /// To go on: a guest has it by iSCSI already.
    Again,
    /// To have all fail that a guest still wants of one that was taken from it.
    Lost,
}

/// A [`VolumeRequest`], and a letter for why it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRequest(pub VolumeUse, pub Asking);

impl TargetRequest {
    /// As it is sent; none for ids that aren't ours.
    #[must_use]
    pub fn to_bytes(&self) -> Option<[u8; TARGET_REQUEST_BYTES]> {
        let mut all = [0; TARGET_REQUEST_BYTES];
        let (of, why) = all.split_at_mut(VOLUME_REQUEST_BYTES);
        of.copy_from_slice(&VolumeRequest(self.0.clone()).to_bytes()?);
        why.fill(match self.1 {
            Asking::Anew => b'n',
            Asking::Again => b'a',
            Asking::Lost => b'l',
        });
        Some(all)
    }

    /// What was sent; none if that is no request.
    #[must_use]
    pub fn of_bytes(bytes: &[u8; TARGET_REQUEST_BYTES]) -> Option<Self> {
        let (of, why) = bytes.split_first_chunk::<VOLUME_REQUEST_BYTES>()?;
        let asking = match why {
            b"n" => Asking::Anew,
            b"a" => Asking::Again,
            b"l" => Asking::Lost,
            _ => return None,
        };
        Some(Self(VolumeRequest::of_bytes(of)?.0, asking))
    }
}

/// Where a volume is by iSCSI, at LUN 1; none: it is not, and is to be used by [`VOLUME_PROTOCOL`](crate::VOLUME_PROTOCOL).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetAnswer(pub Option<VolumeTarget>);

impl TargetAnswer {
    /// As it is sent, its length first.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let text = serde_json::to_vec(self).ok()?;
        let length = u32::try_from(text.len()).ok()?;
        Some([&length.to_be_bytes()[..], &text].concat())
    }

    /// How many bytes follow; none for more than there may be.
    #[must_use]
    pub fn length(bytes: [u8; TARGET_LENGTH_BYTES]) -> Option<usize> {
        let length = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
        (length <= TARGET_ANSWER_BYTES).then_some(length)
    }

    /// What was sent after its length; none if that is no answer.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A target for one attachment of a volume to a machine of one host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeTarget {
    /// Where it is.
    pub portal: SocketAddr,
    /// Its name.
    pub target: String,
    /// The name of the one that may log in.
    pub initiator: String,
    /// Who logs in by CHAP.
    pub user: String,
    /// By this, which is of this attachment alone.
    pub secret: String,
}

impl fmt::Debug for VolumeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeTarget")
            .field("portal", &self.portal)
            .field("target", &self.target)
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use cimi::{MachineId, Timestamp, VolumeId};

    use super::*;

    #[test]
    fn what_is_asked_and_answered_is_what_is_heard() {
        let of = VolumeUse {
            volume: VolumeId::generate(),
            machine: MachineId::generate(),
            taken: Some(Timestamp::now()),
        };
        for asking in [Asking::Anew, Asking::Again, Asking::Lost] {
            let asked = TargetRequest(of.clone(), asking);
            let mut sent = asked.to_bytes().unwrap();
            assert_eq!(TargetRequest::of_bytes(&sent), Some(asked));
            sent[VOLUME_REQUEST_BYTES] = b'x';
            assert_eq!(TargetRequest::of_bytes(&sent), None);
        }
        let target = VolumeTarget {
            portal: "192.0.2.1:3260".parse().unwrap(),
            target: "iqn.a".to_owned(),
            initiator: "iqn.b".to_owned(),
            user: "u".to_owned(),
            secret: "hush".to_owned(),
        };
        assert!(!format!("{target:?}").contains("hush"));
        for answer in [TargetAnswer(None), TargetAnswer(Some(target))] {
            let sent = answer.to_bytes().unwrap();
            let (length, rest) = sent.split_first_chunk().unwrap();
            assert_eq!(TargetAnswer::length(*length), Some(rest.len()));
            assert_eq!(TargetAnswer::of_bytes(rest), Some(answer));
        }
        assert_eq!(TargetAnswer::length([0, 0, 0x10, 1]), None);
    }
}
