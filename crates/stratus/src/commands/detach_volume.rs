//! `stratus detach-volume`: persistent disks out of a running machine.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{Api, ApiError, JobEnd, MachineView, VolumeView, wait_for_job};
use crate::commands::attach_volume::device_of;
use crate::commands::machine_id::{MachineNumber, machine_named};
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result, WORK_FAILED};
use crate::options::{Cloud, Common, Storage};
use crate::progress::Waiting;
use crate::session::Session;

/// Detach persistent disks from a running machine
///
/// Unmount them in the machine first. Prints 'DETACHED UUID from VM ID on /dev/TARGET' for each when the machine has given it up.
/// The owner of a disk can take it from somebody else's machine. Disks that were given at the machine's start (run-instance
/// --persistent-disk), or that it boots from, stay with it ('Disk have not been hot-plugged') until it is removed.
/// A failure is reported and the others are still tried; the exit status is then not zero.
///
/// JSON: a list of {"uuid", "machine", "device", "detached", "reason"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus detach-volume -i 7 UUID
  stratus detach-volume UUID")]
pub struct Arguments {
    /// UUIDs of disks
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    /// Number or name of the machine [default: the one that has the disk; key: instance]
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
        let api = session.api(&self.cloud)?;
        let instance = match session.settings.text(self.instance.as_deref(), "instance") {
            Some(text) => Some(machine_named(&api, &text).await?),
            None => None,
        };
        let limit = Duration::from_secs(self.timeout);
        let mut results = Vec::new();
        let mut failed = false;
        let mut broken_off = None;
        for uuid in &uuids {
            let (machine, device, reason) = match detach(&session, &api, instance.as_ref(), uuid, limit).await {
                Ok((machine, device)) => (Some(machine), device, None),
                Err(Failure::Work(reason)) => (instance.as_ref().map(ToString::to_string), None, Some(reason)),
                // What was done before is told all the same.
                Err(other) => {
                    broken_off = Some(other);
                    break;
                }
            };
            failed |= reason.is_some();
            match (&device, &machine, &reason) {
                _ if out.is_json() => {}
                (.., Some(reason)) => out.line(format_args!("DISK {uuid}: {reason}"))?,
                (Some(device), Some(machine), _) => out.line(format_args!("DETACHED {uuid} from VM {machine} on {device}"))?,
                _ => out.line(format_args!("DETACHED {uuid} from a machine that is not yours"))?,
            }
            results.push(json!({ "uuid": uuid, "machine": machine, "device": device, "detached": reason.is_none(), "reason": reason }));
        }
        if out.is_json() {
            out.json(&results)?;
        }
        if let Some(failure) = broken_off {
            return Err(failure);
        }
        if failed { Err(Failure::Exit(WORK_FAILED)) } else { Ok(()) }
    }
}

/// Detaches one disk from the machine, or from the one that has it, and waits for it; gives the machine's number and the device it was,
/// which one doesn't see in a machine of somebody else.
/// [`Failure::Work`] is about this disk alone.
async fn detach(session: &Session, api: &Api, machine: Option<&MachineNumber>, uuid: &str, limit: Duration) -> Result<(String, Option<String>)> {
    let machine = match machine {
        Some(machine) => machine.clone(),
        None => holder(api, uuid).await?,
    };
    let path = format!("{}/volumes/{uuid}", machine.path());
    // Afterwards nobody knows any more where it was.
    let device = match api.get(&path).await {
        Ok(member) => Some(device_of(&member)),
        // Somebody else's machine, of which only the volume is one's own.
        Err(ApiError::Refused { status: 403 | 404, .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let accepted = api.delete(&path).await?;
    let end = {
        let waiting = Waiting::start(&session.out, format!("detaching {uuid}"));
        wait_for_job(api, accepted.job.as_deref(), limit, &waiting).await?
    };
    match end {
        JobEnd::Success => Ok((machine.to_string(), device)),
        JobEnd::Failed(reason) => Err(Failure::Work(reason)),
        JobEnd::StillRunning => Err(Failure::Work(format!(
            "the machine has not given it up after {} s, the request stands; is it still mounted there?",
            limit.as_secs()
        ))),
    }
}

/// The machine that has a disk, by its number.
async fn holder(api: &Api, uuid: &str) -> Result<MachineNumber> {
    let volume: VolumeView = api.view(&format!("Volume/{uuid}")).await?;
    let Some(machine) = volume.attached_to else {
        return Err(Failure::Work("no machine has it".to_owned()));
    };
    let path = api.relative(&machine.href);
    match api.view::<MachineView>(&path).await {
        Ok(machine) => Ok(MachineNumber::of(&machine)),
        // One doesn't see the machine of somebody else who has one's volume, and can take that back all the same.
        Err(ApiError::Refused { status: 403 | 404, .. }) => {
            MachineNumber::read(&path).ok_or_else(|| Failure::Work(format!("{} has it, which is no machine", machine.href)))
        }
        Err(error) => Err(error.into()),
    }
}
