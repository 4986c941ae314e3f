//! `stratus attach-volume`: persistent disks into a running machine.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cloud::{Api, ApiError, JobEnd, MachineView, text_of, wait_for_job};
use crate::commands::machine_id::{MachineNumber, machine_named};
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result, WORK_FAILED};
use crate::options::{Cloud, Common, Storage};
use crate::progress::Waiting;
use crate::session::Session;

/// Attach persistent disks to a running machine
///
/// Prints 'ATTACHED UUID in VM ID on /dev/TARGET' for each when the machine has it. A disk that another machine has is reported
/// ('Disk not available') and the others are still tried; the exit status is then not zero.
///
/// JSON: a list of {"uuid", "machine", "device", "attached", "reason"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus attach-volume -i 7 UUID")]
pub struct Arguments {
    /// UUIDs of disks
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    /// Number or name of the machine [key: instance]
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

/// The device that a machine's member says, as a path.
pub(super) fn device_of(member: &Value) -> String {
    let text = |name: &str| member.get(name).map(text_of).filter(|text| !text.is_empty());
    let target = text("target").or_else(|| text("initialLocation")).unwrap_or_else(|| "?".to_owned());
    if target.starts_with("/dev/") { target } else { format!("/dev/{target}") }
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let out = &session.out;
        if self.uuids.is_empty() {
            return Err(Failure::Check("Please provide at least one persistent disk UUID to attach".to_owned()));
        }
        let uuids: Vec<String> =
            self.uuids.iter().map(|uuid| volume_uuid(uuid).ok_or_else(|| Failure::Check(format!("Invalid UUID {uuid}")))).collect::<Result<_>>()?;
        let instance = session.settings.text(self.instance.as_deref(), "instance");
        let instance = instance.ok_or_else(|| Failure::Check("Please provide the machine to attach to (-i/--instance)".to_owned()))?;
        let api = session.api(&self.cloud)?;
        let machine = machine_named(&api, &instance).await?;
        let view: MachineView = api.view(&machine.path()).await.map_err(|error| match error {
            ApiError::Refused { status: 404, message, .. } => Failure::Check(message),
            other => other.into(),
        })?;
        if view.phase.as_deref() != Some("Running") {
            return Err(Failure::Check(format!("VM {machine} is not in running state")));
        }
        let limit = Duration::from_secs(self.timeout);
        let mut results = Vec::new();
        let mut failed = false;
        let mut broken_off = None;
        for uuid in &uuids {
            match attach(&session, &api, &machine, uuid, limit).await {
                Ok(device) => {
                    if !out.is_json() {
                        out.line(format_args!("ATTACHED {uuid} in VM {machine} on {device}"))?;
                    }
                    results.push(json!({ "uuid": uuid, "machine": machine.to_string(), "device": device, "attached": true, "reason": null }));
                }
                Err(Failure::Work(reason)) => {
                    failed = true;
                    if !out.is_json() {
                        out.line(format_args!("DISK {uuid}: {reason}\n"))?;
                    }
                    results.push(json!({ "uuid": uuid, "machine": machine.to_string(), "device": null, "attached": false, "reason": reason }));
                }
                // What was done before is told all the same.
                Err(other) => {
                    broken_off = Some(other);
                    break;
                }
            }
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

/// Attaches one disk and waits for it; gives the device. [`Failure::Work`] is about this disk alone.
async fn attach(session: &Session, api: &Api, machine: &MachineNumber, uuid: &str, limit: Duration) -> Result<String> {
    let members = format!("{}/volumes", machine.path());
    let accepted = api.post(&members, &json!({ "volume": { "href": format!("Volume/{uuid}") } })).await?;
    let end = {
        let waiting = Waiting::start(&session.out, format!("attaching {uuid}"));
        wait_for_job(api, accepted.job.as_deref(), limit, &waiting).await?
    };
    let path = accepted.location.unwrap_or_else(|| format!("{members}/{uuid}"));
    match end {
        JobEnd::Success => Ok(device_of(&api.get(&path).await?)),
        JobEnd::Failed(reason) => Err(Failure::Work(reason)),
        JobEnd::StillRunning => Err(Failure::Work(format!(
            "not attached after {} s, the request stands; stratus describe-volumes -v {uuid} tells how it goes on",
            limit.as_secs()
        ))),
    }
}
