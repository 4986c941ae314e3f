//! Why there is no host for a machine, in words for its user.

use std::fmt;

use crate::{
    Demand, HostLoad, Wish,
    choose::{Filters, Refusal},
};

/// Which reasons there are, without their numbers.
pub type Kinds = [bool; 13];

/// Why there is no host for a machine. Its text is for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What a host must have had room for.
    pub wanted: Demand,
    /// That is not for the machine alone: for all that are to leave their host together.
    pub of_a_group: bool,
    /// It has a host, which it was to leave.
    pub leaves: bool,
    /// Hosts looked at.
    pub hosts: u32,
    /// Those that the user's requirements exclude.
    pub excluded: u32,
    /// Those with a machine that this one is to be apart from.
    pub apart: u32,
    /// Those without the machines that this one is to be together with.
    pub elsewhere: u32,
    /// Those without enough free memory.
    pub lack_memory: u32,
    /// The most memory that is free on any of these, in KiB.
    pub largest_free_memory_kib: u64,
    /// Those with enough memory and without enough free processor time.
    pub lack_cpu: u32,
    /// The most processor time that is free on any of these, in hundredths of a processor.
    pub largest_free_cpu_percent: u64,
    /// Those whose operator wants no new machines on them.
    pub in_maintenance: u32,
    /// Those of which nothing is heard.
    pub lost: u32,
    /// Those without a way to the storage that the machine needs.
    pub lack_storage: u32,
    /// Those whose ports can't be forwarded to where the machine's users are.
    pub lack_ports: u32,
    /// Those whose daemon is too old for security groups.
    pub too_old: u32,
    /// Those without a bridge that one of the machine's networks is plugged into.
    pub lack_bridge: u32,
    /// The bridge that the first of these lacks.
    pub bridge: Option<Box<str>>,
    /// Those that are in trouble.
    pub in_trouble: u32,
    /// What one of these says.
    pub trouble: Option<Box<str>>,
}

impl NoRoom {
    /// Counts, for each host, the first reason not to take it.
    pub(crate) fn among(hosts: &[HostLoad], wish: &Wish<'_>, filters: &Filters<'_>) -> Self {
        let mut all = Self {
            wanted: filters.room,
            of_a_group: filters.is_for_all_of_a_group(),
            leaves: wish.way.is_some(),
            hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
            excluded: 0,
            apart: 0,
            elsewhere: 0,
            lack_memory: 0,
            largest_free_memory_kib: 0,
            lack_cpu: 0,
            largest_free_cpu_percent: 0,
            in_maintenance: 0,
            lost: 0,
            lack_storage: 0,
            lack_ports: 0,
            too_old: 0,
            lack_bridge: 0,
            bridge: None,
            in_trouble: 0,
            trouble: None,
        };
        for host in hosts {
            let free = host.free();
            match filters.reason(host) {
                Some(Refusal::Excluded) => all.excluded += 1,
                Some(Refusal::Maintenance) => all.in_maintenance += 1,
                Some(Refusal::Lost) => all.lost += 1,
                Some(Refusal::Storage) => all.lack_storage += 1,
                Some(Refusal::Ports) => all.lack_ports += 1,
                Some(Refusal::TooOld) => all.too_old += 1,
                Some(Refusal::Bridge(bridge)) => {
                    all.lack_bridge += 1;
                    all.bridge.get_or_insert_with(|| bridge.into());
                }
                Some(Refusal::Apart) => all.apart += 1,
                Some(Refusal::Elsewhere) => all.elsewhere += 1,
                Some(Refusal::Trouble) => {
                    all.in_trouble += 1;
                    if all.trouble.is_none() {
                        all.trouble.clone_from(&host.trouble);
                    }
                }
                Some(Refusal::Memory) => {
                    all.lack_memory += 1;
                    all.largest_free_memory_kib = all.largest_free_memory_kib.max(free.memory_kib);
                }
                Some(Refusal::Cpu) => {
                    all.lack_cpu += 1;
                    all.largest_free_cpu_percent =
                        all.largest_free_cpu_percent.max(free.cpu_percent);
                }
                None => {}
            }
        }
        all
    }

    /// Hosts for which a reason was found.
    #[cfg(test)]
    pub(crate) const fn counted(&self) -> u32 {
        self.excluded
            + self.apart
            + self.elsewhere
            + self.lack_memory
            + self.lack_cpu
            + self.in_maintenance
            + self.lost
            + self.lack_storage
            + self.lack_ports
            + self.too_old
            + self.lack_bridge
            + self.in_trouble
    }

    /// Which reasons there are, without their numbers: what has to differ for another text to be worth a write.
    #[must_use]
    pub const fn kinds(&self) -> Kinds {
        [
            self.hosts == 0,
            self.excluded > 0,
            self.apart > 0,
            self.elsewhere > 0,
            self.lack_memory > 0,
            self.lack_cpu > 0,
            self.in_maintenance > 0,
            self.lost > 0,
            self.lack_storage > 0,
            self.lack_ports > 0,
            self.too_old > 0,
            self.lack_bridge > 0,
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
        let by_whom = if self.of_a_group {
            " by all that are to be together"
        } else {
            ""
        };
        let bridge = self.bridge.as_deref().unwrap_or_default();
        let bridge = format!("the bridge {bridge}");
        // One or many, what it is, and more about it.
        let reasons = [
            (
                self.excluded,
                ["is", "are"],
                "not what the machine's requirements ask for",
                String::new(),
            ),
            (
                self.apart,
                ["has", "have"],
                "machines that this one is to be apart from",
                String::new(),
            ),
            (
                self.elsewhere,
                ["has", "have"],
                "not the machines that this one is to be together with",
                if self.leaves {
                    " (all of them move when their host is drained)".to_owned()
                } else {
                    String::new()
                },
            ),
            (
                self.lack_memory,
                ["lacks", "lack"],
                "memory",
                format!(
                    " (largest free {} MiB, {} MiB wanted{by_whom})",
                    self.largest_free_memory_kib / 1024,
                    self.wanted.memory_kib.div_ceil(1024)
                ),
            ),
            (
                self.lack_cpu,
                ["lacks", "lack"],
                "processors",
                format!(
                    " (largest free {}, {} wanted{by_whom})",
                    Processors(self.largest_free_cpu_percent),
                    Processors(self.wanted.cpu_percent)
                ),
            ),
            (
                self.lack_storage,
                ["has", "have"],
                "no way to the storage that the machine needs (for volumes, or to be saved)",
                String::new(),
            ),
            (
                self.lack_ports,
                ["has", "have"],
                "no ports that users reach (the machine's network forwards those of the cloud's own host)",
                String::new(),
            ),
            (
                self.too_old,
                ["is", "are"],
                "too old for security groups (their stratusd is to be upgraded)",
                String::new(),
            ),
            (
                self.lack_bridge,
                ["lacks", "lack"],
                &*bridge,
                " (the machine's network is plugged into it)".to_owned(),
            ),
            (
                self.lost,
                ["is", "are"],
                "lost (nothing is heard of it)",
                String::new(),
            ),
            (
                self.in_maintenance,
                ["is", "are"],
                "in maintenance",
                String::new(),
            ),
            (
                self.in_trouble,
                ["is", "are"],
                "in trouble",
                self.trouble
                    .as_ref()
                    .map_or_else(String::new, |trouble| format!(" ({trouble})")),
            ),
        ];
        let mut separator = "";
        for (number, [one, many], what, more) in reasons {
            if number > 0 {
                let verb = if number == 1 { one } else { many };
                write!(f, "{separator}{number} {verb} {what}{more}")?;
                separator = ", ";
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
