//! Hosts as the outside sees them. Each writes its own document; its operator says whether it takes machines.

use std::sync::Arc;

use cimi::{
    model::{Changes, Kind},
    resources::{
        Host, Machine,
        weight::{CPUS, MEMORY_KIB},
    },
};
use documents::{Cached, Documents, DocumentsError};
use placement::Means;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Done, OpContext, Rel, Result,
    catalogue::{self, Public, object},
};

impl Public for Host {
    const KIND: Kind = Kind::Host;

    /// A host finds its document by its name.
    const MAY_BE_RENAMED: bool = false;

    /// What its machines use changes without the host's document.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let is_there = !self.has_joined() || documents.host_pulses.get(self.id.local()).is_some();
        let (machines, host) = (&documents.machines, self.id.local());
        let sum = |measure| machines.sum_by_index("host", host, measure);
        object(json!({
            "state": match (self.desired.maintenance, self.troubles.is_empty()) {
                // What has joined and was never started has no kernel that it would tell of.
                _ if !is_there && self.boot_id.is_empty() => "JOINED",
                _ if !is_there => "LOST",
                (true, _) => "MAINTENANCE",
                (false, true) => "OK",
                (false, false) => "DEGRADED",
            },
            "maintenance": self.desired.maintenance,
            "meters": {"href": format!("{}/meters", self.id)},
            "cpu": self.capacity.cpus,
            "memory": self.capacity.memory_kib,
            "cpuUsed": sum(CPUS),
            "memoryUsed": sum(MEMORY_KIB),
            "diskBytes": self.capacity.disk_bytes,
            "diskFreeBytes": self.capacity.disk_free_bytes,
            "machines": machines.count_by_index("host", host),
            "accelerator": self.accelerator,
            "acceleratorReason": self.accelerator_reason,
            "cpuModel": self.cpu_model,
            "cpuFlags": self.cpu_flags,
            "version": self.version,
            "qemuVersion": self.qemu_version,
            "started": self.started,
            "troubles": self.troubles,
            "fencesAfter": self.fences_after,
            "bridges": self.bridges,
            "cpuLoad": self.load.map(|load| load.cpu_percent),
            "memoryLoad": self.load.map(|load| load.memory_kib),
            "imagesCached": self.has_joined().then_some(self.cached.len()),
            "features": self.features,
        }))
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        if name != "maintenance" {
            return Err(CloudError::invalid(
                name,
                "of a host is written by the host alone",
            ));
        }
        self.desired.maintenance = value.and_then(Value::as_bool).unwrap_or_default();
        Ok(())
    }

    fn operations(&self, documents: &Documents) -> Vec<Rel> {
        let mut operations = vec![Rel::Edit];
        if self.has_joined() {
            operations.push(Rel::Delete);
            if documents.host_pulses.get(self.id.local()).is_none() {
                operations.push(Rel::Action("evacuate"));
            }
        }
        operations
    }
}

/// What a host is that volumes don't reach, or that disks don't come from.
pub(crate) const WITHOUT_STORAGE: &str = "without a way to the cloud's storage";

impl Cloud {
    /// Changes a host. When its maintenance ends, so do the reasons why its machines were not moved away for that: whoever writes it
    /// once more after a crash completes this.
    pub(crate) async fn edit_host(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        // Left out of a whole representation, it ends as well.
        let is_opened = matches!(
            changes.get("maintenance"),
            Some(None | Some(Value::Bool(false)))
        );
        let documents = &self.0.documents;
        let done = catalogue::edit::<Host>(documents, context, local, changes).await?;
        if is_opened {
            for machine in documents.machines.by_index("host", local) {
                let forgotten = documents.update(machine.id(), |machine: &mut Machine| {
                    let is_there = machine
                        .host
                        .as_ref()
                        .is_some_and(|host| host.local() == local);
                    let is_said = is_there && machine.tells_that_it_is_not_moved();
                    if is_said {
                        machine.reason = None;
                    }
                    Ok::<_, DocumentsError>(is_said)
                });
                match forgotten.await {
                    Ok(_) | Err(DocumentsError::Absent { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(done)
    }

    /// Refuses what the host of a machine has no means for, or the one that it is on its way to. What such a host is, and what can be
    /// done instead, is told.
    ///
    /// # Errors
    /// [`CloudError::Conflict`].
    pub(crate) fn require_means(
        &self,
        machine: &Machine,
        needs: Means,
        (without, instead): (&str, &str),
    ) -> Result<()> {
        let hosts = [
            (machine.host.as_ref(), "is on"),
            (machine.moving_to(), "is on its way to"),
        ];
        for (host, how) in hosts {
            let host = host.and_then(|host| self.0.documents.hosts.get(host.local()));
            let Some(host) = host.filter(|host| !Means::of(host).cover(needs)) else {
                continue;
            };
            let name = host.common.name.as_deref().unwrap_or(host.id());
            return Err(CloudError::Conflict(format!(
                "{} {how} {name}, a host {without}: {instead}",
                machine.id
            )));
        }
        Ok(())
    }
}

/// The host of a machine, if that has joined from elsewhere.
pub(crate) fn host_elsewhere(
    documents: &Documents,
    machine: &Machine,
) -> Option<Arc<Cached<Host>>> {
    let host = documents.hosts.get(machine.host.as_ref()?.local())?;
    host.has_joined().then_some(host)
}
