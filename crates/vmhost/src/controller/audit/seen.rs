//! What is on this host, found in one look.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cimi::resources::Machine;
use uuid::Uuid;

use crate::{
    cgroup::Cgroups,
    controller::Shared,
    hypervisor::{HypervisorKind, RunFolder},
    process,
};

/// A QEMU that writes into one of our folders.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) machine: Uuid,
    /// Whether what it writes into was deleted.
    pub(super) folder_gone: bool,
    pub(super) pidfd: OwnedFd,
}

/// Folders, processes and control groups of this host's machines.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) folders: Vec<PathBuf>,
    /// None where machines are no processes.
    pub(super) processes: Option<Vec<Process>>,
    pub(super) groups: Vec<PathBuf>,
}

impl Seen {
    /// Looks once at everything, where nobody waits for it.
    pub(super) async fn look(shared: &Shared) -> Self {
        let machines_dir = shared.settings.machines_dir.clone();
        let parent = shared
            .settings
            .cgroup
            .as_ref()
            .map(|spec| spec.parent.clone());
        let are_processes = shared.hypervisor.kind() == HypervisorKind::Qemu;
        let look = move || Self {
            processes: are_processes.then(|| processes(&machines_dir)),
            folders: entries(&machines_dir),
            groups: parent.map_or_else(Vec::new, |parent| Cgroups::detect().machines(&parent)),
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "this host could not be looked at");
                Self::default()
            }
        }
    }

    /// Whether a machine had a process, or may be getting one.
    pub(super) fn may_have_process(&self, machine: &Machine) -> bool {
        let has = |processes: &Vec<Process>| {
            processes
                .iter()
                .any(|process| process.machine.to_string() == machine.id.local())
        };
        super::may_start(machine) || self.processes.as_ref().is_some_and(has)
    }
}

fn processes(machines_dir: &Path) -> Vec<Process> {
    let found = process::all_below(machines_dir).into_iter();
    found
        .map(|found| {
            let own = RunFolder(machines_dir.join(found.machine.to_string())).output();
            Process {
                pid: found.identity.pid,
                machine: found.machine,
                folder_gone: found.output_gone || found.output != own,
                pidfd: found.pidfd,
            }
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
