//! `stratus upload-metadata`: a signed description goes to a Marketplace.

use std::path::PathBuf;

use marketplace::{Entry, Metadata};

use super::metadata_file::metadata_file;
use crate::cloud::{Marketplace, Uploaded};
use crate::failure::{Failure, Result};
use crate::options::{self, Common};
use crate::output::printable;
use crate::session::Session;

/// Publish a signed description of an image in a Marketplace
///
/// What is no signed description, or was altered since, is not sent. Prints the address of the entry. Where the Marketplace asks the endorser first, the entry appears when the link in the mail was followed.
///
/// JSON: {"url", "state"}; state is "created", "waiting" (for the endorser) or "known" (it was there before).
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
        let (file, document) = metadata_file(self.file.as_ref(), "Please specify an image manifest", |path| {
            format!("Image manifest does not exist: {}", path.display())
        })?;
        // Whatever is in the file would be at a stranger's.
        Entry::verify(&document).map_err(|error| {
            let name = file.display();
            Failure::Work(format!("'{name}' is no description that a Marketplace takes, and was not sent: {}", printable(&error.to_string())))
                .with_hint(format!("stratus sign-metadata {name} signs a description; stratus validate-metadata {name} checks it."))
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
    let published = Published::send(marketplace, document).await?;
    if session.out.is_json() {
        return session.out.json(&serde_json::json!({ "url": published.url, "state": published.state() }));
    }
    session.out.line(&published.url)?;
    published.say_who_is_waited_for(session);
    Ok(())
}

/// A document that a Marketplace took.
pub(super) struct Published {
    /// Where it is, or will be.
    pub(super) url: String,
    uploaded: Uploaded,
    /// Who has to confirm.
    waits_for: Option<String>,
}

impl Published {
    /// Uploads it.
    ///
    /// # Errors
    /// As [`Marketplace::upload`].
    pub(super) async fn send(marketplace: &Marketplace, document: &[u8]) -> Result<Self> {
        let uploaded = marketplace.upload(document).await?;
        let metadata = Metadata::parse(document).ok();
        let endorsement = metadata.as_ref().and_then(|metadata| metadata.endorsement.as_ref());
        let url = match (&metadata, endorsement) {
            (Some(metadata), Some(endorsement)) => {
                marketplace.url(&format!("{}/{}/{}", metadata.identifier, endorsement.email, endorsement.created))
            }
            _ => marketplace.url(""),
        };
        let waits_for = endorsement.filter(|_| uploaded == Uploaded::Waiting).map(|endorsement| endorsement.email.clone());
        Ok(Self { url, uploaded, waits_for })
    }

    /// `created`, or `waiting` for its endorser.
    pub(super) fn state(&self) -> &'static str {
        match self.uploaded {
            Uploaded::Waiting => "waiting",
            Uploaded::Known(_) => "known",
            Uploaded::Created => "created",
        }
    }

    /// Tells that there is a letter to be answered.
    pub(super) fn say_who_is_waited_for(&self, session: &Session) {
        if let Some(email) = &self.waits_for {
            session.out.step(format_args!("The Marketplace waits for a confirmation: follow the link in the mail to {email}"));
        }
        if let Uploaded::Known(said) = &self.uploaded {
            session.out.step(format_args!("It was there already, and nothing was changed: {}", printable(said)));
        }
    }
}
