//! What users asked for and were told.

use std::{collections::BTreeMap, sync::Arc};

use cimi::model::Kind;
use cloud::CloudError;
use parking_lot::Mutex;

/// What a user knows of something of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// They were told that it is there.
    There,
    /// They were told that it goes.
    Gone,
    /// They asked that it goes, and were told nothing.
    Unsure,
}

/// Something of a user's.
#[derive(Clone, Debug)]
pub struct Owned {
    /// What it is.
    pub kind: Kind,
    /// What they know of it.
    pub known: Known,
    /// Whether they were told, the last time, that it is started or that it is stopped; none: neither, or fate has a say in it.
    pub is_on: Option<bool>,
    /// Whether they wait for an answer about it.
    pub is_busy: bool,
}

/// What is asked of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That there is one.
    Create(Kind),
    /// That it goes.
    Delete,
    /// That it is started (true) or stopped.
    Power(bool),
    /// By an administrator, that it goes to another host.
    Move,
    /// Something else.
    Other,
}

/// How an answer went.
#[derive(Debug)]
pub enum Told {
    /// It is done, or durable that it will be; what is new has this local id.
    Yes(Option<String>),
    /// It isn't.
    No,
    /// Nobody knows.
    Nothing,
}

impl Told {
    /// Of an error.
    #[must_use]
    pub fn of(error: &CloudError) -> Self {
        match error {
            CloudError::Unavailable(_) | CloudError::Internal(_) => Self::Nothing,
            _ => Self::No,
        }
    }
}

/// A request on its way.
#[derive(Clone, Debug)]
struct Request {
    entry: usize,
    asked: Asked,
    things: Vec<String>,
}

/// All of it.
#[derive(Default)]
pub struct Ledger {
    /// By local ids.
    pub owned: BTreeMap<String, Owned>,
    open: BTreeMap<u64, Request>,
    last: u64,
    /// How many were answered with yes, with no, and not at all.
    pub answers: [u64; 3],
}

/// What users and the world share.
pub type SharedLedger = Arc<Mutex<Ledger>>;

impl Ledger {
    /// A request begins about these things.
    pub fn begin(&mut self, entry: usize, asked: Asked, things: &[&str]) -> u64 {
        self.last += 1;
        let things: Vec<String> = things.iter().map(|&one| one.to_owned()).collect();
        for thing in &things {
            if let Some(owned) = self.owned.get_mut(thing) {
                owned.is_busy = true;
            }
        }
        let request = Request {
            entry,
            asked,
            things,
        };
        self.open.insert(self.last, request);
        self.last
    }

    /// It is answered.
    pub fn end(&mut self, request: u64, told: Told) {
        let Some(request) = self.open.remove(&request) else {
            return;
        };
        let answer = match told {
            Told::Yes(_) => 0,
            Told::No => 1,
            Told::Nothing => 2,
        };
        if let Some(count) = self.answers.get_mut(answer) {
            *count += 1;
        }
        for thing in &request.things {
            if let Some(owned) = self.owned.get_mut(thing) {
                owned.is_busy = false;
            }
        }
        let first = request.things.first().cloned();
        match (request.asked, told) {
            (Asked::Create(kind), Told::Yes(Some(id))) => {
                let owned = Owned {
                    kind,
                    known: Known::There,
                    is_on: Some(true),
                    is_busy: false,
                };
                self.owned.insert(id, owned);
            }
            (Asked::Delete, Told::Yes(_)) => self.change(first, |owned| owned.known = Known::Gone),
            (Asked::Delete, Told::Nothing) => {
                self.change(first, |owned| owned.known = Known::Unsure);
            }
            (Asked::Power(on), Told::Yes(_)) => {
                self.change(first, |owned| owned.is_on = Some(on));
            }
            (Asked::Power(_) | Asked::Other, Told::Nothing | Told::Yes(_)) => {
                self.change(first, |owned| owned.is_on = None);
            }
            (Asked::Create(_) | Asked::Move, _) | (_, Told::No) => {}
        }
    }

    fn change(&mut self, thing: Option<String>, change: impl FnOnce(&mut Owned)) {
        if let Some(owned) = thing.and_then(|thing| self.owned.get_mut(&thing)) {
            change(owned);
        }
    }

    /// An entry is gone, and with it the answers that it would have given.
    pub fn lose(&mut self, entry: usize) {
        let lost = self.open.iter().filter(|(_, one)| one.entry == entry);
        let lost: Vec<u64> = lost.map(|(request, _)| *request).collect();
        for request in lost {
            self.end(request, Told::Nothing);
        }
    }

    /// How many wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Those of a kind that nobody has asked to go and nobody waits for.
    #[must_use]
    pub fn idle(&self, kind: Kind) -> Vec<String> {
        let idle = self.owned.iter().filter(|(_, owned)| {
            owned.kind == kind && owned.known == Known::There && !owned.is_busy
        });
        idle.map(|(id, _)| id.clone()).collect()
    }
}
