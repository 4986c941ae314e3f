//! The ports that a machine's interfaces are plugged into: brings the links of its guest in line with what is wanted.
//!
//! A link belongs to the process: it is set before the guest runs, once by each worker that has the process (QEMU doesn't
//! tell what it is), and when its port is switched. Without a process there is nothing to be done but to say so.

use cimi::resources::Machine;
use documents::{Cached, step};

use super::worker::{Next, StepError, Worker};

impl Worker {
    /// One round over the ports and volumes of a machine that stays as it is otherwise.
    pub(super) async fn settle_devices(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<Next, StepError> {
        if self.settle_ports(machine).await? {
            return Ok(Next::Again);
        }
        self.settle_volumes(machine).await
    }

    /// Sets the links that are not as wanted, and says so. Returns whether the document has changed.
    pub(super) async fn settle_ports(
        &mut self,
        machine: &Cached<Machine>,
    ) -> Result<bool, StepError> {
        self.set_links(machine).await?;
        let documents = &self.shared.documents;
        let mut next = machine.document.0.clone();
        let mut switched = false;
        let ports = next.nics.iter_mut().filter_map(|nic| nic.port.as_mut());
        for at in ports.filter(|at| at.seen_up != at.up) {
            at.seen_up = at.up;
            switched = true;
            tracing::info!(port = %at.id, vmid = %machine.vmid, up = at.up, "network port switched");
        }
        if !switched {
            return Ok(false);
        }
        match step::step(documents, machine, next).commit().await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the links of its process that this worker has not set so yet.
    pub(super) async fn set_links(&mut self, machine: &Machine) -> Result<(), StepError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        for (index, nic) in machine.nics.iter().enumerate() {
            let Some(port) = &nic.port else {
                continue;
            };
            if live.links.get(&index) != Some(&port.up) {
                live.handle.set_link(index, port.up).await?;
                live.links.insert(index, port.up);
            }
        }
        Ok(())
    }
}
