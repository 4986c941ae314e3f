//! The loop around placement: what changed goes into the account, machines without a host are placed, each write is a
//! task of its own.
//!
//! ```text
//!   machine without host, wanted on ──▶ waiting ──▶ room found: booked, host written ──▶ (the host's controller)
//!                                        ▲   │
//!            room was made on any host ──┘   └─▶ no room: the reason written once
//!   machine without host, deleted ─────▶ released
//! ```
//!
//! What is being written is booked already and not looked at again before its write has ended, so that documents which
//! don't show it yet can't undo the booking.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use cimi::{
    HostId,
    resources::{Host, HostPulse, Machine, Resource as _},
};
use documents::{Cached, Doc, Documents, DocumentsError};
use store::{Revision, cache::Changed};
use tokio::task::{JoinError, JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use placement::{Demand, Fleet, Kinds, NoRoom, Policy};

use crate::{
    decisions::{Under, assign, release, send, tell, waits},
    turn::Turn,
    ways::Ways,
    wishes::Wishes,
};

/// Most writes on their way at once; more only wait in the store's queue instead of here.
const WRITES_AT_ONCE: usize = 128;
/// How long a machine rests whose write the store refused (a full disk, a lost store).
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The scheduler. See the crate's documentation for what it promises.
#[derive(Debug)]
pub struct Scheduler {
    documents: Documents,
    turn: Turn,
    fleet: Fleet,
    /// Machines to be placed, oldest first.
    waiting: BTreeMap<u32, Arc<str>>,
    /// Machines to be released, for their turn.
    orphans: BTreeMap<u32, Arc<str>>,
    /// Those that are to be moved, and have no place to go to yet.
    ways: BTreeMap<u32, Arc<str>>,
    /// Those that have one: from where, and to where they go.
    on_their_way: HashMap<Arc<str>, (HostId, HostId)>,
    /// Why machines wait, as far as it was written.
    explained: HashMap<Arc<str>, Kinds>,
    /// The turn in which all that waits was tried last.
    taken: Option<Revision>,
    /// Machines with a write on its way.
    busy: HashSet<Arc<str>>,
    writes: JoinSet<Written>,
}

/// A write that has ended.
#[derive(Debug)]
struct Written {
    machine: Arc<str>,
    /// It may have happened, or happen yet.
    is_in_doubt: bool,
}

impl Scheduler {
    /// Over the given documents; does nothing before [`run`](Self::run). Of several, one at a time places machines; the name tells
    /// them from each other, and each has the same after a restart.
    #[must_use]
    pub fn new(documents: Documents, policy: Policy, name: &str) -> Self {
        Self {
            turn: Turn::new(documents.clone(), name),
            documents,
            fleet: Fleet::new(policy),
            waiting: BTreeMap::new(),
            orphans: BTreeMap::new(),
            ways: BTreeMap::new(),
            on_their_way: HashMap::new(),
            explained: HashMap::new(),
            taken: None,
            busy: HashSet::new(),
            writes: JoinSet::new(),
        }
    }

    /// Places machines until `stop`, then ends the writes on their way. What it had not written is found again by the
    /// next run.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut machines = self.documents.machines.changes();
        let mut hosts = self.documents.hosts.changes();
        let mut pulses = self.documents.host_pulses.changes();
        let mut turns = self.turn.changes();
        let holding = tokio::spawn(self.turn.clone().hold(stop.clone()));
        let holding = AbortOnDropHandle::new(holding);
        let mut fresh = Vec::new();
        let mut made_room = false;
        loop {
            // Before what is known is read: whoever has the turn finds there what was decided in all earlier ones.
            let taken = *turns.borrow_and_update();
            // All that is known goes into the account before anything is decided: after a start, what runs already has
            // to be booked before there is room for more.
            // The end of a pulse is told to who was told that it was there: so before the host that is judged by it.
            while let Some(changed) = pulses.try_next() {
                made_room |= self.pulse_changed(&changed);
            }
            while let Some(changed) = hosts.try_next() {
                made_room |= self.host_changed(&changed);
            }
            while let Some(changed) = machines.try_next() {
                made_room |= self.machine_changed(&changed, &mut fresh);
            }
            if let Some(taken) = taken {
                let is_new = self.taken.replace(taken) != Some(taken);
                self.release_orphans();
                self.choose_ways(taken);
                self.place_waiting(taken, (!made_room && !is_new).then_some(&fresh));
            }
            fresh.clear();
            made_room = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = turns.changed() => {}
                changed = pulses.next() => made_room = self.pulse_changed(&changed),
                changed = hosts.next() => made_room = self.host_changed(&changed),
                changed = machines.next() => made_room = self.machine_changed(&changed, &mut fresh),
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => {
                    made_room = self.written(written, &mut fresh);
                }
            }
        }
        self.writes.shutdown().await;
        // It lets the turn go.
        let _ = holding.await;
    }

    /// Returns whether there may be more room than before.
    fn host_changed(&mut self, changed: &Changed<Doc<Host>>) -> bool {
        match changed {
            Changed::Present(host) => self.host_is(host),
            Changed::Removed(local) => {
                self.fleet.host_gone(local);
                false
            }
            // What it offers can't be known, and need not have changed.
            Changed::Unreadable(_) => false,
        }
    }

    /// As above, for a host that is heard of from now on, or no more.
    fn pulse_changed(&mut self, changed: &Changed<Doc<HostPulse>>) -> bool {
        let host = self.documents.hosts.get(changed.id());
        host.is_some_and(|host| self.host_is(&host))
    }

    fn host_is(&mut self, host: &Host) -> bool {
        let is_heard = self.documents.host_pulses.get(host.local_id()).is_some();
        self.fleet.host(host, is_heard)
    }

    /// Returns whether room was made. Machines that wait newly are added to `fresh`.
    fn machine_changed(&mut self, changed: &Changed<Doc<Machine>>, fresh: &mut Vec<u32>) -> bool {
        let local = changed.id();
        if self.busy.contains(local) {
            return false;
        }
        match changed {
            Changed::Present(machine) => self.look_at(machine, fresh),
            Changed::Removed(local) => {
                self.explained.remove(local);
                self.waiting.retain(|_, other| other != local);
                self.orphans.retain(|_, other| other != local);
                self.ways.retain(|_, other| other != local);
                self.on_their_way.remove(local);
                self.fleet.unbook(&booking_of_way(local));
                self.fleet.unbook(local)
            }
            // It may run: what it takes stays booked.
            Changed::Unreadable(_) => false,
        }
    }

    fn look_at(&mut self, machine: &Cached<Machine>, fresh: &mut Vec<u32>) -> bool {
        let vmid = machine.vmid.0;
        self.waiting.remove(&vmid);
        self.orphans.remove(&vmid);
        let local: Arc<str> = machine.id().into();
        if let Some(host) = &machine.host {
            self.explained.remove(&local);
            let wishes = Wishes::of(machine, &self.documents);
            let made_room = self.fleet.book(&local, host, &wishes.wish());
            return self.look_at_way(machine, &local, &wishes) || made_room;
        }
        self.ways.remove(&vmid);
        self.on_their_way.remove(&local);
        self.fleet.unbook(&booking_of_way(&local));
        if machine.desired.deleted && machine.left_on.is_empty() {
            self.orphans.insert(vmid, local.clone());
        } else if waits(machine) {
            self.waiting.insert(vmid, local.clone());
            fresh.push(vmid);
        }
        self.fleet.unbook(&local)
    }

    /// What a machine takes of the host that it is on its way to. Returns whether room was made.
    fn look_at_way(&mut self, machine: &Machine, local: &Arc<str>, wishes: &Wishes<'_>) -> bool {
        let (vmid, way) = (machine.vmid.0, booking_of_way(local));
        self.ways.remove(&vmid);
        self.on_their_way.remove(local);
        let moving = machine.desired.moving.as_ref();
        match (moving.map(|moving| &moving.to), &machine.host) {
            (Some(Some(to)), Some(from)) => {
                let both = (from.clone(), to.clone());
                self.on_their_way.insert(local.clone(), both);
                self.fleet.book(&way, to, &wishes.wish())
            }
            (Some(None), Some(_)) => {
                self.ways.insert(vmid, local.clone());
                self.fleet.unbook(&way)
            }
            (None, _) | (_, None) => self.fleet.unbook(&way),
        }
    }

    /// Chooses where machines go that are to be moved, so many of a host at once, and so many to one: the others run on until it is
    /// their turn. One for which there is no room stays where it is.
    fn choose_ways(&mut self, turn: Revision) {
        if self.ways.is_empty() {
            return;
        }
        let mut busy: Ways = self.on_their_way.values().collect();
        let mut later = BTreeMap::new();
        while self.writes.len() < WRITES_AT_ONCE
            && let Some((vmid, local)) = self.ways.pop_first()
        {
            let Some(machine) = self.documents.machines.get(&local) else {
                continue;
            };
            let (Some(from), Some(moving)) = (&machine.host, &machine.desired.moving) else {
                continue;
            };
            if !busy.may_leave(from) {
                later.insert(vmid, local);
                continue;
            }
            let wishes = Wishes::of(&machine, &self.documents);
            let (way, wish) = (booking_of_way(&local), wishes.wish());
            let chosen = self.fleet.reserve(&way, &wish);
            if let Ok(to) = &chosen {
                if !busy.may_come_to(to) {
                    self.fleet.unbook(&way);
                    later.insert(vmid, local);
                    continue;
                }
                busy.add(from, to);
                let both = (from.clone(), to.clone());
                self.on_their_way.insert(local.clone(), both);
            }
            let chosen = chosen.map_err(|refused| refused.to_string());
            tracing::info!(machine = %machine.document.id, vmid = machine.vmid.0, ?chosen, "to be moved");
            let under = self.under(turn);
            let work = send(under, local.clone(), moving.since, chosen);
            self.write(local, work);
        }
        self.ways.extend(later);
    }

    /// Tries the machines that wait: all, or those in `only`.
    fn place_waiting(&mut self, turn: Revision, only: Option<&Vec<u32>>) {
        let candidates: Vec<u32> = match only {
            Some(only) => only.clone(),
            None => self.waiting.keys().copied().collect(),
        };
        // Hosts only fill up in here: what had no room at once has none later, nor has anything larger.
        let mut no_room: Vec<Demand> = Vec::new();
        for vmid in candidates {
            if self.writes.len() >= WRITES_AT_ONCE {
                // The end of a write brings us back here, to all of them.
                return;
            }
            let Some(local) = self.waiting.get(&vmid).cloned() else {
                continue;
            };
            let Some(machine) = self.documents.machines.get(&local) else {
                continue;
            };
            let demand = Demand::of(&machine);
            let hopeless = no_room.iter().any(|smaller| smaller.fits_in(demand));
            if hopeless && self.explained.contains_key(&local) {
                continue;
            }
            let wishes = Wishes::of(&machine, &self.documents);
            let wish = wishes.wish();
            match self.fleet.reserve(&local, &wish) {
                Ok(host) => {
                    self.waiting.remove(&vmid);
                    self.explained.remove(&local);
                    tracing::info!(machine = %machine.document.id, vmid, %host, "placed");
                    let work = assign(self.under(turn), local.clone(), host);
                    self.write(local, work);
                }
                Err(refused) => {
                    if wish.is_of_room_alone() {
                        no_room.push(demand);
                    }
                    self.explain(&machine, local, &refused);
                }
            }
        }
    }

    /// Lets the user know why the machine waits, unless that is what is told already.
    fn explain(&mut self, machine: &Cached<Machine>, local: Arc<str>, refused: &NoRoom) {
        let kinds = refused.kinds();
        if self.explained.insert(local.clone(), kinds) == Some(kinds) {
            return;
        }
        let reason = refused.to_string();
        if machine.reason.as_deref() == Some(&reason) {
            return;
        }
        tracing::info!(machine = %machine.document.id, vmid = machine.vmid.0, reason, "no room");
        self.waiting.remove(&machine.vmid.0);
        self.write(local.clone(), tell(self.documents.clone(), local, reason));
    }

    fn release_orphans(&mut self) {
        while self.writes.len() < WRITES_AT_ONCE
            && let Some((_, local)) = self.orphans.pop_first()
        {
            let work = release(self.documents.clone(), local.clone());
            self.write(local, work);
        }
    }

    /// Lets a write run on its own; [`written`](Self::written) is told when it has ended.
    fn write(
        &mut self,
        local: Arc<str>,
        work: impl Future<Output = Result<(), DocumentsError>> + Send + 'static,
    ) {
        self.busy.insert(local.clone());
        self.writes.spawn(async move {
            let mut is_in_doubt = false;
            match work.await {
                Ok(()) | Err(DocumentsError::Absent { .. }) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(machine = &*local, %error, "could not be written; will be tried again");
                    tokio::time::sleep(REST_AFTER_FAILURE).await;
                    is_in_doubt = error.is_in_doubt();
                }
            }
            Written {
                machine: local,
                is_in_doubt,
            }
        });
    }

    /// What is decided now, to be written as long as it is this scheduler's turn.
    fn under(&self, taken: Revision) -> Under {
        Under {
            documents: self.documents.clone(),
            turn: self.turn.clone(),
            taken,
        }
    }

    /// A write has ended, well or not: the machine is looked at as it is now. Returns whether more may be tried than before.
    fn written(&mut self, ended: Result<Written, JoinError>, fresh: &mut Vec<u32>) -> bool {
        let was_full = self.writes.len() + 1 >= WRITES_AT_ONCE;
        let written = match ended {
            Ok(written) => written,
            Err(error) => {
                // Only a defect gets here. The machine stays as it is until the daemon starts again.
                tracing::error!(%error, "a write of the scheduler ended by a panic");
                return false;
            }
        };
        if written.is_in_doubt {
            // Its room may be taken, or be taken later: nothing is decided before that is known.
            self.turn.take_anew();
        }
        let local = written.machine;
        self.busy.remove(&local);
        let made_room = match self.documents.machines.get(&local) {
            Some(machine) => self.look_at(&machine, fresh),
            None => self.machine_changed(&Changed::Removed(local), fresh),
        };
        made_room || was_full
    }
}

/// The name under which is booked what a machine takes of the host that it is on its way to.
fn booking_of_way(local: &str) -> Arc<str> {
    format!("{local} on its way").into()
}
