//! Machine: a virtual machine, wanted and seen.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    AcceleratorKind, Save, Unknown, resource,
    weight::{CPU_PERCENT, CPUS, LOCAL_BYTES, MEMORY_KIB},
};
use crate::{
    AddressId, Common, HostId, ImageId, MachineId, NetworkId, Ref, Timestamp, VmId, VolumeId,
    ids::{MachineRecordId, NetworkPortId, SecurityGroupId},
    lifecycle::{
        Desired, MachineState, Moving, Observed, Passage, Phase, Power, RestartPolicy, Stage,
        derive, unseen,
    },
    size::ByteSize,
};

/// A virtual machine (DSP0263 §5.14 and StratusLab's instance).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Name, times, properties, access.
    #[serde(flatten)]
    pub common: Common,
    /// The state the API shows; always what [`Machine::settle`] computes.
    pub state: MachineState,
    /// The phase StratusLab's commands show; computed likewise.
    pub phase: Phase,
    /// Why it is in this state, for people; empty when there is nothing to explain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The small number people use.
    pub vmid: VmId,
    /// Virtual CPUs.
    pub cpu: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// `x86_64`.
    pub cpu_arch: String,
    /// Share of the CPUs that is guaranteed, in hundredths of one CPU (StratusLab `CPU`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_share_percent: Option<u32>,
    /// The image its root disk began as; none: it has no root disk of its own, and boots from its first volume
    /// ([`Machine::boot_volume`]). The index `image` knows it and the others it needs ([`Machine::images`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Ref<ImageId>>,
    /// Disks that live and die with it, in the order the guest sees them; the first is the root disk, if it has one.
    pub disks: Vec<Disk>,
    /// Volumes attached, being attached or being detached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachedVolume>,
    /// Network interfaces in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// The security groups that it is in, with all of its interfaces. Written by `cloud`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Ref<SecurityGroupId>>,
    /// What the guest is told at boot. Never shown to anybody but the owner.
    #[serde(default)]
    pub context: ContextData,
    /// How it boots.
    #[serde(default)]
    pub boot: BootSource,
    /// CPU model asked for: `host`, `max` or a QEMU model name; none: the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Keyboard layout of the graphical console, e.g. `en-us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keymap: Option<String>,
    /// Placement requirements in OpenNebula's expression language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<String>,
    /// Which of the hosts that meet them is liked best.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// What to do when it ended without being asked to.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// The host it is placed on. Written by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Hosts that had it before: what they still have of it is to go, and each takes itself out once it is gone. Put in by `cloud`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_on: Vec<HostId>,
    /// What is wanted.
    pub desired: Desired,
    /// What was seen.
    pub observed: Observed,
    /// Since when nothing is heard of its host; none: it is heard of. Written by `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen_since: Option<Timestamp>,
    /// Which accelerator the present run uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<AcceleratorKind>,
    /// Where SSH is reached when not at the machine's own address, port 22 (user-mode network).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Endpoint>,
    /// When it first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_started: Option<Timestamp>,
    /// Since when it has had its CPUs and memory without a break, for accounting; computed by [`Machine::settle`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Timestamp>,
    /// What had gone over its network when that began, if not nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_before: Option<super::NetworkTraffic>,
    /// Since when its disks are what they are, and whose, for accounting; none: since it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks_since: Option<Timestamp>,
    /// It becomes a new image at its shutdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<Save>,
    /// The image that its root disk is being saved as, or was last. While that is on its way nothing changes the disk.
    /// Written by `cloud`, in the transaction that makes the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_as: Option<Ref<ImageId>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(
    Machine,
    "Machine",
    |machine, add| {
        add("vmid", &machine.vmid.to_string());
        if let Some(host) = &machine.host {
            add("host", host.local());
            if machine.running_since.is_some() {
                add("runsOn", host.local());
            }
        }
        for host in &machine.left_on {
            add("leftOn", host.local());
        }
        if let Some(to) = machine.moving_to() {
            add("movingTo", to.local());
        }
        machine.images(&mut |image| add("image", image.local()));
        for group in &machine.security_groups {
            add("securityGroup", group.href.local());
        }
    },
    |machine, add| {
        add(CPUS, u64::from(machine.cpu));
        add(CPU_PERCENT, machine.cpu_percent());
        add(MEMORY_KIB, machine.memory);
        add(LOCAL_BYTES, local_bytes(&machine.disks));
    },
    {
        const SUMMED_BY: &'static [&'static str] = &["host", "runsOn"];

        fn uses(&self) -> Vec<super::Use> {
            self.in_use()
        }

        fn use_anew(&mut self, before: &Self, now: Timestamp) {
            self.begin_anew(before, now);
        }
    }
);

/// How reasons begin that a machine stays where it is.
const NOT_MOVED: &str = "it is not moved: ";

impl Machine {
    /// Brings `state`, `phase` and `running_since` in line with what is wanted and seen. Called before every write.
    pub fn settle(&mut self) {
        (self.state, self.phase) = match self.unseen_since {
            None => self.as_seen(),
            Some(_) => unseen(self.as_seen()),
        };
        self.running_since = super::usage::running_since(&self.observed, self.running_since);
    }

    /// A reason that it stays where it is though it was to go to another host, for people.
    #[must_use]
    pub fn not_moved(why: impl std::fmt::Display) -> String {
        format!("{NOT_MOVED}{why}")
    }

    /// Whether its reason is such a one.
    #[must_use]
    pub fn tells_that_it_is_not_moved(&self) -> bool {
        let reason = self.reason.as_deref();
        reason.is_some_and(|reason| reason.starts_with(NOT_MOVED))
    }

    /// State and phase as they were when its host was heard of last, which it may be again: what can be asked of the machine
    /// depends on them. Those that are shown, unless nothing is heard of its host.
    #[must_use]
    pub fn as_seen(&self) -> (MachineState, Phase) {
        derive(&self.desired, &self.observed, self.host.is_some())
    }

    /// The name people see: the given one, else `one-<vmid>`.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.common
            .name
            .clone()
            .unwrap_or_else(|| format!("one-{}", self.vmid))
    }

    /// Tells every image it can't run without: of its root disk, its read-only disks, its kernel and its initrd. One may
    /// come several times.
    pub fn images(&self, tell: &mut dyn FnMut(&ImageId)) {
        if let Some(image) = &self.image {
            tell(&image.href);
        }
        for disk in &self.disks {
            if let DiskRole::ReadOnly { image } = &disk.role {
                tell(image);
            }
        }
        if let BootSource::Kernel { kernel, initrd, .. } = &self.boot {
            tell(kernel);
            if let Some(initrd) = initrd {
                tell(initrd);
            }
        }
    }

    /// The host that it is on its way to.
    #[must_use]
    pub fn moving_to(&self) -> Option<&HostId> {
        self.desired.moving.as_ref()?.to.as_ref()
    }

    /// Whether nothing of it is at work on its host any more, for the way that it is on.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let way = self.desired.leaving().map(|moving| moving.since);
        way.is_some() && way == self.observed.left_for
    }

    /// Whether it is off, so that its disk is what it left there.
    #[must_use]
    pub fn disk_is_left(&self) -> bool {
        matches!(self.observed.stage, Stage::Ended { .. } | Stage::Failed)
            && self.observed.run >= self.desired.run
    }

    /// Its way to another host, if its guest runs on it: nothing speaks against that yet.
    #[must_use]
    pub fn crossing(&self) -> Option<&Moving> {
        let (seen, way) = (&self.observed, self.desired.leaving()?);
        let is_over = [seen.at_rest, seen.stays].contains(&Some(way.since));
        (way.live && !is_over).then_some(way)
    }

    /// How far it is on the way that it is on, if it has been set out on with its guest running.
    #[must_use]
    pub fn passage(&self) -> Option<&Passage> {
        let way = self.desired.moving.as_ref()?.since;
        self.observed
            .passage
            .as_ref()
            .filter(|passage| passage.way == way)
    }

    /// The volume that it boots from, which is the first disk its guest sees, and at it as long as the machine exists; none:
    /// it boots from a root disk of its own.
    #[must_use]
    pub fn boot_volume(&self) -> Option<&AttachedVolume> {
        match self.image {
            None => self.volumes.first(),
            Some(_) => None,
        }
    }

    /// Whether something of it is on its host alone: a root disk, or memory.
    #[must_use]
    pub fn is_bound_to_host(&self) -> bool {
        let seen = &self.observed;
        let has_memory = seen.has_memory || matches!(seen.stage, Stage::Saving | Stage::Suspended);
        self.image.is_some() || has_memory
    }

    /// Whether it is to go on elsewhere by itself when its host is lost: all that it has is on volumes, and it is to be restarted.
    #[must_use]
    pub fn goes_on_elsewhere(&self) -> bool {
        !self.is_bound_to_host()
            && self.restart_policy != RestartPolicy::Never
            && self.desired.power == Power::On
            && !self.desired.deleted
    }

    /// The place among the disks that its guest sees of the disk `number` of its own.
    #[must_use]
    pub fn place_of_disk(&self, number: usize) -> usize {
        number + usize::from(self.boot_volume().is_some())
    }

    /// Processor time that it is promised, in hundredths of a processor: its guaranteed share if it has one, else whole ones.
    #[must_use]
    pub fn cpu_percent(&self) -> u64 {
        let whole = u64::from(self.cpu) * 100;
        self.cpu_share_percent.map_or(whole, u64::from)
    }

    /// The address of its first interface.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.nics.first().map(|nic| nic.ip)
    }
}

/// What a disk of a machine is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "role")]
pub enum DiskRole {
    /// Copy-on-write overlay on the machine's image.
    Root,
    /// Formatted as swap.
    Swap,
    /// Empty and unformatted; destroyed with the machine.
    Volatile,
    /// A data image, shared by many, that the guest can't write.
    ReadOnly {
        /// Which.
        image: ImageId,
    },
}

/// A disk that lives and dies with its machine (CIMI Disk).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// What it is for.
    #[serde(flatten)]
    pub role: DiskRole,
    /// Its size; of a root or read-only disk that of the image.
    pub size_bytes: ByteSize,
    /// The serial the guest sees, at most 20 bytes, stable for the machine's life.
    pub serial: String,
}

/// The space that these disks may come to take on their machine's host: all but those that are shared.
#[must_use]
pub fn local_bytes(disks: &[Disk]) -> u64 {
    let own = disks
        .iter()
        .filter(|disk| !matches!(disk.role, DiskRole::ReadOnly { .. }));
    own.fold(0, |sum, disk| sum.saturating_add(disk.size_bytes.0))
}

/// A volume at a machine (CIMI MachineVolume).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedVolume {
    /// Which.
    pub volume: VolumeId,
    /// The place the user asked for, e.g. `/dev/vdc`; the guest decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_location: Option<String>,
    /// Attached while the machine ran (and so can be detached while it runs).
    pub hot: bool,
    /// False once its removal was asked for. Written by `cloud`.
    pub wanted: bool,
    /// How far it is. Written by the host's controller.
    #[serde(flatten)]
    pub stage: AttachStage,
    /// The serial the guest sees: the last 20 digits of the volume's UUID.
    pub serial: String,
    /// When it became the machine's, by which one attachment of a volume is told from the next; none: that was not noted yet.
    /// Written by `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Timestamp>,
}

/// How far an attachment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "stage")]
pub enum AttachStage {
    /// Not yet at the machine.
    Waiting,
    /// The guest has it.
    Attached {
        /// The device name users are told, e.g. `vdc`; the guest may name it otherwise.
        target: String,
    },
    /// The guest was asked to let go of it and has not answered yet.
    Detaching {
        /// The device name.
        target: String,
        /// When it was asked first.
        since: Timestamp,
    },
    /// It could not be attached; removed from the list by a detach.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A network interface with its leased address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Its network.
    pub network: NetworkId,
    /// The lease.
    pub address: AddressId,
    /// The leased address.
    pub ip: IpAddr,
    /// MAC by rule, lower case with colons.
    pub mac: String,
    /// QEMU device model; none: virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The port it is plugged into, if that is one that a user keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NicPort>,
}

/// The port that an interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NicPort {
    /// Which.
    pub id: NetworkPortId,
    /// Whether its link is wanted up. Written by `cloud`, with the port's own state.
    pub up: bool,
    /// Whether it was seen so. Written by the host's controller, with the port's own state.
    pub seen_up: bool,
}

/// How a machine boots; taken from its image when it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "boot")]
pub enum BootSource {
    /// By the firmware from the root disk.
    #[default]
    Disk,
    /// Kernel and initrd given by the host; both are images of type `FILE`.
    Kernel {
        /// The kernel.
        kernel: ImageId,
        /// The initrd that goes with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initrd: Option<ImageId>,
        /// Kernel command line.
        arguments: String,
    },
}

/// What the guest is told. Bounded by `cloud` when it comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextData {
    /// SSH public keys for root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_keys: Vec<String>,
    /// StratusLab/OpenNebula context variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// User data as it goes to the guest, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

/// Host name or address, and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is kept of a machine that is no more: for accounting, and so that its number still answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRecord {
    /// `MachineRecord/<vmid>`.
    pub id: MachineRecordId,
    /// Name, times, access of the machine.
    #[serde(flatten)]
    pub common: Common,
    /// The machine it was.
    pub machine: MachineId,
    /// Its number.
    pub vmid: VmId,
    /// Always `Done`.
    pub phase: Phase,
    /// Virtual CPUs.
    pub cpu: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// Its image; none: it booted from a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Ref<ImageId>>,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Where it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// When it first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_started: Option<Timestamp>,
    /// When it was released.
    pub ended: Timestamp,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(MachineRecord, "MachineRecord");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resource as _;

    #[test]
    fn a_machine_is_found_by_every_image_it_needs() {
        let [root, data, kernel, initrd] = [(); 4].map(|()| ImageId::generate());
        let machine = Machine {
            image: Some(Ref::to(root.clone())),
            disks: vec![Disk {
                role: DiskRole::ReadOnly {
                    image: data.clone(),
                },
                size_bytes: ByteSize(0),
                serial: "data0".to_owned(),
            }],
            boot: BootSource::Kernel {
                kernel: kernel.clone(),
                initrd: Some(initrd.clone()),
                arguments: String::new(),
            },
            ..crate::testing::machine(1)
        };
        let mut found = Vec::new();
        machine.terms(&mut |name, term| {
            if name == "image" {
                found.push(term.to_owned());
            }
        });
        assert_eq!(
            found,
            [root, data, kernel, initrd].map(|id| id.local().to_owned())
        );
    }
}

/// What the owner wishes of a machine's host beside what it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// OpenNebula's `RANK`: the host with the highest value is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
    /// Groups, by the owner's names, whose machines share one host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub together: Vec<String>,
    /// Groups whose machines are each on another host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<String>,
}

impl Placement {
    /// Whether nothing is wished.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
