//! What this host's machines and their QEMUs write: bounded while they run, and shown.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

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

/// Most that is kept of what a QEMU itself says, in bytes.
const OUTPUT_BYTES: u64 = 256 * 1024;

/// The place of a machine's console log, with the log if somebody holds it.
pub(super) type Console = Arc<Mutex<Weak<SerialLog>>>;

/// Held so that a machine's logs stay within their bounds.
pub(super) struct BoundedLogs {
    _console: Option<Arc<SerialLog>>,
    _output: Option<Arc<SerialLog>>,
}

impl Shared {
    /// The console log of a machine; whoever holds it keeps it within its bounds. All holders share one.
    pub(crate) async fn serial_log(
        &self,
        machine: &Machine,
    ) -> Result<Arc<SerialLog>, HypervisorError> {
        let place = {
            let mut places = self.consoles.lock();
            places.retain(|_, place: &mut Console| {
                Arc::strong_count(place) > 1
                    || place.try_lock().is_ok_and(|log| log.strong_count() > 0)
            });
            places
                .entry(machine.id.local().to_owned())
                .or_default()
                .clone()
        };
        // Nobody but those who want the same waits while a large log is cut.
        let mut place = place.lock().await;
        if let Some(log) = place.upgrade() {
            return Ok(log);
        }
        let folder = RunFolder(prepare::folder(&self.settings, machine));
        let (logs, limit) = (self.serial_logs.clone(), self.settings.console_bytes);
        let log = crate::qemu::blocking(move || logs.open(&folder, limit)).await?;
        *place = Arc::downgrade(&log);
        Ok(log)
    }

    /// Bounds what a machine and its QEMU write for as long as the answer is held.
    pub(super) async fn bound_logs(&self, machine: &Machine) -> BoundedLogs {
        let folder = RunFolder(prepare::folder(&self.settings, machine));
        let logs = self.serial_logs.clone();
        let output = crate::qemu::blocking(move || logs.open_output(&folder, OUTPUT_BYTES));
        let (console, output) = tokio::join!(self.serial_log(machine), output);
        let held = |log: Result<_, HypervisorError>| {
            log.inspect_err(|error| tracing::warn!(%error, "a log can't be watched; it may grow"))
                .ok()
        };
        BoundedLogs {
            _console: held(console),
            _output: held(output),
        }
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
        let log = shared.serial_log(&document).await?;
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
