//! What came of a run.

use std::{collections::BTreeMap, fmt, time::Duration};

use placement::{Demand, Fleet, HostLoad, NoRoom};
use serde::Serialize;

use crate::{Scenario, chart};

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Hosts there were.
    pub hosts: u32,
    /// Machines that were to come.
    pub machines: u32,
    /// Virtual time, in hours.
    pub hours: f64,
    /// Machines that got a host.
    pub placed: u32,
    /// Machines that run at the end.
    pub running: u32,
    /// How quickly decisions were taken. The only part that depends on the computer.
    pub decisions: Decisions,
    /// How long machines waited, in virtual time.
    pub waiting: Waiting,
    /// How evenly hosts were filled, when most was used.
    pub balance: Balance,
    /// How many hosts were filled to each twentieth of their memory, at the end.
    pub filled: Vec<u32>,
    /// The course.
    pub course: Vec<Moment>,
}

/// How quickly decisions were taken.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// How many, those without a host included.
    pub taken: u64,
    /// Placements a second of the time that decisions took.
    pub placements_per_second: f64,
    /// Half of them took at most this, in microseconds.
    pub median_micros: f64,
    /// 99 of 100 took at most this.
    pub p99_micros: f64,
    /// The slowest.
    pub longest_micros: f64,
    /// The whole run, in seconds.
    pub run_seconds: f64,
}

/// How long machines waited for a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Machines that got a host in the moment they came.
    pub placed_at_once: u32,
    /// Half of those that were placed waited at most this.
    pub median_seconds: f64,
    /// 99 of 100 of those that were placed waited at most this.
    pub p99_seconds: f64,
    /// The longest wait that ended.
    pub longest_seconds: f64,
    /// Machines that wait at the end.
    pub left: u32,
    /// Why a machine waited, as its user would have read it; the last one that had no host.
    pub reason: Option<String>,
}

/// How evenly hosts are filled.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// Share of all memory that is used, from 0 to 1.
    pub memory_used: f64,
    /// Share of all processor time that is used.
    pub cpu_used: f64,
    /// The emptiest host's share of used memory.
    pub emptiest: f64,
    /// The fullest host's.
    pub fullest: f64,
    /// Standard deviation of the hosts' shares.
    pub deviation: f64,
    /// Jain's index of fairness of the shares: 1 if all are the same.
    pub fairness: f64,
}

/// A moment of the course.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Hours since the beginning.
    pub hour: f64,
    /// Machines that run.
    pub running: u32,
    /// Machines that wait.
    pub waiting: u32,
    /// Share of all memory that is used, from 0 to 1.
    pub memory_used: f64,
    /// Share of all processor time that is used.
    pub cpu_used: f64,
}

#[allow(clippy::cast_precision_loss, reason = "shares to be shown")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn sums(fleet: &Fleet) -> (Demand, Demand) {
    let none = (Demand::default(), Demand::default());
    fleet.hosts().iter().fold(none, |(used, offered), host| {
        (used.plus(host.booked), offered.plus(host.offered))
    })
}

fn memory_share(host: &HostLoad) -> f64 {
    share(host.booked.memory_kib, host.offered.memory_kib)
}

impl Moment {
    pub(crate) fn of(now_ms: u64, fleet: &Fleet, running: u32, waiting: u32) -> Self {
        let (used, offered) = sums(fleet);
        Self {
            hour: share(now_ms, 3_600_000),
            running,
            waiting,
            memory_used: share(used.memory_kib, offered.memory_kib),
            cpu_used: share(used.cpu_percent, offered.cpu_percent),
        }
    }
}

impl Balance {
    #[allow(clippy::cast_precision_loss, reason = "shares to be shown")]
    fn of(fleet: &Fleet) -> Self {
        let (used, offered) = sums(fleet);
        let shares: Vec<f64> = fleet.hosts().iter().map(memory_share).collect();
        let number = shares.len().max(1) as f64;
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        let mean = sum / number;
        Self {
            memory_used: share(used.memory_kib, offered.memory_kib),
            cpu_used: share(used.cpu_percent, offered.cpu_percent),
            emptiest: shares.iter().copied().reduce(f64::min).unwrap_or(0.0),
            fullest: shares.iter().copied().reduce(f64::max).unwrap_or(0.0),
            deviation: (squares / number - mean * mean).max(0.0).sqrt(),
            fairness: if squares > 0.0 {
                sum * sum / (number * squares)
            } else {
                1.0
            },
        }
    }
}

/// What is written down during a run.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) course: Vec<Moment>,
    /// How many decisions took so many microseconds.
    micros: BTreeMap<u64, u64>,
    deciding: Duration,
    /// How many machines waited so many milliseconds.
    waited_ms: BTreeMap<u64, u64>,
    placed: u32,
    reason: Option<NoRoom>,
}

impl Recorder {
    pub(crate) fn decided(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        *self.micros.entry(micros).or_default() += 1;
        self.deciding += took;
    }

    pub(crate) fn placed(&mut self, waited: Duration) {
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        *self.waited_ms.entry(ms).or_default() += 1;
        self.placed += 1;
    }

    pub(crate) fn refused(&mut self, why: &NoRoom) {
        self.reason = Some(why.clone());
    }

    pub(crate) fn report(
        self,
        scenario: &Scenario,
        fleet: &Fleet,
        running: u32,
        left: u32,
        took: Duration,
    ) -> Report {
        let mut filled = vec![0; 20];
        for host in fleet.hosts() {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share from 0 to 1"
            )]
            let twentieth = ((memory_share(host) * 20.0) as usize).min(19);
            if let Some(count) = filled.get_mut(twentieth) {
                *count += 1;
            }
        }
        let seconds = |share| self.quantile(&self.waited_ms, share) / 1000.0;
        Report {
            hosts: scenario.host_count(),
            machines: scenario.machine_count(),
            hours: scenario.hours,
            placed: self.placed,
            running,
            decisions: Decisions {
                taken: self.micros.values().sum(),
                placements_per_second: f64::from(self.placed)
                    / self.deciding.as_secs_f64().max(f64::MIN_POSITIVE),
                median_micros: self.quantile(&self.micros, 0.5),
                p99_micros: self.quantile(&self.micros, 0.99),
                longest_micros: self.quantile(&self.micros, 1.0),
                run_seconds: took.as_secs_f64(),
            },
            waiting: Waiting {
                placed_at_once: self
                    .waited_ms
                    .get(&0)
                    .map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX)),
                median_seconds: seconds(0.5),
                p99_seconds: seconds(0.99),
                longest_seconds: seconds(1.0),
                left,
                reason: self.reason.as_ref().map(NoRoom::to_string),
            },
            balance: Balance::of(fleet),
            filled,
            course: self.course,
        }
    }

    /// The value that this share of all is not above.
    #[allow(
        clippy::cast_precision_loss,
        clippy::unused_self,
        reason = "figures to be shown"
    )]
    fn quantile(&self, counts: &BTreeMap<u64, u64>, part: f64) -> f64 {
        let all: u64 = counts.values().sum();
        let mut seen = 0;
        for (value, count) in counts {
            seen += count;
            if seen as f64 >= all as f64 * part {
                return *value as f64;
            }
        }
        0.0
    }
}

impl Report {
    /// A page with the figures and charts, complete in itself.
    #[must_use]
    pub fn page(&self) -> String {
        chart::page(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| share * 100.0;
        let (decisions, waiting, balance) = (&self.decisions, &self.waiting, &self.balance);
        writeln!(
            f,
            "{} hosts, {} machines, {} hours simulated in {:.1} s",
            self.hosts, self.machines, self.hours, decisions.run_seconds
        )?;
        writeln!(
            f,
            "placed     {} ({} at once), {} run at the end, {} wait",
            self.placed, waiting.placed_at_once, self.running, waiting.left
        )?;
        writeln!(
            f,
            "decisions  {:.0} placements/s; median {:.0} µs, 99 % within {:.0} µs, longest {:.0} µs",
            decisions.placements_per_second,
            decisions.median_micros,
            decisions.p99_micros,
            decisions.longest_micros
        )?;
        writeln!(
            f,
            "waiting    median {:.0} s, 99 % within {:.0} s, longest {:.0} s of virtual time",
            waiting.median_seconds, waiting.p99_seconds, waiting.longest_seconds
        )?;
        write!(
            f,
            "balance    memory {:.1} % used, processors {:.1} %; hosts from {:.1} to {:.1} % full, deviation {:.1}, fairness {:.3}",
            percent(balance.memory_used),
            percent(balance.cpu_used),
            percent(balance.emptiest),
            percent(balance.fullest),
            percent(balance.deviation),
            balance.fairness
        )?;
        if let Some(reason) = &waiting.reason {
            write!(f, "\nno host    {reason}")?;
        }
        Ok(())
    }
}
