//! A host as placement sees it.

use std::collections::HashMap;

use cimi::{
    HostId,
    resources::{AcceleratorKind, Host},
};

use crate::{Demand, Group};

/// The attributes of hosts that expressions may name, and what they are.
pub const ATTRIBUTES: [(&str, &str); 11] = [
    ("NAME", "the host's name"),
    ("HOSTNAME", "the same"),
    ("ARCH", "`x86_64`"),
    ("HYPERVISOR", "`kvm` or `tcg`"),
    ("MODELNAME", "the processor's name"),
    ("CPUFLAGS", "what the processor can, each between blanks"),
    ("TOTALCPU", "hundredths of a processor offered"),
    ("FREECPU", "those that are free"),
    ("TOTALMEMORY", "KiB of memory offered"),
    ("FREEMEMORY", "those that are free"),
    ("RUNNING_VMS", "machines placed on the host"),
];

/// Whether a host takes machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostState {
    /// It does.
    #[default]
    Open,
    /// Its operator wants no new ones on it; those that run there run on.
    Maintenance,
}

/// What is known of a host beside its room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// How it executes guests: `kvm` or `tcg`.
    pub hypervisor: String,
    /// Its processor's name.
    pub cpu_model: String,
    /// What the processor can, as Linux names it, each between blanks: ` fpu avx2 `.
    pub cpu_flags: String,
    /// Machines that are placed on it, by the image of their root disk: what is cached there.
    pub images: HashMap<Box<str>, u32>,
    /// Machines that are placed on it, by the groups they are in.
    pub groups: HashMap<Group, u32>,
    /// Machines that are placed on it.
    pub machines: u64,
}

impl HostFacts {
    /// What the host's document tells.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        Self {
            name: host.common.name.clone().unwrap_or_default(),
            hypervisor: match host.accelerator {
                AcceleratorKind::Kvm => "kvm".to_owned(),
                AcceleratorKind::Tcg => "tcg".to_owned(),
            },
            cpu_model: host.cpu_model.clone(),
            cpu_flags: format!(" {} ", host.cpu_flags.join(" ")),
            ..Self::default()
        }
    }
}

/// A host, what it offers and what is taken of it. Small, since every decision looks at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLoad {
    /// Which host.
    pub id: HostId,
    /// What it offers, by [`Policy::offer`](crate::Policy::offer).
    pub offered: Demand,
    /// What is taken of it.
    pub booked: Demand,
    /// Whether it takes machines.
    pub state: HostState,
    /// Why nothing may be placed on it; none if it is well.
    pub trouble: Option<Box<str>>,
    /// The rest.
    pub facts: Box<HostFacts>,
}

impl HostLoad {
    /// What can still be booked.
    #[must_use]
    pub const fn free(&self) -> Demand {
        self.offered.minus(self.booked)
    }

    /// An attribute by its name in capitals; none if hosts have no such.
    pub(crate) fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let facts = &self.facts;
        Some(match name {
            "NAME" | "HOSTNAME" => Value::Text(&facts.name),
            "ARCH" => Value::Text("x86_64"),
            "HYPERVISOR" => Value::Text(&facts.hypervisor),
            "MODELNAME" => Value::Text(&facts.cpu_model),
            "CPUFLAGS" => Value::Text(&facts.cpu_flags),
            "TOTALCPU" => Value::Number(self.offered.cpu_percent),
            "FREECPU" => Value::Number(self.free().cpu_percent),
            "TOTALMEMORY" => Value::Number(self.offered.memory_kib),
            "FREEMEMORY" => Value::Number(self.free().memory_kib),
            "RUNNING_VMS" => Value::Number(facts.machines),
            _ => return None,
        })
    }
}

/// The value of an attribute.
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// For tests: a host of that name with this room.
#[cfg(test)]
pub(crate) fn example(name: &str, offered: Demand, booked: Demand) -> HostLoad {
    #[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
    HostLoad {
        id: HostId::from_local(name).unwrap(),
        offered,
        booked,
        state: HostState::Open,
        trouble: None,
        facts: Box::default(),
    }
}
