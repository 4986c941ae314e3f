//! A machine as the outside sees it.

use std::sync::Arc;

use cimi::{
    Right,
    lifecycle::{self, MachineState},
    model::Kind,
    query::{Attributes, Scalar},
    resources::{AttachStage, DiskRole, Endpoint, Machine, Resource},
    size::MEBIBYTE,
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{Cloud, Document, OpContext, Rel, View, catalogue::common_attributes};

/// A machine, and the documents it refers to.
pub(crate) struct MachineView {
    documents: Documents,
    machine: Arc<Cached<Machine>>,
}

impl MachineView {
    pub(crate) fn of(documents: &Documents, machine: Arc<Cached<Machine>>) -> Self {
        Self {
            documents: documents.clone(),
            machine,
        }
    }

    pub(crate) fn into_view(self, context: &OpContext) -> View {
        View {
            kind: Kind::Machine,
            id: self.machine.key.as_str().into(),
            stamp: Some(self.machine.revision.0),
            right: context.right_on(self.machine.acl()).unwrap_or(Right::View),
            document: Arc::new(self),
        }
    }

    pub(crate) fn view(cloud: &Cloud, context: &OpContext, machine: Arc<Cached<Machine>>) -> View {
        Self::of(&cloud.0.documents, machine).into_view(context)
    }
}

fn host_name(documents: &Documents, machine: &Machine) -> Option<String> {
    let host = documents.hosts.get(machine.host.as_ref()?.local())?;
    host.common.name.clone()
}

fn image_identifier(documents: &Documents, machine: &Machine) -> Option<String> {
    let image = documents.images.get(machine.image.href.local())?;
    image.identifier().map(str::to_owned)
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

impl Document for MachineView {
    fn attributes(&self, _right: Right) -> Map<String, Value> {
        let machine = &self.machine.document.0;
        let mut out = common_attributes(machine);
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
        put("machineImage", json!({"href": machine.image.href}));
        put(
            "addresses",
            machine
                .nics
                .iter()
                .map(|nic| nic.ip.to_string())
                .collect::<Vec<_>>()
                .into(),
        );
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
        if let Some(reason) = &machine.reason {
            put("reason", reason.as_str().into());
        }
        if let Some(identifier) = image_identifier(&self.documents, machine) {
            put("imageIdentifier", identifier.into());
        }
        if let Some(host) = &machine.host {
            put("host", json!({"href": host}));
        }
        if let Some(name) = host_name(&self.documents, machine) {
            put("hostname", name.into());
        }
        if let Some(ssh) = ssh_of(&self.documents, machine) {
            put("ssh", json!({"host": ssh.host, "port": ssh.port}));
        }
        if let Some(accelerator) = machine.accelerator {
            put("accelerator", text_of(accelerator).into());
        }
        out
    }

    fn operations(&self, right: Right) -> Vec<Rel> {
        if right < Right::Modify {
            return Vec::new();
        }
        let mut operations = vec![Rel::Edit, Rel::Delete];
        operations.extend(
            lifecycle::actions(self.machine.state)
                .iter()
                .map(|name| Rel::Action(name)),
        );
        if !self.machine.desired.deleted {
            operations.push(Rel::Action("shutdown"));
        }
        operations.push(Rel::Action("kill"));
        operations
    }
}

impl Attributes for MachineView {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        attribute(&self.documents, &self.machine.document.0, name)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.machine.common.properties.get(key).map(String::as_str)
    }
}

/// A machine that is looked at by a filter, one of perhaps ten thousand: nothing is cloned for it.
pub(crate) struct Candidate<'a> {
    pub(crate) documents: &'a Documents,
    pub(crate) machine: &'a Arc<Cached<Machine>>,
}

impl Attributes for Candidate<'_> {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        attribute(self.documents, &self.machine.document.0, name)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.machine.common.properties.get(key).map(String::as_str)
    }
}

fn attribute<'a>(documents: &'a Documents, machine: &'a Machine, name: &str) -> Option<Scalar<'a>> {
    match name {
        "state" => Some(state_text(machine.state).into()),
        "phase" => Some(text_of(machine.phase).into()),
        "vmid" => Some(machine.vmid.0.into()),
        "cpu" => Some(machine.cpu.into()),
        "memory" => Some(machine.memory.into()),
        "cpuArch" => Some(machine.cpu_arch.as_str().into()),
        "reason" => machine.reason.as_deref().map(Scalar::from),
        "machineImage" => Some(machine.image.href.to_string().into()),
        "imageIdentifier" => image_identifier(documents, machine).map(Scalar::from),
        "host" => machine.host.as_ref().map(|host| host.to_string().into()),
        "hostname" => host_name(documents, machine).map(Scalar::from),
        "swap" => Some(swap_mib(machine).into()),
        "restartPolicy" => Some(text_of(machine.restart_policy).into()),
        _ => crate::catalogue::common_scalar(machine, name),
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
