//! `stratus image update`: an image's name, and who may use it.

use serde_json::{Map, Value, json};

use crate::cloud::ImageView;
use crate::commands::image_name::Use;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Change the name of an image, or who may use it
///
/// Only what is given is changed. Machines that run from the image are not touched. Prints nothing.
///
/// JSON: the image as in 'image import'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image update --public debian-12
  stratus image update --private --name old-debian debian-12")]
pub struct Arguments {
    /// Identifier, UUID or name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// New name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Your word that nothing of its builder is left in it that the cloud could not remove
    #[arg(long)]
    cleaned: bool,
    /// For you alone
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Everybody may start machines from it
    #[arg(long)]
    public: bool,
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
        if self.name.as_deref().is_some_and(|name| name.trim().is_empty()) {
            return Err(Failure::Usage("an image can't be without a name: give one to --name".to_owned()));
        }
        let mut changes = Map::new();
        changes.extend(self.name.as_ref().map(|name| ("name".to_owned(), json!(name))));
        // Before it is made public.
        if self.cleaned {
            changes.insert("uncleaned".to_owned(), json!([]));
        }
        if self.public || self.private {
            changes.insert("visibility".to_owned(), json!(if self.public { "PUBLIC" } else { "PRIVATE" }));
        }
        if changes.is_empty() {
            return Err(Failure::Usage("Nothing to change: give --name, --public, --private or --cleaned".to_owned()));
        }
        let api = session.api(&self.cloud)?;
        let path = super::image_path(&api, &self.image, Use::Content).await?;
        let names: Vec<&str> = changes.keys().map(String::as_str).collect();
        let query = format!("{path}?$select={}", names.join(","));
        let accepted = api.put(&query, &Value::Object(changes)).await?;
        if session.out.is_json() {
            let image: ImageView = if accepted.body.is_null() { api.view(&path).await? } else { api.viewed(&path, accepted.body)? };
            return session.out.json(&super::as_json(&image));
        }
        Ok(())
    }
}
