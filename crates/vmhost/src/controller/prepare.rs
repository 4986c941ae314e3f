//! What a machine needs before its hypervisor can be started: disks, media, and the specification of the process.
//!
//! Everything here can be done twice: what is there stays as it is, since it may hold a user's data.

use std::{
    collections::HashMap,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use cimi::{
    ImageId,
    resources::{
        AttachStage, AttachedVolume, BootSource, Disk, DiskRole, Image, ImageState, Machine,
        MediumFormat, VolumeState,
    },
};
use context::ContextError;
use documents::Documents;
use network::{Attachment, Hostname, NicTag, PlugRequest};
use storage::{Durability, inspect::Format, qcow2, space, swap};
use uuid::Uuid;

use super::{
    ImageContent, Settings, Shared, VolumePlace, VolumeUser, groups, media,
    memory::{self, MemoryRecord},
    root_disk, volume_disk,
};
use crate::{
    HypervisorError,
    accel::AcceleratorKind,
    hypervisor::RunFolder,
    launch_spec::{
        Accelerator, Boot, Credentials, DiskFormat, DiskId, DiskSpec, ImageFile, LaunchSpec,
        MacAddress, NicBackend, NicModel, NicSpec, PortForward, UserLease, UserNetwork, VncSpec,
    },
};

/// Machines run as one of so many user ids above the configured base.
const USER_IDS: u32 = 60_000;
/// The name at the hypervisor of the root disk.
const ROOT: &str = "root";
/// The file of the root disk in the folder of its machine.
pub(crate) const ROOT_DISK: &str = "root.qcow2";
/// Where guests answer SSH.
const SSH_PORT: u16 = 22;

/// Why a machine can't be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// Something it needs is still on its way; the machine waits.
    #[error("{0}")]
    NotYet(String),
    /// A volume that can't be used now, and nobody tells when it can be: the machine waits, and asks again.
    #[error("{0}")]
    NotNow(String),
    /// Something it needs can't be had.
    #[error("{0}")]
    Missing(String),
    /// A disk of its own is gone, or is none: nothing but somebody's hand changes that.
    #[error("its root disk {path} {why}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// A file of the machine.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A disk.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A medium.
    #[error("context can't be written: {0}")]
    Context(#[from] ContextError),
    /// An address of its documents.
    #[error("its document is damaged: {0}")]
    Mac(network::PoolError),
    /// A name of its documents.
    #[error("its document is damaged: {0}")]
    Name(#[from] network::NameError),
    /// The specification.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
}

/// The folder of a machine.
pub(crate) fn folder(settings: &Settings, machine: &Machine) -> PathBuf {
    settings.machines_dir.join(machine.id.local())
}

/// The machine's UUID. Ids are made by us, so it is one.
pub(crate) fn uuid(machine: &Machine) -> Result<Uuid, PrepareError> {
    machine
        .id
        .local()
        .parse()
        .map_err(|_| PrepareError::Missing(format!("{} is not a UUID", machine.id)))
}

/// The DNS name of a machine: that of its first address, which is unique where it is reached.
pub(crate) fn host_name(machine: &Machine) -> String {
    match machine.ip() {
        Some(std::net::IpAddr::V4(ip)) => Hostname::from(ip).to_string(),
        _ => format!("one-{}", machine.vmid),
    }
}

/// What each interface asks of its network, by the network's name.
pub(crate) fn plug_requests(machine: &Machine) -> Vec<(String, PlugRequest)> {
    let one = |(number, nic): (usize, &cimi::resources::Nic)| {
        let std::net::IpAddr::V4(ip) = nic.ip else {
            return None;
        };
        let request = PlugRequest {
            nic: nic_tag(machine, number)?,
            mac: nic.mac.parse().ok()?,
            ip,
            ssh_port: machine
                .ssh
                .as_ref()
                .filter(|_| number == 0)
                .map(|ssh| ssh.port),
            groups: groups::tags(machine),
        };
        Some((nic.network.local().to_owned(), request))
    };
    machine.nics.iter().enumerate().filter_map(one).collect()
}

fn nic_tag(machine: &Machine, number: usize) -> Option<NicTag> {
    let text = if number == 0 {
        machine.vmid.to_string()
    } else {
        format!("{}.{number}", machine.vmid)
    };
    text.parse().ok()
}

/// An image that is here, or why not.
fn available(shared: &Shared, id: &ImageId) -> Result<(PathBuf, Image), PrepareError> {
    let image =
        shared.documents.images.get(id.local()).ok_or_else(|| {
            PrepareError::Missing(format!("its image {id} does not exist any more"))
        })?;
    match (image.state, &image.file) {
        (ImageState::Available, Some(_)) => match shared.images.content(&image) {
            ImageContent::Here(path) => Ok((path, image.document.0.clone())),
            ImageContent::OnItsWay(text) => Err(PrepareError::NotYet(text)),
            ImageContent::Unusable(text) => Err(PrepareError::Missing(text)),
        },
        (ImageState::Error, _) => Err(PrepareError::Missing(format!(
            "its image {id} can't be used: {}",
            image.reason.as_deref().unwrap_or("the import failed")
        ))),
        _ => Err(PrepareError::NotYet(match &image.reason {
            Some(reason) => format!("waits for its image {id}: {reason}"),
            None => format!("waits for its image {id}"),
        })),
    }
}

/// The images that a machine starts from.
fn images(machine: &Machine) -> impl Iterator<Item = &ImageId> {
    let boot = match &machine.boot {
        BootSource::Disk => [None, None],
        BootSource::Kernel { kernel, initrd, .. } => [Some(kernel), initrd.as_ref()],
    };
    let disks = machine.disks.iter().filter_map(|disk| match &disk.role {
        DiskRole::Root => machine.image.as_ref().map(|image| &image.href),
        DiskRole::ReadOnly { image } => Some(image),
        DiskRole::Swap | DiskRole::Volatile => None,
    });
    boot.into_iter().flatten().chain(disks)
}

/// Whether a machine can't start without this image.
pub(crate) fn needs_image(machine: &Machine, image: &str) -> bool {
    let saved = machine.saved_as.as_ref().map(|saved| &saved.href);
    images(machine).chain(saved).any(|id| id.local() == image)
}

/// Makes sure that a machine could be prepared here: its images are here, and there is room.
pub(crate) fn require_for(shared: &Shared, machine: &Machine) -> Result<(), PrepareError> {
    let settings = &shared.settings;
    let memory = machine.memory.saturating_mul(1024);
    space::require(&settings.machines_dir, memory, settings.reserve_bytes)?;
    require_images(shared, machine)
}

/// Makes sure that all its images are here. All are asked for first, so that what has to be fetched comes at the same time.
fn require_images(shared: &Shared, machine: &Machine) -> Result<(), PrepareError> {
    let asked: Vec<_> = images(machine).map(|id| available(shared, id)).collect();
    asked.into_iter().try_for_each(|found| found.map(drop))
}

/// Makes the folder, disks and media of a machine, and the specification of its process, interfaces excepted. Touches
/// nothing while a process of the machine lives. Blocks on the disk.
pub(crate) fn prepare(
    shared: &Shared,
    machine: &Machine,
    places: &Places,
) -> Result<LaunchSpec, PrepareError> {
    let folder = folder(&shared.settings, machine);
    require_root_disk(machine, &folder)?;
    let memory = memory::read(&RunFolder(folder.clone()))?;
    let mut spec = prepare_in(shared, machine, places, folder, memory.as_ref())?;
    if let Some(memory) = memory {
        memory.apply(&mut spec)?;
    }
    Ok(spec)
}

/// One that has run goes on with the disk that it had: wherever that is, an empty one in its place would hide it.
fn require_root_disk(machine: &Machine, folder: &Path) -> Result<(), PrepareError> {
    let has_one = machine.boot_volume().is_none();
    let path = folder.join(ROOT_DISK);
    let is_gone = || {
        let looked = path.symlink_metadata();
        matches!(looked, Err(error) if error.kind() == std::io::ErrorKind::NotFound)
    };
    if machine.first_started.is_some() && has_one && is_gone() {
        let why = "is gone: put it back and start it again, or kill the machine";
        return Err(PrepareError::Unfit { path, why });
    }
    Ok(())
}

/// The same of a machine that comes here with its memory, in a folder beside.
pub(crate) fn prepare_to_receive(
    shared: &Shared,
    machine: &Machine,
    places: &Places,
    (folder, memory): (PathBuf, &MemoryRecord),
) -> Result<LaunchSpec, PrepareError> {
    let mut spec = prepare_in(shared, machine, places, folder, Some(memory))?;
    memory.apply_from(&mut spec, None)?;
    Ok(spec)
}

fn prepare_in(
    shared: &Shared,
    machine: &Machine,
    places: &Places,
    folder: PathBuf,
    memory: Option<&MemoryRecord>,
) -> Result<LaunchSpec, PrepareError> {
    let (documents, settings) = (&shared.documents, &shared.settings);
    if shared.hypervisor.lives(&folder)? {
        return Err(HypervisorError::AlreadyRunning { folder }.into());
    }
    space::require(&settings.machines_dir, 0, settings.reserve_bytes)?;
    require_images(shared, machine)?;
    let boot = boot(shared, machine)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|source| PrepareError::File {
            path: folder.clone(),
            source,
        })?;
    let mut disks = Vec::new();
    // Whatever was said of it before: without the disk it boots from a machine doesn't start.
    if let Some(attached) = machine.boot_volume() {
        disks.push(volume_spec(documents, places, attached, 0)?);
    }
    for disk in &machine.disks {
        let slot = disks.len();
        disks.push(disk_spec(shared, machine, disk, &folder, slot)?);
    }
    // A volume that could not be attached is at the machine no more: somebody has to detach it.
    // Memory knows the disks it had: what came later is plugged in later, what is to go is taken away later.
    let at_machine = |attached: &&AttachedVolume| match memory {
        Some(memory) => memory.knows(&volume_disk(attached)),
        None => attached.wanted && !matches!(attached.stage, AttachStage::Failed { .. }),
    };
    let others = usize::from(machine.boot_volume().is_some());
    for attached in machine.volumes.iter().skip(others).filter(at_machine) {
        let slot = disks.len();
        disks.push(volume_spec(documents, places, attached, slot)?);
    }
    let kvm = shared.accelerator().kind == AcceleratorKind::Kvm;
    let mut spec = LaunchSpec::new(uuid(machine)?, machine.vmid.0.into(), &folder);
    spec.name = process_name(machine);
    spec.cpus = u16::try_from(machine.cpu).unwrap_or(u16::MAX);
    spec.memory_mib = machine.memory / 1024;
    spec.cpu_model = cpu_model(machine, settings, kvm);
    spec.accelerator = if kvm {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg {
            translation_cache_mib: settings.translation_cache_mib,
        }
    };
    spec.boot = boot;
    spec.disks = disks;
    spec.vnc = machine.keymap.clone().map(|keymap| VncSpec {
        keymap: Some(keymap),
    });
    spec.media = media::write(documents, machine, &folder)?;
    spec.spare_ports = settings.spare_ports;
    spec.credentials = user(settings, machine).map(|id| Credentials {
        uid: id,
        gid: id,
        supplementary_group: settings.kvm_group.filter(|_| kvm),
    });
    spec.cgroup = settings.cgroup.clone().map(|mut cgroup| {
        cgroup.cpu_limit_percent = machine.cpu_share_percent.or(cgroup.cpu_limit_percent);
        cgroup
    });
    Ok(spec)
}

/// The name at the hypervisor of a disk of a machine's own.
pub(crate) fn disk_name(disk: &Disk) -> &str {
    match disk.role {
        DiskRole::Root => ROOT,
        _ => &disk.serial,
    }
}

/// Whom the process of a machine runs as; none: as we do.
pub(crate) fn user(settings: &Settings, machine: &Machine) -> Option<u32> {
    Some(settings.uid_base? + machine.vmid.0 % USER_IDS)
}

/// Where the volumes of a machine are, as far as that was asked.
pub(crate) type Places = HashMap<cimi::VolumeId, VolumePlace>;

/// Has what an earlier process of a machine had of its volumes forgotten, if that is there no more. Blocks on the disk.
pub(crate) fn begin(shared: &Shared, machine: &Machine) -> Result<(), PrepareError> {
    let by = volume_user(shared, machine);
    if !shared.hypervisor.lives(&by.folder.0)? {
        shared.volumes.begin(&by);
    }
    Ok(())
}

/// Has a volume made ready for a machine.
pub(crate) async fn ready(
    shared: &Shared,
    machine: &Machine,
    attached: &AttachedVolume,
) -> Result<VolumePlace, PrepareError> {
    let by = volume_user(shared, machine);
    let place = shared.volumes.ready(&by, attached).await;
    place.map_err(PrepareError::NotNow)
}

/// Whether somebody answers at a volume of a machine that no process has open.
pub(crate) async fn answers(
    shared: &Shared,
    machine: &Machine,
    attached: &AttachedVolume,
) -> Result<(), PrepareError> {
    let by = volume_user(shared, machine);
    let answers = shared.volumes.answers(&by, attached).await;
    answers.map_err(PrepareError::NotNow)
}

/// Has what a machine still wants of a disk fail that is its no more.
pub(crate) fn lost(shared: &Shared, machine: &Machine, disk: &DiskId) {
    shared.volumes.lost(&volume_user(shared, machine), disk);
}

fn volume_user(shared: &Shared, machine: &Machine) -> VolumeUser {
    volume_user_in(shared, machine, folder(&shared.settings, machine))
}

/// A machine whose process runs, or is to run, in this folder.
pub(crate) fn volume_user_in(shared: &Shared, machine: &Machine, folder: PathBuf) -> VolumeUser {
    VolumeUser {
        machine: machine.id.clone(),
        folder: RunFolder(folder),
        user: user(&shared.settings, machine),
    }
}

/// `host` means all that the accelerator has: under TCG, where there is no host CPU to pass on, that is `max`.
fn cpu_model(machine: &Machine, settings: &Settings, kvm: bool) -> Option<String> {
    match machine
        .cpu_model
        .as_deref()
        .or(settings.cpu_model.as_deref())
    {
        Some("host") if !kvm => None,
        other => other.map(str::to_owned),
    }
}

/// What process lists show: the number, and nothing that a user chose.
fn process_name(machine: &Machine) -> String {
    format!("one-{}", machine.vmid)
}

fn boot(shared: &Shared, machine: &Machine) -> Result<Boot, PrepareError> {
    Ok(match &machine.boot {
        BootSource::Disk => Boot::Firmware,
        BootSource::Kernel {
            kernel,
            initrd,
            arguments,
        } => Boot::Kernel {
            kernel: available(shared, kernel)?.0,
            initrd: initrd
                .as_ref()
                .map(|initrd| available(shared, initrd))
                .transpose()?
                .map(|(path, _)| path),
            arguments: arguments.clone(),
        },
    })
}

fn disk_spec(
    shared: &Shared,
    machine: &Machine,
    disk: &Disk,
    folder: &Path,
    slot: usize,
) -> Result<DiskSpec, PrepareError> {
    let image = match &disk.role {
        DiskRole::Root => {
            let origin = machine.image.as_ref().ok_or_else(|| {
                PrepareError::Missing("it has a root disk, but no image".to_owned())
            })?;
            let (backing_path, image) = available(shared, &origin.href)?;
            let format = image
                .file
                .as_ref()
                .map_or(MediumFormat::Raw, |file| file.format);
            let size = image
                .file
                .as_ref()
                .map_or(disk.size_bytes.0, |file| file.virtual_size.0)
                .max(disk.size_bytes.0);
            let path = folder.join(ROOT_DISK);
            let backing = qcow2::Backing {
                path: &backing_path,
                format: stored_format(format),
            };
            root_disk::ensure(&path, size, backing)?;
            let backing = vec![ImageFile::file(backing_path, disk_format(format))];
            return spec(
                ROOT,
                ImageFile::file(path, DiskFormat::Qcow2),
                backing,
                false,
                &disk.serial,
                slot,
            );
        }
        DiskRole::Swap => {
            let path = folder.join("swap.raw");
            if !path.exists() {
                swap::create_swap(
                    &path,
                    disk.size_bytes.0,
                    Uuid::new_v4(),
                    "swap",
                    Durability::Cached,
                )?;
            }
            path
        }
        DiskRole::Volatile => {
            let path = folder.join(format!("{}.raw", disk.serial));
            if !path.exists() {
                swap::create_empty(&path, disk.size_bytes.0, Durability::Cached)?;
            }
            path
        }
        DiskRole::ReadOnly { image } => {
            let (path, image) = available(shared, image)?;
            let format = image
                .file
                .as_ref()
                .map_or(MediumFormat::Raw, |file| file.format);
            return spec(
                &disk.serial,
                ImageFile::file(path, disk_format(format)),
                Vec::new(),
                true,
                &disk.serial,
                slot,
            );
        }
    };
    spec(
        &disk.serial,
        ImageFile::file(image, DiskFormat::Raw),
        Vec::new(),
        false,
        &disk.serial,
        slot,
    )
}

/// Whether a volume is there, as its document says.
pub(crate) fn has_volume(
    documents: &Documents,
    volume: &cimi::VolumeId,
) -> Result<(), PrepareError> {
    files(documents, volume).map(drop)
}

/// The files of a volume, top first.
fn files(documents: &Documents, volume: &cimi::VolumeId) -> Result<Vec<ImageFile>, PrepareError> {
    let document = documents
        .volumes
        .get(volume.local())
        .ok_or_else(|| PrepareError::Missing(format!("{volume} does not exist any more")))?;
    let Some(location) = &document.location else {
        return Err(match document.state {
            VolumeState::Error => {
                let reason = document.reason.as_deref().unwrap_or("it could not be made");
                PrepareError::Missing(format!("{volume} can't be used: {reason}"))
            }
            _ => PrepareError::NotYet(format!("waits for {volume}")),
        });
    };
    Ok(location
        .files()
        .map(|(path, format)| ImageFile::file(path, disk_format(format)))
        .collect())
}

/// The disk of a volume.
pub(crate) fn volume_spec(
    documents: &Documents,
    places: &Places,
    attached: &AttachedVolume,
    slot: usize,
) -> Result<DiskSpec, PrepareError> {
    let AttachedVolume { volume, serial, .. } = attached;
    let mut files = files(documents, volume)?.into_iter();
    let (top, backing) = match (places.get(volume), files.next()) {
        (Some(VolumePlace::Files), Some(top)) => (top, files.collect()),
        (Some(VolumePlace::Socket(name)), _) => (ImageFile::socket(name), Vec::new()),
        (Some(VolumePlace::Iscsi(target, secret)), _) => {
            (ImageFile::iscsi(target.clone(), secret), Vec::new())
        }
        // Attached since it was asked where they are.
        _ => return Err(PrepareError::NotYet(format!("waits for {volume}"))),
    };
    spec(&volume_disk(attached), top, backing, false, serial, slot)
}

fn spec(
    id: &str,
    image: ImageFile,
    backing: Vec<ImageFile>,
    read_only: bool,
    serial: &str,
    slot: usize,
) -> Result<DiskSpec, PrepareError> {
    let slot = u8::try_from(slot).unwrap_or(u8::MAX);
    Ok(DiskSpec {
        id: DiskId::new(id)?,
        image,
        backing,
        read_only,
        serial: serial.to_owned(),
        slot,
    })
}

const fn disk_format(format: MediumFormat) -> DiskFormat {
    match format {
        MediumFormat::Raw => DiskFormat::Raw,
        MediumFormat::Qcow2 => DiskFormat::Qcow2,
    }
}

const fn stored_format(format: MediumFormat) -> Format {
    match format {
        MediumFormat::Raw => Format::Raw,
        MediumFormat::Qcow2 => Format::Qcow2,
    }
}

/// The network card for a link that was made.
pub(crate) fn nic_spec(
    mac: network::MacAddr,
    model: Option<&str>,
    name: String,
    attachment: Attachment,
) -> NicSpec {
    let model = match model {
        Some("e1000") => NicModel::E1000,
        Some("rtl8139") => NicModel::Rtl8139,
        _ => NicModel::Virtio,
    };
    let backend = match attachment {
        Attachment::Tap(descriptor) => NicBackend::Tap {
            interface: name,
            descriptor: Some(descriptor.into()),
        },
        Attachment::User(user) => NicBackend::User(UserNetwork {
            network: Some((user.network.address(), user.network.prefix_len())),
            forwards: vec![PortForward {
                host_address: std::net::Ipv4Addr::LOCALHOST,
                host_port: user.ssh_port,
                guest_port: SSH_PORT,
            }],
            lease: Some(UserLease {
                guest: user.guest,
                gateway: user.gateway,
                dns: user.dns,
                hostname: user.hostname,
                domain: user.domain,
            }),
        }),
    };
    NicSpec {
        mac: MacAddress(mac.octets()),
        model,
        backend,
    }
}

/// The letter users are told for the disk at `slot`: `vda` is the first.
pub(crate) fn target(slot: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(slot.min(25)).unwrap_or(25));
    format!("vd{letter}")
}
