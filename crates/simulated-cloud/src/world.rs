//! A schedule: what befalls a cloud, decided by a seed; and what has to hold at each moment, and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cimi::{
    Acl, Common, HostId, ImageId, Timestamp,
    common::{ADMIN_ROLE, USER_ROLE},
    lifecycle::{MachineState, Stage},
    model::Kind,
    resources::{
        Digests, Host, Image, ImageFile, ImageState, Job, Machine, MediumFormat, Resource, Volume,
        VolumeState,
    },
    size::ByteSize,
};
use cloud::{Cloud, OpContext, testing};
use futures::FutureExt as _;
use rand::{
    Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _, seq::SliceRandom as _,
};
use serde_json::{Map, Value, json};
use store::{Change, Key, Prefix, Range, Transaction};
use vmhost::hypervisor::{ExitCause, RunningMachine as _};

use crate::{
    clock,
    entry::{Central, rules},
    host::{Between, Computer, MEMORY_MIB},
    ledger::{Asked, Known, SharedLedger, Told},
    store::MemoryStore,
    wire::Wire,
};

/// How much time passes between two looks of the world.
const TICK: Duration = Duration::from_millis(10);
/// How long things may take to be as they should be once nothing is broken any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(900);
/// How long a host has to have been heard, as far as it can tell, before it is taken to know what the documents say.
const HEARD_FOR: Duration = Duration::from_secs(60);
/// How long everything is left alone at first.
const BEGINS_WITHIN: Duration = Duration::from_secs(8);
const ENTRIES: usize = 2;
const HOSTS: u8 = 3;
/// Of each machine, in MiB: a few more are wanted than there is room for.
const MACHINE_MIB: u64 = 512;
const MOST_MACHINES: usize = 14;
const MOST_VOLUMES: usize = 8;

/// What came of a schedule.
#[derive(Debug)]
pub struct Report {
    /// What did not hold; empty: all did.
    pub wrong: Vec<String>,
    /// Of everything that was ever written: the same seed gives the same.
    pub trace: u64,
    /// What happened, in one line.
    pub summary: String,
}

/// How a schedule treats its cloud.
struct Temper {
    /// Of ten thousand ticks, those in which something breaks.
    breaks: u32,
    /// And those in which a user asks for something.
    asks: u32,
    /// Of a thousand writes, those whose answers are lost.
    lost: u32,
    /// Longest way of a message, in milliseconds.
    slowest: u64,
    /// Whether clocks jump.
    jumps: bool,
    lasts: Duration,
}

impl Temper {
    fn of(rng: &mut StdRng) -> Self {
        Self {
            breaks: *[0, 3, 10, 30].choose(rng).unwrap_or(&0),
            asks: rng.random_range(20..300),
            lost: *[0, 0, 5, 40].choose(rng).unwrap_or(&0),
            slowest: *[2, 20, 150].choose(rng).unwrap_or(&2),
            jumps: rng.random_bool(0.3),
            lasts: Duration::from_secs(rng.random_range(30..150)),
        }
    }
}

/// What is broken, until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Broken {
    Killed(usize),
    Cut(usize),
}

struct World {
    rng: StdRng,
    store: MemoryStore,
    /// Entries, and the storage behind them.
    centrals: Vec<Central>,
    hosts: Vec<Computer>,
    between: Arc<Between>,
    ledger: SharedLedger,
    image: ImageId,
    temper: Temper,
    /// Of each host, to machines.
    offered_mib: u64,
    broken: BTreeMap<Broken, Duration>,
    /// When each host was last in trouble.
    troubled: Vec<Duration>,
    faults: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
    trace: u64,
    traced: store::Revision,
    /// Last: the files of all.
    folder: tempfile::TempDir,
}

/// Runs the schedule of a seed.
///
/// # Panics
/// If there is no place for files.
#[must_use]
pub fn run(seed: u64) -> Report {
    clock::begin();
    let mut world = World::new(seed);
    world.begin();
    world.load();
    world.mend();
    world.settle();
    world.report()
}

impl World {
    fn new(seed: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut rng = StdRng::seed_from_u64(seed);
        let temper = Temper::of(&mut rng);
        let above = PathBuf::from("/dev/shm");
        let above = if above.is_dir() {
            above
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::Builder::new();
        let folder = { folder }.prefix("schedule-").tempdir_in(above);
        let folder = folder.expect("a folder for files");
        let base = folder.path().join("base.raw");
        let made = File::create(&base).and_then(|file| file.set_len(1 << 20));
        made.expect("a file");
        let store = MemoryStore::default();
        let wires = |rng: &mut StdRng| {
            let wire = Wire::new(store.clone(), rng.random());
            wire.worsen(temper.lost, 0..temper.slowest);
            wire
        };
        let storage = folder.path().join("storage");
        let files = [None, None, Some(storage)].into_iter().skip(2 - ENTRIES);
        let centrals = files.enumerate().map(|(number, files)| {
            Central::new(format!("central-{number}"), wires(&mut rng), files)
        });
        let centrals = centrals.collect();
        let between = Arc::new(Between::default());
        let mut documents = Vec::new();
        let hosts = (1..=HOSTS).map(|number| {
            let host = newcomer(number);
            let id = host.id.clone();
            documents.push(entry(&host));
            let wire = wires(&mut rng);
            Computer::new((number, id), folder.path(), &store, wire, between.clone())
        });
        let hosts: Vec<_> = hosts.collect();
        let image = image(&base);
        documents.push(entry(&image));
        let put = |all: Transaction, (key, text): (Key, Vec<u8>)| all.put(key, text);
        let written = store.write(&documents.into_iter().fold(Transaction::new(), put));
        let written = written.map(store::Outcome::committed);
        assert!(matches!(written, Ok(Ok(_))), "an empty store takes all");
        Self {
            rng,
            centrals,
            between,
            ledger: SharedLedger::default(),
            image: image.id,
            temper,
            offered_mib: MEMORY_MIB - rules().placement.memory_reserve_kib / 1024,
            broken: BTreeMap::new(),
            troubled: vec![Duration::ZERO; hosts.len()],
            hosts,
            faults: BTreeMap::new(),
            wrong: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            traced: store::Revision::ZERO,
            store,
            folder,
        }
    }

    fn begin(&mut self) {
        for central in &mut self.centrals {
            central.start();
        }
        for host in &mut self.hosts {
            host.start();
        }
    }

    /// Users ask, and things break.
    fn load(&mut self) {
        let (begun, until) = (
            clock::passed() + BEGINS_WITHIN,
            clock::passed() + self.temper.lasts,
        );
        while clock::passed() < until && self.wrong.is_empty() {
            if clock::passed() > begun && self.rng.random_range(0..10_000) < self.temper.breaks {
                self.break_something();
            }
            if self.rng.random_range(0..10_000) < self.temper.asks {
                self.ask();
            }
            self.tick();
        }
    }

    /// From now on nothing is broken.
    fn mend(&mut self) {
        for broken in std::mem::take(&mut self.broken).into_keys() {
            self.heal(broken);
        }
        for wire in self.wires() {
            wire.worsen(0, 0..3);
        }
    }

    /// Until all is as it should be.
    fn settle(&mut self) {
        let until = clock::passed() + SETTLES_WITHIN;
        let mut unsettled = Vec::new();
        while self.wrong.is_empty() {
            let look = clock::passed() + Duration::from_secs(5);
            while clock::passed() < look && self.wrong.is_empty() {
                self.tick();
            }
            unsettled = self.unsettled();
            if unsettled.is_empty() {
                return;
            }
            if clock::passed() >= until {
                break;
            }
        }
        self.wrong.append(&mut unsettled);
    }

    fn report(&mut self) -> Report {
        self.follow_trace();
        let answers = self.ledger.lock().answers;
        let mut summary = format!(
            "{:.0} s, {} revisions, {} yes, {} no, {} unanswered",
            clock::passed().as_secs_f64(),
            self.store.revision(),
            answers[0],
            answers[1],
            answers[2],
        );
        for (what, times) in &self.faults {
            let _ = write!(summary, ", {times} {what}");
        }
        for central in &mut self.centrals {
            central.kill();
        }
        for host in &mut self.hosts {
            host.kill();
        }
        Report {
            wrong: std::mem::take(&mut self.wrong),
            trace: self.trace,
            summary,
        }
    }

    /// A little time passes for all.
    fn tick(&mut self) {
        clock::advance(TICK);
        let now = clock::passed();
        let over = self.broken.iter().filter(|(_, until)| **until <= now);
        let over: Vec<_> = over.map(|(broken, _)| *broken).collect();
        for broken in over {
            self.broken.remove(&broken);
            self.heal(broken);
        }
        self.store.expire(now);
        let mut turns: Vec<usize> = (0..self.daemons()).collect();
        turns.shuffle(&mut self.rng);
        for turn in turns {
            self.wire(turn).deliver(now);
            let daemon = match self.centrals.get(turn) {
                Some(central) => central.daemon.as_ref(),
                None => self.host(turn).and_then(|host| host.daemon.as_ref()),
            };
            if let Some(daemon) = daemon {
                daemon.catch_up();
            }
        }
        for host in &self.hosts {
            host.guard();
        }
        self.look();
    }

    fn daemons(&self) -> usize {
        self.centrals.len() + self.hosts.len()
    }

    fn host(&self, daemon: usize) -> Option<&Computer> {
        self.hosts.get(daemon.checked_sub(self.centrals.len())?)
    }

    fn host_mut(&mut self, daemon: usize) -> Option<&mut Computer> {
        self.hosts.get_mut(daemon.checked_sub(self.centrals.len())?)
    }

    #[allow(clippy::indexing_slicing, reason = "daemons are counted")]
    fn wire(&self, daemon: usize) -> Arc<Wire> {
        let central = self.centrals.get(daemon).map(|one| one.wire.clone());
        central.unwrap_or_else(|| self.hosts[daemon - self.centrals.len()].wire.clone())
    }

    fn wires(&self) -> Vec<Arc<Wire>> {
        (0..self.daemons()).map(|one| self.wire(one)).collect()
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn break_something(&mut self) {
        let daemon = self.rng.random_range(0..self.daemons());
        let short = self.rng.random_bool(0.5);
        let lasts = if short { 10..3_000 } else { 3_000..90_000 };
        let until = clock::passed() + Duration::from_millis(self.rng.random_range(lasts));
        match self.rng.random_range(0..100) {
            0..35 => {
                self.count("kills");
                self.kill(daemon);
                self.broken.insert(Broken::Killed(daemon), until);
            }
            35..65 => {
                self.count("cuts");
                self.trouble(daemon);
                self.wire(daemon).cut(true);
                self.broken.insert(Broken::Cut(daemon), until);
            }
            65..70 => {
                self.count("outages of the store");
                for daemon in 0..self.daemons() {
                    self.trouble(daemon);
                    self.wire(daemon).cut(true);
                    self.broken.insert(Broken::Cut(daemon), until);
                }
            }
            70..75 => {
                self.count("power cuts");
                let host = self.centrals.len() + daemon % self.hosts.len();
                self.trouble(host);
                self.fate_of(host);
                if let Some(host) = self.host_mut(host) {
                    host.lose_power();
                }
                self.broken.insert(Broken::Killed(host), until);
            }
            75..80 => {
                let before = self.store.revision().0;
                let kept = self.rng.random_range(0..200);
                let _ = self
                    .store
                    .forget(store::Revision(before.saturating_sub(kept)));
                self.count("compactions");
            }
            80..85 if self.temper.jumps => {
                self.count("jumps");
                let by = *[-3_600_000, -5_000, 5_000, 3_600_000]
                    .choose(&mut self.rng)
                    .unwrap_or(&0);
                clock::jump(by);
            }
            _ => self.strike_guest(daemon),
        }
    }

    fn kill(&mut self, daemon: usize) {
        self.trouble(daemon);
        if let Some(central) = self.centrals.get_mut(daemon) {
            central.kill();
            self.ledger.lock().lose(daemon);
        } else if let Some(host) = self.host_mut(daemon) {
            host.kill();
        }
    }

    fn heal(&mut self, broken: Broken) {
        match broken {
            Broken::Cut(daemon) => self.wire(daemon).cut(false),
            Broken::Killed(daemon) => match self.centrals.get_mut(daemon) {
                Some(central) if central.daemon.is_none() => central.start(),
                Some(_) => {}
                None => {
                    if let Some(host) = self.host_mut(daemon)
                        && host.daemon.is_none()
                    {
                        host.start();
                    }
                }
            },
        }
        let (Broken::Cut(daemon) | Broken::Killed(daemon)) = broken;
        self.trouble(daemon);
    }

    fn trouble(&mut self, daemon: usize) {
        let host = daemon.checked_sub(self.centrals.len());
        if let Some(at) = host.and_then(|host| self.troubled.get_mut(host)) {
            *at = clock::passed();
        }
    }

    /// Whatever runs there may end without anybody's wish.
    fn fate_of(&mut self, daemon: usize) {
        let guests = self.host(daemon).map(|host| host.guests.running());
        for guest in guests.unwrap_or_default() {
            if let Some(owned) = self.ledger.lock().owned.get_mut(&guest.to_string()) {
                owned.is_on = None;
            }
        }
    }

    fn strike_guest(&mut self, daemon: usize) {
        let host = self.centrals.len() + daemon % self.hosts.len();
        let guests = self.host(host).map(|host| host.guests.clone());
        let Some(guests) = guests else { return };
        let mut running = guests.running();
        running.sort();
        let Some(id) = running.choose(&mut self.rng).copied() else {
            return;
        };
        let Some(guest) = guests.machine(id) else {
            return;
        };
        if let Some(owned) = self.ledger.lock().owned.get_mut(&id.to_string()) {
            owned.is_on = None;
        }
        let strike = self.rng.random_range(0..5);
        match strike {
            0 => guest.halt(),
            1 => guest.reboot(),
            2 => guest.panic(),
            3 => guest.ignore_power_button(true),
            _ => guest.die(&ExitCause::Signal(11)),
        }
        self.count("strokes of fate");
    }

    /// A user asks for something, at some entry.
    fn ask(&mut self) {
        let entry = self.rng.random_range(0..ENTRIES);
        let machines = self.ledger.lock().idle(Kind::Machine);
        let volumes = self.ledger.lock().idle(Kind::Volume);
        let machine = machines.choose(&mut self.rng).cloned();
        let volume = volumes.choose(&mut self.rng).cloned();
        let policy = *["never", "on-failure", "always"]
            .choose(&mut self.rng)
            .unwrap_or(&"never");
        let config = json!({"cpu": 1, "memory": MACHINE_MIB * 1024});
        match (self.rng.random_range(0..100), machine, volume) {
            (0..20, _, _) if machines.len() < MOST_MACHINES => {
                let template = json!({
                    "machineImage": {"href": self.image.to_string()},
                    "machineConfig": config,
                    "restartPolicy": policy,
                });
                let body = json!({ "machineTemplate": template });
                self.create(entry, Kind::Machine, &[], body);
            }
            (20..30, _, Some(volume)) if machines.len() < MOST_MACHINES => {
                let template = json!({
                    "volumes": [{"volume": {"href": format!("Volume/{volume}")}}],
                    "machineConfig": config,
                    "restartPolicy": policy,
                });
                let body = json!({ "machineTemplate": template });
                self.create(entry, Kind::Machine, &[&volume], body);
            }
            (30..42, _, _) if volumes.len() < MOST_VOLUMES => {
                let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1024}}});
                self.create(entry, Kind::Volume, &[], body);
            }
            (42..64, Some(machine), _) => {
                let actions = [
                    ("start", Asked::Power(true)),
                    ("stop", Asked::Power(false)),
                    ("restart", Asked::Other),
                    ("pause", Asked::Other),
                    ("suspend", Asked::Other),
                ];
                let Some(&(action, asked)) = actions.choose(&mut self.rng) else {
                    return;
                };
                let force = self.rng.random_bool(0.3);
                let body = object(json!({ "force": force }));
                self.request(
                    entry,
                    asked,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let acted = cloud.act(&who, Kind::Machine, &machine, action, &body);
                        acted.await.map(|_| None)
                    },
                );
            }
            (64..74, Some(machine), _) => {
                self.request(
                    entry,
                    Asked::Delete,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let gone = cloud.delete_machine(&who, &machine);
                        gone.await.map(|_| None)
                    },
                );
            }
            (74..82, Some(machine), Some(volume)) => {
                let body = object(json!({"volume": {"href": format!("Volume/{volume}")}}));
                let things = [machine.clone(), volume];
                let [first, second] = &things;
                self.request(
                    entry,
                    Asked::Other,
                    &[first, second],
                    async move |cloud, who| {
                        let attached = cloud.attach_volume(&who, &machine, body);
                        attached.await.map(|_| None)
                    },
                );
            }
            (82..89, Some(machine), Some(_)) => {
                // One that it has, as far as the documents say.
                let Some(volume) = self.volumes_of(&machine).choose(&mut self.rng).cloned() else {
                    return;
                };
                self.request(
                    entry,
                    Asked::Other,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let detached = cloud.detach_volume(&who, &machine, &volume);
                        detached.await.map(|_| None)
                    },
                );
            }
            (89..93, _, Some(volume)) => {
                self.request(
                    entry,
                    Asked::Delete,
                    &[&volume.clone()],
                    async move |cloud, who| {
                        let gone = cloud.delete_volume(&who, &volume);
                        gone.await.map(|_| None)
                    },
                );
            }
            (93..100, Some(machine), _) => {
                let body = object(json!({"properties": {"atRest": true}}));
                self.request(
                    entry,
                    Asked::Move,
                    &[&machine.clone()],
                    async move |cloud, who| {
                        let moved = cloud.act(&who, Kind::Machine, &machine, "migrate", &body);
                        moved.await.map(|_| None)
                    },
                );
            }
            _ => {}
        }
    }

    fn create(&mut self, entry: usize, kind: Kind, with: &[&str], body: Value) {
        let body = object(body);
        self.request(entry, Asked::Create(kind), with, async move |cloud, who| {
            let made = match kind {
                Kind::Volume => cloud.create_volume(&who, body).await,
                _ => cloud.create_machine(&who, body).await,
            };
            let local = |id: &str| id.split('/').nth(1).map(str::to_owned);
            made.map(|made| local(&made.view.id))
        });
    }

    fn request<F>(
        &mut self,
        entry: usize,
        asked: Asked,
        things: &[&str],
        work: impl FnOnce(Cloud, OpContext) -> F + Send + 'static,
    ) where
        F: Future<Output = cloud::Result<Option<String>>> + Send + 'static,
    {
        let Some(central) = self.centrals.get(entry) else {
            return;
        };
        let (Some(daemon), Some(cloud)) = (&central.daemon, central.front.lock().clone()) else {
            return;
        };
        let request = self.ledger.lock().begin(entry, asked, things);
        let ledger = self.ledger.clone();
        let who = if asked == Asked::Move {
            admin()
        } else {
            user()
        };
        daemon.spawn(async move {
            let told = match work(cloud, who).await {
                Ok(made) => Told::Yes(made),
                Err(error) => {
                    tracing::debug!(%error, "refused");
                    Told::of(&error)
                }
            };
            ledger.lock().end(request, told);
        });
    }

    fn all<R: Resource>(&self) -> Vec<R> {
        let prefix = Prefix::collection(R::COLLECTION);
        let page = prefix.map(|prefix| self.store.page(&Range::prefix(&prefix)));
        let entries = page.ok().and_then(Result::ok).map(|page| page.entries);
        let entries = entries.unwrap_or_default().into_iter();
        entries
            .filter_map(|entry| serde_json::from_slice(&entry.value).ok())
            .collect()
    }

    fn volumes_of(&self, machine: &str) -> Vec<String> {
        let machines = self.all::<Machine>();
        let machine = machines.iter().find(|one| one.id.local() == machine);
        let volumes = machine.map(|machine| machine.volumes.iter());
        volumes
            .into_iter()
            .flatten()
            .map(|one| one.volume.local().to_owned())
            .collect()
    }

    /// What has to hold at each moment.
    fn look(&mut self) {
        let mut wrong = Vec::new();
        let mut lives: BTreeMap<uuid::Uuid, Vec<&HostId>> = BTreeMap::new();
        for (host, troubled) in self.hosts.iter().zip(&self.troubled) {
            let running = host.guests.running();
            // One that was heard all the time knows what the documents say, and takes nothing from a guest before it has let go.
            let is_heard = clock::passed().saturating_sub(*troubled) > HEARD_FOR;
            for &guest in &running {
                lives.entry(guest).or_default().push(&host.id);
                let Some(handle) = host.guests.machine(guest).filter(|_| is_heard) else {
                    continue;
                };
                let disks = handle.status().now_or_never().and_then(Result::ok);
                for disk in disks.map(|status| status.disks).unwrap_or_default() {
                    let disk = disk.id;
                    if !self.between.may_write(&host.id, guest, &disk) {
                        wrong.push(format!("{guest} on {} lost {disk} under its feet", host.id));
                    }
                }
            }
            let used = running.len() as u64 * MACHINE_MIB;
            if used > self.offered_mib {
                let placed = self.all::<Machine>().into_iter();
                let placed = placed.filter(|machine| machine.host.as_ref() == Some(&host.id));
                let placed: Vec<_> = placed.collect();
                wrong.push(format!(
                    "{} has guests of {used} MiB ({running:?}): {placed:#?}",
                    host.id
                ));
            }
        }
        for (guest, hosts) in lives {
            if hosts.len() > 1 {
                wrong.push(format!("{guest} runs on {hosts:?}"));
            }
        }
        self.wrong.append(&mut wrong);
        if !self.wrong.is_empty() {
            self.follow_trace();
        }
    }

    /// What has to hold in the end.
    fn unsettled(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let machines = self.all::<Machine>();
        let volumes = self.all::<Volume>();
        let ids: BTreeSet<&str> = machines
            .iter()
            .map(|machine| machine.id.local())
            .chain(volumes.iter().map(|volume| volume.id.local()))
            .collect();
        let waiting = self.ledger.lock().waiting();
        if waiting > 0 {
            wrong.push(format!("{waiting} requests wait for an answer"));
        }
        for (id, owned) in &self.ledger.lock().owned {
            let is_there = ids.contains(id.as_str());
            match owned.known {
                Known::There if !is_there => wrong.push(format!("{id} is lost: {owned:?}")),
                Known::Gone if is_there => wrong.push(format!("{id} is still there: {owned:?}")),
                _ => {}
            }
            let machine = machines.iter().find(|machine| machine.id.local() == id);
            if let (Some(machine), Some(is_on)) = (machine, owned.is_on)
                && owned.known == Known::There
                && machine.host.is_some()
                && (machine.state == MachineState::Started) != is_on
            {
                wrong.push(format!("{id} was to be on ({is_on}): {machine:?}"));
            }
        }
        for machine in &machines {
            wrong.extend(self.unsettled_machine(machine));
        }
        for volume in &volumes {
            let is_still = volume.state == VolumeState::Available && !volume.deleted;
            let holder = volume.attachment.as_ref().map(|held| &held.machine);
            let is_held = holder.is_none_or(|holder| {
                let holder = machines.iter().find(|machine| machine.id == *holder);
                let mut held = holder.iter().flat_map(|machine| &machine.volumes);
                held.any(|one| one.volume == volume.id)
            });
            if !is_still || !is_held {
                wrong.push(format!("volume: {volume:?}"));
            }
        }
        for job in self.all::<Job>() {
            if !job.state.is_final() && !waits_for_room(&machines, &job) {
                wrong.push(format!("open: {job:?}"));
            }
        }
        for host in &self.hosts {
            for guest in host.guests.running() {
                let machine = machines
                    .iter()
                    .find(|one| one.id.local() == guest.to_string());
                if machine.and_then(|machine| machine.host.as_ref()) != Some(&host.id) {
                    wrong.push(format!("{guest} runs on {}, and is not there", host.id));
                }
            }
            for folder in host.folders() {
                let machine = machines.iter().find(|one| one.id.local() == folder);
                if machine.and_then(|machine| machine.host.as_ref()) != Some(&host.id) {
                    wrong.push(format!(
                        "folder {folder} on {}, and no such machine",
                        host.id
                    ));
                }
            }
        }
        let central = self.centrals.first();
        if let Some(central) = central
            && let (Some(daemon), Some(cloud)) = (&central.daemon, central.front.lock().clone())
        {
            let doctor = daemon.block_on(cloud.doctor(&admin(), false));
            match doctor {
                Ok(found) if found["findings"] == json!([]) => {}
                other => wrong.push(format!("doctor: {other:?}")),
            }
        }
        for host in &self.hosts {
            if let (Some(daemon), Some(controller)) = (&host.daemon, host.controller()) {
                for finding in daemon.block_on(controller.audit(false)) {
                    wrong.push(format!("audit of {}: {finding:?}", host.id));
                }
            } else {
                wrong.push(format!("{} has no controller", host.id));
            }
        }
        wrong
    }

    fn unsettled_machine(&self, machine: &Machine) -> Vec<String> {
        use MachineState as S;
        let mut wrong = Vec::new();
        let is_on_its_way = matches!(
            machine.state,
            S::Creating | S::Starting | S::Pausing | S::Suspending | S::Stopping | S::Deleting
        );
        if is_on_its_way && machine.host.is_some() {
            wrong.push(format!("on its way: {machine:?}"));
        }
        if machine.unseen_since.is_some() || !machine.left_on.is_empty() {
            wrong.push(format!("unseen, or left somewhere: {machine:?}"));
        }
        let runs = matches!(
            machine.observed.stage,
            Stage::Running | Stage::Paused | Stage::Held
        );
        let host = self
            .hosts
            .iter()
            .find(|host| Some(&host.id) == machine.host.as_ref());
        let lives = host.is_some_and(|host| {
            let running = host.guests.running();
            running
                .iter()
                .any(|guest| guest.to_string() == machine.id.local())
        });
        // One that is broken is still there, to be looked into.
        if runs && !lives {
            wrong.push(format!("has no process: {machine:?}"));
        }
        wrong
    }

    /// Folds everything that was written since the last time into one number.
    fn follow_trace(&mut self) {
        let mut follower = self.store.follow(Prefix::everything(), self.traced);
        let folder = self.folder.path().display().to_string();
        loop {
            use store::WatchSource as _;
            match follower.next().now_or_never() {
                Some(Ok(batch)) => {
                    self.traced = batch.revision;
                    // Hosts tell how full this computer's disk is.
                    let is_same = |change: &&Change| !change.key().as_str().starts_with("Host/");
                    let changes: Vec<_> = batch.changes.iter().filter(is_same).collect();
                    let text = format!("{changes:?}").replace(&folder, "");
                    tracing::trace!(revision = %batch.revision, text, "written");
                    for byte in text.bytes() {
                        self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                    }
                }
                Some(Err(store::WatchError::Compacted { oldest })) => {
                    self.traced = store::Revision(oldest.0.saturating_sub(1));
                    follower = self.store.follow(Prefix::everything(), self.traced);
                }
                Some(Err(_)) | None => return,
            }
        }
    }
}

/// Whether a job is that of a machine for which there is no room: it goes on when there is.
fn waits_for_room(machines: &[Machine], job: &Job) -> bool {
    let is_of = |machine: &&Machine| job.subject() == machine.id.to_string();
    let machine = machines.iter().find(is_of);
    machine.is_some_and(|machine| machine.host.is_none())
}

fn user() -> OpContext {
    testing::caller("alice", &[USER_ROLE])
}

fn admin() -> OpContext {
    testing::caller("root", &[USER_ROLE, ADMIN_ROLE])
}

fn object(value: Value) -> Map<String, Value> {
    testing::object(value)
}

fn entry<R: Resource>(document: &R) -> (Key, Vec<u8>) {
    let key = Key::new(R::COLLECTION, document.local_id()).expect("a key");
    (key, serde_json::to_vec(document).expect("a text"))
}

fn newcomer(number: u8) -> Host {
    let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, cimi::Right::View);
    let mut host = Host::newcomer(Common::new(acl, Timestamp::now()));
    host.common.name = Some(format!("host-{number}"));
    host.desired.apart = true;
    host
}

/// An image as the storage leaves it.
fn image(path: &std::path::Path) -> Image {
    Image {
        state: ImageState::Available,
        file: Some(ImageFile {
            path: path.display().to_string(),
            format: MediumFormat::Raw,
            virtual_size: ByteSize(1 << 20),
            digests: Digests::default(),
            kept: None,
        }),
        ..cimi::testing::image()
    }
}
