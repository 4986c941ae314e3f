//! Who sees a document, and which changes are looked at. What isn't allowed by name is refused.

use bytes::Bytes;
use cimi::{
    HostId,
    resources::{Host, HostPulse, Machine, Resource},
};
use serde::{Deserialize, de::DeserializeOwned};
use store::{Audience, Key, Rules};

use crate::{machine, own};

/// The rules of hosts. A host is a peer named as the local part of its [`HostId`].
#[derive(Clone, Copy, Debug, Default)]
pub struct HostRules;

/// All that says who sees a machine. The gateway asks for every document that changes: the rest is skipped, not kept.
#[derive(Deserialize)]
struct Placed {
    host: Option<HostId>,
}

impl Rules for HostRules {
    fn audience(&self, key: &Key, value: &[u8]) -> Audience {
        match key.collection() {
            Machine::COLLECTION => match serde_json::from_slice(value) {
                Ok(Placed { host: Some(host) }) => Audience::peer(host.local()),
                _ => Audience::Nobody,
            },
            Host::COLLECTION | HostPulse::COLLECTION => Audience::peer(key.id()),
            _ => Audience::Nobody,
        }
    }

    fn may_write(
        &self,
        peer: &str,
        key: &Key,
        now: Option<&Bytes>,
        then: Option<&Bytes>,
    ) -> Result<(), String> {
        if key.collection() == HostPulse::COLLECTION && key.id() == peer {
            // Its own to make and to end, at any time.
            return then.map_or(Ok(()), |then| own::may_beat(key, &written(key, then)?));
        }
        let (Some(now), Some(then)) = (now, then) else {
            return Err(format!("a host neither makes nor removes {key}"));
        };
        match key.collection() {
            Machine::COLLECTION => {
                machine::may_report(peer, &read(key, now)?, &written(key, then)?)
            }
            Host::COLLECTION if key.id() == peer => {
                own::may_report(&read(key, now)?, &written(key, then)?)
            }
            _ => Err(format!("{key} is not a host's to write")),
        }
    }
}

fn read<R: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<R, String> {
    serde_json::from_slice(value).map_err(|error| format!("{key} can't be read: {error}"))
}

/// A document that a host sends: exactly as long as it is when we write it, so that it isn't filled up with what its
/// readers skip (spaces, a member twice). Not compared byte by byte: another version may order its fields otherwise.
fn written<R: Resource + DeserializeOwned>(key: &Key, value: &[u8]) -> Result<R, String> {
    let document: R = read(key, value)?;
    match serde_json::to_vec(&document) {
        Ok(bytes) if bytes.len() == value.len() => Ok(document),
        _ => Err(format!("{key} is not written as documents are")),
    }
}
