//! What machines use up.

use cimi::resources::Machine;

/// An amount of what machines use up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    /// Processor time in hundredths of one processor.
    pub cpu_percent: u64,
    /// Memory in KiB.
    pub memory_kib: u64,
}

impl Demand {
    /// What a machine uses up: what it is promised.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        Self {
            cpu_percent: machine.cpu_percent(),
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
