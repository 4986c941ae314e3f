//! Host: a computer that runs machines.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, HostId, Timestamp};

/// How guests are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorKind {
    /// By the processor's virtualization.
    Kvm,
    /// By QEMU's translator.
    Tcg,
}

/// What a host has for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Processor cores.
    pub cpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Space for disks in bytes.
    pub disk_bytes: u64,
    /// Free space for disks in bytes when last looked at.
    pub disk_free_bytes: u64,
}

/// What the operator wants of a host. Written by the rules alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostDesired {
    /// No machines are placed on it; those that are there run on.
    #[serde(default)]
    pub maintenance: bool,
    /// It has joined from elsewhere: what the cloud's own daemon has beside it (ports that are forwarded) is not at hand there;
    /// volumes are, if it [says so](Host::uses_volumes), and so is the storage, to [save](Host::GIVES_DISKS) disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
}

/// What all that runs on a host takes of it, measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Processor time, in hundredths of one processor.
    pub cpu_percent: u64,
    /// Memory in KiB.
    pub memory_kib: u64,
}

/// A computer that runs machines. Written by its own controller, but for what is desired.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// What it has.
    pub capacity: Capacity,
    /// How it executes guests.
    pub accelerator: AcceleratorKind,
    /// Why so.
    pub accelerator_reason: String,
    /// The processor's name.
    pub cpu_model: String,
    /// What the processor can, as Linux names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_flags: Vec<String>,
    /// Version of the controller.
    pub version: String,
    /// QEMU's version.
    pub qemu_version: String,
    /// When its controller started.
    pub started: Timestamp,
    /// The kernel's boot id: a change means that the host was switched off.
    pub boot_id: String,
    /// Whether one that has joined takes machines: as long as it doesn't say so, it only reports itself. Of others nobody asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub runs_machines: bool,
    /// Whether machines of one that has joined can have volumes: it uses them over the network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uses_volumes: bool,
    /// What its daemon can that older ones can't, by names of [`Host`]; newer ones may name more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Bridges of its operator's on it, by which machines can be on the site's Ethernet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
    /// Its address for other hosts, by which networks are joined; none: they can't reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Ipv4Addr>,
    /// The TCP port at that address where it gives other hosts images that it has; none: it gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_port: Option<u16>,
    /// After so many seconds in which no entry hears it, it has ended the machines that it [guards](crate::lifecycle::Observed::guarded);
    /// none: it ends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fences_after: Option<u64>,
    /// What it was busy with when it told that last, in its steps; none: it hasn't told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// The contents of images that one which has joined has copies of, by their SHA-1, up to [`MAX_CACHED`](Self::MAX_CACHED). The
    /// cloud's own has all that the storage beside it has, and tells none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cached: Vec<String>,
    /// What is wrong with it, for people; empty if it is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// What its operator wants.
    #[serde(default)]
    pub desired: HostDesired,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Host, "Host");

impl Host {
    /// Gives the storage the root disks of its machines that are off, to make images of them.
    pub const GIVES_DISKS: &str = "givesDisks";

    /// Holds machines to the rules of their security groups.
    pub const SECURITY_GROUPS: &str = "securityGroups";

    /// Its QEMU uses volumes by iSCSI.
    pub const ISCSI: &str = "iscsi";

    /// The most contents of images that it tells of.
    pub const MAX_CACHED: usize = 64;

    /// Whether its daemon can that.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// One of which nothing is known yet.
    #[must_use]
    pub fn newcomer(common: Common) -> Self {
        Self {
            id: HostId::generate(),
            capacity: Capacity::default(),
            accelerator: AcceleratorKind::Tcg,
            accelerator_reason: "the host has not reported yet".to_owned(),
            cpu_model: String::new(),
            cpu_flags: Vec::new(),
            version: String::new(),
            qemu_version: String::new(),
            started: common.created,
            boot_id: String::new(),
            runs_machines: false,
            uses_volumes: false,
            load: None,
            cached: Vec::new(),
            features: Vec::new(),
            bridges: Vec::new(),
            tunnel: None,
            images_port: None,
            fences_after: None,
            troubles: Vec::new(),
            desired: HostDesired::default(),
            unknown: Unknown::default(),
            common,
        }
    }

    /// Whether an address can be that of one host between hosts: not that of nobody, of many, or of whoever uses it.
    #[must_use]
    pub const fn is_reached_by(address: Ipv4Addr) -> bool {
        // 0.0.0.0/8, and 224.0.0.0 and all above: multicast, reserved, broadcast (RFC 6890).
        matches!(address.octets(), [1..224, ..]) && !address.is_loopback()
    }

    /// Whether it has joined from elsewhere, and so is there only while it says so ([`HostPulse`](super::HostPulse)). Any other
    /// is part of the cloud's own daemon.
    #[must_use]
    pub const fn has_joined(&self) -> bool {
        self.desired.apart
    }

    /// Whether machines may be placed on it: not on one that has joined and only reports itself. What that one has is nothing to
    /// machines.
    #[must_use]
    pub const fn runs_machines(&self) -> bool {
        !self.has_joined() || self.runs_machines
    }
}
