//! Hosts as the outside sees them. Each writes its own document.

use cimi::{model::Kind, resources::Host};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Rel,
    catalogue::{Public, object},
};

impl Public for Host {
    const KIND: Kind = Kind::Host;

    /// What its machines use changes without the host's document.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let machines = documents.machines.by_index("host", self.id.local());
        let (mut cpus, mut memory) = (0_u64, 0_u64);
        for machine in &machines {
            cpus += u64::from(machine.cpu);
            memory += machine.memory;
        }
        object(json!({
            "state": if self.troubles.is_empty() { "OK" } else { "DEGRADED" },
            "meters": {"href": format!("{}/meters", self.id)},
            "cpu": self.capacity.cpus,
            "memory": self.capacity.memory_kib,
            "cpuUsed": cpus,
            "memoryUsed": memory,
            "diskBytes": self.capacity.disk_bytes,
            "diskFreeBytes": self.capacity.disk_free_bytes,
            "machines": machines.len(),
            "accelerator": self.accelerator,
            "acceleratorReason": self.accelerator_reason,
            "cpuModel": self.cpu_model,
            "version": self.version,
            "qemuVersion": self.qemu_version,
            "started": self.started,
            "troubles": self.troubles,
        }))
    }

    fn operations(&self) -> Vec<Rel> {
        Vec::new()
    }
}
