//! How full the hosts are, for everybody: names and sums, and nothing of whose machines they are.

use cimi::resources::{
    Host,
    weight::{CPU_PERCENT, MEMORY_KIB},
};
use documents::Cached;
use placement::Demand;

use crate::{Cloud, Metered};

/// How full a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUse {
    /// Its name.
    pub name: String,
    /// Machines that were seen to run on it.
    pub running: usize,
    /// In hundredths of a processor.
    pub cpu_percent: Filled,
    /// In KiB.
    pub memory_kib: Filled,
    /// Whether it takes machines.
    pub takes: Takes,
}

/// How much of something is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// What there is.
    pub total: u64,
    /// What is used at this moment, or was when the host told that last; of one that never did, what those machines were promised that run.
    pub used: u64,
    /// What all machines that are placed there were promised.
    pub booked: u64,
}

/// Whether a host takes machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// It does.
    Machines,
    /// It is not meant to: it is in maintenance, or only reports itself.
    Nothing,
    /// It can't: it is in trouble, is lost, or was never heard of.
    Fault,
}

impl Cloud {
    /// How full each host is, those that came first before the others.
    #[must_use]
    pub fn load(&self) -> Vec<HostUse> {
        let mut hosts = self.0.documents.hosts.all();
        hosts.sort_by(|one, other| one.id().cmp(other.id()));
        hosts.iter().map(|host| self.use_of(host)).collect()
    }

    fn use_of(&self, host: &Cached<Host>) -> HostUse {
        let machines = &self.0.documents.machines;
        let promised_to = |which: &str| Demand {
            cpu_percent: machines.sum_by_index(which, host.id(), CPU_PERCENT),
            memory_kib: machines.sum_by_index(which, host.id(), MEMORY_KIB),
        };
        let (booked, promised) = (promised_to("host"), promised_to("runsOn"));
        let name = host.common.name.as_deref().unwrap_or(host.id());
        let takes = if self.is_away(host) || !host.troubles.is_empty() {
            Takes::Fault
        } else if host.desired.maintenance || !host.runs_machines() {
            Takes::Nothing
        } else {
            Takes::Machines
        };
        let told = host.load.map(|load| Demand {
            cpu_percent: load.cpu_percent,
            memory_kib: load.memory_kib,
        });
        let used = self.measured(host).or(told).unwrap_or(promised);
        HostUse {
            name: name.to_owned(),
            running: machines.count_by_index("runsOn", host.id()),
            cpu_percent: Filled {
                total: u64::from(host.capacity.cpus) * 100,
                used: used.cpu_percent,
                booked: booked.cpu_percent,
            },
            memory_kib: Filled {
                total: host.capacity.memory_kib,
                used: used.memory_kib,
                booked: booked.memory_kib,
            },
            takes,
        }
    }

    /// What its meters say last, if they are here.
    fn measured(&self, host: &Cached<Host>) -> Option<Demand> {
        let readings = self.0.hosts.meters_here(Metered::Host(&host.document.id));
        let last = |aspect: &str| {
            let reading = readings.iter().find(|reading| reading.aspect == aspect)?;
            let (_, value) = reading.samples.last()?;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates, and is measured not that exactly"
            )]
            Some(value.round() as u64)
        };
        Some(Demand {
            cpu_percent: last("cpu")?,
            memory_kib: last("memory")?,
        })
    }
}
