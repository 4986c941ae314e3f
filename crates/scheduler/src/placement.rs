//! Which host a machine goes to: a pure function over what the hosts offer and what is booked on them.
//!
//! First filters (is it what the user demands, is it well, has it memory, has it processor time), each of which counts
//! what it refuses; then weights among those that are left.

use std::{cmp::Reverse, fmt};

use cimi::{
    HostId,
    resources::{Capacity, Machine},
};

use crate::requirements::{HostFacts, Requirements};

/// An amount of what machines use up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    /// Processor time in hundredths of one processor.
    pub cpu_percent: u64,
    /// Memory in KiB.
    pub memory_kib: u64,
}

impl Demand {
    /// What a machine uses up: its guaranteed share of processors if it has one, else whole ones.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let whole = u64::from(machine.cpu) * 100;
        Self {
            cpu_percent: machine.cpu_share_percent.map_or(whole, u64::from),
            memory_kib: machine.memory,
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu_percent: self.cpu_percent.saturating_add(other.cpu_percent),
            memory_kib: self.memory_kib.saturating_add(other.memory_kib),
        }
    }

    /// What is left of this without the other; nothing rather than less.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            cpu_percent: self.cpu_percent.saturating_sub(other.cpu_percent),
            memory_kib: self.memory_kib.saturating_sub(other.memory_kib),
        }
    }

    /// Whether this is no more than the other in any respect.
    #[must_use]
    pub const fn fits_in(self, room: Self) -> bool {
        self.cpu_percent <= room.cpu_percent && self.memory_kib <= room.memory_kib
    }
}

/// Which of several possible hosts is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The emptiest, so that machines get the most of the hardware.
    #[default]
    Spreading,
    /// The fullest, so that room for large machines and hosts to switch off stay.
    Packing,
}

/// How hosts are filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Virtual processors offered for each real one.
    pub cpu_overcommit: f64,
    /// Memory offered for each byte of a host's, after the reserve.
    pub memory_overcommit: f64,
    /// Memory of each host that is kept for the host itself, in KiB.
    pub memory_reserve_kib: u64,
    /// Which of several possible hosts is taken.
    pub strategy: Strategy,
}

impl Default for Policy {
    /// Processors are shared 32 times since most guests wait most of the time; memory is not shared, since a host that
    /// runs out of it kills guests.
    fn default() -> Self {
        Self {
            cpu_overcommit: 32.0,
            memory_overcommit: 1.0,
            memory_reserve_kib: 512 * 1024,
            strategy: Strategy::Spreading,
        }
    }
}

impl Policy {
    /// What a host offers to machines by this policy.
    #[must_use]
    pub fn offer(&self, capacity: &Capacity) -> Demand {
        let memory = capacity.memory_kib.saturating_sub(self.memory_reserve_kib);
        Demand {
            cpu_percent: scaled(u64::from(capacity.cpus) * 100, self.cpu_overcommit),
            memory_kib: scaled(memory, self.memory_overcommit),
        }
    }
}

/// `amount` × `ratio`. Conversions to integers saturate, and take what is no number as zero.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "near enough for a ratio that an operator chose"
)]
fn scaled(amount: u64, ratio: f64) -> u64 {
    (amount as f64 * ratio) as u64
}

/// A host as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLoad {
    /// Which host.
    pub id: HostId,
    /// What it offers, by [`Policy::offer`].
    pub offered: Demand,
    /// What is taken of it.
    pub booked: Demand,
    /// Why nothing may be placed on it; none if it is well.
    pub trouble: Option<String>,
    /// What users may ask for beside room.
    pub facts: HostFacts,
}

impl HostLoad {
    /// What can still be booked.
    #[must_use]
    pub const fn free(&self) -> Demand {
        self.offered.minus(self.booked)
    }
}

/// The host for a machine that uses up `demand` and may run on hosts that meet `requirements`. The order of `hosts` makes no difference.
///
/// # Errors
/// [`NoRoom`] with the reasons counted, if no host can take it.
pub fn place<'h>(
    hosts: &'h [HostLoad],
    demand: Demand,
    requirements: Option<&Requirements>,
    strategy: Strategy,
) -> Result<&'h HostLoad, NoRoom> {
    let mut refused = NoRoom::of(demand);
    let mut best: Option<((i64, Reverse<&HostId>), &HostLoad)> = None;
    for host in hosts {
        if refused.refuses(host, requirements) {
            continue;
        }
        let left = host.free().minus(demand);
        let emptiness = per_mille(left.memory_kib, host.offered.memory_kib)
            .min(per_mille(left.cpu_percent, host.offered.cpu_percent));
        let weight = match strategy {
            Strategy::Spreading => emptiness,
            Strategy::Packing => -emptiness,
        };
        // Among equals the first id, so that the same documents always give the same decision.
        let weight = (weight, Reverse(&host.id));
        if best.as_ref().is_none_or(|(other, _)| weight > *other) {
            best = Some((weight, host));
        }
    }
    best.map(|(_, host)| host).ok_or(refused)
}

fn per_mille(part: u64, whole: u64) -> i64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    i64::try_from(share).unwrap_or(i64::MAX)
}

/// Why there is no host for a machine. Its text is for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What was wanted.
    pub wanted: Demand,
    /// Hosts looked at.
    pub hosts: usize,
    /// Those that the user's requirements exclude.
    pub excluded: usize,
    /// Those without enough free memory.
    pub lack_memory: usize,
    /// The most memory that is free on any of these, in KiB.
    pub largest_free_memory_kib: u64,
    /// Those with enough memory and without enough free processor time.
    pub lack_cpu: usize,
    /// The most processor time that is free on any of these, in hundredths of a processor.
    pub largest_free_cpu_percent: u64,
    /// Those that are in trouble.
    pub in_trouble: usize,
    /// What one of these says.
    pub trouble: Option<String>,
}

impl NoRoom {
    fn of(wanted: Demand) -> Self {
        Self {
            wanted,
            hosts: 0,
            excluded: 0,
            lack_memory: 0,
            largest_free_memory_kib: 0,
            lack_cpu: 0,
            largest_free_cpu_percent: 0,
            in_trouble: 0,
            trouble: None,
        }
    }

    /// Counts the host, and the first reason not to take it, if there is one.
    fn refuses(&mut self, host: &HostLoad, requirements: Option<&Requirements>) -> bool {
        let free = host.free();
        self.hosts += 1;
        if requirements.is_some_and(|requirements| !requirements.met_by(host)) {
            self.excluded += 1;
        } else if let Some(trouble) = &host.trouble {
            self.in_trouble += 1;
            self.trouble.get_or_insert_with(|| trouble.clone());
        } else if free.memory_kib < self.wanted.memory_kib {
            self.lack_memory += 1;
            self.largest_free_memory_kib = self.largest_free_memory_kib.max(free.memory_kib);
        } else if free.cpu_percent < self.wanted.cpu_percent {
            self.lack_cpu += 1;
            self.largest_free_cpu_percent = self.largest_free_cpu_percent.max(free.cpu_percent);
        } else {
            return false;
        }
        true
    }

    /// Which reasons there are, without their numbers: what has to differ for another text to be worth a write.
    #[must_use]
    pub const fn kinds(&self) -> [bool; 5] {
        [
            self.hosts == 0,
            self.excluded > 0,
            self.lack_memory > 0,
            self.lack_cpu > 0,
            self.in_trouble > 0,
        ]
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts == 0 {
            return f.write_str("waiting for a host: none has reported yet");
        }
        let plural = if self.hosts == 1 { "" } else { "s" };
        write!(f, "waiting for room on {} host{plural}: ", self.hosts)?;
        let mut separator = "";
        if self.excluded > 0 {
            let are = if self.excluded == 1 { "is" } else { "are" };
            write!(
                f,
                "{} {are} not what the machine's requirements ask for",
                self.excluded
            )?;
            separator = ", ";
        }
        if self.lack_memory > 0 {
            let lacks = if self.lack_memory == 1 {
                "lacks"
            } else {
                "lack"
            };
            write!(
                f,
                "{separator}{} {lacks} memory (largest free {} MiB, {} MiB wanted)",
                self.lack_memory,
                self.largest_free_memory_kib / 1024,
                self.wanted.memory_kib.div_ceil(1024),
            )?;
            separator = ", ";
        }
        if self.lack_cpu > 0 {
            let lacks = if self.lack_cpu == 1 { "lacks" } else { "lack" };
            write!(
                f,
                "{separator}{} {lacks} processors (largest free {}, {} wanted)",
                self.lack_cpu,
                Processors(self.largest_free_cpu_percent),
                Processors(self.wanted.cpu_percent),
            )?;
            separator = ", ";
        }
        if self.in_trouble > 0 {
            let are = if self.in_trouble == 1 { "is" } else { "are" };
            write!(f, "{separator}{} {are} in trouble", self.in_trouble)?;
            if let Some(trouble) = &self.trouble {
                write!(f, " ({trouble})")?;
            }
        }
        Ok(())
    }
}

/// Hundredths of a processor, written as processors.
struct Processors(u64);

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, part) => write!(f, "{whole}.{part:02}"),
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use proptest::{
        prelude::{Just, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
        strategy::Strategy as Generator,
    };

    use super::*;

    const MIB: u64 = 1024;

    fn demand(cpu_percent: u64, memory_mib: u64) -> Demand {
        Demand {
            cpu_percent,
            memory_kib: memory_mib * MIB,
        }
    }

    fn host(name: &str, offered: Demand, booked: Demand) -> HostLoad {
        HostLoad {
            id: HostId::from_local(name).unwrap(),
            offered,
            booked,
            trouble: None,
            facts: HostFacts::default(),
        }
    }

    #[test]
    fn the_emptiest_or_the_fullest_host_is_taken() {
        let hosts = [
            host("a", demand(400, 8000), demand(100, 4000)),
            host("b", demand(400, 8000), demand(100, 2000)),
            host("c", demand(400, 8000), demand(100, 7900)),
        ];
        let wanted = demand(100, 1000);
        assert_eq!(
            place(&hosts, wanted, None, Strategy::Spreading),
            Ok(&hosts[1])
        );
        assert_eq!(
            place(&hosts, wanted, None, Strategy::Packing),
            Ok(&hosts[0])
        );
    }

    #[test]
    fn an_explanation_counts_its_reasons() {
        let mut hosts = [
            host("a", demand(400, 4096), demand(100, 4000)),
            host("b", demand(400, 4096), demand(100, 3584)),
            host("c", demand(400, 4096), demand(0, 0)),
        ];
        hosts[2].trouble = Some("no space left for disks".into());
        let refused = place(&hosts, demand(100, 2048), None, Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 3 hosts: 2 lack memory (largest free 512 MiB, 2048 MiB wanted), \
             1 is in trouble (no space left for disks)"
        );
        let refused = place(&hosts[..1], demand(350, 1), None, Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for room on 1 host: 1 lacks processors (largest free 3, 3.50 wanted)"
        );
        let refused = place(&[], demand(100, 1), None, Strategy::Spreading).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "waiting for a host: none has reported yet"
        );
    }

    #[test]
    fn a_policy_keeps_memory_back_and_shares_processors() {
        let capacity = Capacity {
            cpus: 2,
            memory_kib: 4096 * MIB,
            ..Capacity::default()
        };
        let policy = Policy {
            cpu_overcommit: 1.5,
            memory_overcommit: 2.0,
            memory_reserve_kib: 96 * MIB,
            ..Policy::default()
        };
        assert_eq!(policy.offer(&capacity), demand(300, 8000));
        let nothing = Policy {
            memory_reserve_kib: u64::MAX,
            cpu_overcommit: f64::NAN,
            ..policy
        };
        assert_eq!(nothing.offer(&capacity), demand(0, 0));
    }

    fn any_demand(most: u64) -> impl Generator<Value = Demand> {
        (0..most, 0..most).prop_map(|(cpu_percent, memory_kib)| Demand {
            cpu_percent,
            memory_kib,
        })
    }

    fn any_hosts() -> impl Generator<Value = Vec<HostLoad>> {
        let one = (any_demand(50), any_demand(50), prop::bool::weighted(0.2));
        prop::collection::vec(one, 0..8).prop_map(|hosts| {
            let build =
                |(n, (offered, booked, trouble)): (usize, (Demand, Demand, bool))| HostLoad {
                    trouble: trouble.then(|| "t".to_owned()),
                    ..host(&format!("h{n}"), offered, booked)
                };
            hosts.into_iter().enumerate().map(build).collect()
        })
    }

    fn any_strategy() -> impl Generator<Value = Strategy> {
        prop_oneof![Just(Strategy::Spreading), Just(Strategy::Packing)]
    }

    proptest! {
        #[test]
        fn a_host_is_found_exactly_if_one_has_room(
            hosts in any_hosts(), wanted in any_demand(40), strategy in any_strategy(),
        ) {
            let fits = |host: &HostLoad| host.trouble.is_none() && wanted.fits_in(host.free());
            match place(&hosts, wanted, None, strategy) {
                Ok(host) => prop_assert!(fits(host)),
                Err(refused) => {
                    prop_assert!(!hosts.iter().any(fits));
                    let counted = refused.lack_memory + refused.lack_cpu + refused.in_trouble;
                    prop_assert_eq!(counted, hosts.len());
                    prop_assert_eq!(refused.hosts, hosts.len());
                }
            }
        }

        #[test]
        fn the_order_of_hosts_makes_no_difference(
            hosts in any_hosts(), wanted in any_demand(40), strategy in any_strategy(), turn in 0_usize..8,
        ) {
            let mut turned = hosts.clone();
            let turn = turn % hosts.len().max(1);
            turned.rotate_left(turn);
            let name = |hosts: &[HostLoad]| {
                place(hosts, wanted, None, strategy).map(|host| host.id.clone()).map_err(|refused| refused.kinds())
            };
            prop_assert_eq!(name(&hosts), name(&turned));
        }

        #[test]
        fn a_row_of_placements_never_overbooks(
            mut hosts in any_hosts(), wanted in prop::collection::vec(any_demand(20), 0..40), strategy in any_strategy(),
        ) {
            let fine = |host: &HostLoad| host.booked.fits_in(host.offered);
            let before: Vec<bool> = hosts.iter().map(fine).collect();
            for wanted in wanted {
                let chosen = place(&hosts, wanted, None, strategy).map(|host| host.id.clone());
                for host in hosts.iter_mut().filter(|host| chosen.as_ref() == Ok(&host.id)) {
                    host.booked = host.booked.plus(wanted);
                }
            }
            for (host, before) in hosts.iter().zip(before) {
                prop_assert!(!before || fine(host));
            }
        }
    }
}
