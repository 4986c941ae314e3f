//! How it is found out whether a transaction of unknown outcome happened.
//!
//! Whoever loses the connection after having sent a transaction doesn't know: it may have happened, may still be under
//! way and happen later, or never. Comparing values tells nothing, another writer may have written the very same. So
//! a transaction that puts something also writes a *slot*: a key of this client alone, used by one transaction at a
//! time, which compares the slot's revision and puts its own mark. Of one with unknown outcome the slot then decides:
//! try to write it over on the same compare. If that works, the transaction has not happened and never will, for its
//! compare can't hold any more. If not, the slot tells who was there first, and at which revision.
//!
//! Slots are attached to a lease of this client, and vanish some time after it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Shared;
use super::failure::{Failure, Refusal};
use super::wire::{
    Compare, KeyValue, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, RequestOp, Response,
    TxnRequest, TxnResponse, comparison, path,
};

/// How long slots live after a client that has crashed, in seconds.
pub(super) const SESSION_SECONDS: i64 = 60;
/// What is put over a slot to keep a transaction from happening.
const BARRED: &[u8] = b"barred";

/// One slot, while it is used.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: Bytes,
    pub(super) lease: i64,
    /// When it was last written; zero if never.
    pub(super) revision: i64,
    /// What the transaction writes to it.
    pub(super) mark: Bytes,
}

impl Slot {
    /// What the transaction demands of it.
    pub(super) fn compare(&self) -> Compare {
        Compare::with(self.key.clone(), comparison::EQUAL, self.revision)
    }

    /// What the transaction writes to it.
    pub(super) fn put(&self) -> RequestOp {
        RequestOp::put(self.key.clone(), self.mark.clone(), self.lease)
    }

    /// What its present state means for the transaction.
    pub(super) fn verdict(&mut self, now: Option<&KeyValue>) -> Verdict {
        match now {
            Some(now) if now.value == self.mark => Verdict::Happened(now.mod_revision),
            now => {
                self.revision = now.map_or(0, |now| now.mod_revision);
                Verdict::Never
            }
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It happened at this revision.
    Happened(i64),
    /// It did not, and won't.
    Never,
}

#[derive(Default)]
struct State {
    lease: Option<i64>,
    idle: Vec<Slot>,
    slots: u64,
    marks: u64,
}

/// All slots of this client.
pub(super) struct Slots {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Held by whoever asks for the lease.
    granting: tokio::sync::Mutex<()>,
}

impl Slots {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            state: Mutex::default(),
            granting: tokio::sync::Mutex::new(()),
        }
    }

    /// A slot for one transaction. Give it [back](Self::put_back) when the outcome is known, else drop it.
    pub(super) async fn take(&self) -> Result<Slot, Failure> {
        loop {
            if let Some(slot) = self.idle() {
                return Ok(slot);
            }
            let _granting = self.granting.lock().await;
            if self.lease().is_some() {
                continue;
            }
            let ttl = SESSION_SECONDS;
            let request = LeaseGrantRequest { ttl };
            let granted: LeaseGrantResponse =
                self.shared.members.ask(path::LEASE_GRANT, &request).await?;
            self.state.lock().lease = Some(granted.id);
        }
    }

    fn idle(&self) -> Option<Slot> {
        let mut state = self.state.lock();
        let lease = state.lease?;
        state.marks += 1;
        let mark: Bytes = state.marks.to_string().into();
        if let Some(slot) = state.idle.pop() {
            return Some(Slot { mark, ..slot });
        }
        state.slots += 1;
        Some(Slot {
            key: self.shared.keys.slot(lease, state.slots),
            lease,
            revision: 0,
            mark,
        })
    }

    /// The slot can be used by the next.
    pub(super) fn put_back(&self, slot: Slot) {
        let mut state = self.state.lock();
        if state.lease == Some(slot.lease) {
            state.idle.push(slot);
        }
    }

    /// The lease that slots are attached to.
    pub(super) fn lease(&self) -> Option<i64> {
        self.state.lock().lease
    }

    /// The lease has ended, and its slots with it.
    pub(super) fn expired(&self, lease: i64) {
        let mut state = self.state.lock();
        if state.lease == Some(lease) {
            state.lease = None;
            state.idle.clear();
        }
    }

    /// What became of the transaction that had `slot`; afterwards it can't happen any more.
    pub(super) async fn resolve(
        &self,
        slot: &mut Slot,
        until: Instant,
    ) -> Result<Verdict, Failure> {
        loop {
            let bar = TxnRequest {
                compare: vec![slot.compare()],
                success: vec![RequestOp::put(
                    slot.key.clone(),
                    Bytes::from_static(BARRED),
                    slot.lease,
                )],
                failure: vec![RequestOp::get(slot.key.clone())],
            };
            let answer = self.shared.members.once(path::TXN, &bar, until).await;
            let answer: TxnResponse = match answer {
                Ok(answer) => answer,
                // Asked again it says the same, or that it was barred already.
                Err(Failure::Unknown(_)) if Instant::now() < until => continue,
                Err(failure) => return Err(failure),
            };
            let revision = answer.header.map_or(0, |header| header.revision);
            if answer.succeeded {
                slot.revision = revision;
                return Ok(Verdict::Never);
            }
            let now = answer
                .responses
                .into_iter()
                .find_map(|one| match one.response {
                    Some(Response::Range(range)) => Some(range.kvs),
                    _ => None,
                });
            return match now.unwrap_or_default().first() {
                Some(now) => Ok(slot.verdict(Some(now))),
                // It was written, or the compare would have held: gone with its lease, and with it what it knew.
                None => Err(Failure::Unknown("this client's lease has ended".to_owned())),
            };
        }
    }

    /// Keep the slots.
    pub(super) async fn keep_alive(&self) {
        let Some(lease) = self.lease() else { return };
        match super::leases::keep_alive(&self.shared.members, lease).await {
            Ok(Some(_ttl)) => {}
            Ok(None) => self.expired(lease),
            Err(failure) => {
                tracing::warn!(
                    reason = failure.reason(),
                    "etcd did not renew this client's lease"
                );
            }
        }
    }

    /// Give all slots up.
    pub(super) async fn end(&self) {
        let Some(lease) = self.lease() else { return };
        self.expired(lease);
        let request = LeaseRequest { id: lease };
        let ended: Result<super::wire::HeaderResponse, _> =
            self.shared.members.ask(path::LEASE_REVOKE, &request).await;
        match ended {
            Ok(_) | Err(Failure::Refused(Refusal::LeaseNotFound)) => {}
            Err(failure) => tracing::debug!(reason = failure.reason(), "lease left to expire"),
        }
    }
}
