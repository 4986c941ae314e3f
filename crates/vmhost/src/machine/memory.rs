//! A machine's memory, written to a file that QEMU is handed open: its sandbox lets it open nothing, and run nothing
//! that could write for it. (QMP `migrate` to `fd:`; QEMU documentation "Migration".)

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::Shared;
use crate::hypervisor::{Result, Saving};

/// The name under which QEMU knows the file until it uses it.
const FILE: &str = "memory";
/// Nothing else uses the disk as long as the guest is halted: as fast as it can be.
pub(super) const BYTES_PER_SECOND: u64 = 1 << 40;

/// QEMU halts the guest when little is left, and waits to be told to send that.
pub(super) const HALT_FIRST: &str = "pause-before-switchover";
/// QEMU has the guest run slower if it writes more than can be sent.
pub(super) const THROTTLE: &str = "auto-converge";

impl Shared {
    pub(super) async fn set_capabilities(&self, all: &[(&str, bool)]) -> Result<()> {
        let one = |(name, state): &(&str, bool)| json!({"capability": name, "state": state});
        let all: Vec<Value> = all.iter().map(one).collect();
        let all = json!({ "capabilities": all });
        self.execute("migrate-set-capabilities", Some(all))
            .await
            .map(drop)
    }

    /// Begins to write the memory of a halted machine to `file`.
    pub(super) async fn begin_save(&self, file: OwnedFd) -> Result<()> {
        // Those that a way to another host may have left, too.
        self.set_capabilities(&[("events", true), (HALT_FIRST, false), (THROTTLE, false)])
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
