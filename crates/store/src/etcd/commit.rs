//! One transaction of ours as one of etcd's.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::time::Instant;

use super::failure::{Failure, Refusal};
use super::keyspace::{Keyspace, lease_number, number, revision};
use super::leases;
use super::members::Members;
use super::slots::{Slot, Slots, Verdict};
use super::wire::{
    Compare, KeyValue, RequestOp, Response, TxnRequest, TxnResponse, comparison, path,
};
use crate::{Condition, Conflict, Key, LeaseId, MAX_OPERATIONS, Operation, Outcome, Transaction};

/// What a commit came to.
#[derive(Debug)]
pub(super) enum Done {
    /// As the trait says, and whether something was written.
    Outcome { outcome: Outcome, wrote: bool },
    /// A key should be attached to a lease that is gone.
    LeaseNotFound(LeaseId),
}

/// Why one isn't done.
#[derive(Debug)]
pub(super) enum Undone {
    /// Nothing was changed.
    Nothing(Failure),
    /// It may have happened.
    InDoubt(Failure),
}

/// Do `transaction`, which is valid.
pub(super) async fn commit(
    members: &Members,
    keys: &Keyspace,
    slots: &Slots,
    transaction: &Transaction,
) -> Result<Done, Undone> {
    let until = Instant::now() + members.deadline;
    loop {
        let mut slot = match has_room_for_slot(transaction) {
            true => Some(slots.take().await.map_err(Undone::Nothing)?),
            false => None,
        };
        let request = request(keys, transaction, slot.as_ref());
        let answer: Result<TxnResponse, _> = members.once(path::TXN, &request, until).await;
        match answer {
            Ok(answer) => match read(keys, transaction, slot.as_mut(), answer) {
                Some((outcome, wrote)) => {
                    slot.into_iter().for_each(|slot| slots.put_back(slot));
                    return Ok(Done::Outcome { outcome, wrote });
                }
                // The slot was not as we thought. Now it is.
                None => slot.into_iter().for_each(|slot| slots.put_back(slot)),
            },
            Err(Failure::Unknown(reason)) => {
                let in_doubt = |failure| Undone::InDoubt(failure);
                let Some(mut slot) = slot else {
                    return Err(in_doubt(Failure::Unknown(reason)));
                };
                tracing::info!(reason, "finding out whether a transaction happened");
                let verdict = slots.resolve(&mut slot, until).await.map_err(in_doubt)?;
                slots.put_back(slot);
                if let Verdict::Happened(at) = verdict {
                    let outcome = Outcome::Committed(revision(at));
                    return Ok(Done::Outcome {
                        outcome,
                        wrote: true,
                    });
                }
            }
            Err(Failure::Refused(Refusal::LeaseNotFound)) => {
                let named = transaction.operations().iter().filter_map(lease);
                let missing = leases::missing(members, named).await;
                let missing = missing.map_err(Undone::Nothing)?;
                match (missing, slot) {
                    (Some(lease), slot) => {
                        slot.into_iter().for_each(|slot| slots.put_back(slot));
                        return Ok(Done::LeaseNotFound(lease));
                    }
                    // It was our own.
                    (None, Some(slot)) => slots.expired(slot.lease),
                    (None, None) => {}
                }
            }
            Err(failure) => {
                slot.into_iter().for_each(|slot| slots.put_back(slot));
                return Err(Undone::Nothing(failure));
            }
        }
        if Instant::now() >= until {
            let reason = "it had to be tried again too often".to_owned();
            return Err(Undone::Nothing(Failure::NotDone(reason)));
        }
    }
}

/// Without a put there is nothing to hide the slot's revision behind; with the most operations there is no room.
fn has_room_for_slot(transaction: &Transaction) -> bool {
    let puts = |operation: &Operation| matches!(operation, Operation::Put { .. });
    transaction.operations().iter().any(puts)
        && transaction.operations().len() < MAX_OPERATIONS
        && transaction.compares().len() < MAX_OPERATIONS
}

fn lease(operation: &Operation) -> Option<LeaseId> {
    match operation {
        Operation::Put { lease, .. } => *lease,
        Operation::Delete { .. } => None,
    }
}

/// Compares and writes; and if the compares don't hold, what is there instead.
fn request(keys: &Keyspace, transaction: &Transaction, slot: Option<&Slot>) -> TxnRequest {
    let mut request = TxnRequest::default();
    let mut asked: Vec<Bytes> = Vec::new();
    for compare in transaction.compares() {
        let key = keys.key(&compare.key);
        request.compare.push(match compare.condition {
            Condition::RevisionIs(at) => Compare::with(key.clone(), comparison::EQUAL, number(at)),
            Condition::Absent => Compare::with(key.clone(), comparison::EQUAL, 0),
            Condition::Present => Compare::with(key.clone(), comparison::GREATER, 0),
        });
        if !asked.contains(&key) {
            asked.push(key);
        }
    }
    request.success = transaction
        .operations()
        .iter()
        .map(|operation| {
            let key = keys.key(operation.key());
            match operation {
                Operation::Put { value, lease, .. } => {
                    RequestOp::put(key, value.clone(), lease.map_or(0, lease_number))
                }
                Operation::Delete { .. } => RequestOp::delete(key),
            }
        })
        .collect();
    if let Some(slot) = slot {
        request.compare.push(slot.compare());
        request.success.push(slot.put());
        asked.push(slot.key.clone());
    }
    request.failure = asked.into_iter().map(RequestOp::get).collect();
    request
}

/// What the answer means; `None` if only the slot's compare didn't hold.
fn read(
    keys: &Keyspace,
    transaction: &Transaction,
    slot: Option<&mut Slot>,
    answer: TxnResponse,
) -> Option<(Outcome, bool)> {
    let at = answer.header.map_or(0, |header| header.revision);
    if answer.succeeded {
        if let Some(slot) = slot {
            slot.revision = at;
        }
        let changes = |one: &super::wire::ResponseOp| match &one.response {
            Some(Response::DeleteRange(gone)) => gone.deleted > 0,
            Some(Response::Put(_)) => true,
            _ => false,
        };
        let wrote = answer.responses.iter().any(changes);
        return Some((Outcome::Committed(revision(at)), wrote));
    }
    let mut there: HashMap<Bytes, KeyValue> = HashMap::new();
    for one in answer.responses {
        if let Some(Response::Range(range)) = one.response {
            there.extend(
                range
                    .kvs
                    .into_iter()
                    .map(|found| (found.key.clone(), found)),
            );
        }
    }
    let mut conflicts: Vec<Conflict> = Vec::new();
    for compare in transaction.compares() {
        let now = there.get(&keys.key(&compare.key));
        let holds = compare
            .condition
            .holds(now.map(|now| revision(now.mod_revision)));
        if !holds && !told(&conflicts, &compare.key) {
            conflicts.push(Conflict {
                key: compare.key.clone(),
                current: now.cloned().and_then(|now| keys.entry(now)),
            });
        }
    }
    if let Some(slot) = slot {
        let now = there.get(&slot.key);
        match slot.verdict(now) {
            Verdict::Happened(at) => {
                return Some((Outcome::Committed(revision(at)), true));
            }
            Verdict::Never if conflicts.is_empty() => return None,
            Verdict::Never => {}
        }
    }
    Some((Outcome::Conflict(conflicts), false))
}

fn told(conflicts: &[Conflict], key: &Key) -> bool {
    conflicts.iter().any(|conflict| conflict.key == *key)
}
