//! A schedule: what befalls a cloud, decided by a seed. What users ask for meanwhile is in `asks`, what has to hold in `holds`.

mod asks;
mod holds;

use std::{
    collections::BTreeMap, fmt::Write as _, fs::File, path::PathBuf, sync::Arc, time::Duration,
};

use cimi::{
    Acl, Common, ImageId, Timestamp,
    common::{ADMIN_ROLE, USER_ROLE},
    resources::{Digests, Host, Image, ImageFile, ImageState, MediumFormat, Resource},
    size::ByteSize,
};
use cloud::{OpContext, testing};
use futures::FutureExt as _;
use rand::{
    Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _, seq::SliceRandom as _,
};
use store::{Change, Key, Prefix, Range, Transaction};
use vmhost::hypervisor::ExitCause;

use crate::{
    clock,
    entry::{Central, rules},
    gate::Gate,
    host::{Between, Computer, MEMORY_MIB},
    ledger::SharedLedger,
    node::Node,
    store::MemoryStore,
    wire::Wire,
};

/// How much time passes between two looks of the world.
const TICK: Duration = Duration::from_millis(10);
/// How long things may take to be as they should be once nothing is broken any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(900);
/// How long everything is left alone at first.
const BEGINS_WITHIN: Duration = Duration::from_secs(8);
const ENTRIES: usize = 2;
const HOSTS: u8 = 3;
/// Of each machine, in MiB: a few more are wanted than there is room for.
const MACHINE_MIB: u64 = 512;
const MOST_MACHINES: usize = 14;
const MOST_VOLUMES: usize = 8;
/// After at most so many writes to disk a daemon dies that is to die between two: a machine's start takes a few dozen.
const MOST_WRITES: u32 = 60;

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
    /// By which hosts write, and what that is open in.
    gate: Arc<Gate>,
    door: Node,
    ledger: SharedLedger,
    image: ImageId,
    temper: Temper,
    /// Of each host, to machines.
    offered_mib: u64,
    broken: BTreeMap<Broken, Duration>,
    /// Daemons that die between two writes to disk, and for how long they are dead then.
    doomed: BTreeMap<usize, Duration>,
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
        let (between, gate) = (Arc::new(Between::default()), Gate::of(store.clone()));
        let mut documents = Vec::new();
        let hosts = (1..=HOSTS).map(|number| {
            let host = newcomer(number);
            let id = host.id.clone();
            documents.push(entry(&host));
            let wire = Wire::of_host(store.clone(), rng.random(), (&gate, &id));
            wire.worsen(temper.lost, 0..temper.slowest);
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
            door: gate.open(),
            gate,
            ledger: SharedLedger::default(),
            image: image.id,
            temper,
            offered_mib: MEMORY_MIB - rules().placement.memory_reserve_kib / 1024,
            broken: BTreeMap::new(),
            doomed: BTreeMap::new(),
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
        for daemon in std::mem::take(&mut self.doomed).into_keys() {
            self.doom(daemon, None);
        }
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
            let Some(daemon) = self.daemon(turn) else {
                continue;
            };
            daemon.catch_up();
            if daemon.is_dead() {
                tracing::info!(daemon = turn, "died between two writes");
                self.count("kills between two writes to disk");
                self.kill(turn);
                let lasts = self.doomed.remove(&turn).unwrap_or_default();
                self.broken.insert(Broken::Killed(turn), now + lasts);
            }
        }
        self.door.catch_up();
        self.gate.follow();
        let refused = self.gate.refused().into_iter();
        self.wrong.extend(refused);
        for host in &self.hosts {
            host.guard();
        }
        self.look();
    }

    /// One that runs.
    fn daemon(&self, daemon: usize) -> Option<&Node> {
        match self.centrals.get(daemon) {
            Some(central) => central.daemon.as_ref(),
            None => self.host(daemon)?.daemon.as_ref(),
        }
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
        let lasts = Duration::from_millis(self.rng.random_range(lasts));
        let until = clock::passed() + lasts;
        match self.rng.random_range(0..100) {
            0..15 => {
                let writes = self.rng.random_range(0..MOST_WRITES);
                self.doom(daemon, Some(writes));
                self.doomed.insert(daemon, lasts);
            }
            15..35 => {
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
                let before = store::Revision(before.saturating_sub(kept));
                self.gate.forget(before);
                let _ = self.store.forget(before);
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

    /// Has a daemon that runs die before so many more writes to disk, or not die of that.
    fn doom(&self, daemon: usize, writes: Option<u32>) {
        if let Some(daemon) = self.daemon(daemon) {
            daemon.dies_before_writes(writes);
        }
    }

    fn kill(&mut self, daemon: usize) {
        tracing::info!(daemon, "killed");
        self.trouble(daemon);
        if let Some(central) = self.centrals.get_mut(daemon) {
            central.kill();
            self.ledger.lock().lose(daemon);
        } else if let Some(host) = self.host_mut(daemon) {
            host.kill();
        }
    }

    fn heal(&mut self, broken: Broken) {
        tracing::info!(?broken, "mended");
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

    /// Whether a daemon is cut off or killed at this moment.
    fn is_broken(&self, daemon: usize) -> bool {
        [Broken::Cut(daemon), Broken::Killed(daemon)]
            .iter()
            .any(|broken| self.broken.contains_key(broken))
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

    fn all<R: Resource>(&self) -> Vec<R> {
        let prefix = Prefix::collection(R::COLLECTION);
        let page = prefix.map(|prefix| self.store.page(&Range::prefix(&prefix)));
        let entries = page.ok().and_then(Result::ok).map(|page| page.entries);
        let entries = entries.unwrap_or_default().into_iter();
        entries
            .filter_map(|entry| serde_json::from_slice(&entry.value).ok())
            .collect()
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

fn admin() -> OpContext {
    testing::caller("root", &[USER_ROLE, ADMIN_ROLE])
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
