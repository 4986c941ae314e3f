//! Folders of machines that are not this host's: what lives in them ends, their files are kept for a while.

use std::path::Path;

use uuid::Uuid;

use super::{
    Shared,
    prepare::PrepareError,
    worker::{StepError, blocking},
};
use crate::{Adopted, HypervisorError};

impl Shared {
    /// Whether no document, now, places this machine here, or may do so.
    pub(super) fn is_nobodys(&self, machine: &str) -> bool {
        let machines = &self.documents.machines;
        let is_ours = |host: Option<&cimi::HostId>| host == Some(&self.host);
        machines.unreadable() == 0
            && machines
                .get(machine)
                .is_none_or(|machine| !is_ours(machine.host.as_ref()))
    }

    /// Ends what lives in the folder of a machine that is not this host's, and moves its files to the quarantine. Returns
    /// whether they are there; they aren't if the machine may be this host's.
    pub(super) async fn put_away(&self, folder: &Path, machine: Uuid) -> Result<bool, StepError> {
        let name = machine.to_string();
        if !self.is_nobodys(&name) {
            return Ok(false);
        }
        match self.hypervisor.adopt(folder).await {
            Ok(Adopted::Running(handle)) => {
                handle.quit().await?;
            }
            Ok(Adopted::Unreachable { process, .. }) => {
                process.end().await?;
            }
            // Whatever it is: as long as nobody lives there.
            Ok(Adopted::Gone { .. }) | Err(_) => {}
        }
        if self.hypervisor.lives(folder)? {
            return Err(HypervisorError::AlreadyRunning {
                folder: folder.to_owned(),
            }
            .into());
        }
        // That took its time.
        if !self.is_nobodys(&name) {
            return Ok(false);
        }
        let (quarantine, folder) = (self.quarantine.clone(), folder.to_owned());
        blocking(move || {
            let failed = |source| PrepareError::File {
                path: folder.clone(),
                source,
            };
            let now = jiff::Timestamp::now();
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    quarantine.put(&entry.path(), machine, now)?;
                }
            }
            std::fs::remove_dir_all(&folder).map_err(failed)?;
            Ok(true)
        })
        .await
    }
}
