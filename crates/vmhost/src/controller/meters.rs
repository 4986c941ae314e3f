//! Meters: what machines and this host use, looked at every [`INTERVAL`] and kept in memory for the last [`KEPT`] looks.
//!
//! Nothing of it but the [traffic](super::traffic) is written to the store: a durable write for each machine every few seconds would cost more than all
//! else the cloud does. After a restart of the daemon meters begin anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use cimi::{Timestamp, resources::Load};
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Shared, traffic};
use crate::{
    hypervisor::RunningMachine,
    usage::{self, Traffic, Usage},
};

/// Between two looks.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Looks that are kept: half an hour.
const KEPT: usize = 180;
/// Looks that say how busy a host is: a minute's.
const LATELY: usize = 6;
/// A monitor that doesn't answer by then is asked again next time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Machines asked at once.
const AT_ONCE: usize = 8;
/// The key of the host itself; no machine's.
const HOST: &str = "";

/// What is metered, in the order of values.
pub const ASPECTS: [Aspect; 10] = [
    Aspect::new("cpu", "percent of one CPU"),
    Aspect::new("memory", "KiB"),
    Aspect::new("diskRead", "bytes per second"),
    Aspect::new("diskWritten", "bytes per second"),
    Aspect::new("diskReads", "operations per second"),
    Aspect::new("diskWrites", "operations per second"),
    Aspect::new("networkReceived", "bytes per second"),
    Aspect::new("networkSent", "bytes per second"),
    Aspect::new("packetsReceived", "packets per second"),
    Aspect::new("packetsSent", "packets per second"),
];

/// Something that is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aspect {
    /// Its name.
    pub name: &'static str,
    /// What its values count.
    pub units: &'static str,
}

impl Aspect {
    const fn new(name: &'static str, units: &'static str) -> Self {
        Self { name, units }
    }
}

/// The values of a meter, oldest first.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What it measures.
    pub aspect: Aspect,
    /// When, and how much: the mean since the look before, of memory what it is.
    pub samples: Vec<(Timestamp, f64)>,
}

type Values = [Option<f32>; ASPECTS.len()];

#[derive(Default)]
struct Entry {
    process: Option<Weak<dyn RunningMachine>>,
    last: Option<(Instant, Usage, Option<Traffic>)>,
    samples: VecDeque<(Timestamp, Values)>,
    /// When its traffic was written down last.
    written: Option<Instant>,
}

impl Entry {
    /// Takes a look into account; the first of a process only begins its counters.
    fn take(&mut self, at: Instant, usage: Usage, network: Option<Traffic>) {
        if let Some((before, old, old_network)) = &self.last {
            let seconds = at.duration_since(*before).as_secs_f64();
            let rate =
                |now: u64, then: u64| Some((now.saturating_sub(then) as f64 / seconds) as f32);
            let disk = |of: fn(&Traffic) -> u64| rate(of(&usage.disks), of(&old.disks));
            let net = |of: fn(&Traffic) -> u64| rate(of(&network?), of(&(*old_network)?));
            if seconds > 0.1 {
                let values = [
                    // Milliseconds a second are tenths of a per cent.
                    rate(usage.cpu_ms, old.cpu_ms).map(|ms| ms / 10.0),
                    Some(usage.memory_kib as f32),
                    disk(|disk| disk.bytes_in),
                    disk(|disk| disk.bytes_out),
                    disk(|disk| disk.count_in),
                    disk(|disk| disk.count_out),
                    net(|net| net.bytes_in),
                    net(|net| net.bytes_out),
                    net(|net| net.count_in),
                    net(|net| net.count_out),
                ];
                if self.samples.len() == KEPT {
                    self.samples.pop_front();
                }
                self.samples.push_back((Timestamp::now(), values));
            }
        }
        self.last = Some((at, usage, network));
    }
}

/// The meters of this host and its machines.
#[derive(Default)]
pub(crate) struct Meters(Mutex<HashMap<String, Entry>>);

impl Meters {
    /// A machine has a process from now on.
    pub(super) fn follow(&self, machine: &str, process: &Arc<dyn RunningMachine>) {
        let mut entries = self.0.lock();
        let entry = entries.entry(machine.to_owned()).or_default();
        entry.process = Some(Arc::downgrade(process));
        entry.last = None;
        entry.written = Some(Instant::now());
    }

    /// All there is of a machine.
    pub(super) fn of(&self, machine: &str) -> Vec<Reading> {
        let entries = self.0.lock();
        let Some(entry) = entries.get(machine) else {
            return Vec::new();
        };
        let of_one = |(index, aspect): (usize, &Aspect)| Reading {
            aspect: *aspect,
            samples: entry
                .samples
                .iter()
                .filter_map(|(at, values)| Some((*at, f64::from((*values.get(index)?)?))))
                .collect(),
        };
        ASPECTS
            .iter()
            .enumerate()
            .map(of_one)
            .filter(|reading| !reading.samples.is_empty())
            .collect()
    }

    /// Those of the host.
    pub(super) fn of_host(&self) -> Vec<Reading> {
        let mut all = self.of(HOST);
        all.retain(|reading| ["cpu", "memory"].contains(&reading.aspect.name));
        all
    }

    /// What the host was busy with in the last minute; none before it was looked at.
    pub(super) fn load_of_host(&self) -> Option<Load> {
        let entries = self.0.lock();
        let samples = &entries.get(HOST)?.samples;
        let lately = samples.iter().rev().take(LATELY);
        let (mut cpu, mut looks) = (0.0, 0.0);
        for (_, [percent, ..]) in lately {
            cpu += (*percent)?;
            looks += 1.0;
        }
        let (_, [_, memory, ..]) = samples.back()?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is measured not that exactly"
        )]
        let whole = |value: f32| value.round() as u64;
        Some(Load {
            cpu_percent: whole(cpu / looks),
            memory_kib: whole((*memory)?),
        })
    }

    /// What had gone over a machine's network at the last look at its process.
    pub(super) fn last_traffic(&self, machine: &str) -> Option<Traffic> {
        let entries = self.0.lock();
        let (_, _, network) = entries.get(machine)?.last.as_ref()?;
        *network
    }

    /// Whether it is time to write down what went over a machine's network; it is taken to be done.
    fn is_due(&self, machine: &str) -> bool {
        let mut entries = self.0.lock();
        let Some(entry) = entries.get_mut(machine) else {
            return false;
        };
        let is_due = entry
            .written
            .is_none_or(|at| at.elapsed() >= traffic::PERIOD);
        if is_due {
            entry.written = Some(Instant::now());
        }
        is_due
    }

    fn processes(&self) -> Vec<(String, Arc<dyn RunningMachine>)> {
        let entries = self.0.lock();
        let alive = |(machine, entry): (&String, &Entry)| {
            Some((machine.clone(), entry.process.as_ref()?.upgrade()?))
        };
        entries.iter().filter_map(alive).collect()
    }

    fn take(&self, machine: &str, usage: Usage, network: Option<Traffic>) {
        if let Some(entry) = self.0.lock().get_mut(machine) {
            entry.take(Instant::now(), usage, network);
        }
    }
}

/// Looks again and again, until told to stop.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut rounds = tokio::time::interval(INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => look(&shared).await,
        }
    }
}

type Answer = Result<crate::hypervisor::Result<Usage>, tokio::time::error::Elapsed>;

async fn ask(machine: String, process: Arc<dyn RunningMachine>) -> (String, Answer) {
    let usage = tokio::time::timeout(PATIENCE, process.usage()).await;
    (machine, usage)
}

async fn look(shared: &Shared) {
    let meters = &shared.meters;
    {
        let mut entries = meters.0.lock();
        entries.entry(HOST.to_owned()).or_default();
        let machines = &shared.documents.machines;
        entries.retain(|machine, _| machine == HOST || machines.get(machine).is_some());
    }
    let of_host = tokio::task::spawn_blocking(|| (usage::of_host(), usage::interfaces()));
    let Ok((host, interfaces)) = of_host.await else {
        return;
    };
    if let Some((cpu_ms, memory_kib)) = host {
        let usage = Usage {
            cpu_ms,
            memory_kib,
            ..Usage::default()
        };
        meters.take(HOST, usage, None);
    }
    let interfaces: HashMap<String, Traffic> = interfaces.into_iter().collect();
    let mut asked = Vec::new();
    for (machine, process) in meters.processes() {
        asked.push(ask(machine, process).boxed());
    }
    let mut answers = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
    while let Some((machine, usage)) = answers.next().await {
        match usage {
            Ok(Ok(usage)) => {
                let taps = usage.taps.iter().filter_map(|tap| interfaces.get(tap));
                let network = taps.copied().reduce(Traffic::plus);
                meters.take(&machine, usage, network);
                if let Some(traffic) = network
                    && meters.is_due(&machine)
                    && let Err(error) =
                        traffic::write_down(&shared.documents, (&shared.host, &machine), traffic)
                            .await
                {
                    tracing::warn!(machine, %error, "what went over its network can't be written down now");
                }
            }
            Ok(Err(error)) => tracing::debug!(machine, %error, "its use can't be read"),
            Err(_) => tracing::debug!(machine, "its monitor doesn't tell what it uses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_rates_and_old_looks_are_forgotten() {
        let meters = Meters::default();
        meters.0.lock().entry("m".to_owned()).or_default();
        let begin = Instant::now();
        let count = |n: u64| {
            let usage = Usage {
                cpu_ms: 5_000 * n,
                memory_kib: 77,
                disks: Traffic {
                    bytes_out: 1_000 * n,
                    ..Traffic::default()
                },
                taps: Vec::new(),
            };
            let at = begin + INTERVAL * u32::try_from(n).unwrap_or(0);
            if let Some(entry) = meters.0.lock().get_mut("m") {
                entry.take(at, usage, None);
            }
        };
        (0..=KEPT as u64 + 5).for_each(count);
        let readings = meters.of("m");
        let of = |name: &str| {
            let found = readings.iter().find(|reading| reading.aspect.name == name);
            found
                .map(|reading| reading.samples.clone())
                .unwrap_or_default()
        };
        assert_eq!(of("cpu").len(), KEPT);
        assert!(
            of("cpu")
                .iter()
                .all(|(_, value)| (value - 50.0).abs() < 0.1)
        );
        assert!(
            of("diskWritten")
                .iter()
                .all(|(_, value)| (value - 100.0).abs() < 0.1)
        );
        assert!(
            of("memory")
                .iter()
                .all(|(_, value)| (value - 77.0).abs() < 0.1)
        );
        assert!(of("networkSent").is_empty(), "what isn't known is not told");
    }
}
