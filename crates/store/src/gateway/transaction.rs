//! Transactions: what was asked for, whether it is allowed, and what came of it.

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

use super::calls::{Slot, failed, header};
use super::{Peer, Permit, Refusal, Shared, Write, leases, status};
use crate::etcd::keyspace::{number, revision};
use crate::etcd::wire::{
    self, DeleteRangeResponse, Header, HeaderResponse, KeyValue, RangeResponse, RequestOp,
    Response, ResponseOp, TxnRequest, TxnResponse, comparison,
};
use crate::{Condition, Conflict, Entry, Key, LeaseId, Operation, Outcome, Revision, Transaction};

/// One that no store ever gives.
const NO_LEASE: LeaseId = LeaseId(i64::MAX.unsigned_abs());
/// What never holds.
const NEVER: Condition = Condition::RevisionIs(Revision(i64::MAX.unsigned_abs()));
/// The longest mark of a transaction that may have an unknown outcome, in bytes, and how many of them a lease has: clients use
/// as many as they write at once.
const MARK_BYTES: usize = 64;
const SLOTS_OF_A_LEASE: u64 = 4096;
/// How often a transaction is done anew because what it writes was changed while it was looked at.
const MAX_ATTEMPTS: u32 = 32;

/// A transaction as it was asked for, with the names the store knows.
struct Asked {
    /// As clients name the keys of `compares`.
    names: Vec<(Bytes, Key)>,
    compares: Vec<crate::Compare>,
    operations: Vec<Operation>,
    /// Of `operations`, which are documents.
    documents: Vec<bool>,
}

pub(super) async fn answer(
    shared: &Shared,
    peer: &Peer,
    asked: TxnRequest,
) -> Result<TxnResponse, Status> {
    shared.allowances.spend(peer, asked.encoded_len())?;
    let asked = read(shared, peer, asked).await?;
    let hidden = hidden(shared, peer, &asked).await?;
    let mut attempts = 0;
    // What follows from it must not be made of anything older.
    let mut newest = Revision::ZERO;
    loop {
        let mut transaction = Transaction::new();
        for compare in &asked.compares {
            let condition = match hidden.contains(&compare.key) {
                true => NEVER,
                false => compare.condition,
            };
            transaction = transaction.compare(&compare.key, condition);
        }
        let mut existed = Vec::with_capacity(asked.operations.len());
        let mut written: Vec<(Operation, Option<Entry>)> = Vec::new();
        let mut guards: Vec<Key> = Vec::new();
        for (operation, is_document) in asked.operations.iter().zip(&asked.documents) {
            let looked_at = match (peer, operation) {
                (Peer::Named(_), _) if *is_document => true,
                (_, Operation::Delete { .. }) => true,
                (_, Operation::Put { .. }) => false,
            };
            let now = match looked_at {
                true => shared.store.get(operation.key()).await.map_err(failed)?,
                false => None,
            };
            existed.push(now.is_some());
            let mut operation = operation.clone();
            if let Peer::Named(name) = peer
                && *is_document
            {
                let at = now.as_ref().map_or(Revision::ZERO, |now| now.revision);
                // What it thinks is there isn't: told as a conflict, which writes nothing.
                let stale = asked.compares.iter().any(|compare| {
                    compare.key == *operation.key() && !compare.condition.holds(at_of(&now))
                });
                guards.push(operation.key().clone());
                transaction = transaction.revision_is(operation.key(), at);
                if !stale {
                    operation = permitted(shared, peer, name, operation, now.as_ref())?;
                    newest = newest.max(at);
                    written.push((operation.clone(), now));
                }
            }
            transaction = transaction.operation(operation);
        }
        transaction = transaction.and(follows(shared, peer, &written, newest).await?);
        match shared.store.commit(transaction).await.map_err(failed)? {
            Outcome::Committed(at) => return Ok(done(at, &asked, &existed)),
            Outcome::Conflict(conflicts) => {
                forbid_hidden(shared, peer, &asked, &conflicts)?;
                let theirs = conflicts.iter().any(|conflict| {
                    let now = conflict.current.as_ref();
                    let now = now.filter(|now| !shared.hides(peer, now));
                    asked.compares.iter().any(|compare| {
                        compare.key == conflict.key
                            && !compare.condition.holds(now.map(|now| now.revision))
                    })
                });
                let found = conflicts.iter().filter_map(|one| at_of(&one.current));
                newest = found.fold(newest, Revision::max);
                attempts += 1;
                if theirs {
                    return Ok(undone(shared, peer, &asked, conflicts));
                }
                if attempts == MAX_ATTEMPTS {
                    let contended = format!("no leader: {guards:?} kept being changed by others");
                    return Err(Status::unavailable(contended));
                }
            }
        }
    }
}

/// What is written with what a peer writes.
async fn follows(
    shared: &Shared,
    peer: &Peer,
    written: &[(Operation, Option<Entry>)],
    newest: Revision,
) -> Result<Transaction, Status> {
    if written.is_empty() {
        return Ok(Transaction::new());
    }
    let writes: Vec<Write<'_>> = written
        .iter()
        .map(|(operation, now)| Write {
            key: operation.key(),
            now: now.as_ref(),
            then: then(operation),
        })
        .collect();
    match shared.rules.follows(&writes, newest).await {
        Ok(follows) => Ok(follows),
        Err(Refusal::Denied(reason)) => {
            tracing::warn!(%peer, reason, "a write was refused");
            Err(status::denied(reason))
        }
        Err(Refusal::Unavailable(reason)) => {
            Err(Status::unavailable(format!("no leader: {reason}")))
        }
        Err(Refusal::TooMany(reason)) => {
            tracing::warn!(%peer, reason, "a write is put off");
            Err(status::too_many(&reason))
        }
    }
}

/// What is to be there.
fn then(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::Put { value, .. } => Some(value),
        Operation::Delete { .. } => None,
    }
}

/// What is compared, and only that, and is there without being shown to the peer: to it, no demand that it be there holds.
async fn hidden(shared: &Shared, peer: &Peer, asked: &Asked) -> Result<Vec<Key>, Status> {
    let mut hidden = Vec::new();
    if *peer == Peer::Trusted {
        return Ok(hidden);
    }
    for compare in &asked.compares {
        let mut written = asked.operations.iter().map(Operation::key);
        if compare.condition.holds(None) || written.any(|key| *key == compare.key) {
            // Looked at when it is written, or, if it demands that nothing be there, when it is told.
            continue;
        }
        let now = shared.store.get(&compare.key).await.map_err(failed)?;
        if now.is_some_and(|now| shared.hides(peer, &now)) {
            hidden.push(compare.key.clone());
        }
    }
    Ok(hidden)
}

/// To whom it isn't shown, a document isn't there; so that nothing is to be there can't be answered then.
fn forbid_hidden(
    shared: &Shared,
    peer: &Peer,
    asked: &Asked,
    conflicts: &[Conflict],
) -> Result<(), Status> {
    let hidden = |conflict: &Conflict| {
        let there = conflict.current.as_ref();
        there.is_some_and(|now| shared.hides(peer, now))
            && asked
                .compares
                .iter()
                .any(|compare| compare.key == conflict.key && compare.condition.holds(None))
    };
    match conflicts.iter().find(|conflict| hidden(conflict)) {
        Some(conflict) => Err(status::denied(format!("{} is not its own", conflict.key))),
        None => Ok(()),
    }
}

fn at_of(entry: &Option<Entry>) -> Option<Revision> {
    entry.as_ref().map(|entry| entry.revision)
}

/// What is done of what the peer wants, which sees what is there, and may do that.
fn permitted(
    shared: &Shared,
    peer: &Peer,
    name: &str,
    operation: Operation,
    now: Option<&Entry>,
) -> Result<Operation, Status> {
    let refuse = |key: &Key, reason: String| {
        tracing::warn!(peer = name, %key, reason, "a write was refused");
        Err(status::denied(format!(
            "{name} may not write {key}: {reason}"
        )))
    };
    let key = operation.key();
    if now.is_some_and(|now| !shared.sees(peer, now)) {
        // As if it wasn't there, except that it can't be made.
        return refuse(key, "it is not its own".to_owned());
    }
    let before = now.map(|now| &now.value);
    let permit = match (before, then(&operation)) {
        (None, None) => Permit::AsSaid,
        (before, then) => match shared.rules.may_write(name, key, before, then) {
            Ok(permit) => permit,
            Err(reason) => return refuse(key, reason),
        },
    };
    match (permit, operation) {
        (Permit::Instead(value), Operation::Put { key, lease, .. }) => match lease {
            None => Ok(Operation::Put { key, value, lease }),
            // By ending it the peer would remove the document, and nobody would be asked.
            Some(_) => refuse(&key, "it doesn't end with a lease".to_owned()),
        },
        (_, operation) => Ok(operation),
    }
}

async fn read(shared: &Shared, peer: &Peer, asked: TxnRequest) -> Result<Asked, Status> {
    let mut read = Asked {
        names: Vec::new(),
        compares: Vec::new(),
        operations: Vec::new(),
        documents: Vec::new(),
    };
    for compare in asked.compare {
        let (key, slot) = shared.name(&compare.key)?;
        require_slot(shared, peer, slot).await?;
        let condition = match (compare.result, compare.revision_compared()) {
            (comparison::EQUAL, Some(at)) if at >= 0 => Condition::RevisionIs(revision(at)),
            (comparison::GREATER, Some(0)) => Condition::Present,
            _ => return Err(status::unusual("that comparison")),
        };
        read.names.push((compare.key, key.clone()));
        read.compares.push(crate::Compare { key, condition });
    }
    for one in asked.success {
        let (mut operation, slot) = operation(shared, one)?;
        require_slot(shared, peer, slot).await?;
        require_mark(peer, &operation, slot)?;
        // Whether a lease exists is for the store to tell, after a conflict: another's doesn't.
        if let Operation::Put { lease, .. } = &mut operation
            && let Some(named) = *lease
        {
            match leases::require(shared, peer, named).await {
                Err(refused) if refused.code() == Code::NotFound => *lease = Some(NO_LEASE),
                asked => asked?,
            }
        }
        read.documents.push(slot.is_none());
        read.operations.push(operation);
    }
    let asks_for = |one: &RequestOp| match &one.request {
        Some(wire::Request::Range(range)) => {
            range.range_end.is_empty() && read.names.iter().any(|(name, _)| *name == range.key)
        }
        _ => false,
    };
    if !asked.failure.iter().all(asks_for) {
        return Err(status::unusual(
            "doing other things if comparisons don't hold than reading what was compared",
        ));
    }
    Ok(read)
}

/// That a slot's session is the peer's own.
async fn require_slot(shared: &Shared, peer: &Peer, slot: Option<Slot>) -> Result<(), Status> {
    match slot {
        Some(slot) => leases::require(shared, peer, leases::lease(slot.session)?).await,
        None => Ok(()),
    }
}

/// That what is written to a slot is a mark, and ends with its session.
fn require_mark(peer: &Peer, operation: &Operation, slot: Option<Slot>) -> Result<(), Status> {
    match (peer, slot, operation) {
        (Peer::Named(_), Some(slot), Operation::Put { value, lease, .. })
            if value.len() > MARK_BYTES
                || slot.number > SLOTS_OF_A_LEASE
                || *lease != leases::lease(slot.session).ok() =>
        {
            Err(status::denied("a slot has a mark, under its own lease"))
        }
        _ => Ok(()),
    }
}

fn operation(shared: &Shared, one: RequestOp) -> Result<(Operation, Option<Slot>), Status> {
    match one.request {
        Some(wire::Request::Put(put)) => {
            let (key, slot) = shared.name(&put.key)?;
            let lease = match put.lease {
                0 => None,
                // One that can't be is one that has ended.
                number => Some(leases::lease(number).unwrap_or(NO_LEASE)),
            };
            let operation = Operation::Put {
                key,
                value: put.value,
                lease,
            };
            Ok((operation, slot))
        }
        Some(wire::Request::DeleteRange(gone)) if gone.range_end.is_empty() => {
            let (key, slot) = shared.name(&gone.key)?;
            Ok((Operation::Delete { key }, slot))
        }
        _ => Err(status::unusual("that operation in a transaction")),
    }
}

fn done(at: Revision, asked: &Asked, existed: &[bool]) -> TxnResponse {
    let response = |(operation, existed): (&Operation, &bool)| match operation {
        Operation::Put { .. } => Response::Put(HeaderResponse { header: header(at) }),
        Operation::Delete { .. } => Response::DeleteRange(DeleteRangeResponse {
            deleted: i64::from(*existed),
        }),
    };
    TxnResponse {
        header: header(at),
        succeeded: true,
        responses: asked
            .operations
            .iter()
            .zip(existed)
            .map(response)
            .map(|response| ResponseOp {
                response: Some(response),
            })
            .collect(),
    }
}

/// What is there instead; of what is as it should be, that it is.
fn undone(shared: &Shared, peer: &Peer, asked: &Asked, conflicts: Vec<Conflict>) -> TxnResponse {
    let mut responses = Vec::with_capacity(asked.compares.len());
    let mut told: Vec<&Key> = Vec::new();
    for ((name, key), compare) in asked.names.iter().zip(&asked.compares) {
        if told.contains(&key) {
            continue;
        }
        told.push(key);
        let conflict = conflicts.iter().find(|conflict| conflict.key == *key);
        let kv = match conflict {
            Some(conflict) => conflict
                .current
                .clone()
                .filter(|now| !shared.hides(peer, now))
                .map(|now| shared.found(name.clone(), now)),
            None => match compare.condition {
                Condition::Absent | Condition::RevisionIs(Revision::ZERO) => None,
                Condition::RevisionIs(at) => Some(unchanged(name, at)),
                Condition::Present => Some(unchanged(name, Revision(1))),
            },
        };
        let found = RangeResponse {
            kvs: kv.into_iter().collect(),
            ..RangeResponse::default()
        };
        responses.push(ResponseOp {
            response: Some(Response::Range(found)),
        });
    }
    TxnResponse {
        header: Some(Header::default()),
        succeeded: false,
        responses,
    }
}

fn unchanged(name: &Bytes, at: Revision) -> KeyValue {
    KeyValue {
        key: name.clone(),
        mod_revision: number(at),
        ..KeyValue::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::etcd::wire::LeaseGrantRequest;
    use crate::gateway::{Audience, Gateway, Rules};
    use crate::{Prefix, Range, SharedStore, SqliteStore};

    /// Nobody sees or writes a document.
    struct NoDocuments;

    impl Rules for NoDocuments {
        fn audience(&self, _: &Key, _: &[u8]) -> Audience {
            Audience::Nobody
        }

        fn may_write(
            &self,
            _: &str,
            _: &Key,
            _: Option<&Bytes>,
            _: Option<&Bytes>,
        ) -> Result<Permit, String> {
            Err("nobody may".to_owned())
        }
    }

    #[tokio::test]
    async fn slots_hold_marks_that_end_with_their_session_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let gateway = Gateway::open(store.clone(), Arc::new(NoDocuments))
            .await
            .unwrap();
        let (shared, peer) = (&gateway.shared, Peer::named("one"));
        let granted = leases::grant(shared, &peer, LeaseGrantRequest { ttl: 60 });
        let session = granted.await.unwrap().id;
        let put = async |number, mark: Vec<u8>, lease| {
            let slot = shared.keys.slot(session, number);
            let asked = TxnRequest {
                success: vec![RequestOp::put(slot, mark.into(), lease)],
                ..TxnRequest::default()
            };
            answer(shared, &peer, asked).await
        };
        assert!(put(1, b"1".to_vec(), session).await.unwrap().succeeded);
        for (what, number, bytes, lease) in [
            ("a document", 2, 10_000, session),
            ("what stays for ever", 3, 1, 0),
            ("one of very many", 1_000_000, 1, session),
        ] {
            let refused = put(number, vec![b'1'; bytes], lease).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{what}");
        }
        let slots = Range::prefix(&Prefix::collection("GatewaySlot").unwrap());
        assert_eq!(store.range(slots).await.unwrap().entries.len(), 1);
    }
}
