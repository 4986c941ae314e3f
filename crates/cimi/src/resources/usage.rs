//! What a resource means in use, for accounting: who has how much of what, since when.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{DiskRole, Image, ImageState, Machine, Resource, Unknown, Volume, VolumeImage};
use crate::{
    Timestamp, VmId,
    lifecycle::{Observed, Stage},
    resources::Address,
};

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UseKind {
    /// CPUs and memory of a machine, while it runs.
    Machine,
    /// The disks of a machine, as long as it exists.
    Disk,
    /// A network address, while it is leased.
    Address,
    /// A volume, from its creation to its removal.
    Volume,
    /// The content of an image, while the cloud keeps it.
    Image,
    /// What a volume was at one moment, while it is kept: a VolumeImage.
    Snapshot,
}

impl UseKind {
    /// Its name, as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Disk => "disk",
            Self::Address => "address",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Something that somebody uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// Who: a user's name, or `::ADMIN` for what belongs to the administrators.
    pub user: String,
    /// What.
    pub kind: UseKind,
    /// By which resource: `Machine/<uuid>`, `Volume/<uuid>`.
    pub resource: String,
    /// Its name at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The machine's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmid: Option<VmId>,
    /// Since when.
    pub start: Timestamp,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
    /// Space in bytes, as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes to the machine over its network, as far as they are written down; none: nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Bytes from the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// A use that is over. Never changed, and kept when the resource, and the user, are long gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    /// What was used.
    #[serde(flatten)]
    pub used: Use,
    /// Until when.
    pub end: Timestamp,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Use {
    fn of<R: Resource>(document: &R, kind: UseKind, resource: String, start: Timestamp) -> Self {
        Self {
            user: document.acl().owner.principal.clone(),
            kind,
            resource,
            name: document.common().name.clone(),
            vmid: None,
            start,
            cpus: None,
            memory_kib: None,
            bytes: None,
            received_bytes: None,
            sent_bytes: None,
            address: None,
        }
    }

    /// Names the use, now and when it is over.
    #[must_use]
    pub fn id(&self) -> String {
        let (kind, start) = (self.kind.name(), self.start.as_millis());
        format!("{kind}:{}:{start}", self.resource)
    }

    /// Whether it is the same use still, whatever the resource is called by now, and whatever went over its network.
    #[must_use]
    pub fn goes_on_as(&self, later: &Self) -> bool {
        let renamed = Self {
            name: self.name.clone(),
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            ..later.clone()
        };
        *self == renamed
    }
}

/// Since when the guest has CPUs and memory: from the report that it runs, until one that it doesn't. A host of which nothing is
/// heard reports nothing, so the time goes on.
#[must_use]
pub(super) fn running_since(observed: &Observed, before: Option<Timestamp>) -> Option<Timestamp> {
    match observed.stage {
        Stage::Running | Stage::Paused | Stage::Held | Stage::Saving | Stage::Crossing => {
            before.or(Some(observed.since))
        }
        _ => None,
    }
}

impl Machine {
    /// Bytes of the disks that live and die with it; what it shares with others doesn't count.
    #[must_use]
    pub fn own_disk_bytes(&self) -> u64 {
        let own = |role: &DiskRole| !matches!(role, DiskRole::ReadOnly { .. });
        let disks = self.disks.iter().filter(|disk| own(&disk.role));
        disks
            .map(|disk| disk.size_bytes.0)
            .fold(0, u64::saturating_add)
    }

    pub(super) fn in_use(&self) -> Vec<Use> {
        let of = |kind, start| Use {
            vmid: Some(self.vmid),
            bytes: Some(self.own_disk_bytes()),
            ..Use::of(self, kind, self.id.to_string(), start)
        };
        let since = self.disks_since.unwrap_or(self.common.created);
        let mut uses = vec![of(UseKind::Disk, since)];
        if let Some(since) = self.running_since {
            let before = self.traffic_before.unwrap_or_default();
            let traffic = self.observed.traffic.map(|traffic| traffic.since(before));
            uses.push(Use {
                cpus: Some(self.cpu),
                memory_kib: Some(self.memory),
                received_bytes: traffic.map(|traffic| traffic.received_bytes),
                sent_bytes: traffic.map(|traffic| traffic.sent_bytes),
                ..of(UseKind::Machine, since)
            });
        }
        uses
    }

    pub(super) fn begin_anew(&mut self, before: &Self, now: Timestamp) {
        let given = is_given(self, before);
        let resized = self.own_disk_bytes() != before.own_disk_bytes();
        if given || resized {
            self.disks_since = Some(now);
        }
        let changed = given || resized || self.cpu != before.cpu || self.memory != before.memory;
        match (before.running_since, self.running_since) {
            (Some(seen), Some(since)) if changed && since == seen => {
                self.running_since = Some(now);
                self.traffic_before = before.observed.traffic;
            }
            // When the guest was seen to run is told by the host, whose clock may be another one, or be set meanwhile. A run
            // begins neither before what this machine's document said last, and so no earlier run ends after it, nor later
            // than it is told.
            (None, Some(seen)) => {
                self.running_since = Some(seen.max(before.common.updated).min(now));
                self.traffic_before = None;
            }
            _ => {}
        }
    }
}

/// Whether somebody else owns it than `before`.
fn is_given<R: Resource>(document: &R, before: &R) -> bool {
    document.acl().owner != before.acl().owner
}

impl Volume {
    pub(super) fn in_use(&self) -> Vec<Use> {
        let since = self.size_since.unwrap_or(self.common.created);
        vec![Use {
            bytes: Some(self.size_bytes.0),
            ..Use::of(self, UseKind::Volume, self.id.to_string(), since)
        }]
    }

    pub(super) fn begin_anew(&mut self, before: &Self, now: Timestamp) {
        if is_given(self, before) || self.size_bytes != before.size_bytes {
            self.size_since = Some(now);
        }
    }
}

impl Address {
    pub(super) fn in_use(&self) -> Vec<Use> {
        // What a user keeps is in use whether a machine has it or not.
        let resource = match &self.resource {
            Some(machine) if !self.kept => machine.href.to_string(),
            _ => self.id.to_string(),
        };
        let since = self.used_since.unwrap_or(self.common.created);
        vec![Use {
            address: Some(self.ip),
            ..Use::of(self, UseKind::Address, resource, since)
        }]
    }

    pub(super) fn begin_anew(&mut self, before: &Self, now: Timestamp) {
        if is_given(self, before) {
            self.used_since = Some(now);
        }
    }
}

impl Image {
    /// Space is used from the moment at which the content is there.
    pub(super) fn in_use(&self) -> Vec<Use> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let since = self.used_since.unwrap_or(self.common.created);
        vec![Use {
            bytes: Some(file.virtual_size.0),
            ..Use::of(self, UseKind::Image, self.id.to_string(), since)
        }]
    }

    pub(super) fn begin_anew(&mut self, before: &Self, now: Timestamp) {
        let size = |image: &Self| image.file.as_ref().map(|file| file.virtual_size);
        if is_given(self, before) || size(self) != size(before) {
            self.used_since = Some(now);
        }
    }
}

impl VolumeImage {
    pub(super) fn in_use(&self) -> Vec<Use> {
        // What was removed may be kept for what stands on it, but not for its owner.
        if self.state != ImageState::Available || self.deleted {
            return Vec::new();
        }
        let since = self.used_since.unwrap_or(self.common.created);
        vec![Use {
            bytes: Some(self.size_bytes.0),
            ..Use::of(self, UseKind::Snapshot, self.id.to_string(), since)
        }]
    }

    pub(super) fn begin_anew(&mut self, before: &Self, now: Timestamp) {
        if is_given(self, before) || self.in_use().is_empty() != before.in_use().is_empty() {
            self.used_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Acl,
        resources::{ImageFile, NetworkTraffic},
        size::ByteSize,
        testing,
    };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn each_owner_of_what_is_kept_has_an_interval_and_they_meet() {
        let mut image = testing::image();
        image.file = None;
        assert!(image.in_use().is_empty(), "nothing is there yet");
        let before = image.clone();
        image.file = Some(ImageFile {
            path: "/x".into(),
            format: crate::resources::MediumFormat::Raw,
            virtual_size: ByteSize::from_gib(2),
            digests: crate::resources::Digests::default(),
            kept: None,
        });
        image.begin_anew(&before, at(1_000));
        let used = image.in_use();
        assert_eq!((used.len(), used[0].kind), (1, UseKind::Image));
        assert_eq!((used[0].start, used[0].bytes), (at(1_000), Some(2 << 30)));
        // Another name is the same use; another owner is another one.
        let before = image.clone();
        image.common.name = Some("other".into());
        image.begin_anew(&before, at(2_000));
        assert!(used[0].goes_on_as(&image.in_use()[0]));
        let before = image.clone();
        image.common.acl = Acl::owned_by_user("bob");
        image.begin_anew(&before, at(3_000));
        let given = image.in_use();
        assert!(!used[0].goes_on_as(&given[0]));
        assert_eq!((given[0].user.as_str(), given[0].start), ("bob", at(3_000)));
    }

    #[test]
    fn what_went_over_the_network_belongs_to_who_had_the_machine() {
        let traffic = |received_bytes, sent_bytes| {
            Some(NetworkTraffic {
                received_bytes,
                sent_bytes,
            })
        };
        let run = |machine: &Machine| machine.in_use().pop().unwrap();
        let mut machine = testing::machine(7);
        machine.running_since = Some(at(1_000));
        assert_eq!(run(&machine).received_bytes, None, "nobody counts it");
        let before = run(&machine);
        machine.observed.traffic = traffic(100, 10);
        assert!(before.goes_on_as(&run(&machine)), "more of the same");
        let old = machine.clone();
        machine.common.acl = Acl::owned_by_user("bob");
        machine.begin_anew(&old, at(2_000));
        machine.observed.traffic = traffic(150, 30);
        let used = run(&machine);
        assert_eq!((used.received_bytes, used.sent_bytes), (Some(50), Some(20)));
        // The next run has a process of its own, which counts from nothing.
        let old = Machine {
            running_since: None,
            ..machine.clone()
        };
        machine.running_since = Some(at(3_000));
        machine.observed.traffic = traffic(7, 0);
        machine.begin_anew(&old, at(3_000));
        assert_eq!(run(&machine).received_bytes, Some(7));
    }

    #[test]
    fn a_run_begins_after_what_was_told_before_and_not_later_than_it_is_told() {
        let mut before = testing::machine(7);
        before.running_since = None;
        before.common.updated = at(5_000);
        for (seen, told) in [(1_000, 5_000), (6_000, 6_000), (9_999_000, 7_000)] {
            let mut now = before.clone();
            now.running_since = Some(at(seen));
            now.begin_anew(&before, at(7_000));
            assert_eq!(now.running_since, Some(at(told)), "{seen}");
        }
    }
}
