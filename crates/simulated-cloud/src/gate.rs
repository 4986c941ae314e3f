//! What hosts write comes by the rules of crate `hosts`, with what follows from it, as it does at an entry's door: of the gateway
//! (`store::Gateway`) that part which decides, without its language, and without hiding what a host doesn't see.
//!
//! A host of ours never asks for what it may not: that something is refused is a defect, of the host or of the rules.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use documents::Documents;
use hosts::HostRules;
use parking_lot::Mutex;
use store::{
    Conflict, Entry, Operation, Outcome, Refusal, Revision, Rules as _, StoreError, Transaction,
    Write,
};
use tokio::sync::{Notify, oneshot};

use crate::{node::Node, store::MemoryStore};

/// How often a write is looked at anew because others changed what it is about.
const MAX_ATTEMPTS: u32 = 32;

/// What is handed in at the door.
struct Asked {
    peer: String,
    transaction: Transaction,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// The door. It is at the store, and never down.
#[derive(Default)]
pub struct Gate {
    asked: Mutex<VecDeque<Asked>>,
    rung: Notify,
    refused: Mutex<Vec<String>>,
}

impl Gate {
    /// Opens it in front of a store.
    pub fn open(self: &Arc<Self>, store: MemoryStore) -> Node {
        let gate = self.clone();
        Node::begin(async move {
            match Documents::open(Arc::new(store.clone())).await {
                Ok(documents) => gate.serve(&store, &HostRules::of(documents)).await,
                Err(error) => gate.refuse(format!("the door can't be opened: {error}")),
            }
        })
    }

    /// Hands something in. Whether anybody waits for the answer makes no difference to what becomes of it.
    pub fn ask(
        &self,
        peer: &str,
        transaction: Transaction,
    ) -> oneshot::Receiver<Result<Outcome, StoreError>> {
        let (answer, answered) = oneshot::channel();
        self.asked.lock().push_back(Asked {
            peer: peer.to_owned(),
            transaction,
            answer,
        });
        self.rung.notify_one();
        answered
    }

    /// What was refused since the last time of asking.
    pub fn refused(&self) -> Vec<String> {
        std::mem::take(&mut *self.refused.lock())
    }

    fn refuse(&self, what: String) {
        self.refused.lock().push(what);
    }

    async fn serve(&self, store: &MemoryStore, rules: &HostRules) {
        loop {
            let next = self.asked.lock().pop_front();
            let Some(asked) = next else {
                self.rung.notified().await;
                continue;
            };
            let done = self.write(store, rules, &asked).await;
            // Who asked may be dead.
            let _ = asked.answer.send(done);
        }
    }

    async fn write(
        &self,
        store: &MemoryStore,
        rules: &HostRules,
        asked: &Asked,
    ) -> Result<Outcome, StoreError> {
        let mut newest = Revision::ZERO;
        for _ in 0..MAX_ATTEMPTS {
            let mut looked_at: Vec<(&Operation, Option<Entry>)> = Vec::new();
            for operation in asked.transaction.operations() {
                looked_at.push((operation, store.read(operation.key())?));
            }
            let mut transaction = asked.transaction.clone();
            let mut writes = Vec::new();
            for (operation, now) in &looked_at {
                let (key, at) = (operation.key(), now.as_ref().map(|now| now.revision));
                transaction = transaction.revision_is(key, at.unwrap_or(Revision::ZERO));
                let mut compares = asked.transaction.compares().iter();
                // It will be told what is there instead.
                if compares.any(|one| one.key == *key && !one.condition.holds(at)) {
                    continue;
                }
                newest = newest.max(at.unwrap_or(Revision::ZERO));
                let (is, then) = (now.as_ref().map(|now| &now.value), then(operation));
                if is.is_some() || then.is_some() {
                    let may = rules.may_write(&asked.peer, key, is, then);
                    may.map_err(|why| self.denied(asked, why))?;
                }
                writes.push(Write {
                    key,
                    now: now.as_ref(),
                    then,
                });
            }
            let follows = rules.follows(&writes, newest).await;
            let follows = follows.map_err(|refusal| match refusal {
                // Of a time that hasn't come: clocks were set back while it was on its way. It is said again.
                Refusal::Denied(why) => refused(why),
                Refusal::TooMany(why) => self.denied(asked, why),
                Refusal::Unavailable(reason) => unavailable(reason),
            })?;
            match store.write(&transaction.and(follows))? {
                Outcome::Conflict(conflicts) => {
                    let found = conflicts.iter().filter_map(|one| one.current.as_ref());
                    newest = found.map(|one| one.revision).fold(newest, Revision::max);
                    let theirs: Vec<_> = conflicts
                        .into_iter()
                        .filter(|conflict| is_theirs(&asked.transaction, conflict))
                        .collect();
                    if !theirs.is_empty() {
                        return Ok(Outcome::Conflict(theirs));
                    }
                }
                committed => return Ok(committed),
            }
        }
        Err(unavailable("others kept changing it".to_owned()))
    }

    fn denied(&self, asked: &Asked, why: String) -> StoreError {
        self.refuse(format!("{} was refused a write: {why}", asked.peer));
        refused(why)
    }
}

fn refused(reason: String) -> StoreError {
    StoreError::Refused {
        endpoints: "the door".to_owned(),
        doing: "a transaction",
        reason,
    }
}

fn unavailable(reason: String) -> StoreError {
    StoreError::Unavailable {
        endpoints: "the door".to_owned(),
        doing: "a transaction",
        reason,
    }
}

fn then(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::Put { value, .. } => Some(value),
        Operation::Delete { .. } => None,
    }
}

/// Whether it is something that the host itself demanded.
fn is_theirs(asked: &Transaction, conflict: &Conflict) -> bool {
    let now = conflict.current.as_ref().map(|now| now.revision);
    let mut compares = asked.compares().iter();
    compares.any(|one| one.key == conflict.key && !one.condition.holds(now))
}
