//! Machines that become new images when they are shut down.

use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::session::Session;

/// A new image from the machine.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Saving as a new image")]
pub(in crate::commands) struct Saving {
    /// Save the machine's disk as a new image when it is shut down with shutdown-instance; needs the options below [key: save_disk]
    #[arg(long)]
    pub(in crate::commands) save: bool,
    /// Author of the new image
    #[arg(long)]
    pub(in crate::commands) author: Option<String>,
    /// Mail address of the author, who is told when the image is there
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::commands) author_email: Option<String>,
    /// Version of the new image
    #[arg(long, value_name = "VERSION")]
    pub(in crate::commands) image_version: Option<String>,
    /// Title of the new image
    #[arg(long)]
    pub(in crate::commands) title: Option<String>,
    /// Description of the new image
    #[arg(long)]
    pub(in crate::commands) comment: Option<String>,
    /// Marketplace that takes the temporary entry, one that the cloud knows [default: the cloud's; key: marketplace_endpoint_newimage]
    #[arg(long, value_name = "URL")]
    pub(in crate::commands) marketplace_endpoint_newimage: Option<String>,
}

/// Whether a letter can be sent to whom it names.
///
/// # Errors
/// [`Failure::Usage`].
pub(in crate::commands) fn check_author_email(address: Option<&str>) -> Result {
    let is_address = |address: &str| {
        let parts = address.split_once('@');
        parts.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()) && !address.contains(char::is_whitespace)
    };
    match address.map(str::trim) {
        Some(address) if !is_address(address) => Err(Failure::Usage(format!(
            "--author-email: '{address}' is no mail address, which is the like of ann@example.org"
        ))),
        _ => Ok(()),
    }
}

impl Saving {
    /// What is missing, in the order of the contract.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let wanted = [
            (&self.author, "--author"),
            (&self.author_email, "--author-email"),
            (&self.image_version, "--image-version"),
            (&self.title, "--title"),
            (&self.comment, "--comment"),
        ];
        wanted
            .into_iter()
            .filter_map(|(value, name)| value.is_none().then_some(name))
            .collect()
    }

    /// What the machine's template says of it.
    pub(in crate::commands) fn template(&self, session: &Session) -> Value {
        let mut save = json!({});
        let marketplace = session.settings.text(
            self.marketplace_endpoint_newimage.as_deref(),
            "marketplace_endpoint_newimage",
        );
        for (name, value) in [
            ("author", &self.author),
            ("authorEmail", &self.author_email),
            ("version", &self.image_version),
            ("title", &self.title),
            ("comment", &self.comment),
            ("marketplace", &marketplace),
        ] {
            if let Some(value) = value {
                save[name] = json!(value);
            }
        }
        save
    }
}

/// Refuses a version of an image that can't be one, such as an option that was taken for its value.
///
/// # Errors
/// [`Failure::Usage`].
pub(in crate::commands) fn check_version(version: &str) -> Result {
    if version.is_empty() || version.starts_with(|first: char| first.is_alphanumeric()) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "'{version}' is no version: --image-version takes one that begins with a letter or a digit, such as 1.2"
    )))
}

/// The name that machines get which are started to make an image.
pub(in crate::commands) fn creator_name() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    let now = jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |now| now.to_string());
    format!("creator: {now}")
}
