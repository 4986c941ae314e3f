//! The leak checker of this host: compares documents with what is really there.

use std::collections::{BTreeMap, BTreeSet};

use cimi::{
    lifecycle::Stage,
    resources::{Machine, Resource},
};
use serde::Serialize;
use uuid::Uuid;

use super::{VmHost, prepare};
use crate::{cgroup::Cgroups, process};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is held that nobody needs.
    Leak,
    /// Something is missing that a document promises.
    Error,
}

/// Something that is there without belonging to a document, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `process`, `folder`, `tap`, `rule`, `lease`, `cgroup`, `disk`.
    pub kind: &'static str,
    /// Which.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// What to do.
    pub repair: String,
    /// How bad it is.
    pub severity: Severity,
}

fn leak(
    kind: &'static str,
    what: impl std::fmt::Display,
    detail: impl Into<String>,
    repair: &str,
) -> Finding {
    let (what, detail, repair) = (what.to_string(), detail.into(), repair.to_owned());
    Finding {
        kind,
        what,
        detail,
        repair,
        severity: Severity::Leak,
    }
}

const REPAIR: &str = "`stratus doctor --repair` removes it";

impl VmHost {
    /// Compares documents with processes, folders, taps, rules and leases. With `repair`, what nobody needs is removed.
    /// What is just being made or removed may be reported; look twice before you believe it.
    pub async fn audit(&self, repair: bool) -> Vec<Finding> {
        let shared = &self.0.shared;
        let machines = shared
            .documents
            .machines
            .by_index("host", shared.host.local());
        let known: BTreeMap<&str, &Machine> =
            machines.iter().map(|m| (m.id(), &m.document.0)).collect();
        let mut findings = Vec::new();
        findings.extend(self.folders(&known, repair).await);
        findings.extend(disks_missing(&known, self));
        findings.extend(self.processes(&known));
        findings.extend(self.groups(&known, repair));
        findings.extend(self.interfaces(&known, repair).await);
        findings
    }

    /// Folders of machines that are not there.
    async fn folders(&self, known: &BTreeMap<&str, &Machine>, repair: bool) -> Vec<Finding> {
        let shared = &self.0.shared;
        let mut findings = Vec::new();
        for path in entries(&shared.settings.machines_dir) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if known.contains_key(name) {
                continue;
            }
            findings.push(leak(
                "folder",
                path.display(),
                "belongs to no machine",
                REPAIR,
            ));
            if !repair {
                continue;
            }
            // A process may still live in it.
            if let Ok(crate::Adopted::Running(handle)) = shared.hypervisor.adopt(&path).await
                && let Err(error) = handle.quit().await
            {
                tracing::warn!(%error, folder = %path.display(), "its process can't be ended");
                continue;
            }
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(%error, folder = %path.display(), "can't be removed");
            }
        }
        findings
    }

    /// Machines that should have a process and have none, and the other way round.
    fn processes(&self, known: &BTreeMap<&str, &Machine>) -> Vec<Finding> {
        let shared = &self.0.shared;
        if shared.hypervisor.kind() != crate::hypervisor::HypervisorKind::Qemu {
            return Vec::new();
        }
        let mut findings = Vec::new();
        let folders = entries(&shared.settings.machines_dir);
        for folder in &folders {
            let Some(uuid) = folder
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.parse::<Uuid>().ok())
            else {
                continue;
            };
            let output = crate::hypervisor::RunFolder(folder.clone()).output();
            let process = process::find(uuid, &output);
            let text = uuid.to_string();
            let machine = known.get(text.as_str());
            let should =
                machine.is_some_and(|m| matches!(m.observed.stage, Stage::Running | Stage::Paused));
            let may = machine
                .is_some_and(|m| !matches!(m.observed.stage, Stage::Ended { .. } | Stage::Failed));
            match process {
                Some((identity, _)) if !may => {
                    let detail = format!(
                        "QEMU {} runs for a machine that is off or gone",
                        identity.pid
                    );
                    findings.push(leak("process", uuid, detail, REPAIR));
                }
                None if should => findings.push(Finding {
                    kind: "process",
                    what: format!("Machine/{uuid}"),
                    detail: "is shown running, but has no QEMU process".to_owned(),
                    repair: "wait a moment: its controller sees it; then start it again".to_owned(),
                    severity: Severity::Error,
                }),
                _ => {}
            }
        }
        findings
    }

    /// Control groups of machines that are not there.
    fn groups(&self, known: &BTreeMap<&str, &Machine>, repair: bool) -> Vec<Finding> {
        let Some(spec) = &self.0.shared.settings.cgroup else {
            return Vec::new();
        };
        let names: BTreeSet<String> = known.keys().map(|uuid| uuid.replace('-', "")).collect();
        let mut groups = Cgroups::detect().machines(&spec.parent);
        groups.retain(|group| {
            let name = group.file_name().and_then(|name| name.to_str());
            let uuid = name
                .and_then(|name| name.rsplit_once('-'))
                .map(|(_, uuid)| uuid);
            !uuid.is_some_and(|uuid| names.contains(uuid))
        });
        let mut findings = Vec::new();
        for group in groups {
            findings.push(leak(
                "cgroup",
                group.display(),
                "belongs to no machine",
                REPAIR,
            ));
            if repair && let Err(error) = std::fs::remove_dir(&group) {
                tracing::warn!(%error, group = %group.display(), "can't be removed");
            }
        }
        findings
    }

    /// Taps, rules and leases of interfaces that no running machine has.
    async fn interfaces(&self, known: &BTreeMap<&str, &Machine>, repair: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, network) in self.0.shared.networks_in_use() {
            let requests: Vec<_> = known
                .values()
                .flat_map(|machine| prepare::plug_requests(machine))
                .filter(|(of, _)| *of == name)
                .map(|(_, request)| request)
                .collect();
            let wanted: BTreeSet<_> = requests.iter().map(|request| request.nic.clone()).collect();
            let audit = match network.audit().await {
                Ok(audit) => audit,
                Err(error) => {
                    findings.push(leak(
                        "network",
                        &name,
                        format!("can't be examined: {error}"),
                        "see the log",
                    ));
                    continue;
                }
            };
            let before = findings.len();
            let addresses: BTreeSet<_> = requests.iter().map(|request| request.ip).collect();
            for binding in audit
                .bindings
                .iter()
                .filter(|binding| !addresses.contains(&binding.ip))
            {
                findings.push(leak(
                    "rule",
                    binding.ip,
                    "the firewall lets it pass, but no machine has it",
                    REPAIR,
                ));
            }
            for lease in audit
                .leases
                .iter()
                .filter(|lease| !addresses.contains(&lease.ip))
            {
                findings.push(leak(
                    "lease",
                    lease.ip,
                    "DHCP knows it, but no machine has it",
                    REPAIR,
                ));
            }
            for tap in &audit.taps {
                let tag = tap.as_str().rsplit_once('-').map_or("", |(_, tag)| tag);
                if !wanted.iter().any(|nic| nic.as_str() == tag) {
                    findings.push(leak("tap", tap.as_str(), "no machine has it", REPAIR));
                }
            }
            if repair
                && findings.len() > before
                && let Err(error) = network.reconcile(&requests).await
            {
                tracing::warn!(%error, network = name, "the network can't be brought in line");
            }
        }
        findings
    }
}

/// Root disks that a machine which ran must have.
fn disks_missing(known: &BTreeMap<&str, &Machine>, host: &VmHost) -> Vec<Finding> {
    let missing = |machine: &&&Machine| {
        let root = prepare::folder(&host.0.shared.settings, machine).join("root.qcow2");
        machine.first_started.is_some() && !machine.desired.deleted && !root.exists()
    };
    let finding = |machine: &&Machine| Finding {
        kind: "disk",
        what: machine.key(),
        detail: "its root disk is gone".to_owned(),
        repair: "kill the machine; its data is lost unless you have a copy".to_owned(),
        severity: Severity::Error,
    };
    known.values().filter(missing).map(finding).collect()
}

fn entries(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
