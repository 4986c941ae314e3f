//! `stratus upload-metadata`: a signed description goes to a Marketplace.

use std::path::PathBuf;

use marketplace::Metadata;

use super::metadata_file::metadata_file;
use crate::cloud::{Marketplace, Uploaded};
use crate::failure::Result;
use crate::options::{self, Common};
use crate::session::Session;

/// Publish a signed description of an image in a Marketplace
///
/// Prints the address of the entry. Where the Marketplace asks the endorser first, the entry appears when the link in the mail was followed.
///
/// JSON: {"url", "state"}; state is "created" or "waiting" (for the endorser).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus upload-metadata --marketplace-endpoint https://marketplace.example.org ubuntu-24.04-x86_64-base-1.0.xml")]
pub struct Arguments {
    /// The signed description
    #[arg(value_name = "metadata-file")]
    file: Option<PathBuf>,
    #[command(flatten)]
    marketplace: options::Marketplace,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let (_, document) = metadata_file(self.file.as_ref(), "Please specify an image manifest", |path| {
            format!("Image manifest does not exist: {}", path.display())
        })?;
        let marketplace = Marketplace::of(&session, &self.marketplace)?;
        publish(&session, &marketplace, &document).await
    }
}

/// Uploads a document and says where it is. Whether it is accepted is the Marketplace's to say.
///
/// # Errors
/// As [`Marketplace::upload`].
pub(super) async fn publish(session: &Session, marketplace: &Marketplace, document: &[u8]) -> Result {
    let uploaded = marketplace.upload(document).await?;
    let metadata = Metadata::parse(document).ok();
    let endorsement = metadata.as_ref().and_then(|metadata| metadata.endorsement.as_ref());
    let url = match (&metadata, endorsement) {
        (Some(metadata), Some(endorsement)) => marketplace.url(&format!("{}/{}/{}", metadata.identifier, endorsement.email, endorsement.created)),
        _ => marketplace.url(""),
    };
    if session.out.is_json() {
        let state = if uploaded == Uploaded::Waiting { "waiting" } else { "created" };
        return session.out.json(&serde_json::json!({ "url": url, "state": state }));
    }
    session.out.line(url)?;
    if let (Uploaded::Waiting, Some(endorsement)) = (uploaded, endorsement) {
        session.out.step(format_args!("The Marketplace waits for a confirmation: follow the link in the mail to {}", endorsement.email));
    }
    Ok(())
}
