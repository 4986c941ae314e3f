//! `stratus update-volume`: what is told about a persistent disk, and its size.

use serde_json::{Map, Value, json};

use crate::cloud::VolumeView;
use crate::commands::volume_id::volume_uuid;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common, Storage};
use crate::session::Session;

/// The longest tag.
const TAG_MAX_CHARS: usize = 40;

/// Change tag, visibility, type or size of a persistent disk
///
/// Only what is given is changed; with nothing given nothing is asked of the cloud, and a warning says so. Prints nothing else.
/// A disk can be made larger, not smaller; what is on it (partitions, file systems) must then be grown in the machine.
///
/// JSON: the disk as in describe-volumes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus update-volume --tag 'new tag' --public UUID
  stratus update-volume --size 20 UUID")]
pub struct Arguments {
    /// UUID of the disk
    #[arg(value_name = "uuid")]
    uuids: Vec<String>,
    /// A name of 40 characters at most
    #[arg(short, long, value_name = "TAG")]
    tag: Option<String>,
    /// For you alone
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Others may see and use it
    #[arg(long)]
    public: bool,
    /// New size in GiB, larger than before
    #[arg(short, long, value_name = "GiB")]
    size: Option<u64>,
    #[command(flatten)]
    kind: Kind,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// The types that StratusLab gives to disks.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Type of the disk")]
struct Kind {
    /// Image of a machine, never written to
    #[arg(long)]
    machine_image_origin: bool,
    /// Image of a machine that a machine runs from
    #[arg(long)]
    machine_image_live: bool,
    /// Data, never written to
    #[arg(long)]
    data_image_origin: bool,
    /// Copy-on-write copy of data
    #[arg(long)]
    data_image_live: bool,
    /// Data that is only read
    #[arg(long)]
    data_image_raw_readonly: bool,
    /// Data that is read and written
    #[arg(long)]
    data_image_raw_read_write: bool,
}

impl Kind {
    fn name(&self) -> Option<&'static str> {
        [
            (self.machine_image_origin, "MACHINE_IMAGE_ORIGIN"),
            (self.machine_image_live, "MACHINE_IMAGE_LIVE"),
            (self.data_image_origin, "DATA_IMAGE_ORIGIN"),
            (self.data_image_live, "DATA_IMAGE_LIVE"),
            (self.data_image_raw_readonly, "DATA_IMAGE_RAW_READONLY"),
            (self.data_image_raw_read_write, "DATA_IMAGE_RAW_READ_WRITE"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// The message for a tag that is too long.
pub(super) fn check_tag(tag: &str) -> std::result::Result<(), String> {
    if tag.chars().count() > TAG_MAX_CHARS { Err("Tags must have less than 40 characters".to_owned()) } else { Ok(()) }
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        if let Some(tag) = &self.tag {
            check_tag(tag).map_err(Failure::Usage)?;
        }
        let uuid = match self.uuids.as_slice() {
            [] => return Err(Failure::Check("A disk UUID must be supplied".to_owned())),
            [uuid] => volume_uuid(uuid).ok_or_else(|| Failure::Check(format!("Invalid UUID {uuid}")))?,
            _ => return Err(Failure::Check("Only one disk UUID can be specified".to_owned())),
        };
        let path = format!("Volume/{uuid}");
        let mut changes = Map::new();
        if let Some(tag) = &self.tag {
            changes.insert("name".to_owned(), json!(tag));
        }
        if self.public || self.private {
            changes.insert("visibility".to_owned(), json!(if self.public { "PUBLIC" } else { "PRIVATE" }));
        }
        if let Some(size_gib) = self.size {
            let bytes = size_gib.checked_mul(1 << 30).filter(|_| size_gib > 0).ok_or_else(|| Failure::Check(format!("{size_gib} GiB is not a size")))?;
            changes.insert("capacity".to_owned(), json!(bytes.div_ceil(1000)));
        }
        if changes.is_empty() && self.kind.name().is_none() {
            session.out.warning("Nothing to change: give --tag, --size, --private, --public, or a type of the disk.");
            return Ok(());
        }
        let api = session.storage_api(&self.storage, &self.cloud)?;
        if let Some(kind) = self.kind.name() {
            // The map is replaced as a whole, so the other properties go along.
            let mut properties = api.view::<VolumeView>(&path).await?.properties;
            properties.insert("type".to_owned(), kind.to_owned());
            changes.insert("properties".to_owned(), json!(properties));
        }
        let names: Vec<&str> = changes.keys().map(String::as_str).collect();
        let query = format!("{path}?$select={}", names.join(","));
        let accepted = api.put(&query, &Value::Object(changes)).await?;
        if session.out.is_json() {
            let volume: VolumeView = if accepted.body.is_null() { api.view(&path).await? } else { api.viewed(&path, accepted.body)? };
            return session.out.json(&super::describe_volumes::members(&volume));
        }
        Ok(())
    }
}
