//! Records of machines that are no more.

use cimi::{model::Kind, resources::MachineRecord};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Rel,
    catalogue::{Public, object},
};

impl Public for MachineRecord {
    const KIND: Kind = Kind::MachineRecord;

    /// The name of its host is the host's.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "vmid": self.vmid,
            "phase": self.phase,
            "cpu": self.cpu,
            "memory": self.memory,
            "addresses": self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ended": self.ended,
        }));
        if let Some(image) = &self.image {
            out.insert("machineImage".to_owned(), json!({"href": image.href}));
        }
        if let Some(started) = &self.first_started {
            out.insert("started".to_owned(), json!(started));
        }
        if let Some(host) = &self.host {
            out.insert("host".to_owned(), json!({"href": host}));
        }
        if let Some(name) = self
            .host
            .as_ref()
            .and_then(|id| documents.hosts.get(id.local())?.common.name.clone())
        {
            out.insert("hostname".to_owned(), name.into());
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        Vec::new()
    }
}
