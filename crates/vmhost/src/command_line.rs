//! From a launch specification to QEMU's argument list: a pure function.
//!
//! QEMU gets no path to open but its own firmware, the socket of its screen, and those of volumes that are elsewhere: other sockets, logs, images, taps and kernels are descriptors it inherits,
//! numbered from [`FIRST_DESCRIPTOR`] in the order of [`descriptors`]. What can carry a user's text is JSON (`-device`,
//! `-blockdev`), or has its commas doubled, or was refused by [`LaunchSpec::check`].

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::block_nodes;
use crate::launch_spec::{Accelerator, Boot, LaunchSpec, NicBackend, UserNetwork};

/// The pinned machine type: a guest sees the same hardware after an upgrade of QEMU.
pub const MACHINE_TYPE: &str = "pc-q35-7.2";

/// What memory of an uneven size lacks: the least that QEMU doesn't round.
const MISSING_KIB: u64 = 8;

/// The first inherited descriptor after the standard three.
pub const FIRST_DESCRIPTOR: i32 = 3;

/// The inherited descriptor of the folder with the sockets of volumes; also for those that come later.
pub const VOLUMES_DESCRIPTOR: i32 = FIRST_DESCRIPTOR + 4;

/// Descriptor set of the serial log; media follow it.
const SERIAL_LOG_SET: u32 = 1;
const FIRST_MEDIUM_SET: u32 = 10;

/// What an inherited descriptor is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptor {
    /// The lock that tells whether the process lives; QEMU never touches it.
    AliveLock,
    /// Listening socket of the monitor.
    Monitor,
    /// Listening socket of the serial console.
    Serial,
    /// The serial log, opened for appending.
    SerialLog,
    /// The folder with the sockets of volumes: [`VOLUMES_DESCRIPTOR`].
    Volumes,
    /// Listening socket of the guest agent.
    Agent,
    /// Kernel to boot, opened read-only.
    Kernel(PathBuf),
    /// Initial RAM disk, opened read-only.
    Initrd(PathBuf),
    /// An image of a disk.
    Image {
        /// The port its disk is on.
        port: u8,
        /// Place in the chain, 0 on top.
        depth: u8,
        /// What to open.
        path: PathBuf,
        /// How to open it.
        read_only: bool,
    },
    /// A medium, opened read-only.
    Medium(PathBuf),
    /// The folder where QEMU makes the socket of its screen (see [`VncSpec`](crate::launch_spec::VncSpec)).
    Graphics,
    /// The memory the guest goes on from.
    Memory(PathBuf),
    /// A queue of the tap of this network card.
    Tap {
        /// Index in [`LaunchSpec::nics`].
        nic: usize,
    },
}

/// The descriptors QEMU inherits; the first has number [`FIRST_DESCRIPTOR`].
#[must_use]
pub fn descriptors(spec: &LaunchSpec) -> Vec<Descriptor> {
    let mut list = vec![
        Descriptor::AliveLock,
        Descriptor::Monitor,
        Descriptor::Serial,
        Descriptor::SerialLog,
        Descriptor::Volumes,
    ];
    if spec.guest_agent {
        list.push(Descriptor::Agent);
    }
    if let Boot::Kernel { kernel, initrd, .. } = &spec.boot {
        list.push(Descriptor::Kernel(kernel.clone()));
        list.extend(initrd.iter().cloned().map(Descriptor::Initrd));
    }
    for (port, disk) in spec.disks_on_ports() {
        for (depth, image) in (0u8..).zip(disk.images()) {
            if !image.is_opened() {
                continue;
            }
            list.push(Descriptor::Image {
                port,
                depth,
                path: image.path.clone(),
                read_only: disk.read_only || depth > 0,
            });
        }
    }
    list.extend(spec.media.iter().cloned().map(Descriptor::Medium));
    for (nic, card) in spec.nics.iter().enumerate() {
        if matches!(card.backend, NicBackend::Tap { .. }) {
            list.push(Descriptor::Tap { nic });
        }
    }
    if spec.vnc.is_some() {
        list.push(Descriptor::Graphics);
    }
    if let Some(file) = spec.memory.as_ref().and_then(|memory| memory.file.as_ref()) {
        list.push(Descriptor::Memory(file.clone()));
    }
    list
}

/// QEMU's arguments, without the program's name. The specification must have passed [`LaunchSpec::check`].
#[must_use]
pub fn arguments(spec: &LaunchSpec) -> Vec<String> {
    let descriptors = descriptors(spec);
    let number = |wanted: &dyn Fn(&Descriptor) -> bool| -> i32 {
        let index = descriptors
            .iter()
            .position(wanted)
            .and_then(|index| i32::try_from(index).ok());
        index.map_or(-1, |index| FIRST_DESCRIPTOR + index)
    };
    let mut line = ArgumentList::default();
    line.flag("-no-user-config").flag("-nodefaults");
    line.option(
        "-name",
        format!("guest={},debug-threads=on", doubled(&spec.name)),
    );
    line.option("-uuid", spec.machine.to_string());
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    board(spec, &mut line);

    socket(&mut line, "qmp", number(&|d| *d == Descriptor::Monitor), "");
    line.option("-mon", "chardev=qmp,mode=control");

    line.option(
        "-add-fd",
        format!(
            "fd={},set={SERIAL_LOG_SET}",
            number(&|d| *d == Descriptor::SerialLog)
        ),
    );
    let log = format!(",logfile=/dev/fdset/{SERIAL_LOG_SET},logappend=on");
    socket(
        &mut line,
        "serial0",
        number(&|d| *d == Descriptor::Serial),
        &log,
    );
    line.device(&json!({"driver": "isa-serial", "id": "com1", "chardev": "serial0"}));

    if spec.guest_agent {
        socket(
            &mut line,
            "agent0",
            number(&|d| *d == Descriptor::Agent),
            "",
        );
        line.device(&json!({"driver": "virtio-serial-pci", "id": "vserial", "bus": "pcie.0", "addr": "0xb"}));
        line.device(&json!({
            "driver": "virtserialport", "id": "agent", "bus": "vserial.0", "nr": 1,
            "chardev": "agent0", "name": "org.qemu.guest_agent.0",
        }));
    }
    line.device(&json!({"driver": "virtio-rng-pci", "id": "rng", "bus": "pcie.0", "addr": "0xc"}));
    line.device(&json!({
        "driver": "virtio-balloon-pci", "id": "balloon", "bus": "pcie.0", "addr": "0xd",
        "free-page-reporting": true, "deflate-on-oom": true,
    }));
    line.device(&json!({"driver": "pvpanic-pci", "id": "pvpanic", "bus": "pcie.0", "addr": "0xe"}));

    if let Boot::Kernel {
        initrd, arguments, ..
    } = &spec.boot
    {
        line.option(
            "-kernel",
            inherited(number(&|d| matches!(d, Descriptor::Kernel(_)))),
        );
        if initrd.is_some() {
            line.option(
                "-initrd",
                inherited(number(&|d| matches!(d, Descriptor::Initrd(_)))),
            );
        }
        line.option("-append", arguments.as_str());
    }
    root_ports(spec.port_count(), &mut line);
    disks(spec, &descriptors, &mut line);
    media(spec, &descriptors, &mut line);
    nics(spec, &number, &mut line);
    graphics(spec, number(&|d| *d == Descriptor::Graphics), &mut line);
    match spec.memory.as_ref().map(|memory| &memory.file) {
        None => {}
        Some(None) => {
            line.option("-incoming", "defer");
        }
        Some(Some(_)) => {
            let file = number(&|d| matches!(d, Descriptor::Memory(_)));
            line.option("-incoming", format!("fd:{file}"));
        }
    }
    line.0
}

/// Machine, processor, memory, clock and what happens at ends.
fn board(spec: &LaunchSpec, line: &mut ArgumentList) {
    // SATA and SMBus of the chip set are left out: nothing uses them, and firmware and kernel would probe them.
    line.option(
        "-machine",
        format!(
            "{MACHINE_TYPE},vmport=off,smm=off,hpet=off,sata=off,smbus=off,dump-guest-core=off"
        ),
    );
    let (accelerator, default_cpu) = match spec.accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Tcg {
            translation_cache_mib,
        } => (format!("tcg,tb-size={translation_cache_mib}"), "max"),
    };
    line.option("-accel", accelerator);
    line.option("-cpu", spec.cpu_model.as_deref().unwrap_or(default_cpu));
    line.option(
        "-smp",
        format!("cpus={0},sockets=1,cores={0},threads=1", spec.cpus),
    );
    line.option("-m", memory_size(spec));
    line.option("-overcommit", "mem-lock=off");
    line.option("-rtc", "base=utc,driftfix=slew");
    line.flag("-S");
    line.option(
        "-action",
        "reboot=reset,shutdown=pause,panic=pause,watchdog=reset",
    );
}

/// Without KVM a little less than was asked for. QEMU looks which pages were written in a quick way where it can, and before version 9
/// that way misses what translated code writes next, so that the memory of a guest that goes on while it is sent arrives corrupted (its
/// commit "physmem: Fix migration dirty bitmap coherency with TCG memory access"). It is taken for memory of a multiple of 256 KiB only.
fn memory_size(spec: &LaunchSpec) -> String {
    let is_uneven = match &spec.memory {
        Some(memory) => memory.is_uneven,
        None => matches!(spec.accelerator, Accelerator::Tcg { .. }),
    };
    match is_uneven {
        true => format!("size={}K", spec.memory_mib * 1024 - MISSING_KIB),
        false => format!("size={}M", spec.memory_mib),
    }
}

/// Whether a machine with these arguments has memory of an uneven size.
pub(crate) fn has_uneven_memory(arguments: &[String]) -> bool {
    let at = arguments.iter().position(|argument| argument == "-m");
    let size = at.and_then(|at| arguments.get(at + 1));
    size.is_some_and(|size| size.ends_with('K'))
}

/// Eight ports to a slot as functions of one device. No I/O window: virtio needs none, and there is room for 16 only.
fn root_ports(count: u8, line: &mut ArgumentList) {
    for port in 0..count {
        line.device(&json!({
            "driver": "pcie-root-port", "id": block_nodes::root_port(port), "bus": "pcie.0",
            "addr": format!("{:#x}.{}", 0x10 + port / 8, port % 8),
            "multifunction": port % 8 == 0,
            "chassis": u16::from(port) + 1, "slot": port, "io-reserve": 0,
        }));
    }
}

fn disks(spec: &LaunchSpec, descriptors: &[Descriptor], line: &mut ArgumentList) {
    for (number, descriptor) in (FIRST_DESCRIPTOR..).zip(descriptors) {
        if let Descriptor::Image { port, depth, .. } = descriptor {
            line.option(
                "-add-fd",
                format!(
                    "fd={number},set={}",
                    block_nodes::set_at_start(*port) + u32::from(*depth)
                ),
            );
        }
    }
    for (port, disk) in spec.disks_on_ports() {
        if let Some(secret) = block_nodes::secret(disk, block_nodes::set_at_start(port)) {
            line.option("-object", secret.to_string());
        }
        for node in block_nodes::definitions(disk, port, block_nodes::set_at_start(port)) {
            line.option("-blockdev", node.to_string());
        }
        let boot_index = (spec.boot == Boot::Firmware && port == 0).then_some(1);
        line.device(&block_nodes::device(disk, port, boot_index));
    }
}

fn media(spec: &LaunchSpec, descriptors: &[Descriptor], line: &mut ArgumentList) {
    if spec.media.is_empty() {
        return;
    }
    line.device(
        &json!({"driver": "virtio-scsi-pci", "id": "media", "bus": "pcie.0", "addr": "0xa"}),
    );
    let inherited = (FIRST_DESCRIPTOR..)
        .zip(descriptors)
        .filter(|(_, d)| matches!(d, Descriptor::Medium(_)));
    for (index, (number, _)) in (0u32..).zip(inherited) {
        let set = FIRST_MEDIUM_SET + index;
        line.option("-add-fd", format!("fd={number},set={set}"));
        line.option(
            "-blockdev",
            json!({
                "driver": "file", "node-name": format!("m{index}-file"), "filename": format!("/dev/fdset/{set}"),
                "read-only": true, "auto-read-only": false,
            })
            .to_string(),
        );
        line.option(
            "-blockdev",
            json!({
                "driver": "raw", "node-name": format!("m{index}"), "file": format!("m{index}-file"), "read-only": true,
            })
            .to_string(),
        );
        line.device(&json!({
            "driver": "scsi-cd", "id": format!("medium{index}"), "bus": "media.0", "scsi-id": index, "lun": 0,
            "drive": format!("m{index}"),
        }));
    }
}

/// Finds the number of the inherited descriptor that fits.
type NumberOf<'a> = dyn Fn(&dyn Fn(&Descriptor) -> bool) -> i32 + 'a;

fn nics(spec: &LaunchSpec, number: &NumberOf<'_>, line: &mut ArgumentList) {
    for (index, nic) in spec.nics.iter().enumerate() {
        let backend = match &nic.backend {
            NicBackend::Tap { .. } => {
                let fd = number(&|d| *d == Descriptor::Tap { nic: index });
                format!("tap,id=net{index},fd={fd}")
            }
            NicBackend::User(user) => user_network(index, user),
        };
        line.option("-netdev", backend);
        line.device(&json!({
            "driver": nic.model.driver(), "id": format!("nic{index}"), "netdev": format!("net{index}"),
            "mac": nic.mac.to_string(), "bus": "pcie.0", "addr": format!("{:#x}", 2 + index), "romfile": "",
        }));
    }
}

fn user_network(index: usize, user: &UserNetwork) -> String {
    use std::fmt::Write as _;
    let mut text = format!("user,id=net{index},ipv6=off");
    if let Some((address, bits)) = user.network {
        let _ = write!(text, ",net={address}/{bits}");
    }
    let mut guest = String::new();
    if let Some(lease) = &user.lease {
        let (gateway, dns, name, domain) =
            (lease.gateway, lease.dns, &lease.hostname, &lease.domain);
        guest = lease.guest.to_string();
        let _ = write!(
            text,
            ",host={gateway},dns={dns},dhcpstart={guest},hostname={name},domainname={domain}"
        );
    }
    for forward in &user.forwards {
        let _ = write!(
            text,
            ",hostfwd=tcp:{}:{}-{guest}:{}",
            forward.host_address, forward.host_port, forward.guest_port
        );
    }
    text
}

fn graphics(spec: &LaunchSpec, folder: i32, line: &mut ArgumentList) {
    line.option("-vga", "none");
    let Some(vnc) = &spec.vnc else {
        line.option("-display", "none");
        return;
    };
    line.device(&json!({"driver": "VGA", "id": "vga", "bus": "pcie.0", "addr": "0x1"}));
    // The one thing that QEMU can't be handed open: it makes the socket, and may not walk to the folder.
    line.option("-vnc", format!("unix:{}/vnc.sock", inherited(folder)));
    if let Some(keymap) = &vnc.keymap {
        line.option("-k", keymap.as_str());
    }
}

fn socket(line: &mut ArgumentList, id: &str, number: i32, more: &str) {
    line.option(
        "-chardev",
        format!("socket,id={id},fd={number},server=on,wait=off{more}"),
    );
}

/// The path by which QEMU opens a descriptor of its own anew; it checks rights on the file, not on the way to it.
pub(crate) fn inherited(number: i32) -> String {
    format!("/proc/self/fd/{number}")
}

/// A comma inside a value of a comma-separated option is written twice.
fn doubled(value: &str) -> String {
    value.replace(',', ",,")
}

#[derive(Default)]
struct ArgumentList(Vec<String>);

impl ArgumentList {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }

    fn device(&mut self, device: &Value) {
        self.option("-device", device.to_string());
    }
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
