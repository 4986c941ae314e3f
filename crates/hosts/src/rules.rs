//! Who sees a document, and which changes are looked at. What isn't allowed by name is refused.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use cimi::{
    HostId, Timestamp,
    lifecycle::Moving,
    resources::{Host, HostPulse, Machine, Resource},
};
use documents::{Documents, DocumentsError, step};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use store::{Audience, Key, Permit, Refusal, Revision, Rules, Transaction, Write};

use crate::{allowance::Allowance, machine, own, said::Said};

/// How many runs of its machines a host may end at once, as when it was switched off, and how often another one after that: those
/// that begin again by themselves rest in between.
pub(crate) const ENDS_AT_ONCE: u32 = 2000;
pub(crate) const ENDS_EVERY: Duration = Duration::from_secs(10);
/// Hosts that are remembered before those are forgotten that have everything left.
const HOSTS_KNOWN: usize = 1000;

/// The rules of hosts. A host is a peer named as the local part of its [`HostId`].
#[derive(Clone, Debug)]
pub struct HostRules {
    documents: Documents,
    /// How many runs hosts may still end.
    ends: Arc<Mutex<HashMap<HostId, Allowance>>>,
}

impl HostRules {
    /// Over all documents: of these is made what follows from what a host writes.
    #[must_use]
    pub fn of(documents: Documents) -> Self {
        Self {
            documents,
            ends: Arc::default(),
        }
    }

    /// Takes the end of a run from what its host has left.
    fn spend_end(&self, before: &Machine, then: &Machine) -> Result<(), Refusal> {
        let Some(host) = before.host.as_ref().filter(|_| ends_a_run(before, then)) else {
            return Ok(());
        };
        let (mut all, now) = (self.ends.lock(), Instant::now());
        if all.len() >= HOSTS_KNOWN {
            all.retain(|_, one| !one.is_whole(now));
        }
        let allowance = all.entry(host.clone()).or_insert(Allowance::whole(now));
        if allowance.take(now) {
            return Ok(());
        }
        Err(Refusal::TooMany(format!(
            "{host} ends too many runs: each is accounted for, and {ENDS_AT_ONCE} are taken at once, then one every {} s",
            ENDS_EVERY.as_secs()
        )))
    }
}

/// Whether a run of a machine ends, or one use of it: what is written of that is kept for years. The removal of a machine is
/// bounded by what is wanted.
fn ends_a_run(before: &Machine, then: &Machine) -> bool {
    before.running_since.is_some() && then.running_since != before.running_since
}

/// All that says who sees a machine. The gateway asks for every document that changes: the rest is skipped, not kept.
#[derive(Deserialize)]
struct Placed {
    host: Option<HostId>,
    #[serde(default, rename = "leftOn")]
    left_on: Vec<HostId>,
    desired: Wanted,
}

#[derive(Deserialize)]
struct Wanted {
    moving: Option<Moving>,
}

#[async_trait]
impl Rules for HostRules {
    fn audience(&self, key: &Key, value: &[u8]) -> Audience {
        match key.collection() {
            Machine::COLLECTION => match serde_json::from_slice(value) {
                Ok(Placed {
                    host,
                    left_on,
                    desired,
                }) => {
                    let to = desired.moving.and_then(|moving| moving.to);
                    let all = left_on.iter().chain(&host).chain(&to);
                    let all: Vec<Arc<str>> = all.map(|host| host.local().into()).collect();
                    match all.is_empty() {
                        true => Audience::Nobody,
                        false => Audience::Peers(all.into()),
                    }
                }
                Err(_) => Audience::Nobody,
            },
            Host::COLLECTION | HostPulse::COLLECTION => Audience::peer(key.id()),
            _ => Audience::Nobody,
        }
    }

    fn refers(&self, key: &Key, value: &[u8]) -> Vec<Key> {
        if key.collection() != Machine::COLLECTION {
            return Vec::new();
        }
        let machine = serde_json::from_slice::<Machine>(value);
        machine.map_or_else(|_| Vec::new(), |machine| machine::needs(&machine))
    }

    fn may_write(
        &self,
        peer: &str,
        key: &Key,
        now: Option<&Bytes>,
        then: Option<&Bytes>,
    ) -> Result<Permit, String> {
        if key.collection() == HostPulse::COLLECTION && key.id() == peer {
            // Its own to make and to end, at any time.
            if let Some(then) = then {
                own::may_beat(key, &written(key, then)?)?;
            }
            return Ok(Permit::AsSaid);
        }
        let (now, then) = match (now, then) {
            (Some(now), Some(then)) => (now, then),
            (Some(now), None) if key.collection() == Machine::COLLECTION => {
                machine::may_end(peer, &read(key, now)?)?;
                return Ok(Permit::AsSaid);
            }
            _ => return Err(format!("a host neither makes nor removes {key}")),
        };
        match key.collection() {
            Machine::COLLECTION => {
                let (now, then): (Machine, Said<Machine>) =
                    (read(key, now)?, Said::read(key, then)?);
                // First of all: it begins anew only when nothing is left.
                let allowed = if machine::is_left_on(peer, &now) {
                    machine::may_leave(peer, &now, &then)
                } else if machine::is_on_its_way_to(peer, &now) {
                    machine::may_await(peer, &now, &then)
                } else {
                    machine::may_report(peer, &now, &then)
                };
                allowed.map(|value| Permit::Instead(value.into()))
            }
            Host::COLLECTION if key.id() == peer => {
                let allowed = own::may_report(&read(key, now)?, &Said::read(key, then)?);
                allowed.map(|value| Permit::Instead(value.into()))
            }
            _ => Err(format!("{key} is not a host's to write")),
        }
    }

    async fn follows(
        &self,
        writes: &[Write<'_>],
        newest: Revision,
    ) -> Result<Transaction, Refusal> {
        let unavailable = |error: DocumentsError| Refusal::Unavailable(error.to_string());
        let mut all = Transaction::new();
        for write in writes {
            let Some(now) = write.now else { continue };
            if write.key.collection() != Machine::COLLECTION {
                continue;
            }
            let known = self.documents.wait_for(newest).await;
            known.map_err(|error| unavailable(error.into()))?;
            let now: Machine = read(write.key, &now.value).map_err(Refusal::Denied)?;
            let then = write.then.map(|then| read::<Machine>(write.key, then));
            let then = then.transpose().map_err(Refusal::Denied)?;
            if let Some(then) = &then {
                machine::is_of_now(&now, then, Timestamp::now()).map_err(Refusal::Denied)?;
                self.spend_end(&now, then)?;
            }
            let follows = step::follows(&self.documents, &now, then.as_ref());
            all = all.and(follows.map_err(unavailable)?);
        }
        Ok(all)
    }
}

pub(crate) fn read<R: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<R, String> {
    serde_json::from_slice(value).map_err(|error| format!("{key} can't be read: {error}"))
}

/// A pulse that a host sends: exactly as long as it is when we write it, so that it isn't filled up with what its
/// readers skip (spaces, a member twice). Not compared byte by byte: another version may order its fields otherwise.
fn written<R: Resource + DeserializeOwned>(key: &Key, value: &[u8]) -> Result<R, String> {
    let document: R = read(key, value)?;
    match serde_json::to_vec(&document) {
        Ok(bytes) if bytes.len() == value.len() => Ok(document),
        _ => Err(format!("{key} is not written as documents are")),
    }
}
