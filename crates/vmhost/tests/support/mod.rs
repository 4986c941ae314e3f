//! A folder with images, a real QEMU without a guest system, and patient waiting.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vmhost::hypervisor::EventStream;
use vmhost::launch_spec::{
    Accelerator, CgroupSpec, Credentials, DiskFormat, DiskId, DiskSpec, ImageFile, LaunchSpec,
};
use vmhost::qemu::QemuHypervisor;
use vmhost::{Hypervisor, MachineEvent, RunningMachine};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const BINARY: &str = "/usr/bin/qemu-system-x86_64";
/// A user no package uses.
const UNPRIVILEGED: Credentials = Credentials {
    uid: 64_321,
    gid: 64_321,
    supplementary_group: None,
};

/// A place for one machine; whatever runs there is ended with it.
pub struct Bench {
    folder: tempfile::TempDir,
    pub hypervisor: Arc<QemuHypervisor>,
    pub machine: uuid::Uuid,
}

impl Bench {
    /// `None`, with the reason printed, where QEMU isn't installed.
    pub fn new() -> Option<Self> {
        if !Path::new(BINARY).exists() {
            eprintln!("skipped: {BINARY} is not installed (Debian package qemu-system-x86)");
            return None;
        }
        Some(Self {
            folder: tempfile::Builder::new()
                .prefix("vmhost-test-")
                .tempdir()
                .unwrap(),
            hypervisor: Arc::new(QemuHypervisor::new(
                BINARY,
                Accelerator::Tcg {
                    translation_cache_mib: 32,
                },
            )),
            machine: uuid::Uuid::now_v7(),
        })
    }

    /// Another controller on the same host.
    pub fn another_hypervisor(&self) -> QemuHypervisor {
        QemuHypervisor::new(
            BINARY,
            Accelerator::Tcg {
                translation_cache_mib: 32,
            },
        )
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn run_folder(&self) -> PathBuf {
        self.folder.path().join(self.machine.to_string())
    }

    /// A machine with one disk and no system on it.
    pub fn spec(&self) -> LaunchSpec {
        let mut spec = LaunchSpec::new(self.machine, 4711, self.run_folder());
        spec.memory_mib = 64;
        spec.accelerator = Accelerator::Tcg {
            translation_cache_mib: 32,
        };
        spec.spare_ports = 3;
        spec.disks = vec![self.disk("root")];
        if is_root() {
            spec.credentials = Some(UNPRIVILEGED);
            spec.cgroup = Some(CgroupSpec {
                parent: "stratus-test".to_owned(),
                ..CgroupSpec::default()
            });
        }
        spec
    }

    /// A small empty disk, readable for nobody but us.
    pub fn disk(&self, id: &str) -> DiskSpec {
        let path = self.folder.path().join(format!("{id}.raw"));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .unwrap();
        DiskSpec {
            id: DiskId::new(id).unwrap(),
            image: ImageFile::file(path, DiskFormat::Raw),
            backing: Vec::new(),
            read_only: false,
            serial: format!("serial-{id}"),
            slot: 0,
        }
    }

    pub async fn launched(&self) -> Arc<dyn RunningMachine> {
        self.hypervisor.launch(self.spec()).await.unwrap()
    }

    /// Process numbers of this machine's QEMU.
    pub fn processes(&self) -> Vec<u32> {
        let uuid = self.machine.to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).contains(&uuid) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let mine = self.machine.simple().to_string();
        for group in self.hypervisor.cgroups().machines("stratus-test") {
            // Busy until the killed process is gone, which takes a moment.
            for _ in 0..100 {
                if !group.to_string_lossy().contains(&mine) || std::fs::remove_dir(&group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Reads events until the wanted one; fails with those that came instead.
pub async fn wait_for(
    events: &mut EventStream,
    wanted: impl Fn(&MachineEvent) -> bool,
) -> MachineEvent {
    let mut seen = Vec::new();
    let found = tokio::time::timeout(PATIENCE, async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return Some(event);
            }
            seen.push(event);
        }
        None
    })
    .await;
    match found {
        Ok(Some(event)) => event,
        other => panic!("the event did not come ({other:?}); seen: {seen:?}"),
    }
}

/// Waits for a condition that has no event, with a deadline.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
