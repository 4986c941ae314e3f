//! The leak checker of this host: compares documents with what is really there.
//!
//! Looks first and reads documents then, so that what is being made is not reported; what is being removed may be. A
//! repair therefore looks at the documents once more right before each step, and destroys no data: folders go to the
//! quarantine.

mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cimi::{
    lifecycle::{Power, Stage},
    resources::{EventSeverity, Machine, Resource},
};
use serde::Serialize;
use uuid::Uuid;

use self::seen::{Process, Seen};
use super::{VmHost, arrival, prepare};
use crate::Adopted;

/// Something that is there without belonging to a document, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `process`, `folder`, `tap`, `rule`, `lease`, `cgroup`, `disk`, `network`, `unreadable-documents`.
    pub kind: &'static str,
    /// Which.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// What to do.
    pub repair: String,
    /// How bad it is: `low`, something is held that nobody needs; `high`, something is missing that a document promises.
    pub severity: EventSeverity,
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
        severity: EventSeverity::Low,
    }
}

const REPAIR: &str = "`stratus doctor --repair` removes it";
const REPAIR_NETWORK: &str = "`stratus doctor --repair` sets it up anew; no connection is cut";
const REPAIR_FOLDER: &str =
    "`stratus doctor --repair` ends its process and moves its files to the quarantine";
const LOOK: &str = "it is none of ours: look at it, and remove it yourself";

type Known<'a> = BTreeMap<&'a str, &'a Machine>;

impl VmHost {
    /// Compares documents with processes, folders, taps, rules and leases. With `repair`, what nobody needs is removed,
    /// and folders go to the quarantine. What is just being removed may be reported; look twice before you believe it.
    pub async fn audit(&self, repair: bool) -> Vec<Finding> {
        let shared = &self.0.shared;
        let seen = Seen::look(shared).await;
        let machines = shared
            .documents
            .machines
            .by_index("host", shared.host.local());
        let known: Known<'_> = machines.iter().map(|m| (m.id(), &m.document.0)).collect();
        let coming = shared
            .documents
            .machines
            .by_index("movingTo", shared.host.local());
        // Those that come with their guests running have processes and interfaces here before they are here.
        let coming = coming.iter().filter(|machine| machine.crossing().is_some());
        let mut known_to_run = known.clone();
        known_to_run.extend(coming.map(|m| (m.id(), &m.document.0)));
        let mut findings = Vec::new();
        let unreadable = shared.documents.machines.unreadable();
        if unreadable > 0 {
            findings.push(Finding {
                kind: "unreadable-documents",
                what: "machines".to_owned(),
                detail: format!(
                    "{unreadable} documents can't be read; perhaps a newer version wrote them"
                ),
                repair: "start that version; until then nothing of machines is repaired".to_owned(),
                severity: EventSeverity::High,
            });
        }
        findings.extend(self.folders(&seen, &known, repair).await);
        findings.extend(self.disks_missing(&known).await);
        findings.extend(self.processes(&seen, &known_to_run, repair));
        findings.extend(self.groups(&seen, &known_to_run, repair));
        findings.extend(self.interfaces(&seen, &known_to_run, repair).await);
        findings
    }

    /// Whether no document, now, is of this machine, or may be.
    fn is_nobodys(&self, machine: &str) -> bool {
        let machines = &self.0.shared.documents.machines;
        machines.unreadable() == 0 && machines.get(machine).is_none()
    }

    /// Whether a machine is on its way to this host, or here already.
    fn comes(&self, machine: &str) -> bool {
        let shared = &self.0.shared;
        let read = shared.documents.machines.get(machine);
        read.is_some_and(|read| {
            read.moving_to() == Some(&shared.host) || read.host.as_ref() == Some(&shared.host)
        })
    }

    /// Folders of machines that are not there.
    async fn folders(&self, seen: &Seen, known: &Known<'_>, repair: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for path in &seen.folders {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let comes = arrival::machine_of(path).is_some_and(|machine| self.comes(machine));
            if comes || known.contains_key(name) {
                continue;
            }
            let uuid = name.parse::<Uuid>().ok();
            let what_to_do = if uuid.is_some() { REPAIR_FOLDER } else { LOOK };
            findings.push(leak(
                "folder",
                path.display(),
                "belongs to no machine",
                what_to_do,
            ));
            if let (true, Some(uuid)) = (repair && self.is_nobodys(name), uuid)
                && let Err(error) = self.put_away(path, uuid).await
            {
                tracing::warn!(error, folder = %path.display(), "can't be put away");
            }
        }
        findings
    }

    /// Ends what lives in a folder that is nobody's, and moves its files to the quarantine.
    async fn put_away(&self, folder: &Path, machine: Uuid) -> Result<(), String> {
        let shared = &self.0.shared;
        match shared.hypervisor.adopt(folder).await {
            Ok(Adopted::Running(handle)) => {
                handle.quit().await.map_err(|error| error.to_string())?;
            }
            Ok(Adopted::Unreachable { process, .. }) => {
                process.end().await.map_err(|error| error.to_string())?;
            }
            // Whatever it is: as long as nobody lives there.
            Ok(Adopted::Gone { .. }) | Err(_) => {}
        }
        if shared
            .hypervisor
            .lives(folder)
            .map_err(|error| error.to_string())?
        {
            return Err("its process can't be ended".to_owned());
        }
        // That took its time.
        if !self.is_nobodys(&machine.to_string()) {
            return Ok(());
        }
        let (quarantine, folder) = (shared.quarantine.clone(), folder.to_owned());
        let moved = tokio::task::spawn_blocking(move || {
            let now = jiff::Timestamp::now();
            for entry in std::fs::read_dir(&folder).map_err(|error| error.to_string())? {
                let entry = entry.map_err(|error| error.to_string())?;
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    quarantine
                        .put(&entry.path(), machine, now)
                        .map_err(|error| error.to_string())?;
                }
            }
            std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())
        });
        moved.await.map_err(|error| error.to_string())??;
        tracing::info!(%machine, "the folder of a machine that no document knows is in the quarantine now");
        Ok(())
    }

    /// Machines that should have a process and have none, and the other way round.
    fn processes(&self, seen: &Seen, known: &Known<'_>, repair: bool) -> Vec<Finding> {
        let Some(processes) = &seen.processes else {
            return Vec::new();
        };
        let mut findings = Vec::new();
        for process in processes {
            let uuid = process.machine.to_string();
            let machine = known.get(uuid.as_str());
            let on = machine.is_some_and(|machine| !is_off(machine));
            let another = processes
                .iter()
                .any(|other| other.machine == process.machine && !other.folder_gone);
            if on && (!process.folder_gone || !another) {
                continue;
            }
            let pid = process.pid;
            let detail = match (machine, process.folder_gone) {
                (_, true) => format!("QEMU {pid} runs, but its folder is gone"),
                (Some(_), false) => format!("QEMU {pid} runs for a machine that is off"),
                (None, false) => format!("QEMU {pid} runs for a machine that is gone"),
            };
            let what_to_do = match (machine, process.folder_gone) {
                (_, true) | (None, _) => "`stratus doctor --repair` ends it",
                (Some(_), false) => "stop the machine by force, or kill it",
            };
            findings.push(leak("process", &uuid, detail, what_to_do));
            // What has a folder is ended with it, or is its worker's.
            let superfluous = process.folder_gone && (another || self.is_nobodys(&uuid));
            if repair && superfluous {
                end(process);
            }
        }
        for (uuid, machine) in known {
            let has_process = processes
                .iter()
                .any(|process| process.machine.to_string() == **uuid);
            if matches!(
                machine.observed.stage,
                Stage::Running | Stage::Paused | Stage::Held
            ) && machine.host.as_ref() == Some(&self.0.shared.host)
                && !has_process
            {
                findings.push(Finding {
                    kind: "process",
                    what: machine.key(),
                    detail: "is shown running, but has no QEMU process".to_owned(),
                    repair: "wait a moment: its controller sees it; then start it again".to_owned(),
                    severity: EventSeverity::High,
                });
            }
        }
        findings
    }

    /// Control groups of machines that are not there.
    fn groups(&self, seen: &Seen, known: &Known<'_>, repair: bool) -> Vec<Finding> {
        let names: BTreeSet<String> = known.keys().map(|uuid| uuid.replace('-', "")).collect();
        let mut findings = Vec::new();
        for group in &seen.groups {
            let name = group.file_name().and_then(|name| name.to_str());
            let uuid = name
                .and_then(|name| name.rsplit_once('-'))
                .map(|(_, uuid)| uuid);
            if uuid.is_some_and(|uuid| names.contains(uuid)) {
                continue;
            }
            findings.push(leak(
                "cgroup",
                group.display(),
                "belongs to no machine",
                REPAIR,
            ));
            // The kernel keeps those that somebody lives in.
            if repair && let Err(error) = std::fs::remove_dir(group) {
                tracing::warn!(%error, group = %group.display(), "can't be removed");
            }
        }
        findings
    }

    /// Taps, rules and leases of interfaces that no running machine has.
    async fn interfaces(&self, seen: &Seen, known: &Known<'_>, repair: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, network) in self.0.shared.networks_in_use() {
            let requests = |machines: &dyn Fn(&Machine) -> bool| -> Vec<_> {
                known
                    .values()
                    .filter(|machine| machines(machine))
                    .flat_map(|machine| prepare::plug_requests(machine))
                    .filter(|(of, _)| *of == name)
                    .map(|(_, request)| request)
                    .collect()
            };
            let addresses: BTreeSet<_> =
                requests(&|_| true).iter().map(|wanted| wanted.ip).collect();
            let wanted_taps: BTreeSet<_> = requests(&|machine| seen.may_have_process(machine))
                .into_iter()
                .map(|wanted| wanted.nic)
                .collect();
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
            for missing in &audit.missing {
                findings.push(leak("network", &name, missing, REPAIR_NETWORK));
            }
            for binding in &audit.bindings {
                if !addresses.contains(&binding.ip) {
                    let detail = "the firewall lets it pass, but no machine has it";
                    findings.push(leak("rule", binding.ip, detail, REPAIR));
                }
            }
            for lease in &audit.leases {
                if !addresses.contains(&lease.ip) {
                    let detail = "DHCP knows it, but no machine has it";
                    findings.push(leak("lease", lease.ip, detail, REPAIR));
                }
            }
            for tap in &audit.taps {
                let tag = tap.as_str().rsplit_once('-').map_or("", |(_, tag)| tag);
                if !wanted_taps.iter().any(|nic| nic.as_str() == tag) {
                    findings.push(leak(
                        "tap",
                        tap.as_str(),
                        "no running machine has it",
                        REPAIR,
                    ));
                }
            }
            if repair && findings.len() > before {
                // As things are now: a machine that was made meanwhile keeps its address.
                let wanted = self.wanted_on(&name, may_start);
                if self.0.shared.documents.machines.unreadable() > 0 {
                    continue;
                }
                if let Err(error) = network.reconcile(&wanted).await {
                    tracing::warn!(%error, network = name, "the network can't be brought in line");
                }
            }
        }
        findings
    }

    /// Root disks that a machine which ran must have, unless it boots from a volume.
    async fn disks_missing(&self, known: &Known<'_>) -> Vec<Finding> {
        let ran: Vec<_> = known
            .values()
            .filter(|machine| machine.first_started.is_some() && !machine.desired.deleted)
            .filter(|machine| machine.boot_volume().is_none())
            .map(|machine| {
                let root = prepare::folder(&self.0.shared.settings, machine).join("root.qcow2");
                (machine.key(), root)
            })
            .collect();
        let all = ran.len();
        let gone = tokio::task::spawn_blocking(move || {
            let gone = ran
                .into_iter()
                .filter(|(_, root)| matches!(root.try_exists(), Ok(false)));
            gone.collect::<Vec<_>>()
        });
        let gone = gone.await.unwrap_or_default();
        let folder = self.0.shared.settings.machines_dir.display();
        let finding = |what, detail, repair| Finding {
            kind: "disk",
            what,
            detail,
            repair,
            severity: EventSeverity::High,
        };
        if gone.len() == all && all > 1 {
            let repair = format!(
                "see whether {folder} is mounted; put the files back and start the machines, or kill them: their data is lost then"
            );
            let detail =
                format!("the root disks of all {all} machines that have run here are gone");
            return vec![finding(folder.to_string(), detail, repair)];
        }
        let of_one = |(machine, root): (String, PathBuf)| {
            let repair = format!(
                "see whether {folder} is mounted; put the file back and start the machine, or kill it: its data is lost then"
            );
            let detail = format!("its root disk {} is gone", root.display());
            finding(machine, detail, repair)
        };
        gone.into_iter().map(of_one).collect()
    }
}

/// Whether a machine is to have no process, nor has one coming.
fn is_off(machine: &Machine) -> bool {
    matches!(
        machine.observed.stage,
        Stage::Ended { .. } | Stage::Failed | Stage::Suspended
    )
}

/// Whether a machine may be about to get a process.
fn may_start(machine: &Machine) -> bool {
    !is_off(machine) || machine.desired.power == Power::On
}

fn end(process: &Process) {
    use rustix::process::{Signal, pidfd_send_signal};
    tracing::warn!(pid = process.pid, machine = %process.machine, "a QEMU that nobody can reach any more is ended");
    if let Err(error) = pidfd_send_signal(&process.pidfd, Signal::KILL) {
        tracing::warn!(%error, pid = process.pid, "can't be ended");
    }
}
