//! QEMU behind the [`Hypervisor`] trait: launch. Adoption is in [`crate::adopt`], the connected machine in
//! [`crate::machine`].
//!
//! Whether a machine's process lives is told by a lock on the file `alive` in its folder. The lock belongs to a descriptor
//! that QEMU inherits and never closes: it is held from before the fork until the last moment of the process, whatever
//! happens to this program in between, so that no second process can ever be started.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::fs::FlockOperation;

use crate::cgroup::{Cgroups, MachineCgroup};
use crate::command_line::{self, Descriptor};
use crate::error::HypervisorError;
use crate::hypervisor::{
    Adopted, ExitCause, Hypervisor, HypervisorKind, Result, RunFolder, RunningMachine,
};
use crate::launch_spec::{Accelerator, LaunchSpec, NicBackend};
use crate::machine::QemuMachine;
use crate::ports::PortAccount;
use crate::process::HeldProcess;
use crate::qmp::{Qmp, QmpError};
use crate::record::{LaunchRecord, RECORD_FORMAT};
use crate::spawn::{self, Start, Started};

/// How long a process of ours that is just being forked may hold all our descriptors, and with them a lock that is not its.
const FORK_LIMIT: Duration = Duration::from_millis(100);
/// SIGABRT this soon after the start means that KVM can't run guests here, though it opens.
const ACCELERATOR_ABORT: Duration = Duration::from_secs(1);
const SIGABRT: i32 = 6;

/// Starts and adopts QEMU processes on this host.
#[derive(Debug, Clone)]
pub struct QemuHypervisor {
    pub(crate) binary: PathBuf,
    accelerator: Accelerator,
    cgroups: Arc<Cgroups>,
}

impl QemuHypervisor {
    /// With the program to start (`/usr/bin/qemu-system-x86_64`) and what the probe of this host found.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, accelerator: Accelerator) -> Self {
        Self {
            binary: binary.into(),
            accelerator,
            cgroups: Arc::new(Cgroups::detect()),
        }
    }

    /// The layout of control groups used.
    #[must_use]
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The blocking part of a launch: everything up to a started, recorded process.
    fn start(&self, spec: &LaunchSpec) -> Result<Prepared> {
        let folder = RunFolder(spec.folder.clone());
        make_folder(&folder.0)?;
        let alive = lock_alive(&folder)?;
        let descriptors = open_descriptors(spec, &folder, alive)?;
        // Connected before QEMU exists: the greeting then comes as soon as it is ready, with no file to wait for.
        let monitor = connect(&folder.0, &folder.monitor()).map_err(HypervisorError::system(
            "connecting to the monitor",
            folder.monitor(),
        ))?;
        let output = make_output(&folder.output()).map_err(HypervisorError::system(
            "making the output log",
            folder.output(),
        ))?;

        let cgroup = match &spec.cgroup {
            Some(limits) => self
                .cgroups
                .create(spec, limits)
                .map_err(HypervisorError::system(
                    "making the cgroup of the machine in",
                    &folder.0,
                ))?,
            None => MachineCgroup {
                directories: Vec::new(),
            },
        };
        let started = self.record_and_start(spec, &folder, &descriptors, output, &cgroup);
        if started.is_err() {
            cgroup.remove();
            remove_sockets(&folder);
        }
        let (record, started) = started?;
        Ok(Prepared {
            record,
            started,
            monitor,
        })
    }

    fn record_and_start(
        &self,
        spec: &LaunchSpec,
        folder: &RunFolder,
        descriptors: &[OwnedFd],
        output: File,
        cgroup: &MachineCgroup,
    ) -> Result<(LaunchRecord, Started)> {
        let mut record = LaunchRecord {
            format: RECORD_FORMAT,
            machine: spec.machine,
            vmid: spec.vmid,
            name: spec.name.clone(),
            accelerator: spec.accelerator,
            binary: self.binary.to_string_lossy().into_owned(),
            version: None,
            arguments: command_line::arguments(spec),
            process: None,
            cgroups: cgroup.directories.clone(),
            ports: PortAccount::at_start(spec.port_count(), &spec.disks_on_ports()),
            ended: None,
        };
        record.write(&folder.record())?;
        let started = spawn::start(Start {
            binary: &self.binary,
            arguments: &record.arguments,
            descriptors,
            output,
            credentials: spec.credentials,
        })
        .map_err(HypervisorError::system("starting", &self.binary))?;
        // From outside, while QEMU is busy with its own beginning: entering takes milliseconds where groups are of version 1.
        if let Err(error) = cgroup.enter(started.identity.pid) {
            let _ =
                rustix::process::pidfd_send_signal(&started.pidfd, rustix::process::Signal::KILL);
            return Err(HypervisorError::system("entering the cgroup of", &folder.0)(error));
        }
        record.process = Some(started.identity);
        // A record without the process number is cured by adoption; not worth killing a machine for.
        if let Err(error) = record.write(&folder.record()) {
            tracing::warn!(vmid = spec.vmid, %error, "the process number could not be recorded");
        }
        Ok((record, started))
    }
}

struct Prepared {
    record: LaunchRecord,
    started: Started,
    monitor: UnixStream,
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Qemu
    }

    fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn RunningMachine>> {
        spec.check()?;
        let folder = RunFolder(spec.folder.clone());
        let accelerator = spec.accelerator;
        let began = Instant::now();
        let this = self.clone();
        let Prepared {
            mut record,
            started,
            monitor,
        } = blocking(move || this.start(&spec)).await?;
        let spawned_after = began.elapsed();
        metrics::histogram!("stratus_machine_spawn_seconds").record(spawned_after);

        let pid = started.identity.pid;
        let process = HeldProcess::new(pid, started.pidfd).map_err(HypervisorError::system(
            "watching the process of",
            &folder.0,
        ))?;
        let ready = tokio::select! {
            ready = Qmp::start(monitor) => ready,
            _ = process.ended() => Err(QmpError::Closed { command: "greeting".to_owned() }),
        };
        let (qmp, events) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                // Either it ended or it hangs; both end here.
                if matches!(error, QmpError::TimedOut { .. } | QmpError::Protocol { .. }) {
                    process.kill();
                }
                let how = process.ended().await;
                let aborted =
                    how == ExitCause::Signal(SIGABRT) && began.elapsed() < ACCELERATOR_ABORT;
                let output = clean_up_failed(folder, record, how.clone()).await;
                let refused = aborted || is_about_kvm(&output);
                return Err(if accelerator == Accelerator::Kvm && refused {
                    HypervisorError::AcceleratorFailed {
                        how: how.to_string(),
                        output,
                    }
                } else {
                    HypervisorError::StartFailed {
                        how: format!("{error}; {how}"),
                        output,
                    }
                });
            }
        };
        record.version = Some(qmp.version().to_string());
        tracing::debug!(vmid = record.vmid, pid, ?spawned_after, ready_after = ?began.elapsed(), "QEMU is ready");
        Ok(QemuMachine::connected(folder, record, process, qmp, events))
    }

    fn lives(&self, folder: &Path) -> Result<bool> {
        let folder = RunFolder(folder.to_path_buf());
        let deadline = Instant::now() + FORK_LIMIT;
        while is_alive(&folder)? {
            if Instant::now() > deadline {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(false)
    }

    async fn adopt(&self, folder: &Path) -> Result<Adopted> {
        crate::adopt::adopt(RunFolder(folder.to_path_buf())).await
    }
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(HypervisorError::system("running blocking work", "")(
            io::Error::other(error),
        )),
    }
}

/// An empty log, opened for appending: it can be cut while QEMU writes.
fn make_output(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(0)?;
    Ok(file)
}

fn make_folder(folder: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(HypervisorError::system("making the run folder", folder)),
    }
}

/// Takes the lock that the process shall hold.
fn lock_alive(folder: &RunFolder) -> Result<OwnedFd> {
    let path = folder.alive_lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(HypervisorError::system("opening", &path))?;
    let deadline = Instant::now() + FORK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(HypervisorError::AlreadyRunning {
                    folder: folder.0.clone(),
                });
            }
            Err(error) => return Err(HypervisorError::system("locking", &path)(error.into())),
        }
    }
}

/// Whether a process of this folder lives.
pub(crate) fn is_alive(folder: &RunFolder) -> Result<bool> {
    let path = folder.alive_lock();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(HypervisorError::system("opening", &path)(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(HypervisorError::system("locking", &path)(error.into())),
    }
}

/// Opens everything QEMU inherits, in the order of [`command_line::descriptors`].
fn open_descriptors(spec: &LaunchSpec, folder: &RunFolder, alive: OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut alive = Some(alive);
    let mut opened = Vec::new();
    for descriptor in command_line::descriptors(spec) {
        opened.push(match descriptor {
            Descriptor::AliveLock => match alive.take() {
                Some(alive) => alive,
                None => continue,
            },
            Descriptor::Monitor => listen(&folder.0, &folder.monitor())?,
            Descriptor::Serial => listen(&folder.0, &folder.serial_socket())?,
            Descriptor::Agent => listen(&folder.0, &folder.agent())?,
            Descriptor::SerialLog => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(folder.serial_log())
                .map_err(HypervisorError::system("opening", folder.serial_log()))?
                .into(),
            Descriptor::Kernel(path)
            | Descriptor::Initrd(path)
            | Descriptor::Medium(path)
            | Descriptor::Memory(path) => open_image(&path, true)?,
            Descriptor::Image {
                path, read_only, ..
            } => open_image(&path, read_only)?,
            Descriptor::Tap { nic } => open_tap(spec, nic)?,
            Descriptor::Volumes => open_volumes_folder(folder)?,
            Descriptor::Graphics => make_graphics_folder(spec, folder)?,
        });
    }
    Ok(opened)
}

/// Opens an image for QEMU. Each is opened separately, so that QEMU's locks on it are its own.
pub(crate) fn open_image(path: &Path, read_only: bool) -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(HypervisorError::system("opening", path))?;
    Ok(file.into())
}

fn open_tap(spec: &LaunchSpec, nic: usize) -> Result<OwnedFd> {
    let Some(NicBackend::Tap {
        interface,
        descriptor,
    }) = spec.nics.get(nic).map(|nic| &nic.backend)
    else {
        return Err(HypervisorError::invalid(
            "a network card",
            nic.to_string(),
            "is not on a tap",
        ));
    };
    let opened = match descriptor {
        Some(descriptor) => descriptor.try_clone(),
        None => spawn::open_tap(interface),
    };
    opened.map_err(HypervisorError::system("opening the tap", interface))
}

/// Makes the folder of the sockets of volumes, and opens it: whoever holds it may connect to those that are theirs.
fn open_volumes_folder(folder: &RunFolder) -> Result<OwnedFd> {
    let path = folder.volumes();
    make_volumes_folder(&path)
        .and_then(|()| File::open(&path))
        .map(Into::into)
        .map_err(HypervisorError::system(
            "making the folder of volumes",
            &path,
        ))
}

/// Makes that folder; the way to it is ours alone.
pub(crate) fn make_volumes_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

/// Makes the folder of the screen's socket, which belongs to the machine's user, and opens it.
fn make_graphics_folder(spec: &LaunchSpec, folder: &RunFolder) -> Result<OwnedFd> {
    let path = folder.graphics();
    make_folder(&path)?;
    let open = || -> io::Result<OwnedFd> {
        let opened = File::open(&path)?;
        if let Some(credentials) = spec.credentials {
            std::os::unix::fs::fchown(&opened, Some(credentials.uid), Some(credentials.gid))?;
        }
        Ok(opened.into())
    };
    open().map_err(HypervisorError::system(
        "making the folder of the screen",
        &path,
    ))
}

/// Makes a listening socket in a folder, replacing one that a killed process left.
fn listen(folder: &Path, path: &Path) -> Result<OwnedFd> {
    let make = || -> io::Result<UnixListener> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(ShortWay::to(folder)?.path(path)?)
    };
    Ok(make()
        .map_err(HypervisorError::system("making the socket", path))?
        .into())
}

fn connect(folder: &Path, path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(ShortWay::to(folder)?.path(path)?)
}

/// Socket addresses hold 107 bytes only; a folder's path may be longer. So the way leads through a descriptor of it.
pub(crate) struct ShortWay(File);

impl ShortWay {
    pub(crate) fn to(folder: &Path) -> io::Result<Self> {
        File::open(folder).map(Self)
    }

    /// The path of a file in the folder; good for as long as this lives.
    pub(crate) fn path(&self, file: &Path) -> io::Result<PathBuf> {
        let name = file
            .file_name()
            .ok_or_else(|| io::Error::other("a socket has a name"))?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name))
    }
}

/// What is left of a process: sockets and control groups. Logs and the record stay.
pub(crate) fn remove_leftovers(folder: &RunFolder, record: &LaunchRecord) {
    remove_sockets(folder);
    let cgroup = MachineCgroup {
        directories: record.cgroups.clone(),
    };
    // The kernel needs a moment to empty a group after the last process of it ended.
    for _ in 0..50 {
        if cgroup.remove() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    tracing::warn!(vmid = record.vmid, groups = ?record.cgroups, "the machine's cgroup could not be removed");
}

pub(crate) fn remove_sockets(folder: &RunFolder) {
    for socket in [folder.monitor(), folder.serial_socket(), folder.agent()] {
        // Missing ones are as wanted, and a socket nobody listens on does no harm.
        let _ = fs::remove_file(socket);
    }
}

/// After a start that failed: notes the end, removes leftovers, and returns the end of what QEMU wrote.
pub(crate) async fn clean_up_failed(
    folder: RunFolder,
    mut record: LaunchRecord,
    how: ExitCause,
) -> String {
    let work = move || {
        record.ended = Some(how);
        remove_leftovers(&folder, &record);
        if let Err(error) = record.write(&folder.record()) {
            tracing::warn!(vmid = record.vmid, %error, "the end of a machine could not be recorded");
        }
        Ok(last_words(&folder.output()))
    };
    blocking(work).await.unwrap_or_default()
}

/// Whether QEMU's last words are about KVM: `accel/kvm/kvm-all.c` and `accel/accel-softmmu.c` of QEMU 7.2 to 9.
fn is_about_kvm(words: &str) -> bool {
    [
        "Could not access KVM",
        "failed to initialize kvm",
        "ioctl(KVM_",
    ]
    .iter()
    .any(|known| words.contains(known))
}

/// The last bytes of a log, for an error message.
pub(crate) fn last_words(path: &Path) -> String {
    const BYTES: u64 = 1000;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let words = String::from_utf8_lossy(&read().unwrap_or_default())
        .trim()
        .to_owned();
    if words.is_empty() {
        "it wrote nothing".to_owned()
    } else {
        words
    }
}
