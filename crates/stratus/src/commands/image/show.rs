//! `stratus image show`.

use serde_json::Value;

use crate::cloud::text_of;
use crate::commands::image_name::Use;
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::output::printable;
use crate::session::Session;

/// Show everything that is known of an image
///
/// JSON: the image's document as the cloud gives it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Identifier, UUID or name
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Each with its name, however many they are.
fn named(properties: &Value) -> String {
    let all = properties.as_object().into_iter().flatten();
    let all: Vec<String> = all.map(|(name, value)| format!("{name}={}", text_of(value))).collect();
    all.join(", ")
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let document = api.get(&super::image_path(&api, &self.image, Use::Content).await?).await?;
        if session.out.is_json() {
            return session.out.json(&document);
        }
        let members = document.as_object().into_iter().flatten();
        let shown = members.filter(|(name, value)| !["resourceURI", "operations", "acl"].contains(&name.as_str()) && !value.is_null());
        for (name, value) in shown {
            let text = if name == "properties" { named(value) } else { text_of(value) };
            session.out.line(format_args!("{name}: {}", printable(&text)))?;
        }
        let with = super::share::shown(&document["acl"]);
        if !with.is_empty() {
            session.out.line(format_args!("shared with: {}", printable(&with)))?;
        }
        Ok(())
    }
}
