//! `stratus shutdown-instance`: machines shut down, then removed.

use crate::commands::removal::{self, Machines, Removal};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Shut machines down, then remove them
///
/// Presses the power button of the machine; when its system has stopped, everything it had is released as with kill-instance. The disk of
/// one that was started with --save, or by create-image, is saved first as a new image of yours.
/// A guest that does not listen is switched off after the cloud's time limit. To only stop a machine and keep it: stop-instance.
/// The command returns when the cloud has accepted the request, and says nothing on success (-v does); with --wait when the
/// machines are gone. One that is gone already is told and is no failure. With several, one that is refused or not there does not keep
/// the others; it is told, and the exit status is then not zero.
///
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus shutdown-instance 7")]
pub struct Arguments {
    #[command(flatten)]
    machines: Machines,
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
        removal::remove(&session, Removal::Shutdown, &self.machines, &self.cloud).await
    }
}
