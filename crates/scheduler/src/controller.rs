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
    HostId, Timestamp,
    lifecycle::{Power, Stage},
    resources::{AcceleratorKind, Host, HostPulse, Machine, Resource as _},
};
use documents::{Cached, Doc, Documents, DocumentsError, step};
use store::{Revision, cache::Changed};
use tokio::task::{JoinError, JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use placement::{Among, Demand, Fleet, Kinds, Means, NoRoom, Policy};

use crate::{turn::Turn, ways::Ways, wishes::Wishes};

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
            let among = match &moving.wanted {
                Some(wanted) => Among::Only(wanted.local()),
                None => Among::Not(from.local()),
            };
            let (way, wish) = (booking_of_way(&local), wishes.wish_among(among));
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

/// By what is decided in one turn written.
#[derive(Clone, Debug)]
struct Under {
    documents: Documents,
    turn: Turn,
    taken: Revision,
}

impl Under {
    /// Writes it, if it is still the turn in which it was decided. None if something was changed meanwhile, and it is to be looked at
    /// again.
    async fn commit(&self, changes: documents::Changes<'_>) -> Result<Option<()>, DocumentsError> {
        let changes = changes.unchanged_raw(self.turn.key(), self.taken);
        match changes.commit().await {
            Ok(_) => Ok(Some(())),
            Err(error) if !error.is_conflict() => Err(error),
            Err(_) if self.turn.is_still(self.taken).await? => Ok(None),
            // Whoever has the turn now decides.
            Err(_) => {
                self.turn.lost(self.taken);
                Ok(Some(()))
            }
        }
    }
}

/// Writes the machine's host, if it still waits for one, and for one like that: a volume may have been attached meanwhile, or
/// the host be about to be removed.
async fn assign(under: Under, local: Arc<str>, host: HostId) -> Result<(), DocumentsError> {
    let documents = &under.documents;
    loop {
        let machine = documents.machines.get(&local);
        let (Some(read), Some(host)) = (machine, documents.hosts.get(host.local())) else {
            return Ok(());
        };
        // A volume, or a security group, may have come to it since.
        let has_means = Means::of(&host).cover(Means::wanted_by(&read));
        if !waits(&read) || !has_means || host.desired.maintenance {
            return Ok(());
        }
        let mut placed = read.document.0.clone();
        placed.host = Some(host.document.id.clone());
        placed.reason = None;
        placed.settle();
        let changes = documents.changes().replace(&read, placed).unchanged(&*host);
        if under.commit(changes).await?.is_some() {
            return Ok(());
        }
    }
}

/// The name under which is booked what a machine takes of the host that it is on its way to.
fn booking_of_way(local: &str) -> Arc<str> {
    format!("{local} on its way").into()
}

/// Why a machine that has memory can't go on with it on a host, whose processors are not like those of its own.
fn unlike(machine: &Machine, from: &Host, to: &Host) -> Option<String> {
    let has_memory = !matches!(
        machine.observed.stage,
        Stage::Waiting | Stage::Ended { .. } | Stage::Failed
    );
    if !has_memory {
        return None;
    }
    let name = |host: &Host| {
        host.common
            .name
            .clone()
            .unwrap_or_else(|| host.id.to_string())
    };
    let at = (name(from), name(to));
    let runs_with = machine.accelerator.unwrap_or(from.accelerator);
    if runs_with != to.accelerator {
        return Some(format!(
            "it runs by {} on {}, and {} has {} only: stop it first",
            word(runs_with),
            at.0,
            at.1,
            word(to.accelerator)
        ));
    }
    // QEMU's own processor is the same everywhere, and so is one that is named.
    let has_all_of_host = machine
        .cpu_model
        .as_deref()
        .is_none_or(|model| model == "host");
    let is_other = from.cpu_model != to.cpu_model || from.cpu_flags != to.cpu_flags;
    (runs_with == AcceleratorKind::Kvm && has_all_of_host && is_other).then(|| {
        format!(
            "it uses all of the processor of {} ({}), and that of {} is another one ({}): stop it first, or give machines a \
             processor that all hosts have (`machines.cpu_model`)",
            at.0, from.cpu_model, at.1, to.cpu_model
        )
    })
}

const fn word(accelerator: AcceleratorKind) -> &'static str {
    match accelerator {
        AcceleratorKind::Kvm => "KVM",
        AcceleratorKind::Tcg => "TCG",
    }
}

/// Writes where a machine goes, or why it stays, if it is still to be moved and the host open.
async fn send(
    under: Under,
    local: Arc<str>,
    since: Timestamp,
    chosen: Result<HostId, String>,
) -> Result<(), DocumentsError> {
    let documents = &under.documents;
    loop {
        let Some(read) = documents.machines.get(&local) else {
            return Ok(());
        };
        let mut next = read.document.0.clone();
        let moving = next.desired.moving.as_mut();
        let Some(moving) = moving.filter(|moving| moving.since == since && moving.to.is_none())
        else {
            return Ok(());
        };
        let host = match &chosen {
            Ok(host) => documents.hosts.get(host.local()),
            Err(_) => None,
        };
        let unlike = match (&host, read.host.as_ref()) {
            (Some(to), Some(from)) => {
                let from = documents.hosts.get(from.local());
                from.and_then(|from| unlike(&read, &from, to))
            }
            _ => None,
        };
        let why_not = match (&chosen, &host) {
            (Err(why), _) => Some(why.as_str()),
            (Ok(_), None) => Some("the host is removed"),
            (Ok(_), Some(host)) if host.desired.maintenance => Some("the host is closed"),
            // A volume may have come to it since.
            (Ok(_), Some(host)) if !Means::of(host).cover(Means::wanted_by(&read)) => Some(
                "the host has not what it needs now (a way to the storage, or a stratusd that knows security groups)",
            ),
            (Ok(_), Some(_)) => unlike.as_deref(),
        };
        let host = host.filter(|_| why_not.is_none());
        match &host {
            Some(host) => moving.to = Some(host.document.id.clone()),
            None => {
                next.desired.moving = None;
                next.reason = why_not.map(|why| format!("it is not moved: {why}"));
            }
        }
        next.settle();
        let mut changes = documents.changes().replace(&read, next);
        if let Some(host) = &host {
            changes = changes.unchanged(&**host);
        }
        if under.commit(changes).await?.is_some() {
            return Ok(());
        }
    }
}

/// Writes why the machine has no host, if it still waits for one.
async fn tell(documents: Documents, local: Arc<str>, reason: String) -> Result<(), DocumentsError> {
    let edit = |machine: &mut Machine| {
        if !waits(machine) || machine.reason.as_ref() == Some(&reason) {
            return Ok(false);
        }
        machine.reason = Some(reason.clone());
        machine.settle();
        Ok::<_, DocumentsError>(true)
    };
    documents.update(&local, edit).await.map(drop)
}

/// Ends a machine that was deleted while it had no host.
async fn release(documents: Documents, local: Arc<str>) -> Result<(), DocumentsError> {
    let Some(machine) = documents.machines.get(&local) else {
        return Ok(());
    };
    if machine.host.is_some() || !machine.desired.deleted || !machine.left_on.is_empty() {
        return Ok(());
    }
    step::end(&documents, &machine, Timestamp::now())
        .commit()
        .await?;
    tracing::info!(machine = %machine.key(), vmid = machine.vmid.0, "released; it had no host");
    Ok(())
}

fn waits(machine: &Machine) -> bool {
    machine.host.is_none() && machine.desired.power == Power::On && !machine.desired.deleted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use cimi::{
        VolumeId,
        lifecycle::Moving,
        resources::{AttachStage, AttachedVolume},
        testing,
    };
    use store::SqliteStore;

    use super::*;

    async fn documents(folder: &tempfile::TempDir) -> Documents {
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        Documents::open(store).await.unwrap()
    }

    /// Where nobody has taken the turn.
    fn free(documents: &Documents) -> Under {
        Under {
            documents: documents.clone(),
            turn: Turn::new(documents.clone(), "test"),
            taken: Revision::ZERO,
        }
    }

    async fn create<R: cimi::resources::Resource>(documents: &Documents, document: &R) {
        documents.changes().create(document).commit().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_placed_on_a_host_that_was_closed_or_removed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        let mut machine = testing::machine(1);
        machine.desired.power = Power::On;
        create(&documents, &machine).await;
        let local: Arc<str> = machine.local_id().into();
        let (mut closed, open) = (testing::host(), testing::host());
        closed.desired.maintenance = true;
        create(&documents, &closed).await;
        for (host, takes_it) in [(&open, false), (&closed, false), (&open, true)] {
            if takes_it {
                create(&documents, host).await;
            }
            let assigned = assign(free(&documents), local.clone(), host.id.clone());
            assigned.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            assert_eq!(machine.host.is_some(), takes_it);
        }
    }

    #[tokio::test]
    async fn one_whose_turn_was_taken_over_decides_nothing_until_it_is_free_again() {
        async fn until(turn: &Turn, wanted: impl Fn(Option<Revision>) -> bool) -> Revision {
            let mut changes = turn.changes();
            let seen = changes.wait_for(|taken| wanted(*taken));
            let limit = Duration::from_secs(60);
            let seen = tokio::time::timeout(limit, seen).await.unwrap().unwrap();
            seen.unwrap_or(Revision::ZERO)
        }
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        // Two of one name, as of computers that were copied.
        let [first, second] = [(); 2].map(|()| Turn::new(documents.clone(), "same"));
        let [end_first, end_second] = [(); 2].map(|()| CancellationToken::new());
        let held = tokio::spawn(first.clone().hold(end_first.clone()));
        let taken = until(&first, |taken| taken.is_some()).await;
        let taken_over = tokio::spawn(second.clone().hold(end_second.clone()));
        let later = until(&second, |taken| taken.is_some()).await;
        let under = Under {
            documents: documents.clone(),
            turn: first.clone(),
            taken,
        };
        let changes = documents.changes().create(&testing::host());
        assert_eq!(under.commit(changes).await.unwrap(), Some(()));
        assert!(documents.hosts.is_empty(), "nothing comes of it");
        until(&first, |taken| taken.is_none()).await;
        end_second.cancel();
        taken_over.await.unwrap();
        assert!(until(&first, |taken| taken.is_some()).await > later);
        end_first.cancel();
        held.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_decided_for_a_machine_without_volumes_is_not_for_one_that_got_some() {
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        let mut without = testing::host();
        (without.desired.apart, without.runs_machines) = (true, true);
        let mut with = testing::host();
        (with.desired.apart, with.runs_machines, with.uses_volumes) = (true, true, true);
        create(&documents, &without).await;
        create(&documents, &with).await;
        let mut machine = testing::machine(1);
        machine.volumes.push(AttachedVolume {
            volume: VolumeId::generate(),
            initial_location: None,
            hot: true,
            wanted: true,
            stage: AttachStage::Waiting,
            serial: "v".into(),
            taken: None,
        });
        create(&documents, &machine).await;
        let local: Arc<str> = machine.local_id().into();
        for (host, has_a_way) in [(&without, false), (&with, true)] {
            let assigned = assign(free(&documents), local.clone(), host.id.clone());
            assigned.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            assert_eq!(machine.host.is_some(), has_a_way);
        }
        // Nor is where it goes to, when it is moved.
        for (host, has_a_way) in [(&without, false), (&with, true)] {
            let since = Timestamp::now();
            let asked = |machine: &mut Machine| {
                machine.desired.moving = Some(Moving::asked(since));
                Ok::<_, DocumentsError>(true)
            };
            documents.update(&local, asked).await.unwrap();
            let sent = send(free(&documents), local.clone(), since, Ok(host.id.clone()));
            sent.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            let to = has_a_way.then_some(&host.id);
            assert_eq!(machine.moving_to(), to, "{:?}", machine.reason);
            assert_eq!(machine.desired.moving.is_some(), has_a_way);
        }
    }
}
