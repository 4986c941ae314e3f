//! A machine's memory, written to a file that QEMU is handed open: its sandbox lets it open nothing, and run nothing
//! that could write for it. (QMP `migrate` to `fd:`; QEMU documentation "Migration".)

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::Shared;
use crate::hypervisor::{Result, Saving};

/// The name under which QEMU knows the file until it uses it.
const FILE: &str = "memory";
/// Nothing else uses the disk as long as the guest is halted: as fast as it can be.
const BYTES_PER_SECOND: u64 = 1 << 40;

impl Shared {
    /// Begins to write the memory of a halted machine to `file`.
    pub(super) async fn begin_save(&self, file: OwnedFd) -> Result<()> {
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        self.execute("migrate-set-capabilities", Some(events))
            .await?;
        let speed = json!({"max-bandwidth": BYTES_PER_SECOND});
        self.execute("migrate-set-parameters", Some(speed)).await?;
        self.monitor()
            .execute_with_descriptor("getfd", json!({"fdname": FILE}), file)
            .await?;
        let target = json!({"uri": format!("fd:{FILE}")});
        self.execute("migrate", Some(target)).await.map(drop)
    }

    /// How far the last save is (`query-migrate`).
    pub(super) async fn saving(&self) -> Result<Saving> {
        let answer = self.execute("query-migrate", None).await?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        Ok(match text("status").unwrap_or("none") {
            "none" => Saving::Never,
            "completed" => Saving::Complete,
            "cancelled" => Saving::Failed("it was given up".to_owned()),
            "failed" => Saving::Failed(
                text("error-desc")
                    .unwrap_or("QEMU could not write it")
                    .to_owned(),
            ),
            _ => Saving::GoesOn {
                written: answer
                    .pointer("/ram/transferred")
                    .and_then(Value::as_u64)
                    .unwrap_or_default(),
            },
        })
    }
}
