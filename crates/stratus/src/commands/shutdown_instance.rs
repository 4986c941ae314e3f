//! `stratus shutdown-instance`: machines shut down, then removed.

use std::path::PathBuf;

use crate::commands::removal::{self, Removal};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Shut machines down, then remove them
///
/// Presses the power button of the machine; when its system has stopped, everything it had is released as with kill-instance.
/// A guest that does not listen is switched off after the cloud's time limit. To only stop a machine and keep it: stop-instance.
/// The command returns when the cloud has accepted the request. Says nothing on success (-v does).
///
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus shutdown-instance 7")]
pub struct Arguments {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
    /// File with numbers or names, one a line [key: in_vm_ids_file]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
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
        removal::remove(&session, Removal::Shutdown, &self.ids, self.input.as_deref(), &self.cloud).await
    }
}
