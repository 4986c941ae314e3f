//! What a machine consists of, as the hypervisor is told it: plain values, units in the names.
//!
//! The controller makes a [`LaunchSpec`] out of documents; nothing here knows documents. Everything that can come from a
//! user is checked by [`LaunchSpec::check`] before a process is started, so that no value can become an option.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::HypervisorError;

/// virtio-blk shows the guest this many bytes of a serial, QEMU cuts the rest.
pub const SERIAL_BYTES: usize = 20;
/// Root ports sit eight to a PCI slot in slots 0x10–0x17, of which this many are used at most.
pub const MAX_PORTS: u8 = 64;
/// Network cards sit in PCI slots 2–9.
pub const MAX_NICS: usize = 8;
/// Media are targets of one SCSI controller.
pub const MAX_MEDIA: usize = 8;
/// An overlay may stand on this many images; descriptors are numbered by it.
pub const MAX_CHAIN: usize = 16;

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
        }
    }

    /// How many hot-plug ports the machine gets: one for each disk and the spare ones.
    #[must_use]
    pub fn port_count(&self) -> u8 {
        u8::try_from(self.disks.len())
            .unwrap_or(u8::MAX)
            .saturating_add(self.spare_ports)
    }

    /// The disks in the guest's order. Port N carries the N-th of them.
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
        if let Some(cgroup) = &self.cgroup {
            cgroup.check()?;
        }
        Ok(())
    }
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

/// Names a disk for its whole life on a machine: letters, digits, `.`, `_`, `-`; 64 at most, first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// # Errors
    /// [`HypervisorError::InvalidSpec`] if the text could not be part of a QEMU device id.
    pub fn new(text: impl Into<String>) -> Result<Self, HypervisorError> {
        let text = text.into();
        let fits = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if fits {
            Ok(Self(text))
        } else {
            Err(HypervisorError::invalid(
                "a disk identifier",
                text,
                "must be 1 to 64 letters, digits, '.', '_' or '-'",
            ))
        }
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskId {
    type Error = HypervisorError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.0
    }
}

/// How the bytes of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU copy-on-write version 2 or 3.
    Qcow2,
}

impl DiskFormat {
    /// The name of QEMU's block driver.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What kind of thing an image's path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageStorage {
    /// An ordinary file.
    #[default]
    File,
    /// A block device (logical volume).
    BlockDevice,
}

/// One file of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Absolute path; opened by this process, so QEMU needs no right on it.
    pub path: PathBuf,
    /// Stated, never probed: a guest could write another format's header.
    pub format: DiskFormat,
    /// File or block device.
    pub storage: ImageStorage,
}

impl ImageFile {
    /// An image in an ordinary file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self {
            path: path.into(),
            format,
            storage: ImageStorage::File,
        }
    }
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name for attach, detach and events.
    pub id: DiskId,
    /// The top image, which the guest writes to.
    pub image: ImageFile,
    /// Images below it, nearest first; opened read-only. Headers of the images are not followed.
    pub backing: Vec<ImageFile>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What the guest sees as the serial, [`SERIAL_BYTES`] at most.
    pub serial: String,
    /// Place in the guest's order, for disks present at start. Ignored by a later attach, which takes any free port.
    pub slot: u8,
}

impl DiskSpec {
    /// Refuses what QEMU would refuse or cut.
    ///
    /// # Errors
    /// [`HypervisorError::InvalidSpec`].
    pub fn check(&self) -> Result<(), HypervisorError> {
        if self.serial.len() > SERIAL_BYTES || !self.serial.chars().all(|c| c.is_ascii_graphic()) {
            return Err(HypervisorError::invalid(
                "a disk's serial",
                &self.serial,
                format!("must be at most {SERIAL_BYTES} printable ASCII characters"),
            ));
        }
        if self.backing.len() >= MAX_CHAIN {
            return Err(HypervisorError::invalid(
                "a disk's chain",
                self.id.to_string(),
                format!("must have at most {MAX_CHAIN} images"),
            ));
        }
        for image in self.images() {
            if !image.path.is_absolute() {
                return Err(HypervisorError::invalid(
                    "a disk's path",
                    image.path.to_string_lossy(),
                    "must be absolute",
                ));
            }
        }
        let covering = std::iter::once(&self.image)
            .chain(&self.backing)
            .take(self.backing.len());
        for image in covering {
            if image.format == DiskFormat::Raw {
                return Err(HypervisorError::invalid(
                    "a disk's chain",
                    image.path.to_string_lossy(),
                    "a raw image can't stand on another image",
                ));
            }
        }
        Ok(())
    }

    /// All images, top first.
    pub fn images(&self) -> impl Iterator<Item = &ImageFile> {
        std::iter::once(&self.image).chain(&self.backing)
    }
}

/// A network card.
#[derive(Debug, Clone)]
pub struct NicSpec {
    /// Hardware address.
    pub mac: MacAddress,
    /// The device the guest sees.
    pub model: NicModel,
    /// Where frames go.
    pub backend: NicBackend,
}

impl NicSpec {
    fn check(&self) -> Result<(), HypervisorError> {
        match &self.backend {
            NicBackend::Tap { interface, .. } => {
                let fits = !interface.is_empty()
                    && interface.len() <= 15
                    && interface
                        .chars()
                        .all(|c| c.is_ascii_graphic() && !"/,:%".contains(c));
                if !fits {
                    return Err(HypervisorError::invalid(
                        "a tap's name",
                        interface,
                        "must be 1 to 15 printable characters without / , : %",
                    ));
                }
            }
            NicBackend::User(user) => {
                if let Some((_, bits)) = user.network
                    && !(8..=30).contains(&bits)
                {
                    return Err(HypervisorError::invalid(
                        "a user network's prefix",
                        bits.to_string(),
                        "must be 8 to 30",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Which network card the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NicModel {
    /// virtio-net, fast.
    #[default]
    Virtio,
    /// Intel 82540EM, for old guests.
    E1000,
    /// Realtek 8139, for very old guests.
    Rtl8139,
}

impl NicModel {
    /// QEMU's device name.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// Where a card's frames go.
#[derive(Debug, Clone)]
pub enum NicBackend {
    /// A tap interface that exists.
    Tap {
        /// Its name.
        interface: String,
        /// An open queue of it; `None`: opened at launch by name, which needs the right to.
        descriptor: Option<Arc<OwnedFd>>,
    },
    /// QEMU's own user-mode network: no privilege, no reachability but by forwards.
    User(UserNetwork),
}

/// User-mode network of one card.
#[derive(Debug, Clone, Default)]
pub struct UserNetwork {
    /// Network and prefix length the guest gets its address in; QEMU's default 10.0.2.0/24.
    pub network: Option<(Ipv4Addr, u8)>,
    /// What the guest is told by DHCP; QEMU's defaults otherwise.
    pub lease: Option<UserLease>,
    /// Ports of this host handed to the guest.
    pub forwards: Vec<PortForward>,
}

/// What the DHCP server of a user-mode network tells the guest.
#[derive(Debug, Clone)]
pub struct UserLease {
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// The router: the host as the guest sees it.
    pub gateway: Ipv4Addr,
    /// The resolver.
    pub dns: Ipv4Addr,
    /// The guest's name.
    pub hostname: network::Hostname,
    /// Its domain.
    pub domain: network::Domain,
}

/// A TCP port of this host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// Address listened on. IPv4 only: QEMU's user network has no IPv6 forwards.
    pub host_address: Ipv4Addr,
    /// Port listened on.
    pub host_port: u16,
    /// Port in the guest.
    pub guest_port: u16,
}

impl PortForward {
    /// The address as a general one.
    #[must_use]
    pub fn host_ip(&self) -> IpAddr {
        IpAddr::V4(self.host_address)
    }
}

/// Graphics over VNC on a UNIX socket, `vnc/vnc.sock` in the machine's folder, which QEMU itself makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VncSpec {
    /// Keyboard layout for viewers that send characters (`en-us`); not needed by those that send scan codes.
    pub keymap: Option<String>,
}

/// Whom QEMU runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The only supplementary group, such as that of `/dev/kvm`; none: none at all.
    pub supplementary_group: Option<u32>,
}

impl Credentials {
    /// Makes the calling thread one of these, for ever. Other threads of the process stay what they are: call it where there
    /// is one thread only, as in a child before it becomes another program.
    ///
    /// # Errors
    /// If this process may not take on others' rights, or they don't exist here.
    pub fn take_on(self) -> std::io::Result<()> {
        use rustix::process::{Gid, Uid};
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // On the stack: a child between fork and exec must not allocate.
        match self.supplementary_group {
            Some(number) => rustix::thread::set_thread_groups(&[Gid::from_raw(number)])?,
            None => rustix::thread::set_thread_groups(&[])?,
        }
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        Ok(())
    }
}

/// Limits of a machine's control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupSpec {
    /// Group that holds all machines, below the root of each hierarchy (`stratus`).
    pub parent: String,
    /// Relative weight of the CPU, 1024 = one ordinary share.
    pub cpu_shares: u32,
    /// Most CPU time, in per cent of one CPU. `None`: no limit.
    pub cpu_limit_percent: Option<u32>,
    /// What QEMU needs beyond guest memory (translation cache comes on top by itself). `None`: no memory limit.
    pub memory_headroom_mib: Option<u64>,
    /// Most threads.
    pub tasks_max: u32,
}

impl Default for CgroupSpec {
    fn default() -> Self {
        Self {
            parent: "stratus".to_owned(),
            cpu_shares: 1024,
            cpu_limit_percent: None,
            memory_headroom_mib: Some(384),
            tasks_max: 512,
        }
    }
}

impl CgroupSpec {
    fn check(&self) -> Result<(), HypervisorError> {
        let fits = !self.parent.is_empty()
            && self.parent.len() <= 100
            && self
                .parent
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && !self.parent.starts_with('.');
        if fits {
            Ok(())
        } else {
            Err(HypervisorError::invalid(
                "the cgroup's parent",
                &self.parent,
                "must be one folder name",
            ))
        }
    }
}
