//! A control group for each machine: version 1 (one directory for each controller), version 2, or none.
//!
//! Groups are made before the process starts, below a parent of their own and not below this program's group, or machines
//! would end with it. They are removed after the end; [`Cgroups::machines`] lists what is there for the leak checker.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::launch_spec::{Accelerator, CgroupSpec, LaunchSpec};

/// Time slice for CPU limits, the kernel's default.
const PERIOD_MICROSECONDS: u64 = 100_000;

/// How control groups are laid out on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 1: mount points of the controllers we use.
    Version1 {
        /// `cpu`, if mounted.
        cpu: Option<PathBuf>,
        /// `memory`, if mounted.
        memory: Option<PathBuf>,
        /// `pids`, if mounted.
        pids: Option<PathBuf>,
    },
    /// Version 2: the mount point.
    Version2(PathBuf),
    /// None that could be used.
    None,
}

impl Cgroups {
    /// Reads how it is on this host.
    #[must_use]
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::from_mounts(&mounts, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    /// Version 1 wins where a controller we use is mounted so: such a controller is absent from the version 2 tree.
    fn from_mounts(mountinfo: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let (mut cpu, mut memory, mut pids, mut unified) = (None, None, None, None);
        for line in mountinfo.lines() {
            // …, 5: mount point, …, " - ", type, source, super options.
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => unified = Some(point),
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',') {
                        match option {
                            "cpu" => cpu = Some(point.clone()),
                            "memory" => memory = Some(point.clone()),
                            "pids" => pids = Some(point.clone()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if cpu.is_some() || memory.is_some() || pids.is_some() {
            return Self::Version1 { cpu, memory, pids };
        }
        match unified {
            Some(root)
                if controllers_of(&root)
                    .split_whitespace()
                    .any(|name| name == "memory" || name == "cpu") =>
            {
                Self::Version2(root)
            }
            _ => Self::None,
        }
    }

    /// Makes a machine's group with its limits.
    ///
    /// # Errors
    /// If a directory can't be made or a limit can't be set; nothing is left then.
    pub fn create(&self, launch: &LaunchSpec, spec: &CgroupSpec) -> io::Result<MachineCgroup> {
        let name = group_name(launch.vmid, launch.machine);
        let mut group = MachineCgroup {
            directories: Vec::new(),
        };
        let made = match self {
            Self::None => Ok(()),
            Self::Version1 { cpu, memory, pids } => create_version1(
                [
                    (cpu, Limit::Cpu),
                    (memory, Limit::Memory),
                    (pids, Limit::Tasks),
                ],
                launch,
                spec,
                &name,
                &mut group,
            ),
            Self::Version2(root) => create_version2(root, launch, spec, &name, &mut group),
        };
        if let Err(error) = made {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The groups of machines that exist, by name, for the leak checker. Another user's cloud may have the same name: its
    /// groups are not ours.
    #[must_use]
    pub fn machines(&self, parent: &str) -> Vec<PathBuf> {
        let roots: Vec<&PathBuf> = match self {
            Self::Version1 { cpu, memory, pids } => {
                [cpu, memory, pids].into_iter().flatten().collect()
            }
            Self::Version2(root) => vec![root],
            Self::None => Vec::new(),
        };
        let user = rustix::process::geteuid().as_raw();
        let mut found = Vec::new();
        for root in roots {
            let Ok(entries) = fs::read_dir(root.join(parent)) else {
                continue;
            };
            for entry in entries.flatten() {
                let is_of_a_machine = entry.file_name().to_string_lossy().starts_with("machine-");
                let is_ours = || entry.metadata().is_ok_and(|found| found.uid() == user);
                if is_of_a_machine && is_ours() {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

#[derive(Clone, Copy)]
enum Limit {
    Cpu,
    Memory,
    Tasks,
}

/// The vmid for people, the machine's identifier so that two clouds on one host don't meet.
fn group_name(vmid: u64, machine: uuid::Uuid) -> String {
    format!("machine-{vmid}-{}", machine.simple())
}

fn create_version1(
    controllers: [(&Option<PathBuf>, Limit); 3],
    launch: &LaunchSpec,
    spec: &CgroupSpec,
    name: &str,
    group: &mut MachineCgroup,
) -> io::Result<()> {
    for (root, limit) in controllers {
        let Some(root) = root else { continue };
        let directory = root.join(&spec.parent).join(name);
        fs::create_dir_all(&directory)?;
        // Controllers may be mounted together.
        if !group.directories.contains(&directory) {
            group.directories.push(directory.clone());
        }
        match limit {
            Limit::Cpu => {
                set(&directory, "cpu.shares", &spec.cpu_shares.to_string())?;
                if let Some(percent) = spec.cpu_limit_percent {
                    set(
                        &directory,
                        "cpu.cfs_period_us",
                        &PERIOD_MICROSECONDS.to_string(),
                    )?;
                    set(&directory, "cpu.cfs_quota_us", &quota(percent).to_string())?;
                }
            }
            Limit::Memory => {
                if let Some(bytes) = memory_limit_bytes(launch, spec) {
                    set(&directory, "memory.limit_in_bytes", &bytes.to_string())?;
                }
            }
            Limit::Tasks => set(&directory, "pids.max", &spec.tasks_max.to_string())?,
        }
    }
    Ok(())
}

fn create_version2(
    root: &Path,
    launch: &LaunchSpec,
    spec: &CgroupSpec,
    name: &str,
    group: &mut MachineCgroup,
) -> io::Result<()> {
    let parent = root.join(&spec.parent);
    fs::create_dir_all(&parent)?;
    for directory in [root, &parent] {
        for controller in ["+cpu", "+memory", "+pids"] {
            // One that isn't there has no limits to set either; see `set_if_there`.
            let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
        }
    }
    let directory = parent.join(name);
    fs::create_dir_all(&directory)?;
    group.directories.push(directory.clone());
    // 1024 shares are weight 100, the defaults of both versions; weights go from 1 to 10000.
    let weight = (u64::from(spec.cpu_shares) * 100 / 1024).clamp(1, 10_000);
    set_if_there(&directory, "cpu.weight", &weight.to_string())?;
    if let Some(percent) = spec.cpu_limit_percent {
        set_if_there(
            &directory,
            "cpu.max",
            &format!("{} {PERIOD_MICROSECONDS}", quota(percent)),
        )?;
    }
    if let Some(bytes) = memory_limit_bytes(launch, spec) {
        set_if_there(&directory, "memory.max", &bytes.to_string())?;
    }
    set_if_there(&directory, "pids.max", &spec.tasks_max.to_string())
}

fn quota(percent: u32) -> u64 {
    (u64::from(percent) * PERIOD_MICROSECONDS / 100).max(1000)
}

/// Guest memory, the translation cache, and head-room for QEMU itself.
fn memory_limit_bytes(launch: &LaunchSpec, spec: &CgroupSpec) -> Option<u64> {
    let cache = match launch.accelerator {
        Accelerator::Kvm => 0,
        Accelerator::Tcg {
            translation_cache_mib,
        } => u64::from(translation_cache_mib),
    };
    spec.memory_headroom_mib
        .map(|headroom| (launch.memory_mib + cache + headroom) * 1024 * 1024)
}

fn set(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = directory.join(file);
    fs::write(&path, value).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{} = {value}: {error}", path.display()),
        )
    })
}

fn set_if_there(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    if directory.join(file).exists() {
        set(directory, file, value)
    } else {
        Ok(())
    }
}

/// The directories of one machine's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineCgroup {
    /// One for each hierarchy.
    pub directories: Vec<PathBuf>,
}

impl MachineCgroup {
    /// Puts a process in. That it is in already is fine.
    ///
    /// # Errors
    /// If a group is gone or not ours, or the process is gone.
    pub fn enter(&self, pid: u32) -> io::Result<()> {
        self.directories
            .iter()
            .try_for_each(|directory| set(directory, "cgroup.procs", &pid.to_string()))
    }

    /// Removes the group. Returns whether it is gone; it stays while a process is in it.
    pub fn remove(&self) -> bool {
        self.directories
            .iter()
            .fold(true, |gone, directory| match fs::remove_dir(directory) {
                Ok(()) => gone,
                Err(error) => gone && error.kind() == io::ErrorKind::NotFound,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn each_layout_is_told_from_the_mounts() {
        assert_eq!(
            Cgroups::from_mounts(VERSION1, |_| "hugetlb".to_owned()),
            Cgroups::Version1 {
                cpu: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
                memory: Some("/sys/fs/cgroup/memory".into()),
                pids: None,
            }
        );
        let unified = "41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(
            Cgroups::from_mounts(unified, |_| "cpu io memory pids".to_owned()),
            Cgroups::Version2("/sys/fs/cgroup".into())
        );
        assert_eq!(
            Cgroups::from_mounts(unified, |_| "hugetlb".to_owned()),
            Cgroups::None
        );
        assert_eq!(Cgroups::from_mounts("", |_| String::new()), Cgroups::None);
    }

    #[test]
    fn the_memory_limit_has_room_for_the_translation_cache() {
        let mut launch = LaunchSpec::new(uuid::Uuid::nil(), 1, "/run/m");
        launch.memory_mib = 128;
        launch.accelerator = Accelerator::Tcg {
            translation_cache_mib: 64,
        };
        let spec = CgroupSpec {
            memory_headroom_mib: Some(256),
            ..CgroupSpec::default()
        };
        assert_eq!(
            memory_limit_bytes(&launch, &spec),
            Some((128 + 64 + 256) << 20)
        );
        launch.accelerator = Accelerator::Kvm;
        assert_eq!(memory_limit_bytes(&launch, &spec), Some((128 + 256) << 20));
    }

    #[test]
    fn a_version_2_group_has_its_limits_and_goes_away() {
        // A plain folder stands in for the kernel's tree: limit files don't appear by themselves, so none is written.
        let root = tempfile::tempdir().expect("a temporary folder");
        let cgroups = Cgroups::Version2(root.path().to_path_buf());
        let launch = LaunchSpec::new(uuid::Uuid::from_u128(9), 5, "/run/m");
        let group = cgroups
            .create(&launch, &CgroupSpec::default())
            .expect("made");
        assert_eq!(cgroups.machines("stratus"), group.directories);
        assert!(group.remove());
        assert!(cgroups.machines("stratus").is_empty());
        assert!(group.remove(), "removing twice is no error");
    }
}
