//! `stratus create-volume`: a persistent disk.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{JobEnd, VolumeView, wait_for_job};
use crate::commands::update_volume::check_tag;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common, Storage};
use crate::progress::Waiting;
use crate::session::Session;

/// How long the disk is waited for; after that it is told and goes on being made.
const CREATION_LIMIT: Duration = Duration::from_secs(30);

/// Create a persistent disk
///
/// Prints 'DISK UUID'. The disk is empty; attach it to a machine (attach-volume, or run-instance --persistent-disk), make a file
/// system on it there and keep data on it that outlives the machine.
///
/// JSON: {"uuid", "uri", "tag", "size" (GiB), "visibility"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus create-volume --size 10 --tag results
  UUID=$(stratus create-volume -s 1 --format json | jq -r .uuid)")]
pub struct Arguments {
    /// Size in GiB, 1 to 1024 [key: volume_size]
    #[arg(short, long, value_name = "GiB", allow_hyphen_values = true)]
    size: Option<String>,
    /// A name of 40 characters at most [key: volume_tag]
    #[arg(short, long, value_name = "TAG")]
    tag: Option<String>,
    /// For you alone (the default)
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Others may see and use it
    #[arg(long)]
    public: bool,
    /// Copy-on-write copy of another disk; not offered yet [key: origin_uuid]
    #[arg(long, value_name = "UUID")]
    cow: Option<String>,
    /// Independent copy of a copy-on-write disk; not offered yet [key: rebase_uuid]
    #[arg(long, value_name = "UUID")]
    rebase: Option<String>,
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
        let (out, settings) = (&session.out, &session.settings);
        if settings.text(self.cow.as_deref(), "origin_uuid").or_else(|| settings.text(self.rebase.as_deref(), "rebase_uuid")).is_some() {
            return Err(Failure::Check("copies of disks (--cow, --rebase) are not offered by this cloud yet".to_owned()));
        }
        let size_gib = size_of(settings.text(self.size.as_deref(), "volume_size").as_deref())?;
        let tag = settings.text(self.tag.as_deref(), "volume_tag").unwrap_or_default();
        check_tag(&tag).map_err(Failure::Check)?;
        let api = session.storage_api(&self.storage, &self.cloud)?;
        // Kilobytes of 1000 bytes, rounded up: never smaller than asked for.
        let capacity = (size_gib << 30).div_ceil(1000);
        let mut body = json!({
            "resourceURI": "http://schemas.dmtf.org/cimi/1/VolumeCreate",
            "volumeTemplate": { "volumeConfig": { "type": "http://schemas.dmtf.org/cimi/1/mapped", "capacity": capacity } },
        });
        if !tag.is_empty() {
            body["name"] = tag.into();
        }
        if self.public {
            body["visibility"] = "PUBLIC".into();
        }
        let accepted = api.post("Volume", &body).await?;
        let volume: VolumeView = api.viewed("Volume", accepted.body)?;
        let uuid = match volume.uuid() {
            "" => accepted.location.as_deref().and_then(|location| location.rsplit('/').next()).unwrap_or_default(),
            uuid => uuid,
        };
        let end = {
            let waiting = Waiting::start(out, "creating the disk");
            wait_for_job(&api, accepted.job.as_deref(), CREATION_LIMIT, &waiting).await?
        };
        if let JobEnd::Failed(reason) = end {
            return Err(Failure::Work(format!("disk {uuid} could not be made: {reason}")));
        }
        if end == JobEnd::StillRunning {
            out.warning(format_args!("Disk {uuid} is still being made; stratus describe-volumes -v tells."));
        }
        if out.is_json() {
            let visibility = if self.public { "PUBLIC" } else { "PRIVATE" };
            return out.json(&json!({ "uuid": uuid, "uri": format!("Volume/{uuid}"), "tag": volume.name, "size": size_gib, "visibility": visibility }));
        }
        out.line(format_args!("DISK {uuid}"))
    }
}

fn size_of(text: Option<&str>) -> Result<u64> {
    let missing = || Failure::Check("Missing mandatory -s/--size option".to_owned());
    let text = text.map(str::trim).ok_or_else(missing)?;
    if text == "0" {
        return Err(missing().with_hint("A size of 0 is taken for none: give GiB from 1 to 1024."));
    }
    let size = text.parse().ok().filter(|size| (1..=1024).contains(size));
    size.ok_or_else(|| Failure::Check("Volume size must be a valid integer between 1 and 1024".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_1_to_1024() {
        assert_eq!(size_of(Some("1024")).unwrap(), 1024);
        for missing in [None, Some("0")] {
            assert_eq!(size_of(missing).unwrap_err().to_string(), "Missing mandatory -s/--size option");
        }
        for wrong in ["1025", "-1", "1.5", "x", ""] {
            assert_eq!(size_of(Some(wrong)).unwrap_err().to_string(), "Volume size must be a valid integer between 1 and 1024", "{wrong}");
        }
    }
}
