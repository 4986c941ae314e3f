//! Of a machine that goes on elsewhere nothing stays here: the cloud was told that this host is off, and it isn't, or was on again.

use cimi::resources::Machine;
use documents::DocumentsError;

use super::{Next, StepError, Worker};
use crate::hypervisor::Adopted;

impl Worker {
    /// Ends what runs of it here, puts its root disk into the quarantine, removes the rest, and says so.
    pub(super) async fn leave(&mut self, machine: &Machine) -> Result<Next, StepError> {
        if self.live.is_none() {
            match self.shared.hypervisor.adopt(&self.folder(machine)).await {
                Ok(Adopted::Running(handle)) => self.connect(handle),
                Ok(Adopted::Unreachable { process, .. }) => {
                    process.end().await?;
                }
                // Whether something runs nevertheless is looked at before its folder goes.
                Ok(Adopted::Gone { .. }) | Err(_) => {}
            }
        }
        self.quit().await?;
        self.release(machine).await?;
        let own = self.shared.host.clone();
        let left = |machine: &mut Machine| {
            let before = machine.left_on.len();
            machine.left_on.retain(|host| *host != own);
            Ok::<_, DocumentsError>(machine.left_on.len() < before)
        };
        match self.shared.documents.update(&self.id, left).await {
            Ok(_) | Err(DocumentsError::Absent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tracing::info!(vmid = %machine.vmid, "goes on elsewhere: what was left of it here is gone");
        Ok(Next::Again)
    }
}
