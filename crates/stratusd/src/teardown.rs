//! Removes what outlives the daemon on purpose: QEMU processes, networks, control groups. Documents, disks, volumes and
//! images stay: the next start brings machines back as their restart policy says.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use network::{NetworkError, NetworkHost};
use vmhost::{
    Adopted, Hypervisor as _, HypervisorError, cgroup::Cgroups, guard::Guard,
    launch_spec::Accelerator, qemu::QemuHypervisor,
};

use crate::{config::Config, instance::Instance, joined_host::GUARD_FOLDER, networks, settings};

/// Removes everything of this instance that is in memory or in the kernel.
///
/// # Errors
/// If its daemon still runs; or what could not be removed, after the rest was.
pub async fn teardown(config: &Config) -> anyhow::Result<()> {
    let state = config.state_dir();
    if !state.exists() {
        tracing::info!(state = %state.display(), "nothing was ever started here");
        return Ok(());
    }
    let _instance = Instance::take(&state)?;
    Guard::dismiss(&state.join(GUARD_FOLDER)).context("ending the guard of machines")?;
    let mut troubles = machines(config).await;
    let mut is_ours = true;
    if config.bridged() {
        let config = networks::set_up_here(config)?;
        for name in config.networks.keys() {
            match NetworkHost::remove(&networks::for_host(&config, name)?).await {
                Ok(()) => {
                    tracing::info!(network = name, "removed");
                    troubles.extend(
                        networks::forget(&config, name)
                            .err()
                            .map(|error| format!("{error:#}")),
                    );
                }
                Err(error @ NetworkError::BridgeTaken { .. }) => {
                    tracing::warn!(network = name, "left alone: {error}");
                    is_ours = false;
                }
                Err(error) => troubles.push(format!("network {name}: {error:#}")),
            }
        }
    }
    // Named as the networks are: what another cloud of that name has is not ours to remove.
    if is_ours {
        troubles.extend(control_groups(&settings::cgroup(config).parent));
    }
    if troubles.is_empty() {
        return Ok(());
    }
    bail!("not everything could be removed: {}", troubles.join("; "))
}

/// Removes the groups that held machines, now empty. Those of a cloud of another user, who may have given it the same name, are
/// left alone. Returns what went wrong.
fn control_groups(parent: &str) -> Vec<String> {
    let cgroups = Cgroups::detect();
    let roots: Vec<&PathBuf> = match &cgroups {
        Cgroups::Version1 { cpu, memory, pids } => {
            [cpu, memory, pids].into_iter().flatten().collect()
        }
        Cgroups::Version2(root) => vec![root],
        Cgroups::None => Vec::new(),
    };
    let group_of_each = cgroups.machines(parent).into_iter();
    let removed = group_of_each.chain(roots.into_iter().map(|root| root.join(parent)));
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |group: &PathBuf| group.metadata().is_ok_and(|found| found.uid() == user);
    removed
        .filter(is_ours)
        .filter_map(|group| match std::fs::remove_dir(&group) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Some(format!("{}: {error}", group.display()))
            }
            _ => None,
        })
        .collect()
}

/// Ends the process of every machine folder. Returns what went wrong.
async fn machines(config: &Config) -> Vec<String> {
    let folder = config.storage_dir().join("machines");
    let entries: Vec<_> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // The program is needed to start machines, not to end them.
    let qemu = settings::qemu(config).unwrap_or_else(|_| config.machines.qemu.clone().into());
    let hypervisor = QemuHypervisor::new(qemu, Accelerator::default());
    let mut troubles = Vec::new();
    for path in entries {
        if let Err(error) = end(&hypervisor, &path).await {
            troubles.push(format!("{}: {error:#}", path.display()));
        }
    }
    troubles
}

async fn end(hypervisor: &QemuHypervisor, folder: &Path) -> anyhow::Result<()> {
    let found = match hypervisor.adopt(folder).await {
        // No process lives in either.
        Err(HypervisorError::NeverStarted { .. } | HypervisorError::Record { .. }) => return Ok(()),
        found => found?,
    };
    match found {
        Adopted::Running(machine) => {
            machine.quit().await.context("ending it")?;
            tracing::info!(vmid = machine.vmid(), "machine ended");
        }
        Adopted::Unreachable { process, why } => {
            let pid = process.pid();
            process.end().await.context("ending it by force")?;
            tracing::info!(pid, %why, "process ended by force");
        }
        Adopted::Gone { .. } => {}
    }
    Ok(())
}
