//! How hosts are filled.

use cimi::resources::Capacity;

use crate::Demand;

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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024;

    #[test]
    fn a_policy_keeps_memory_back_and_shares_processors() {
        let demand = |cpu_percent, memory_mib: u64| Demand {
            cpu_percent,
            memory_kib: memory_mib * MIB,
        };
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
}
