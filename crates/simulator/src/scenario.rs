//! What is simulated.

use placement::{Rank, Requirements};
use serde::{Deserialize, Serialize};

/// Most hosts, and most machines, of a scenario: bounds what a file can make us allocate.
const HOSTS_AT_MOST: u32 = 1_000_000;
const MACHINES_AT_MOST: u32 = 10_000_000;
/// Of a host or a machine; more than there are.
const CPUS_AT_MOST: u64 = 100_000;
const MEMORY_MIB_AT_MOST: u64 = 1 << 30;
/// Of which machines of one kind are started.
const IMAGES_AT_MOST: u64 = 1_000_000;
/// A year.
const HOURS_AT_MOST: f64 = 8784.0;

/// Why a text is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It isn't TOML, or has other keys.
    #[error("{}", cimi::wording::plainly(&.0.to_string()))]
    Syntax(#[from] Box<toml::de::Error>),
    /// A value that can't be.
    #[error("`{key}` {problem}")]
    Value {
        /// Which key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Hosts, machines and what happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Chooses the times and lifetimes; the same seed gives the same run.
    pub seed: u64,
    /// How much time passes, in hours.
    pub hours: f64,
    /// How hosts are filled.
    pub policy: Policy,
    /// The hosts.
    pub hosts: Vec<Hosts>,
    /// The machines that come.
    pub machines: Vec<Machines>,
    /// Hosts that take no machines for a while.
    pub maintenance: Vec<Maintenance>,
}

/// As `[placement]` of the daemon's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "as the daemon's configuration explains them")]
pub struct Policy {
    pub strategy: Strategy,
    pub cpu_overcommit: f64,
    pub memory_overcommit: f64,
    pub memory_reserve_mib: u64,
}

/// Which of several possible hosts is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The emptiest.
    #[default]
    Spreading,
    /// The fullest that has room.
    Packing,
}

/// Hosts that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    /// How many.
    pub count: u32,
    /// Beginning of their names.
    #[serde(default = "node")]
    pub name: String,
    /// Processors of each.
    pub cpus: u32,
    /// Memory of each, in GiB.
    pub memory_gib: u64,
    /// `kvm` or `tcg`.
    #[serde(default = "kvm")]
    pub hypervisor: String,
    /// What their processors can.
    #[serde(default)]
    pub cpu_flags: Vec<String>,
}

fn node() -> String {
    "node".to_owned()
}

fn kvm() -> String {
    "kvm".to_owned()
}

/// Machines that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// How many come.
    pub count: u32,
    /// From which hour to which; evenly, each at a random moment.
    #[serde(default)]
    pub between_hours: [f64; 2],
    /// Processors of each.
    pub cpus: u32,
    /// Memory of each, in MiB.
    pub memory_mib: u64,
    /// How long they live on average, in hours, spread as the life of independent things is; 0: to the end.
    #[serde(default)]
    pub mean_hours: f64,
    /// From how many images they are started.
    #[serde(default = "one")]
    pub images: u32,
    /// Which hosts may be.
    #[serde(default)]
    pub requirements: Option<String>,
    /// Which hosts are liked best.
    #[serde(default)]
    pub rank: Option<String>,
    /// Each so many of them share a host; 0: they needn't.
    #[serde(default)]
    pub together: u32,
    /// Each so many of them are on different hosts; 0: they needn't be.
    #[serde(default)]
    pub apart: u32,
}

fn one() -> u32 {
    1
}

/// Hosts that take no new machines for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// From which hour to which.
    pub between_hours: [f64; 2],
    /// How many hosts, by the order of their names.
    pub hosts: u32,
    /// How many hosts come before them in that order.
    #[serde(default)]
    pub after: u32,
}

impl Default for Policy {
    fn default() -> Self {
        let usual = placement::Policy::default();
        Self {
            strategy: Strategy::Spreading,
            cpu_overcommit: usual.cpu_overcommit,
            memory_overcommit: usual.memory_overcommit,
            memory_reserve_mib: usual.memory_reserve_kib / 1024,
        }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self::of(100, 1000)
    }
}

impl Policy {
    pub(crate) fn for_placement(&self) -> placement::Policy {
        placement::Policy {
            cpu_overcommit: self.cpu_overcommit,
            memory_overcommit: self.memory_overcommit,
            memory_reserve_kib: self.memory_reserve_mib.saturating_mul(1024),
            strategy: match self.strategy {
                Strategy::Spreading => placement::Strategy::Spreading,
                Strategy::Packing => placement::Strategy::Packing,
            },
        }
    }
}

impl Scenario {
    /// A computing centre with so many hosts of three kinds, to which so many machines of three sizes come within an hour; half of
    /// them live for some hours, the others stay.
    #[must_use]
    pub fn of(hosts: u32, machines: u32) -> Self {
        let some = |all: u32, share: u32| all.saturating_mul(share) / 100;
        let host = |name: &str, count, cpus, memory_gib| Hosts {
            count,
            name: name.to_owned(),
            cpus,
            memory_gib,
            hypervisor: kvm(),
            cpu_flags: Vec::new(),
        };
        let machine = |count, cpus, memory_mib, mean_hours| Machines {
            count,
            between_hours: [0.0, 1.0],
            cpus,
            memory_mib,
            mean_hours,
            images: 100,
            requirements: None,
            rank: None,
            together: 0,
            apart: 0,
        };
        let (large, medium) = (some(hosts, 20), some(hosts, 30));
        let (big, usual) = (some(machines, 10), some(machines, 40));
        Self {
            seed: 1,
            hours: 6.0,
            policy: Policy::default(),
            hosts: vec![
                host("large", large, 64, 256),
                host("medium", medium, 32, 128),
                host("small", hosts.saturating_sub(large + medium), 16, 64),
            ],
            machines: vec![
                machine(big, 4, 8192, 0.0),
                machine(usual, 2, 4096, 0.0),
                machine(machines.saturating_sub(big + usual), 1, 1536, 3.0),
            ],
            maintenance: Vec::new(),
        }
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(Box::new)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The text that [`parse`](Self::parse) reads.
    ///
    /// # Errors
    /// None that can be made by [`of`](Self::of) or [`parse`](Self::parse).
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// How many hosts there are.
    #[must_use]
    pub fn host_count(&self) -> u32 {
        self.hosts
            .iter()
            .fold(0_u32, |sum, hosts| sum.saturating_add(hosts.count))
    }

    /// How many machines come.
    #[must_use]
    pub fn machine_count(&self) -> u32 {
        self.machines
            .iter()
            .fold(0_u32, |sum, machines| sum.saturating_add(machines.count))
    }

    /// Whether its numbers can be.
    ///
    /// # Errors
    /// Which one can't.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let wrong = |key: String, problem: String| Err(ScenarioError::Value { key, problem });
        let (hosts, machines) = (self.host_count(), self.machine_count());
        for (key, count, most) in [
            ("hosts", hosts, HOSTS_AT_MOST),
            ("machines", machines, MACHINES_AT_MOST),
        ] {
            if count == 0 {
                let text = "are none: nothing would happen; at least 1 is needed".to_owned();
                return wrong(key.to_owned(), text);
            }
            if count > most {
                let text = format!("are {count}; at most {most} are possible");
                return wrong(key.to_owned(), text);
            }
        }
        self.check_sizes()?;
        let is_span = |hours: f64| (0.0..=HOURS_AT_MOST).contains(&hours);
        if !is_span(self.hours) || self.hours == 0.0 {
            let text = format!(
                "is {}; write more than 0, and at most {HOURS_AT_MOST}",
                self.hours
            );
            return wrong("hours".to_owned(), text);
        }
        for (key, ratio) in [
            ("cpu_overcommit", self.policy.cpu_overcommit),
            ("memory_overcommit", self.policy.memory_overcommit),
        ] {
            if !(0.01..=1000.0).contains(&ratio) {
                let text = format!("is {ratio}; write a number from 0.01 to 1000");
                return wrong(format!("policy.{key}"), text);
            }
        }
        let spans = self.machines.iter().map(|one| one.between_hours);
        let spans = spans.chain(self.maintenance.iter().map(|one| one.between_hours));
        for [from, to] in spans {
            if !is_span(from) || !is_span(to) || from > to {
                let text = format!("is [{from}, {to}]; write the earlier hour first");
                return wrong("between_hours".to_owned(), text);
            }
        }
        for (index, one) in self.machines.iter().enumerate() {
            let key = |name: &str| format!("machines[{index}].{name}");
            if !is_span(one.mean_hours) {
                let text = format!("is {}; write 0 to {HOURS_AT_MOST}", one.mean_hours);
                return wrong(key("mean_hours"), text);
            }
            if let Some(text) = &one.requirements
                && let Err(error) = Requirements::parse(text)
            {
                return wrong(key("requirements"), error.to_string());
            }
            if let Some(text) = &one.rank
                && let Err(error) = Rank::parse(text)
            {
                return wrong(key("rank"), error.to_string());
            }
        }
        Ok(())
    }

    /// Whether hosts and machines can have such sizes.
    fn check_sizes(&self) -> Result<(), ScenarioError> {
        let of_hosts = self.hosts.iter().enumerate().flat_map(|(index, one)| {
            [
                (
                    format!("hosts[{index}].cpus"),
                    one.cpus.into(),
                    CPUS_AT_MOST,
                ),
                (
                    format!("hosts[{index}].memory_gib"),
                    one.memory_gib,
                    MEMORY_MIB_AT_MOST / 1024,
                ),
            ]
        });
        let of_machines = self.machines.iter().enumerate().flat_map(|(index, one)| {
            let key = |name: &str| format!("machines[{index}].{name}");
            [
                (key("cpus"), one.cpus.into(), CPUS_AT_MOST),
                (key("memory_mib"), one.memory_mib, MEMORY_MIB_AT_MOST),
                (key("images"), one.images.into(), IMAGES_AT_MOST),
            ]
        });
        for (key, value, most) in of_hosts.chain(of_machines) {
            if value == 0 || value > most {
                let problem = format!("is {value}; write 1 to {most}");
                return Err(ScenarioError::Value { key, problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_written_and_read() {
        let scenario = Scenario::of(10, 100);
        assert_eq!(
            Scenario::parse(&scenario.text().unwrap()).unwrap(),
            scenario
        );
        assert_eq!((scenario.host_count(), scenario.machine_count()), (10, 100));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (text, told) in [
            ("hours = 0.0", "`hours` is 0"),
            ("hours = nan", "`hours` is NaN"),
            ("days = 1", "unknown field `days`"),
            (
                "[policy]\ncpu_overcommit = 0.0",
                "`policy.cpu_overcommit` is 0",
            ),
            (
                "[[hosts]]\ncount = 4000000000\ncpus = 1\nmemory_gib = 1",
                "`hosts` are 4000000000; at most",
            ),
            ("hosts = []", "`hosts` are none"),
            ("machines = []", "`machines` are none"),
            (
                "[[hosts]]\ncount = 1\ncpus = 0\nmemory_gib = 1",
                "`hosts[0].cpus` is 0; write 1 to 100000",
            ),
            (
                "[[hosts]]\ncount = 1\ncpus = 1\nmemory_gib = 18446744073709551615",
                "`hosts[0].memory_gib` is 18446744073709551615",
            ),
            (
                "[[machines]]\ncount = 1\ncpus = 1\nmemory_mib = 0",
                "`machines[0].memory_mib` is 0",
            ),
            (
                "[[machines]]\ncount = 1\ncpus = 1\nmemory_mib = 1\nimages = 4000000000",
                "`machines[0].images` is 4000000000",
            ),
            (
                "[[machines]]\ncount = 1\ncpus = 1\nmemory_mib = 1\nrank = 'LOAD'",
                "`machines[0].rank` is not understood at character 1",
            ),
            (
                "[[machines]]\ncount = 1\ncpus = 1\nmemory_mib = 1\nbetween_hours = [2.0, 1.0]",
                "`between_hours` is [2, 1]",
            ),
        ] {
            let error = Scenario::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
