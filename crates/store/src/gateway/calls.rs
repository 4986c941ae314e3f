//! Reading, and what keys and documents are called.

use bytes::Bytes;
use tonic::Status;

use super::{Peer, Shared, leases, status};
use crate::etcd::keyspace::{lease_number, number};
use crate::etcd::wire::{
    Header, HeaderResponse, KeyValue, PutRequest, RangeRequest, RangeResponse,
};
use crate::{Entry, Key, Prefix, Range, Revision};

/// Where the marks of transactions are that may have an unknown outcome (see `etcd::slots`).
pub(super) const SLOTS: &str = "GatewaySlot";

/// Collections that only gateways know.
pub(super) fn is_own(key: &Key) -> bool {
    matches!(key.collection(), SLOTS | leases::OWNERS)
}

pub(super) fn failed(error: crate::StoreError) -> Status {
    status::of(&error)
}

pub(super) fn header(at: Revision) -> Option<Header> {
    Some(Header {
        revision: number(at),
    })
}

impl Shared {
    pub(super) fn sees(&self, peer: &Peer, entry: &Entry) -> bool {
        let Peer::Named(name) = peer else {
            return !is_own(&entry.key);
        };
        !is_own(&entry.key)
            && (peer.is_among(&self.rules.audience(&entry.key, &entry.value))
                || self.hub.is_referred(&entry.key, name))
    }

    pub(super) fn found(&self, key: Bytes, entry: Entry) -> KeyValue {
        KeyValue {
            key,
            create_revision: number(entry.created),
            mod_revision: number(entry.revision),
            value: entry.value,
            lease: entry.lease.map_or(0, lease_number),
        }
    }

    /// The store's name of a key as clients name it, and whether it is a slot, and under which lease.
    pub(super) fn name(&self, key: &[u8]) -> Result<(Key, Option<i64>), Status> {
        if let Some(document) = self.keys.document(key) {
            return if is_own(&document) {
                Err(status::denied("that collection is the gateway's own"))
            } else {
                Ok((document, None))
            };
        }
        let (session, slot) = self
            .keys
            .session(key)
            .ok_or_else(|| Status::invalid_argument("that is no key of a document"))?;
        let id = format!("{session:016x}-{slot}");
        let name =
            Key::new(SLOTS, &id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok((name, Some(session)))
    }
}

pub(super) async fn range(
    shared: &Shared,
    peer: &Peer,
    asked: RangeRequest,
) -> Result<RangeResponse, Status> {
    if asked.revision != 0 || asked.count_only || asked.keys_only || asked.min_create_revision != 0
    {
        return Err(status::unusual(
            "reading the past, or keys or numbers alone",
        ));
    }
    let one = asked.range_end.is_empty();
    let range = if one {
        let (key, slot) = shared.name(&asked.key)?;
        if slot.is_some() {
            return Err(status::denied("slots are read in transactions only"));
        }
        Range::one(&key)
    } else {
        let bounds = shared.keys.bounds(&asked.key, &asked.range_end);
        let (from, to) =
            bounds.ok_or_else(|| Status::invalid_argument("that is no range of documents"))?;
        Range::texts(from, to)
    };
    let most = usize::try_from(asked.limit).ok().filter(|most| *most > 0);
    let most = most.unwrap_or(usize::MAX);
    let (entries, at) = match peer {
        Peer::Trusted => {
            // What is the gateway's own must not count: so all of the range is read, whatever the limit.
            let page = shared.store.range(range).await.map_err(failed)?;
            let mut entries = page.entries;
            entries.retain(|entry| shared.sees(peer, entry));
            (entries, page.revision)
        }
        Peer::Named(name) => seen_in(shared, peer, name, &range, most).await?,
    };
    let more = entries.len() > most;
    let kvs: Vec<_> = entries
        .into_iter()
        .take(most)
        .map(|entry| shared.found(shared.keys.key(&entry.key), entry))
        .collect();
    Ok(RangeResponse {
        header: header(at),
        count: i64::try_from(kvs.len()).unwrap_or(i64::MAX),
        kvs,
        more,
    })
}

/// What a peer sees by name in a range, one more than it asks for, each not older than the revision that is told: what
/// happens to it later, a watch from there on tells.
async fn seen_in(
    shared: &Shared,
    peer: &Peer,
    name: &str,
    range: &Range,
    most: usize,
) -> Result<(Vec<Entry>, Revision), Status> {
    let at = newest(shared).await?;
    shared.hub.reach(at).await?;
    let keys = shared.hub.between(name, range.from(), range.to());
    let mut entries = Vec::new();
    for key in keys {
        if entries.len() > most {
            break;
        }
        let now = shared.store.get(&key).await.map_err(failed)?;
        entries.extend(now.filter(|now| shared.sees(peer, now)));
    }
    Ok((entries, at))
}

/// How far the store is.
async fn newest(shared: &Shared) -> Result<Revision, Status> {
    let nothing = Range::prefix(&Prefix::everything()).limit(0);
    Ok(shared.store.range(nothing).await.map_err(failed)?.revision)
}

/// The sign of progress (see `etcd::watching`): tells those who watch how far the store is, in order, and writes nothing.
pub(super) async fn progress(
    shared: &Shared,
    peer: &Peer,
    asked: PutRequest,
) -> Result<HeaderResponse, Status> {
    if asked.key != shared.keys.progress() {
        return Err(status::unusual("writing outside a transaction"));
    }
    if let Some(trouble) = shared.store.trouble() {
        return Err(status::of(&trouble));
    }
    let at = newest(shared).await?;
    shared.hub.tell_progress(peer, at).await;
    Ok(HeaderResponse { header: header(at) })
}
