//! `stratus image delete`.

use std::time::Duration;

use crate::cloud::{JobEnd, wait_for_job};
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::progress::Waiting;
use crate::session::Session;

/// How long clearing away is waited for.
const DELETION_LIMIT: Duration = Duration::from_secs(30);

/// Delete images
///
/// Prints 'DELETED IMAGE' for each. An image that machines run from is not deleted; the first refusal ends the command.
///
/// JSON: a list of the images as named.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Identifiers, UUIDs or names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
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
        for image in &self.images {
            let accepted = api.delete(&super::image_path(&api, image).await?).await?;
            let end = {
                let waiting = Waiting::start(&session.out, format!("deleting {image}"));
                wait_for_job(&api, accepted.job.as_deref(), DELETION_LIMIT, &waiting).await?
            };
            match end {
                JobEnd::Failed(reason) => return Err(Failure::Work(format!("image {image} could not be deleted: {reason}"))),
                JobEnd::StillRunning => session.out.warning(format_args!("Image {image} is still being cleared away.")),
                JobEnd::Success => {}
            }
            if !session.out.is_json() {
                session.out.line(format_args!("DELETED {image}"))?;
            }
        }
        if session.out.is_json() { session.out.json(&self.images) } else { Ok(()) }
    }
}
