//! A host as placement sees it.

use std::collections::{HashMap, HashSet};

use cimi::{
    HostId,
    resources::{AcceleratorKind, Host, Machine},
};

use crate::{Demand, Group};

/// The attributes of hosts that expressions may name, and what they are.
const ATTRIBUTES: [(&str, Attribute, &str); 11] = [
    ("NAME", Attribute::Name, "the host's name"),
    ("HOSTNAME", Attribute::Name, "the same"),
    ("ARCH", Attribute::Arch, "`x86_64`"),
    ("HYPERVISOR", Attribute::Hypervisor, "`kvm` or `tcg`"),
    ("MODELNAME", Attribute::ModelName, "the processor's name"),
    (
        "CPUFLAGS",
        Attribute::CpuFlags,
        "what the processor can, each between blanks",
    ),
    (
        "TOTALCPU",
        Attribute::TotalCpu,
        "hundredths of a processor offered",
    ),
    ("FREECPU", Attribute::FreeCpu, "those that are free"),
    (
        "TOTALMEMORY",
        Attribute::TotalMemory,
        "KiB of memory offered",
    ),
    ("FREEMEMORY", Attribute::FreeMemory, "those that are free"),
    (
        "RUNNING_VMS",
        Attribute::RunningVms,
        "machines placed on the host",
    ),
];

/// Whether a host takes machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostState {
    /// It does.
    #[default]
    Open,
    /// Its operator wants no new ones on it; those that run there run on.
    Maintenance,
    /// It has joined, and doesn't say any more that it is there.
    Lost,
}

impl HostState {
    /// Of a host of which is heard now, or not. Who is part of the cloud's own daemon needn't say that it is there.
    #[must_use]
    pub const fn of(host: &Host, is_heard: bool) -> Self {
        if host.has_joined() && !is_heard {
            Self::Lost
        } else if host.desired.maintenance {
            Self::Maintenance
        } else {
            Self::Open
        }
    }
}

/// What not every host has, beside room. Of a machine: what it needs of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// A way to the cloud's volumes.
    pub volumes: bool,
    /// A way by which disks come to where they are saved.
    pub saving: bool,
    /// Ports that are forwarded to machines, where users reach them.
    pub forwarded_ports: bool,
    /// A daemon that holds machines to security groups.
    pub security_groups: bool,
}

impl Means {
    /// None of them.
    pub const NONE: Self = Self {
        volumes: false,
        saving: false,
        forwarded_ports: false,
        security_groups: false,
    };

    /// All of them.
    pub const ALL: Self = Self {
        volumes: true,
        saving: true,
        forwarded_ports: true,
        security_groups: true,
    };

    /// What a machine's own document says that it needs.
    #[must_use]
    pub const fn wanted_by(machine: &Machine) -> Self {
        Self {
            volumes: !machine.volumes.is_empty(),
            saving: machine.save.is_some(),
            forwarded_ports: false,
            security_groups: !machine.security_groups.is_empty(),
        }
    }

    /// Whether these are all of those.
    #[must_use]
    pub const fn cover(self, needs: Self) -> bool {
        (self.volumes || !needs.volumes)
            && (self.saving || !needs.saving)
            && (self.forwarded_ports || !needs.forwarded_ports)
            && (self.security_groups || !needs.security_groups)
    }

    /// What a host has.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let is_own = !host.has_joined();
        Self {
            volumes: is_own || host.uses_volumes,
            saving: is_own || host.has_feature(Host::GIVES_DISKS),
            forwarded_ports: is_own,
            security_groups: is_own || host.has_feature(Host::SECURITY_GROUPS),
        }
    }
}

/// The machines of a group on one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// All of them.
    pub machines: u32,
    /// Those that are asked to go elsewhere.
    pub leaving: u32,
    /// What all of them take.
    pub demand: Demand,
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
    /// Bridges of its operator's.
    pub bridges: Vec<String>,
    /// All contents of images are at hand: it is beside the storage.
    pub has_all_images: bool,
    /// The SHA-1 of those that it has copies of.
    pub cached: HashSet<Box<str>>,
    /// Machines that are placed on it, by the image of their root disk: what is, or will be, there.
    pub images: HashMap<Box<str>, u32>,
    /// Machines that are placed on it, by the groups they are in.
    pub groups: HashMap<Group, Members>,
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
            bridges: host.bridges.clone(),
            has_all_images: !host.has_joined(),
            cached: host
                .cached
                .iter()
                .map(|sha1| sha1.as_str().into())
                .collect(),
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
    /// What it has beside room.
    pub means: Means,
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

    /// The value of an attribute.
    pub(crate) fn value(&self, attribute: Attribute) -> Value<'_> {
        let facts = &self.facts;
        match attribute {
            Attribute::Name => Value::Text(&facts.name),
            Attribute::Arch => Value::Text("x86_64"),
            Attribute::Hypervisor => Value::Text(&facts.hypervisor),
            Attribute::ModelName => Value::Text(&facts.cpu_model),
            Attribute::CpuFlags => Value::Text(&facts.cpu_flags),
            Attribute::TotalCpu => Value::Number(self.offered.cpu_percent),
            Attribute::FreeCpu => Value::Number(self.free().cpu_percent),
            Attribute::TotalMemory => Value::Number(self.offered.memory_kib),
            Attribute::FreeMemory => Value::Number(self.free().memory_kib),
            Attribute::RunningVms => Value::Number(facts.machines),
        }
    }
}

/// What of a host an expression names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Name,
    Arch,
    Hypervisor,
    ModelName,
    CpuFlags,
    TotalCpu,
    FreeCpu,
    TotalMemory,
    FreeMemory,
    RunningVms,
}

impl Attribute {
    /// By its name in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (_, attribute, _) = ATTRIBUTES
            .iter()
            .find(|(known, _, _)| known.eq_ignore_ascii_case(name))?;
        Some(*attribute)
    }

    /// Whether its values are numbers.
    pub(crate) const fn is_number(self) -> bool {
        !matches!(
            self,
            Self::Name | Self::Arch | Self::Hypervisor | Self::ModelName | Self::CpuFlags
        )
    }

    /// The names of those that are `wanted`, for messages.
    pub(crate) fn names(wanted: impl Fn(Self) -> bool) -> String {
        let all = ATTRIBUTES
            .iter()
            .filter(|(_, attribute, _)| wanted(*attribute));
        all.map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ")
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
        means: Means::ALL,
        trouble: None,
        facts: Box::default(),
    }
}
