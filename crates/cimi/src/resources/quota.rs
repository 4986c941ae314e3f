//! How much somebody may have.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What is not bounded, as a number (OpenNebula's convention is a negative number, too).
const UNBOUNDED: i64 = -1;

/// The most there may be of something: a number, or `-1` for "not bounded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// As much as there is.
    Unbounded,
    /// So many.
    AtMost(u64),
}

impl Most {
    /// The number, if there is one.
    #[must_use]
    pub const fn bound(self) -> Option<u64> {
        match self {
            Self::Unbounded => None,
            Self::AtMost(most) => Some(most),
        }
    }
}

impl Serialize for Most {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unbounded => serializer.serialize_i64(UNBOUNDED),
            Self::AtMost(most) => serializer.serialize_u64(*most),
        }
    }
}

impl<'de> Deserialize<'de> for Most {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            UNBOUNDED => Ok(Self::Unbounded),
            number => u64::try_from(number).map(Self::AtMost).map_err(|_| {
                D::Error::custom(format!("{number} is no bound: 0 or more, or -1 for none"))
            }),
        }
    }
}

/// How much somebody may have at the same time. What isn't named is bounded by the cloud's configuration (of a user) or
/// not at all (of a group).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Machines, those that are off included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<Most>,
    /// Virtual CPUs of these machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Most>,
    /// Memory of these machines, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Most>,
    /// Volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Most>,
    /// Capacity of these volumes, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_gib: Option<Most>,
    /// Images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Most>,
    /// Size of the disks that these images are, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_gib: Option<Most>,
    /// Space of the disks that live and die with these machines, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_gib: Option<Most>,
    /// Images of volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_images: Option<Most>,
    /// Size of the volumes that these are images of, in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_image_gib: Option<Most>,
    /// Leased network addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Most>,
}

impl Quota {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_no_bound_and_other_negative_numbers_are_none() {
        let quota: Quota = serde_json::from_str(r#"{"machines": -1, "cpus": 8}"#).unwrap();
        assert_eq!(quota.machines, Some(Most::Unbounded));
        assert_eq!(quota.cpus.and_then(Most::bound), Some(8));
        assert_eq!(
            serde_json::to_string(&quota).unwrap(),
            r#"{"machines":-1,"cpus":8}"#
        );
        assert!(serde_json::from_str::<Quota>(r#"{"machines": -2}"#).is_err());
        assert!(serde_json::from_str::<Quota>(r#"{"machine": 2}"#).is_err());
    }
}
