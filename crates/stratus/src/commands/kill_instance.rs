//! `stratus kill-instance`: machines removed at once.

use crate::commands::removal::{self, Machines, Removal};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Remove machines at once
///
/// The machine is switched off without asking it and everything it had is released: disks, address, and what was written to
/// its root and volatile disks. Persistent volumes stay. See shutdown-instance for the polite way.
/// The command returns when the cloud has accepted the request, and says nothing on success (-v does); with --wait when the
/// machines are gone. One that is gone already is told and is no failure. With several, one that is refused or not there does not keep
/// the others; it is told, and the exit status is then not zero.
///
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus kill-instance 7 8
  stratus run-instance -n 3 -o ids IMAGE && stratus kill-instance -i ids")]
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
        removal::remove(&session, Removal::Kill, &self.machines, &self.cloud).await
    }
}
