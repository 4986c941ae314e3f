//! What an operator asks: is my cloud well, what is there, what should not be there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cimi::{
    MachineId, Right, Timestamp,
    model::Kind,
    resources::{EventSeverity, Host, ImageState, Resource as _, VolumeState},
};
use documents::{Cached, Documents};
use futures::{StreamExt as _, future};
use serde_json::{Value, json};
use store::cache::Following;

use crate::{
    Check, Cloud, Console, ConsoleRange, Health, HealthStatus, OpContext, Result, access,
    machine::text_of,
};

/// How long reads may be behind writes before it is a failure: a whole store is read again in less.
const BEHIND_FOR: Duration = Duration::from_secs(10);

/// Whether writes are possible.
fn database(documents: &Documents) -> Check {
    let trouble = documents.store().trouble();
    Check {
        name: "database".into(),
        ok: trouble.is_none(),
        detail: trouble.map_or_else(|| "the last write succeeded".to_owned(), |e| e.to_string()),
        vital: true,
    }
}

/// Whether reads show what was written.
fn caches(documents: &Documents) -> Check {
    let (ok, detail) = match documents.following() {
        Following::Well => (true, "reads show what is written".to_owned()),
        Following::Behind(time) => (
            time < BEHIND_FOR,
            format!("reads are {} s behind writes", time.as_secs()),
        ),
        Following::Stopped => (
            false,
            "reads don't follow the database any more: restart the daemon".to_owned(),
        ),
    };
    Check {
        name: "reads".into(),
        ok,
        detail,
        vital: true,
    }
}

impl Cloud {
    /// The serial console of a machine of the caller. Followed, it ends with the caller's right to it.
    ///
    /// # Errors
    /// Those of lookup, and of reaching the host.
    pub async fn console(
        &self,
        context: &OpContext,
        id: &str,
        range: ConsoleRange,
    ) -> Result<Console> {
        access::require_type(context, Kind::Machine)?;
        // The console may show secrets of the guest: seeing the machine is not enough.
        let machine = access::for_that(
            self.find_machine(context, id, Right::Modify),
            "a console may show secrets, so it is for those who may change the machine",
        )?;
        let id: MachineId = machine.document.id.clone();
        let follows = range.follow;
        let console = self.0.hosts.console(&id, range).await?;
        if !follows {
            return Ok(console);
        }
        // As long as the same request would be granted.
        let standing = Arc::new(self.standing(context, Some(id.local())));
        let documents = self.0.documents.clone();
        let may = {
            let standing = Arc::clone(&standing);
            move || {
                let machine = documents.machines.get(id.local());
                let right = machine.map(|machine| standing.context().right_on(machine.acl()));
                // What is said of a machine that is gone is told to its end.
                standing.counts() && right.is_none_or(|right| right >= Some(Right::Modify))
            }
        };
        let ended = {
            let may = may.clone();
            async move {
                while may() {
                    standing.changed().await;
                }
            }
        };
        let content = console.content.take_while(move |_| future::ready(may()));
        Ok(Console {
            content: Box::pin(content.take_until(ended)),
            ..console
        })
    }

    /// How well the cloud is. Answers from memory and never waits for what it reports on.
    #[must_use]
    pub fn health(&self) -> Health {
        let documents = &self.0.documents;
        let mut checks = vec![database(documents), caches(documents)];
        checks.extend(self.0.hosts.checks());
        let (own, apart): (Vec<_>, Vec<_>) = documents
            .hosts
            .all()
            .into_iter()
            .partition(|host| host.runs_machines());
        let hosts = own.len();
        checks.push(Check {
            name: "hosts".into(),
            ok: hosts > 0,
            detail: format!("{hosts} known"),
            vital: true,
        });
        let unreadable = documents.machines.unreadable()
            + documents.volumes.unreadable()
            + documents.images.unreadable();
        let detail = format!(
            "revision {}, {unreadable} unreadable documents",
            documents.revision()
        );
        checks.push(Check {
            name: "documents".into(),
            ok: unreadable == 0,
            detail,
            vital: false,
        });
        let lost = |host: &&Arc<Cached<Host>>| self.is_lost(host);
        for host in own.iter().chain(&apart).filter(lost) {
            let name = host.common.name.as_deref().unwrap_or(host.id());
            checks.push(Check {
                name: "host".into(),
                ok: false,
                detail: format!("{name} is lost: it doesn't keep its lease alive"),
                vital: false,
            });
        }
        // A host in trouble starts nothing, nor does one that isn't there.
        let all_in_trouble = own
            .iter()
            .all(|host| !host.troubles.is_empty() || self.is_lost(host));
        for host in own {
            for trouble in &host.troubles {
                checks.push(Check {
                    name: "host".into(),
                    ok: false,
                    detail: trouble.clone(),
                    vital: all_in_trouble,
                });
            }
        }
        Health {
            status: status_of(&checks),
            checks,
        }
    }

    /// One screen: is my cloud well?
    ///
    /// # Errors
    /// For everybody but administrators.
    pub fn status(&self, context: &OpContext) -> Result<Value> {
        access::require_admin(context, "see the cloud's status")?;
        let documents = &self.0.documents;
        let mut phases: BTreeMap<String, usize> = BTreeMap::new();
        for machine in documents.machines.all() {
            *phases.entry(text_of(machine.phase)).or_default() += 1;
        }
        let volumes = documents.volumes.all();
        let images = documents.images.all();
        let hosts: Vec<Value> = documents
            .hosts
            .all()
            .into_iter()
            .filter(|host| host.runs_machines())
            .map(|host| {
                json!({
                    "id": host.document.id,
                    "name": host.common.name,
                    "accelerator": host.accelerator,
                    "acceleratorReason": host.accelerator_reason,
                    "cpus": host.capacity.cpus,
                    "memoryKib": host.capacity.memory_kib,
                    "diskBytes": host.capacity.disk_bytes,
                    "diskFreeBytes": host.capacity.disk_free_bytes,
                    "machines": documents.machines.count_by_index("host", host.document.id.local()),
                    "qemuVersion": host.qemu_version,
                    "troubles": host.troubles,
                })
            })
            .collect();
        let health = self.health();
        let checks: Vec<Value> = health
            .checks
            .iter()
            .map(|c| json!({"name": c.name, "ok": c.ok, "detail": c.detail}))
            .collect();
        Ok(json!({
            "status": match health.status {
                HealthStatus::Ok => "ok",
                HealthStatus::Degraded => "degraded",
                HealthStatus::Failing => "failing",
            },
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.0.started,
            "uptimeSeconds": Timestamp::now().since(self.0.started).as_secs(),
            "machines": {"total": documents.machines.len(), "byPhase": phases},
            "volumes": {
                "total": volumes.len(),
                "bytes": volumes.iter().map(|v| v.size_bytes.0).sum::<u64>(),
                "attached": volumes.iter().filter(|v| v.attachment.is_some()).count(),
                "inError": volumes.iter().filter(|v| v.state == VolumeState::Error).count(),
            },
            "images": {
                "total": images.len(),
                "available": images.iter().filter(|i| i.state == ImageState::Available).count(),
                "inError": images.iter().filter(|i| i.state == ImageState::Error).count(),
            },
            "users": documents.users.len(),
            "openJobs": documents.jobs.all().iter().filter(|job| !job.state.is_final()).count(),
            "hosts": hosts,
            "checks": checks,
        }))
    }

    /// What is there without belonging to a document, and what a document has that isn't there.
    ///
    /// # Errors
    /// For everybody but administrators.
    pub async fn doctor(&self, context: &OpContext, repair: bool) -> Result<Value> {
        access::require_admin(context, "examine the cloud")?;
        if repair {
            access::require_change(context)?;
        }
        let mut findings = self.orphans();
        findings.extend(self.hosts_in_trouble());
        findings.extend(self.0.hosts.doctor(repair).await?);
        Ok(json!({ "findings": findings }))
    }

    /// What hosts say is wrong with them.
    fn hosts_in_trouble(&self) -> Vec<Value> {
        let hosts = self.0.documents.hosts.all();
        let of_one = |host: &Arc<Cached<Host>>| {
            let name = host.common.name.clone();
            let (name, id) = (
                name.unwrap_or_else(|| host.id().to_owned()),
                host.document.id.clone(),
            );
            let told = host.troubles.clone().into_iter();
            told.map(move |trouble| {
                json!({
                    "kind": "host",
                    "what": name,
                    "detail": trouble,
                    "repair": format!("as it says; no machines are placed on it meanwhile (stratus host show {name})"),
                    "severity": EventSeverity::Medium,
                    "host": id.to_string(),
                })
            })
        };
        hosts.iter().flat_map(of_one).collect()
    }

    /// Documents that belong to others that are not there.
    fn orphans(&self) -> Vec<Value> {
        let documents = &self.0.documents;
        let mut findings = Vec::new();
        let mut found = |kind: &str, what: String, detail: String, repair: &str| {
            let finding = json!({"kind": kind, "what": what, "detail": detail, "repair": repair, "severity": EventSeverity::High});
            findings.push(finding);
        };
        for address in documents.addresses.all() {
            let Some(resource) = &address.resource else {
                continue; // a user keeps it
            };
            let machine = documents.machines.get(resource.href.local());
            let holds = machine
                .is_some_and(|m| m.nics.iter().any(|nic| nic.address == address.document.id));
            if !holds {
                let detail = format!("leased to {}, which doesn't have it", resource.href);
                found(
                    "lease",
                    address.document.id.to_string(),
                    detail,
                    "report this: leases end with their machine",
                );
            }
        }
        for machine in documents.machines.all() {
            for nic in &machine.nics {
                if documents.addresses.get(nic.address.local()).is_none() {
                    let detail = format!("its address {} is not leased", nic.ip);
                    found(
                        "lease",
                        machine.document.id.to_string(),
                        detail,
                        "kill the machine and start another",
                    );
                }
            }
            for attached in &machine.volumes {
                let volume = documents.volumes.get(attached.volume.local());
                let mutual = volume.is_some_and(|v| {
                    v.attachment
                        .as_ref()
                        .is_some_and(|a| a.machine == machine.document.id)
                });
                if !mutual {
                    let detail = format!("has {}, which doesn't know of it", attached.volume);
                    found(
                        "attachment",
                        machine.document.id.to_string(),
                        detail,
                        "detach the volume",
                    );
                }
            }
        }
        for volume in documents.volumes.all() {
            let Some(attachment) = &volume.attachment else {
                continue;
            };
            let machine = documents.machines.get(attachment.machine.local());
            let mutual =
                machine.is_some_and(|m| m.volumes.iter().any(|a| a.volume == volume.document.id));
            if !mutual {
                let detail = format!("attached to {}, which doesn't have it", attachment.machine);
                found(
                    "attachment",
                    volume.document.id.to_string(),
                    detail,
                    "report this: attachments end with their machine",
                );
            }
        }
        findings
    }
}

impl Health {
    /// The same of a daemon that is a Marketplace and no cloud: it has no hosts, and needs none.
    #[must_use]
    pub fn without_hosts(mut self) -> Self {
        self.checks.retain(|check| check.name != "hosts");
        self.status = status_of(&self.checks);
        self
    }
}

fn status_of(checks: &[Check]) -> HealthStatus {
    let of = |check: &Check| match check {
        Check { ok: true, .. } => HealthStatus::Ok,
        Check { vital: false, .. } => HealthStatus::Degraded,
        Check { vital: true, .. } => HealthStatus::Failing,
    };
    checks.iter().map(of).max().unwrap_or(HealthStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_that_can_start_nothing_is_failing() {
        let check = |ok, vital| Check {
            name: "it".into(),
            ok,
            detail: String::new(),
            vital,
        };
        assert_eq!(status_of(&[]), HealthStatus::Ok);
        let well = check(true, true);
        assert_eq!(
            status_of(&[well.clone(), check(true, false)]),
            HealthStatus::Ok
        );
        let degraded = [well.clone(), check(false, false)];
        assert_eq!(status_of(&degraded), HealthStatus::Degraded);
        let failing = [check(false, true), well, check(false, false)];
        assert_eq!(status_of(&failing), HealthStatus::Failing);
    }
}
