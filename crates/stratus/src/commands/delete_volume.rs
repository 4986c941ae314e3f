//! `stratus delete-volume`: persistent disks and what is on them, gone.

use std::time::Duration;

use crate::cloud::{JobEnd, wait_for_job};
use crate::commands::each::each;
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common, Storage};
use crate::progress::Waiting;
use crate::session::Session;

/// How long clearing away is waited for.
const DELETION_LIMIT: Duration = Duration::from_secs(30);

/// Delete persistent disks and what is on them
///
/// Prints 'DELETED UUID' for each. One that the cloud does not delete (a machine has it, it is not yours) does not keep the others; it is
/// told, and the exit status is then not zero.
///
/// JSON: a list of the UUIDs of those that are deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus delete-volume UUID UUID")]
pub struct Arguments {
    /// UUIDs of disks
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let out = &session.out;
        if self.uuids.is_empty() {
            return Err(Failure::Check("At least one disk UUID is required".to_owned()));
        }
        // Before anything is configured.
        if let [uuid] = self.uuids.as_slice() {
            checked(uuid)?;
        }
        let api = session.storage_api(&self.storage, &self.cloud)?;
        let outcome = each(&self.uuids, async |named| {
            let uuid = checked(named)?;
            let accepted = api.delete(&format!("Volume/{uuid}")).await?;
            let end = {
                let waiting = Waiting::start(out, format!("deleting {uuid}"));
                wait_for_job(&api, accepted.job.as_deref(), DELETION_LIMIT, &waiting).await?
            };
            match end {
                JobEnd::Failed(reason) => return Err(Failure::Work(format!("disk {uuid} could not be deleted: {reason}"))),
                JobEnd::StillRunning => out.warning(format_args!("Disk {uuid} is still being cleared away.")),
                JobEnd::Success => {}
            }
            if !out.is_json() {
                out.line(format_args!("DELETED {uuid}"))?;
            }
            Ok(uuid)
        })
        .await;
        if out.is_json() {
            out.json(&outcome.done.iter().map(|(_, uuid)| uuid).collect::<Vec<_>>())?;
        }
        // Each that is deleted was told.
        outcome.shown()
    }
}

fn checked(named: &str) -> Result<String> {
    volume_uuid(named).ok_or_else(|| Failure::Check(format!("Invalid UUID {named}")))
}
