//! `stratus describe-volumes`: persistent disks.

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::cloud::{Api, MachineView, VolumeView, text_of};
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common, Storage};
use crate::output::printable;
use crate::session::Session;

/// Members that are shown without being asked for.
const SHOWN: [&str; 6] = ["count", "owner", "tag", "size", "visibility", "machine"];

/// Show persistent disks
///
/// Without arguments all disks that you may see; with UUIDs these. A filter NAME:VALUE keeps the disks whose member NAME matches the
/// regular expression VALUE anywhere; of several filters all must match. Names: uuid, tag, count (machines that have it), owner,
/// size (GiB), visibility, machine (the number of the one that has it), state, type, attached, reason. With -v all members are shown.
///
/// UUIDs are such a filter, too: where no disk is left, also of a UUID that is none's, this is said and the status is 0. A script
/// looks at the JSON: an empty list.
///
/// JSON: a list of {"uuid", "tag", "count", "owner", "size", "visibility", "machine", "state", "type", "attached", "reason"}; size,
/// count and machine are numbers, attached is the machine's URI.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus describe-volumes
  stratus describe-volumes --filter tag:^results --filter count:0")]
pub struct Arguments {
    /// UUIDs of disks
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    /// Show only disks whose member matches; repeatable
    #[arg(short, long = "filter", value_name = "NAME:VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// What is known of a disk, under the names of the contract.
pub(super) fn members(volume: &VolumeView) -> Map<String, Value> {
    let attached = volume.attached_to.as_ref().map(|machine| machine.href.as_str());
    let all = json!({
        "uuid": volume.uuid(), "count": volume.count.unwrap_or(0), "owner": volume.owner, "tag": volume.name.as_deref().unwrap_or_default(),
        "size": volume.size, "visibility": volume.visibility, "state": volume.state, "type": volume.properties.get("type"),
        "attached": attached, "reason": volume.reason,
    });
    if let Value::Object(members) = all { members } else { Map::new() }
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let out = &session.out;
        let filters: Vec<(String, Regex)> = self.filters.iter().map(|filter| parse_filter(filter)).collect::<Result<_>>()?;
        let uuids: Vec<String> = self
            .uuids
            .iter()
            .map(|uuid| volume_uuid(uuid).ok_or_else(|| Failure::Check(format!("Invalid UUID {uuid}"))))
            .collect::<Result<_>>()?;
        let api = session.storage_api(&self.storage, &self.cloud)?;
        let volumes: Vec<VolumeView> = api.views("Volume").await?;
        let machines = machines_of(&api, &volumes).await?;
        let chosen: Vec<Map<String, Value>> = volumes
            .iter()
            .filter(|volume| uuids.is_empty() || uuids.iter().any(|uuid| uuid == volume.uuid()))
            .map(|volume| {
                let mut members = members(volume);
                let of = |machine: &&MachineView| volume.attached_to.as_ref().is_some_and(|attached| attached.href == machine.id);
                members.insert("machine".to_owned(), json!(machines.iter().find(of).and_then(|machine| machine.vmid)));
                members
            })
            .filter(|members| filters.iter().all(|(name, value)| members.get(name).is_some_and(|member| !member.is_null() && value.is_match(&text_of(member)))))
            .collect();
        if out.is_json() {
            return out.json(&chosen);
        }
        if chosen.is_empty() {
            return out.line("No disk to show");
        }
        for disk in &chosen {
            out.line(format_args!(":: DISK {}", disk.get("uuid").map(text_of).unwrap_or_default()))?;
            let others = disk.iter().filter(|(name, _)| *name != "uuid" && !SHOWN.contains(&name.as_str()) && out.verbose > 0);
            for (name, value) in SHOWN.iter().filter_map(|name| disk.get_key_value(*name)).chain(others).filter(|(_, value)| !value.is_null()) {
                out.line(format_args!("\t{name}: {}", printable(&text_of(value))))?;
            }
        }
        Ok(())
    }
}

/// The machines, if some volume is at one.
async fn machines_of(api: &Api, volumes: &[VolumeView]) -> Result<Vec<MachineView>> {
    if volumes.iter().all(|volume| volume.attached_to.is_none()) {
        return Ok(Vec::new());
    }
    Ok(api.views("Machine").await?)
}

fn parse_filter(text: &str) -> Result<(String, Regex)> {
    let invalid = |problem: &str| Failure::Usage(format!("the filter '{text}' is not usable: {problem}"));
    let (name, value) = text.split_once(':').ok_or_else(|| invalid("write NAME:VALUE"))?;
    let value = Regex::new(value).map_err(|error| invalid(&error.to_string()))?;
    Ok((name.trim().to_owned(), value))
}
