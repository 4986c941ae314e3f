//! How machines are run on this host, as the operator decided.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use cimi::HostId;
use storage::exports::StorageDaemon;

use crate::{accel::Accelerator, guard::Fence, launch_spec::CgroupSpec};

/// How machines are run on this host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This host's name.
    pub host_name: String,
    /// The host that this computer has joined a cloud as; none: it is the cloud's own.
    pub joined: Option<HostId>,
    /// This host's address for the other hosts, by which networks are joined; none: it has none that others reach.
    pub tunnel: Option<Ipv4Addr>,
    /// The TCP port at that address where it gives other hosts images; none: it gives none.
    pub images_port: Option<u16>,
    /// Whether QEMU has a driver for volumes by iSCSI.
    pub opens_iscsi: bool,
    /// How machines that go on elsewhere are ended here once nobody hears this host; none: they never are.
    pub fence: Option<Fence>,
    /// One folder a machine: disks, media, sockets, console log.
    pub machines_dir: PathBuf,
    /// Where root disks of removed machines wait for their end.
    pub quarantine_dir: PathBuf,
    /// How long they wait.
    pub quarantine_period: Duration,
    /// What executes guests, and why.
    pub accelerator: Accelerator,
    /// Whether machines run under TCG from then on if QEMU can't use KVM.
    pub falls_back_to_tcg: bool,
    /// The group that QEMU needs in order to open `/dev/kvm` as a user of its own.
    pub kvm_group: Option<u32>,
    /// Translation cache of each machine under TCG, in MiB.
    pub translation_cache_mib: u32,
    /// CPU model where a machine asks for none; none: the best the accelerator has.
    pub cpu_model: Option<String>,
    /// Slots for volumes attached while a machine runs.
    pub spare_ports: u8,
    /// How long a guest may take to obey the power button before it is switched off.
    pub power_button_limit: Duration,
    /// First of the user ids that machines run as, each its own; none: the daemon's user.
    pub uid_base: Option<u32>,
    /// Limits of each machine's processes; none: no cgroups.
    pub cgroup: Option<CgroupSpec>,
    /// Bytes of disk that new machines leave free.
    pub reserve_bytes: u64,
    /// Largest console log of a machine, in bytes.
    pub console_bytes: u64,
    /// CPUs and memory offered; none: all that the host has.
    pub cpus: Option<u32>,
    /// Memory offered in MiB.
    pub memory_mib: Option<u64>,
    /// What receives the disks of machines that come here with their guests running; none: they can't.
    pub storage_daemon: Option<StorageDaemon>,
    /// Version of this program.
    pub version: String,
    /// Version of QEMU.
    pub qemu_version: String,
}
