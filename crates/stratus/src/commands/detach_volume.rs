//! `stratus detach-volume`: persistent disks out of a running machine.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{Api, JobEnd, wait_for_job};
use crate::commands::attach_volume::device_of;
use crate::commands::machine_id::MachineNumber;
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result, WORK_FAILED};
use crate::options::{Cloud, Common, Storage};
use crate::progress::Waiting;
use crate::session::Session;

/// Detach persistent disks from a running machine
///
/// Unmount them in the machine first. Prints 'DETACHED UUID from VM ID on /dev/TARGET' for each when the machine has given it up.
/// Disks that were given at the machine's start (run-instance --persistent-disk) stay with it ('Disk have not been hot-plugged').
/// A failure is reported and the others are still tried; the exit status is then not zero.
///
/// JSON: a list of {"uuid", "machine", "device", "detached", "reason"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus detach-volume -i 7 UUID")]
pub struct Arguments {
    /// UUIDs of disks
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    /// Number of the machine [key: instance]
    #[arg(short, long, value_name = "ID")]
    instance: Option<String>,
    /// Seconds to wait for the machine [default: 60]
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide_default_value = true)]
    timeout: u64,
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
            return Err(Failure::Check("Please provide at least one persistent disk UUID to detach".to_owned()));
        }
        let uuids: Vec<String> =
            self.uuids.iter().map(|uuid| volume_uuid(uuid).ok_or_else(|| Failure::Check(format!("Invalid UUID {uuid}")))).collect::<Result<_>>()?;
        let machine: MachineNumber = session.settings.text(self.instance.as_deref(), "instance").as_deref().unwrap_or("0").parse()?;
        let api = session.api(&self.cloud)?;
        let limit = Duration::from_secs(self.timeout);
        let mut results = Vec::new();
        let mut failed = false;
        for uuid in &uuids {
            let (device, reason) = match detach(&session, &api, &machine, uuid, limit).await {
                Ok(device) => (Some(device), None),
                Err(Failure::Work(reason)) => (None, Some(reason)),
                Err(other) => return Err(other),
            };
            failed |= reason.is_some();
            match (&device, &reason) {
                _ if out.is_json() => {}
                (Some(device), _) => out.line(format_args!("DETACHED {uuid} from VM {machine} on {device}"))?,
                (None, reason) => out.line(format_args!("DISK {uuid}: {}", reason.as_deref().unwrap_or_default()))?,
            }
            results.push(json!({ "uuid": uuid, "machine": machine.to_string(), "device": device, "detached": device.is_some(), "reason": reason }));
        }
        if out.is_json() {
            out.json(&results)?;
        }
        if failed { Err(Failure::Exit(WORK_FAILED)) } else { Ok(()) }
    }
}

/// Detaches one disk and waits for it; gives the device it was. [`Failure::Work`] is about this disk alone.
async fn detach(session: &Session, api: &Api, machine: &MachineNumber, uuid: &str, limit: Duration) -> Result<String> {
    let path = format!("{}/volumes/{uuid}", machine.path());
    // Afterwards nobody knows any more where it was.
    let device = device_of(&api.get(&path).await?);
    let accepted = api.delete(&path).await?;
    let end = {
        let waiting = Waiting::start(&session.out, format!("detaching {uuid}"));
        wait_for_job(api, accepted.job.as_deref(), limit, &waiting).await?
    };
    match end {
        JobEnd::Success => Ok(device),
        JobEnd::Failed(reason) => Err(Failure::Work(reason)),
        JobEnd::StillRunning => Err(Failure::Work(format!(
            "the machine has not given it up after {} s, the request stands; is it still mounted there?",
            limit.as_secs()
        ))),
    }
}
