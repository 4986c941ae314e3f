//! Serial consoles of this host's machines.

use std::sync::{Arc, Weak};

use cimi::{MachineId, resources::Machine};

use super::{Shared, VmHost, prepare};
use crate::{
    HypervisorError,
    hypervisor::RunFolder,
    serial::{SerialFollower, SerialLog, SerialText},
};

/// A machine's console from some point on.
pub struct ConsoleText {
    /// What is there already.
    pub text: SerialText,
    /// What comes next.
    pub more: SerialFollower,
}

impl Shared {
    /// The console log of a machine; whoever holds it keeps it within its bounds. All holders share one.
    pub(crate) fn serial_log(&self, machine: &Machine) -> Result<Arc<SerialLog>, HypervisorError> {
        let mut logs = self.consoles.lock();
        if let Some(log) = logs.get(machine.id.local()).and_then(Weak::upgrade) {
            return Ok(log);
        }
        let folder = RunFolder(prepare::folder(&self.settings, machine));
        let log = self
            .serial_logs
            .open(&folder, self.settings.console_bytes)?;
        logs.retain(|_, log| log.strong_count() > 0);
        logs.insert(machine.id.local().to_owned(), Arc::downgrade(&log));
        Ok(log)
    }
}

impl VmHost {
    /// The console of a machine of this host: from `offset`, or the `last` so many bytes, or all that is kept.
    /// `None` if the machine isn't on this host or never ran.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn console(
        &self,
        machine: &MachineId,
        offset: Option<u64>,
        last: Option<u64>,
    ) -> Result<Option<ConsoleText>, HypervisorError> {
        let shared = &self.0.shared;
        let Some(document) = shared.documents.machines.get(machine.local()) else {
            return Ok(None);
        };
        let never_ran = !prepare::folder(&shared.settings, &document).exists();
        if document.host.as_ref() != Some(&shared.host) || never_ran {
            return Ok(None);
        }
        let log = shared.serial_log(&document)?;
        let mut text = log.tail(last.unwrap_or(u64::MAX)).await?;
        if let Some(offset) = offset
            && offset > text.position
        {
            let skip = usize::try_from(offset - text.position)
                .unwrap_or(usize::MAX)
                .min(text.bytes.len());
            text.bytes.drain(..skip);
            text.position += skip as u64;
        }
        let more = log.follow(text.end());
        Ok(Some(ConsoleText { text, more }))
    }
}
