//! Amounts of storage, exact in bytes inside, in the units of each dialect outside.

use serde::{Deserialize, Serialize};

/// One GiB in bytes.
pub const GIBIBYTE: u64 = 1 << 30;
/// One MiB in bytes.
pub const MEBIBYTE: u64 = 1 << 20;

/// A size of storage in bytes. CIMI gives capacities in kB of 1000 bytes, StratusLab in GiB.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many GiB; saturates.
    #[must_use]
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.saturating_mul(GIBIBYTE))
    }

    /// From a CIMI capacity in kB of 1000 bytes. Never less than asked for. A capacity that is a
    /// whole number of MiB rounded up to kB (as clients that think in MiB or GiB write it) becomes
    /// exactly that number of MiB; others become the next multiple of 4096 bytes.
    ///
    /// ```
    /// use cimi::size::ByteSize;
    /// assert_eq!(ByteSize::from_capacity_kb(1_073_742), ByteSize::from_gib(1));
    /// assert_eq!(ByteSize::from_capacity_kb(5_000_000).0, 5_000_003_584);
    /// ```
    #[must_use]
    pub const fn from_capacity_kb(kb: u64) -> Self {
        let upper = kb.saturating_mul(1000);
        let whole_mib = upper - upper % MEBIBYTE;
        if upper - whole_mib < 1000 && whole_mib > 0 {
            return Self(whole_mib);
        }
        Self(upper.saturating_add(4095) / 4096 * 4096)
    }

    /// The CIMI capacity: kB of 1000 bytes, rounded up.
    #[must_use]
    pub const fn capacity_kb(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// Whole GiB, rounded up.
    #[must_use]
    pub const fn gib_ceil(self) -> u64 {
        self.0.div_ceil(GIBIBYTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whole_mebibytes_survive_the_capacity_unit(mib in 1u64..1 << 30) {
            let size = ByteSize(mib * MEBIBYTE);
            prop_assert_eq!(ByteSize::from_capacity_kb(size.capacity_kb()), size);
        }

        #[test]
        fn a_capacity_is_never_rounded_down(kb in 1u64..1 << 40) {
            let size = ByteSize::from_capacity_kb(kb);
            prop_assert!(size.0 + 999 >= kb * 1000);
        }
    }
}
