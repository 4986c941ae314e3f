//! `stratus image list`.

use crate::cloud::ImageView;
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// List the images that you may use
///
/// JSON: a list of {"identifier", "uri", "name", "state", "reason", "format", "virtualSize" (bytes), "visibility", "owner", "progress"}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Also what only belongs to images, such as kernels
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut images: Vec<ImageView> = api.views("MachineImage").await?;
        images.retain(|image| self.all || image.kind.as_deref() != Some("FILE"));
        images.sort_by(|left, right| left.name.cmp(&right.name));
        if session.out.is_json() {
            return session.out.json(&images.iter().map(super::as_json).collect::<Vec<_>>());
        }
        let rows = images.into_iter().map(|image| {
            let state = image.state.unwrap_or_default();
            let state = match image.progress {
                Some(percent) if state == "CREATING" => format!("{state} {percent:.0} %"),
                _ => state,
            };
            vec![
                image.identifier.unwrap_or_else(|| image.id.trim_start_matches("MachineImage/").to_owned()),
                image.name.unwrap_or_default(),
                state,
                image.format.unwrap_or_default(),
                image.virtual_size.map(table::shown_bytes).unwrap_or_default(),
                image.visibility.unwrap_or_default().to_lowercase(),
                image.owner.unwrap_or_default(),
            ]
        });
        session.out.line(table::render(&["IDENTIFIER", "NAME", "STATE", "FORMAT", "SIZE", "VISIBILITY", "OWNER"], rows))
    }
}
