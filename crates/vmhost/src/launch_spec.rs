//! What a machine consists of, as the hypervisor is told it: plain values, units in the names.
//!
//! The controller makes a [`LaunchSpec`] out of documents; nothing here knows documents. Everything that can come from a
//! user is checked by [`LaunchSpec::check`] before a process is started, so that no value can become an option.

mod confinement;
mod disk;
mod nic;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::HypervisorError;

pub use confinement::{CgroupSpec, Credentials};
pub use disk::{
    DiskFormat, DiskId, DiskSpec, ImageFile, ImageStorage, IscsiTarget, MAX_CHAIN, SERIAL_BYTES,
};
pub use nic::{MacAddress, NicBackend, NicModel, NicSpec, PortForward, UserLease, UserNetwork};

/// Root ports sit eight to a PCI slot in slots 0x10–0x17, of which this many are used at most.
pub const MAX_PORTS: u8 = 64;
/// Network cards sit in PCI slots 2–9.
pub const MAX_NICS: usize = 8;
/// Media are targets of one SCSI controller.
pub const MAX_MEDIA: usize = 8;

/// Everything needed to start one machine.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The machine's identifier; becomes the SMBIOS UUID and identifies the process.
    pub machine: Uuid,
    /// The small integer by which users know the machine.
    pub vmid: u64,
    /// Name shown in process lists.
    pub name: String,
    /// Folder of this machine: sockets, logs and the launch record. Made (0700) if missing.
    pub folder: PathBuf,
    /// Virtual CPUs.
    pub cpus: u16,
    /// Guest memory.
    pub memory_mib: u64,
    /// QEMU CPU model with flags (`max`, `host`, `Nehalem,+aes`). `None`: `host` under KVM, `max` under TCG.
    pub cpu_model: Option<String>,
    /// What executes guest instructions.
    pub accelerator: Accelerator,
    /// Where the first instruction comes from.
    pub boot: Boot,
    /// Disks; `slot` gives the guest's order.
    pub disks: Vec<DiskSpec>,
    /// Read-only ISO images (context), which the guest sees as `/dev/sr0`, `sr1` … in this order.
    pub media: Vec<PathBuf>,
    /// Network cards in the guest's order.
    pub nics: Vec<NicSpec>,
    /// Hot-plug ports left free for later attachments.
    pub spare_ports: u8,
    /// Graphics, off by default.
    pub vnc: Option<VncSpec>,
    /// Whether there is a port for the QEMU guest agent (`agent.sock` in the folder).
    pub guest_agent: bool,
    /// User and group QEMU runs as. `None`: those of this process.
    pub credentials: Option<Credentials>,
    /// Limits by control group. `None`: no cgroup.
    pub cgroup: Option<CgroupSpec>,
    /// The guest goes on from this memory instead of booting.
    pub memory: Option<SavedMemory>,
}

impl LaunchSpec {
    /// A machine with nothing but CPU and memory, the usual settings for all else.
    #[must_use]
    pub fn new(machine: Uuid, vmid: u64, folder: impl Into<PathBuf>) -> Self {
        Self {
            machine,
            vmid,
            name: format!("one-{vmid}"),
            folder: folder.into(),
            cpus: 1,
            memory_mib: 128,
            cpu_model: None,
            accelerator: Accelerator::default(),
            boot: Boot::Firmware,
            disks: Vec::new(),
            media: Vec::new(),
            nics: Vec::new(),
            spare_ports: 8,
            vnc: None,
            guest_agent: true,
            credentials: None,
            cgroup: None,
            memory: None,
        }
    }

    /// How many hot-plug ports the machine gets: one for each disk and the spare ones, or as many as its memory knows.
    #[must_use]
    pub fn port_count(&self) -> u8 {
        if let Some(memory) = &self.memory {
            return memory.port_count;
        }
        u8::try_from(self.disks.len())
            .unwrap_or(u8::MAX)
            .saturating_add(self.spare_ports)
    }

    /// The disks by their ports: port N carries the N-th in the guest's order; where memory knows them, they are where
    /// they were.
    #[must_use]
    pub fn disks_on_ports(&self) -> Vec<(u8, &DiskSpec)> {
        let ordered = self.disks_in_order();
        match &self.memory {
            None => (0u8..).zip(ordered).collect(),
            Some(memory) => ordered
                .into_iter()
                .filter_map(|disk| {
                    let (port, _) = memory.disks.iter().find(|(_, known)| *known == disk.id)?;
                    Some((*port, disk))
                })
                .collect(),
        }
    }

    /// The disks in the guest's order.
    #[must_use]
    pub fn disks_in_order(&self) -> Vec<&DiskSpec> {
        let mut disks: Vec<&DiskSpec> = self.disks.iter().collect();
        disks.sort_by_key(|disk| disk.slot);
        disks
    }

    /// Refuses what can't be started or could smuggle options into the command line.
    ///
    /// # Errors
    /// [`HypervisorError::InvalidSpec`] naming the first offending part.
    pub fn check(&self) -> Result<(), HypervisorError> {
        if self.cpus == 0 || self.cpus > 255 {
            return Err(HypervisorError::invalid(
                "the number of CPUs",
                self.cpus.to_string(),
                "must be 1 to 255",
            ));
        }
        if self.memory_mib < 16 || self.memory_mib > 16 * 1024 * 1024 {
            return Err(HypervisorError::invalid(
                "memory (MiB)",
                self.memory_mib.to_string(),
                "must be 16 to 16777216",
            ));
        }
        if self.name.is_empty() || self.name.len() > 200 || self.name.chars().any(char::is_control)
        {
            return Err(HypervisorError::invalid(
                "the machine's name",
                &self.name,
                "must be 1 to 200 bytes without control characters",
            ));
        }
        if !self.folder.is_absolute() {
            return Err(HypervisorError::invalid(
                "the run folder",
                self.folder.to_string_lossy(),
                "must be an absolute path",
            ));
        }
        if let Some(model) = &self.cpu_model {
            let word = |c: char| c.is_ascii_alphanumeric() || ".,_+-=".contains(c);
            if model.is_empty()
                || model.len() > 1024
                || model.starts_with([',', '-', '='])
                || !model.chars().all(word)
            {
                return Err(HypervisorError::invalid(
                    "the CPU model",
                    model,
                    "must be a model name with optional ,+flag ,-flag ,flag=value",
                ));
            }
        }
        if let Boot::Kernel {
            kernel,
            initrd,
            arguments,
        } = &self.boot
        {
            for path in std::iter::once(kernel).chain(initrd) {
                if !path.is_absolute() {
                    return Err(HypervisorError::invalid(
                        "a kernel's path",
                        path.to_string_lossy(),
                        "must be absolute",
                    ));
                }
            }
            if arguments.len() > 2047 || arguments.chars().any(char::is_control) {
                return Err(HypervisorError::invalid(
                    "the kernel's arguments",
                    arguments,
                    "must be at most 2047 bytes without control characters",
                ));
            }
        }
        if self.disks.len() + usize::from(self.spare_ports) > usize::from(MAX_PORTS) {
            return Err(HypervisorError::invalid(
                "the number of disks and spare ports",
                format!("{} + {}", self.disks.len(), self.spare_ports),
                format!("must be {MAX_PORTS} together at most"),
            ));
        }
        for (n, disk) in self.disks.iter().enumerate() {
            disk.check()?;
            for other in self.disks.iter().skip(n + 1) {
                if other.id == disk.id || other.slot == disk.slot {
                    return Err(HypervisorError::invalid(
                        "a disk",
                        disk.id.to_string(),
                        "has the identifier or slot of another disk",
                    ));
                }
            }
        }
        if self.media.len() > MAX_MEDIA {
            return Err(HypervisorError::invalid(
                "the number of media",
                self.media.len().to_string(),
                format!("must be {MAX_MEDIA} at most"),
            ));
        }
        if self.nics.len() > MAX_NICS {
            return Err(HypervisorError::invalid(
                "the number of network cards",
                self.nics.len().to_string(),
                format!("must be {MAX_NICS} at most"),
            ));
        }
        self.nics.iter().try_for_each(NicSpec::check)?;
        if let Some(keymap) = self.vnc.as_ref().and_then(|vnc| vnc.keymap.as_ref()) {
            // The keymap is a file name below QEMU's data folder.
            if keymap.is_empty()
                || !keymap
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-')
            {
                return Err(HypervisorError::invalid(
                    "the keyboard layout",
                    keymap,
                    "must be a layout name such as en-us",
                ));
            }
        }
        if let Some(memory) = &self.memory {
            let missing = memory
                .disks
                .iter()
                .find(|(_, known)| !self.disks.iter().any(|disk| disk.id == *known));
            if let Some((_, missing)) = missing {
                return Err(HypervisorError::invalid(
                    "its saved memory",
                    missing.to_string(),
                    "knows a disk that isn't there any more",
                ));
            }
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.check()?;
        }
        Ok(())
    }
}

/// The memory of a machine that was suspended, or comes from another host, and the ports as it knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedMemory {
    /// The file; none: it is [received](crate::hypervisor::Crossing::receive).
    pub file: Option<PathBuf>,
    /// How many ports there were.
    pub port_count: u8,
    /// What was on them.
    pub disks: Vec<(u8, DiskId)>,
    /// Whether it lacks a little of what was asked for, as that of machines without KVM does.
    pub is_uneven: bool,
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Accelerator {
    /// Hardware virtualization.
    Kvm,
    /// QEMU's own translator; works everywhere, slowly.
    Tcg {
        /// Size of the translation cache. 64 is enough for tiny guests, 256 for a distribution.
        translation_cache_mib: u32,
    },
}

impl Default for Accelerator {
    fn default() -> Self {
        Self::Tcg {
            translation_cache_mib: 128,
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } => "tcg",
        })
    }
}

/// Where the first guest instruction comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// SeaBIOS, then the disk with the lowest slot.
    Firmware,
    /// A Linux kernel directly. The files must be readable for the user QEMU runs as (their folders need not be).
    Kernel {
        /// bzImage.
        kernel: PathBuf,
        /// Initial RAM disk.
        initrd: Option<PathBuf>,
        /// Kernel command line.
        arguments: String,
    },
}

/// Graphics over VNC on a UNIX socket, `vnc/vnc.sock` in the machine's folder, which QEMU itself makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VncSpec {
    /// Keyboard layout for viewers that send characters (`en-us`); not needed by those that send scan codes.
    pub keymap: Option<String>,
}
