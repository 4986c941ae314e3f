//! Reading, and what keys and documents are called.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Status;

use super::{Peer, Shared, leases, status};
use crate::etcd::keyspace::{lease_number, number};
use crate::etcd::wire::{
    Header, HeaderResponse, KeyValue, PutRequest, RangeRequest, RangeResponse,
};
use crate::{Entry, Key, Page, Prefix, Range, Revision, StoreError};

/// Where the marks of transactions are that may have an unknown outcome (see `etcd::slots`).
const SLOTS: &str = "GatewaySlot";

/// How many documents of a peer are read at once.
const AT_ONCE: usize = 16;
/// How often it is read what came into a peer's sight while the rest was read.
const ROUNDS: u32 = 8;

/// A slot of a client: its lease, and which of those under this lease it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) session: i64,
    pub(super) number: u64,
}

/// Collections that only gateways know.
pub(super) fn is_own(key: &Key) -> bool {
    matches!(key.collection(), SLOTS | leases::OWNERS)
}

pub(super) fn failed(error: StoreError) -> Status {
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

    /// Whether it is there for others alone.
    pub(super) fn hides(&self, peer: &Peer, entry: &Entry) -> bool {
        entry.key.collection() != SLOTS && !self.sees(peer, entry)
    }

    /// The store's name of a key as clients name it, and which slot it is, if it is one.
    pub(super) fn name(&self, key: &[u8]) -> Result<(Key, Option<Slot>), Status> {
        if let Some(document) = self.keys.document(key) {
            return if is_own(&document) {
                Err(status::denied("that collection is the gateway's own"))
            } else {
                Ok((document, None))
            };
        }
        let (session, number) = self
            .keys
            .session(key)
            .ok_or_else(|| Status::invalid_argument("that is no key of a document"))?;
        let id = format!("{session:016x}-{number}");
        let name =
            Key::new(SLOTS, &id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok((name, Some(Slot { session, number })))
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
    let page = if one {
        let (key, slot) = shared.name(&asked.key)?;
        if slot.is_some() {
            return Err(status::denied("slots are read in transactions only"));
        }
        shared.store.range(Range::one(&key)).await
    } else {
        let bounds = shared.keys.bounds(&asked.key, &asked.range_end);
        let (from, to) =
            bounds.ok_or_else(|| Status::invalid_argument("that is no range of documents"))?;
        several(shared, peer, from, to).await
    };
    let page = page.map_err(failed)?;
    // Who sees what because of another document, the hub knows.
    if *peer != Peer::Trusted && !shared.hub.reach(page.revision).await {
        return Err(failed(StoreError::Closed));
    }
    let most = usize::try_from(asked.limit).ok().filter(|most| *most > 0);
    let mut seen = page
        .entries
        .into_iter()
        .filter(|entry| shared.sees(peer, entry));
    let kvs = seen
        .by_ref()
        .take(most.unwrap_or(usize::MAX))
        .map(|entry| shared.found(shared.keys.key(&entry.key), entry))
        .collect::<Vec<_>>();
    let more = seen.next().is_some();
    Ok(RangeResponse {
        header: header(page.revision),
        count: i64::try_from(kvs.len()).unwrap_or(i64::MAX),
        kvs,
        more,
    })
}

/// At least all documents from one text up to another that `peer` sees, all as they were at one moment, whatever the limit:
/// what is left out must not count.
///
/// Of a peer by name no others are read: it sees few of many, and the hub knows which. They are read one by one; what is
/// written meanwhile, the hub remembers.
async fn several(
    shared: &Shared,
    peer: &Peer,
    from: String,
    to: Option<String>,
) -> Result<Page, StoreError> {
    let Peer::Named(name) = peer else {
        return shared.store.range(Range::texts(from, to)).await;
    };
    let lost = || StoreError::Unavailable {
        endpoints: String::new(),
        doing: "reading",
        reason: format!("what {name} sees changes faster than it is read"),
    };
    let view = (&**name, &*from, to.as_deref());
    if !shared.hub.reach(now(shared).await?).await {
        return Err(lost());
    }
    let (since, mut unread) = shared.hub.seen_by(view);
    let mut read: HashMap<Key, Entry> = HashMap::new();
    for _ in 0..ROUNDS {
        let reading = unread.into_iter().map(|key| {
            let store = shared.store.clone();
            async move { store.get(&key).await }
        });
        let mut reading = stream::iter(reading).buffered(AT_ONCE);
        while let Some(entry) = reading.try_next().await? {
            read.extend(entry.map(|entry| (entry.key.clone(), entry)));
        }
        // Then nothing that was read is newer than what the hub knows.
        if !shared.hub.reach(now(shared).await?).await {
            break;
        }
        let Some((revision, seen)) = shared.hub.written_since(since, view) else {
            break;
        };
        let mut entries = Vec::with_capacity(seen.len());
        unread = Vec::new();
        for (key, written) in seen {
            match written.or_else(|| read.get(&key).cloned()) {
                Some(entry) => entries.push(entry),
                None => unread.push(key),
            }
        }
        if unread.is_empty() {
            return Ok(Page {
                entries,
                revision,
                more: false,
            });
        }
    }
    Err(lost())
}

/// The revision that the store is at.
async fn now(shared: &Shared) -> Result<Revision, StoreError> {
    let nothing = Range::prefix(&Prefix::everything()).limit(0);
    Ok(shared.store.range(nothing).await?.revision)
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
    let at = now(shared).await.map_err(failed)?;
    shared.hub.tell_progress(peer, at).await;
    Ok(HeaderResponse { header: header(at) })
}
