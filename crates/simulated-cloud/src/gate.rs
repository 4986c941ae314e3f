//! What hosts see and write goes by the rules of crate `hosts`, with what follows from it, as it does at an entry's door: of the gateway
//! (`store::Gateway`) that part which decides, without its language.
//!
//! A host of ours never asks for what it may not: that something is refused is a defect, of the host or of the rules.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use documents::Documents;
use futures::FutureExt as _;
use hosts::HostRules;
use parking_lot::Mutex;
use store::{
    Batch, Compare, Conflict, Entry, Key, Operation, Outcome, Page, Prefix, Range, Refusal,
    Revision, Rules as _, StoreError, Transaction, WatchError, WatchSource as _, Write,
    testing::Showing,
};
use tokio::sync::{Notify, oneshot};

use crate::{
    node::Node,
    store::{Follower, MemoryStore},
};

/// How often a write is looked at anew because others changed what it is about.
const MAX_ATTEMPTS: u32 = 32;

/// What is handed in at the door.
struct Asked {
    peer: String,
    transaction: Transaction,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// The door. It is at the store, and never down.
pub struct Gate {
    store: MemoryStore,
    asked: Mutex<VecDeque<Asked>>,
    rung: Notify,
    refused: Mutex<Vec<String>>,
    /// None: it isn't open yet.
    sight: Mutex<Option<Sight>>,
}

/// Who sees what, and what happens next.
struct Sight {
    showing: Showing,
    next: Follower,
}

impl Gate {
    /// In front of a store.
    #[must_use]
    pub fn of(store: MemoryStore) -> Arc<Self> {
        Arc::new(Self {
            store,
            asked: Mutex::default(),
            rung: Notify::new(),
            refused: Mutex::default(),
            sight: Mutex::default(),
        })
    }

    /// Opens it.
    pub fn open(self: &Arc<Self>) -> Node {
        let gate = self.clone();
        Node::begin(async move {
            match Documents::open(Arc::new(gate.store.clone())).await {
                Ok(documents) => {
                    let rules = Arc::new(HostRules::of(documents));
                    match gate.look(&rules) {
                        Ok(sight) => *gate.sight.lock() = Some(sight),
                        Err(error) => gate.refuse(format!("the door can't be opened: {error}")),
                    }
                    gate.serve(&rules).await;
                }
                Err(error) => gate.refuse(format!("the door can't be opened: {error}")),
            }
        })
    }

    fn look(&self, rules: &Arc<HostRules>) -> Result<Sight, StoreError> {
        let all = self.store.page(&Range::prefix(&Prefix::everything()))?;
        Ok(Sight {
            next: self.store.follow(Prefix::everything(), all.revision),
            showing: Showing::of(rules.clone(), &all),
        })
    }

    /// What hosts see, as it is now.
    fn seen<T>(&self, look: impl FnOnce(&Showing) -> T) -> Result<T, StoreError> {
        let mut sight = self.sight.lock();
        let Some(Sight { showing, next }) = &mut *sight else {
            return Err(unavailable("it isn't open yet".to_owned()));
        };
        while let Some(batch) = next.next().now_or_never() {
            let batch = batch.map_err(|error| unavailable(error.to_string()))?;
            showing.take(batch, |key| self.store.read(key))?;
        }
        Ok(look(showing))
    }

    /// Keeps up with what happens, before that is forgotten.
    pub fn follow(&self) {
        // It isn't open yet, or the store isn't any more.
        let _ = self.seen(|_| ());
    }

    /// Forgets what happened before, as entries do.
    pub fn forget(&self, before: Revision) {
        self.follow();
        if let Some(sight) = &mut *self.sight.lock() {
            sight.showing.forget(before);
        }
    }

    /// As [`MemoryStore::page`], of what a host sees.
    ///
    /// # Errors
    /// Those of it; [`StoreError::Unavailable`] before it is open.
    pub fn page(&self, host: &str, range: &Range) -> Result<Page, StoreError> {
        self.seen(|showing| self.store.page_of(range, |entry| showing.sees(host, entry)))?
    }

    /// As [`MemoryStore::read`], of what a host sees.
    ///
    /// # Errors
    /// Those of it; [`StoreError::Unavailable`] before it is open.
    pub fn read(&self, host: &str, key: &Key) -> Result<Option<Entry>, StoreError> {
        let is_shown = |entry: &Entry| self.seen(|showing| showing.sees(host, entry));
        match self.store.read(key)? {
            Some(entry) if is_shown(&entry)? => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// The first of what happened after a revision of which a host is told something, and how far was looked.
    ///
    /// # Errors
    /// [`WatchError::Compacted`]; those of [`page`](Self::page).
    pub fn after(
        &self,
        position: Revision,
        host: &str,
        prefix: &Prefix,
    ) -> Result<(Option<Batch>, Revision), WatchError> {
        self.seen(|showing| showing.after(position, host, prefix))?
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

    async fn serve(&self, rules: &HostRules) {
        loop {
            let next = self.asked.lock().pop_front();
            let Some(asked) = next else {
                self.rung.notified().await;
                continue;
            };
            let done = self.write(rules, &asked).await;
            // Who asked may be dead.
            let _ = asked.answer.send(done);
        }
    }

    async fn write(&self, rules: &HostRules, asked: &Asked) -> Result<Outcome, StoreError> {
        let (store, mut newest) = (&self.store, Revision::ZERO);
        if let Some(hidden) = self.hidden(asked)? {
            return Ok(Outcome::Conflict(vec![hidden]));
        }
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
                if self.hides(&asked.peer, now.as_ref())? {
                    return Err(self.denied(asked, format!("{key} is not its own")));
                }
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
                    let mut theirs = Vec::new();
                    for mut conflict in conflicts {
                        let demands = demands_of(&asked.transaction, &conflict.key);
                        if self.hides(&asked.peer, conflict.current.as_ref())? {
                            if demands.iter().any(|one| one.condition.holds(None)) {
                                let why = format!("{} is not its own", conflict.key);
                                return Err(self.denied(asked, why));
                            }
                            conflict.current = None;
                        }
                        let now = conflict.current.as_ref().map(|now| now.revision);
                        if demands.iter().any(|one| !one.condition.holds(now)) {
                            theirs.push(conflict);
                        }
                    }
                    if !theirs.is_empty() {
                        return Ok(Outcome::Conflict(theirs));
                    }
                }
                committed => return Ok(committed),
            }
        }
        Err(unavailable("others kept changing it".to_owned()))
    }

    /// Whether it is there for others alone.
    fn hides(&self, host: &str, entry: Option<&Entry>) -> Result<bool, StoreError> {
        match entry {
            Some(entry) => self.seen(|showing| !showing.sees(host, entry)),
            None => Ok(false),
        }
    }

    /// What is compared, and only that, and is there without being shown to the host: to it, no demand that it be there holds.
    fn hidden(&self, asked: &Asked) -> Result<Option<Conflict>, StoreError> {
        for compare in asked.transaction.compares() {
            let mut written = asked.transaction.operations().iter().map(Operation::key);
            if compare.condition.holds(None) || written.any(|key| *key == compare.key) {
                continue;
            }
            let now = self.store.read(&compare.key)?;
            if self.hides(&asked.peer, now.as_ref())? {
                let (key, current) = (compare.key.clone(), None);
                return Ok(Some(Conflict { key, current }));
            }
        }
        Ok(None)
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

/// What the host itself demands of a document.
fn demands_of<'a>(asked: &'a Transaction, key: &Key) -> Vec<&'a Compare> {
    let compares = asked.compares().iter();
    compares.filter(|one| one.key == *key).collect()
}
