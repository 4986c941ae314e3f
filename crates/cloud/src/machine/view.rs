//! A machine as the outside sees it.

use std::hash::{DefaultHasher, Hash, Hasher};

use cimi::{
    lifecycle::{self, MachineState, Moving, RestartPolicy},
    model::Kind,
    query::Scalar,
    resources::{AttachStage, DiskRole, Endpoint, Machine, Nic},
    size::MEBIBYTE,
};
use documents::Documents;
use placement::Means;
use serde_json::{Map, Value, json};

use super::save::can_be_captured;
use crate::{
    CloudError, Rel, Result,
    catalogue::{Public, Through, text_scalar},
    host::host_elsewhere,
    lost_hosts, network, security_group,
};

fn host_name(documents: &Documents, machine: &Machine) -> Option<String> {
    let host = documents.hosts.get(machine.host.as_ref()?.local())?;
    host.common.name.clone()
}

fn image_identifier(documents: &Documents, machine: &Machine) -> Option<String> {
    let image = documents.images.get(machine.image.as_ref()?.href.local())?;
    image.identifier().map(str::to_owned)
}

/// Those of its interfaces that have one.
fn ipv6_addresses(documents: &Documents, machine: &Machine) -> Vec<String> {
    let of_nic = |nic: &Nic| {
        let network = documents.networks.get(nic.network.local())?;
        network::ipv6_of(&network, &nic.mac)
    };
    let addresses = machine.nics.iter().filter_map(of_nic);
    addresses.map(|address| address.to_string()).collect()
}

/// Why it is in its state, if there is anything to say.
fn reason(documents: &Documents, machine: &Machine) -> Option<String> {
    lost_hosts::why_unseen(documents, machine).or_else(|| machine.reason.clone())
}

/// Upper-case state as CIMI writes it.
pub(crate) fn text_of(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// Where SSH answers: a forwarded port, once the host has chosen it, or port 22 of the first address.
fn ssh_of(documents: &Documents, machine: &Machine) -> Option<Endpoint> {
    if machine.ssh.is_some() {
        return machine.ssh.clone();
    }
    let nic = machine.nics.first()?;
    let is_forwarded = documents
        .networks
        .get(nic.network.local())
        .is_some_and(|network| network.forwarded);
    (!is_forwarded).then(|| Endpoint {
        host: nic.ip.to_string(),
        port: 22,
    })
}

fn swap_mib(machine: &Machine) -> u64 {
    machine
        .disks
        .iter()
        .filter(|disk| disk.role == DiskRole::Swap)
        .map(|disk| disk.size_bytes.0 / MEBIBYTE)
        .sum()
}

/// What a volume's stage is called outside.
pub(super) fn attach_state(stage: &AttachStage, wanted: bool) -> &'static str {
    match (stage, wanted) {
        (AttachStage::Failed { .. }, _) => "FAILED",
        (AttachStage::Detaching { .. }, _) | (_, false) => "DETACHING",
        (AttachStage::Waiting, true) => "ATTACHING",
        (AttachStage::Attached { .. }, true) => "ATTACHED",
    }
}

impl Public for Machine {
    const KIND: Kind = Kind::Machine;

    /// Beside the machine itself, the identifier of its image and the name of its host are shown.
    fn stamp(&self, revision: u64, documents: &Documents) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (
            revision,
            image_identifier(documents, self),
            host_name(documents, self),
            ipv6_addresses(documents, self),
        )
            .hash(&mut hasher);
        Some(hasher.finish())
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let machine = self;
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        let own = |collection: &str| json!({"href": format!("{}/{collection}", machine.id)});
        put("state", text_of(machine.state).into());
        put("phase", text_of(machine.phase).into());
        put("vmid", machine.vmid.0.into());
        put("cpu", machine.cpu.into());
        put("memory", machine.memory.into());
        put("cpuArch", machine.cpu_arch.as_str().into());
        put("disks", own("disks"));
        put("volumes", own("volumes"));
        put("networkInterfaces", own("networkInterfaces"));
        put("meters", own("meters"));
        put("eventLog", crate::event_log::link(machine));
        if let Some(image) = &machine.image {
            put("machineImage", json!({"href": image.href}));
        }
        put(
            "addresses",
            machine
                .nics
                .iter()
                .map(|nic| nic.ip.to_string())
                .collect::<Vec<_>>()
                .into(),
        );
        let ipv6 = ipv6_addresses(documents, machine);
        if !ipv6.is_empty() {
            put("addresses6", ipv6.into());
        }
        put(
            "networks",
            machine
                .nics
                .iter()
                .map(|nic| nic.network.local().to_owned())
                .collect::<Vec<_>>()
                .into(),
        );
        put("swap", swap_mib(machine).into());
        put("restartPolicy", text_of(machine.restart_policy).into());
        if let Some(reason) = reason(documents, machine) {
            put("reason", reason.into());
        }
        if let Some(identifier) = image_identifier(documents, machine) {
            put("imageIdentifier", identifier.into());
        }
        if let Some(host) = &machine.host {
            put("host", json!({"href": host}));
        }
        if let Some(name) = host_name(documents, machine) {
            put("hostname", name.into());
        }
        if let Some(way) = &machine.desired.moving {
            put("moving", moving(machine, way));
        }
        let last = machine.observed.passage.as_ref();
        if let Some(last) = last.filter(|last| last.downtime_millis.is_some()) {
            put(
                "lastMove",
                json!({
                    "since": last.way,
                    "bytesCopied": last.copied,
                    "downtimeMilliseconds": last.downtime_millis,
                }),
            );
        }
        if let Some(ssh) = ssh_of(documents, machine) {
            put("ssh", json!({"host": ssh.host, "port": ssh.port}));
        }
        if let Some(accelerator) = machine.accelerator {
            put("accelerator", text_of(accelerator).into());
        }
        for (name, text) in [
            ("cpuModel", &machine.cpu_model),
            ("keymap", &machine.keymap),
            ("requirements", &machine.requirements),
            ("rank", &machine.placement.rank),
        ] {
            if let Some(text) = text {
                put(name, text.as_str().into());
            }
        }
        if !machine.security_groups.is_empty() {
            put(security_group::OF_MACHINE, json!(machine.security_groups));
        }
        for (name, groups) in [
            ("placementTogether", &machine.placement.together),
            ("placementApart", &machine.placement.apart),
        ] {
            if !groups.is_empty() {
                put(name, json!(groups));
            }
        }
        if let Some(share) = machine.cpu_share_percent {
            put("cpuShare", json!(f64::from(share) / 100.0));
        }
        if let Some(started) = machine.first_started {
            put("started", json!(started));
        }
        if let Some(save) = &machine.save {
            put("save", json!(save));
        }
        if let Some(image) = &machine.saved_as {
            put("savedAs", json!(image));
        }
        out
    }

    fn quick<'a>(&'a self, documents: &'a Documents, name: &str) -> Option<Scalar<'a>> {
        match name {
            "state" => Some(state_text(self.state).into()),
            "phase" => Some(text_of(self.phase).into()),
            "vmid" => Some(self.vmid.0.into()),
            "cpu" => Some(self.cpu.into()),
            "memory" => Some(self.memory.into()),
            "cpuArch" => Some(self.cpu_arch.as_str().into()),
            "reason" => reason(documents, self).map(Scalar::from),
            "machineImage" => {
                let image = self.image.as_ref();
                image.map(|image| image.href.to_string().into())
            }
            "imageIdentifier" => image_identifier(documents, self).map(Scalar::from),
            "host" => self.host.as_ref().map(|host| host.to_string().into()),
            "hostname" => host_name(documents, self).map(Scalar::from),
            "swap" => Some(swap_mib(self).into()),
            "restartPolicy" => Some(text_of(self.restart_policy).into()),
            _ => None,
        }
    }

    fn quick_several(&self, name: &str) -> Option<Vec<Scalar<'_>>> {
        fn scalars(texts: &[String]) -> Vec<Scalar<'_>> {
            texts.iter().map(|text| text_scalar(text)).collect()
        }
        let nics = self.nics.iter();
        match name {
            "addresses" => Some(nics.map(|nic| nic.ip.to_string().into()).collect()),
            "networks" => Some(nics.map(|nic| text_scalar(nic.network.local())).collect()),
            "placementTogether" => Some(scalars(&self.placement.together)),
            "placementApart" => Some(scalars(&self.placement.apart)),
            _ => None,
        }
    }

    fn is_own(name: &str) -> bool {
        let own = [
            "state",
            "phase",
            "vmid",
            "cpu",
            "memory",
            "cpuArch",
            "reason",
            "machineImage",
            "addresses",
            "networks",
            "host",
            "accelerator",
            "swap",
            "cpuShare",
            "cpuModel",
            "keymap",
            "requirements",
            "rank",
            "placementTogether",
            "placementApart",
            "restartPolicy",
            "savedAs",
            "started",
        ];
        own.contains(&name)
    }

    fn through(name: &str) -> Option<Through> {
        let (reference, look_up): (_, fn(&Documents, &str) -> Option<String>) = match name {
            "hostname" => ("host", |documents, host| {
                documents.hosts.get(host)?.common.name.clone()
            }),
            "imageIdentifier" => ("machineImage", |documents, image| {
                let image = documents.images.get(image)?;
                image.identifier().map(str::to_owned)
            }),
            _ => return None,
        };
        Some(Through { reference, look_up })
    }

    fn operations(&self, documents: &Documents) -> Vec<Rel> {
        let mut operations = vec![Rel::Edit, Rel::Delete];
        operations.extend(
            lifecycle::actions(self.as_seen().0)
                .iter()
                .map(|name| Rel::Action(name)),
        );
        if !self.desired.deleted {
            operations.push(Rel::Action("shutdown"));
        }
        operations.push(Rel::Action("kill"));
        let has_storage = || {
            let host = host_elsewhere(documents, self);
            host.is_none_or(|host| Means::of(&host).saving)
        };
        if !self.desired.deleted && can_be_captured(self) && has_storage() {
            operations.push(Rel::Capture);
        }
        operations
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        match (name, value) {
            ("restartPolicy", None) => self.restart_policy = RestartPolicy::default(),
            ("restartPolicy", Some(value)) => {
                self.restart_policy = serde_json::from_value(value.clone())
                    .map_err(|error| CloudError::invalid("restartPolicy", error.to_string()))?;
            }
            ("cpu" | "memory", _) => {
                return Err(CloudError::Conflict(format!(
                    "`{name}` of a machine can't be changed; make a new machine of the size you need"
                )));
            }
            _ => return Err(CloudError::invalid(name, "of a machine can't be changed")),
        }
        Ok(())
    }
}

/// As serialized. What lists are filtered by most costs no allocation for each machine.
const fn state_text(state: MachineState) -> &'static str {
    use MachineState as S;
    match state {
        S::Creating => "CREATING",
        S::Starting => "STARTING",
        S::Started => "STARTED",
        S::Stopping => "STOPPING",
        S::Stopped => "STOPPED",
        S::Pausing => "PAUSING",
        S::Paused => "PAUSED",
        S::Suspending => "SUSPENDING",
        S::Suspended => "SUSPENDED",
        S::Deleting => "DELETING",
        S::Error => "ERROR",
    }
}

/// How far a machine is on its way to another host.
fn moving(machine: &Machine, way: &Moving) -> Value {
    let mut shown = json!({
        "live": way.live && machine.observed.at_rest != Some(way.since),
        "since": way.since,
    });
    if let Some(to) = &way.to {
        shown["host"] = json!({ "href": to });
    }
    if let Some(passage) = machine.passage() {
        shown["bytesCopied"] = json!(passage.copied);
        shown["bytesLeft"] = json!(passage.left);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_filtered_by_the_text_that_is_shown() {
        use MachineState as S;
        for state in [
            S::Creating,
            S::Starting,
            S::Started,
            S::Stopping,
            S::Stopped,
            S::Pausing,
            S::Paused,
            S::Suspending,
            S::Suspended,
            S::Deleting,
            S::Error,
        ] {
            assert_eq!(state_text(state), text_of(state));
        }
    }
}
