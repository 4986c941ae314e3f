//! `stratus image delete`.

use std::time::Duration;

use crate::cloud::{JobEnd, wait_for_job};
use crate::commands::each::each;
use crate::commands::image_name::Use;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::progress::Waiting;
use crate::session::Session;

/// How long clearing away is waited for.
const DELETION_LIMIT: Duration = Duration::from_secs(30);

/// Delete images
///
/// Prints 'DELETED IMAGE' for each. An image that machines run from is not deleted. One that is refused does not keep the others; it is
/// told, and the exit status is then not zero.
///
/// JSON: a list of the images that are deleted, as named.
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
        let outcome = each(&self.images, async |image| {
            let path = super::image_path(&api, image, Use::Remove).await?;
            let accepted = api.delete(&path).await?;
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
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        // Each that is deleted was told.
        outcome.shown()
    }
}
