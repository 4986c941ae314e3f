//! `stratus kill-instance`: machines removed at once.

use std::path::PathBuf;

use crate::commands::removal::{self, Removal};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Remove machines at once
///
/// The machine is switched off without asking it and everything it had is released: disks, address, and what was written to
/// its root and volatile disks. Persistent volumes stay. See shutdown-instance for the polite way.
/// The command returns when the cloud has accepted the request. Says nothing on success (-v does).
///
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus kill-instance 7 8
  stratus run-instance -n 3 -o ids IMAGE && stratus kill-instance -i ids")]
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
        removal::remove(&session, Removal::Kill, &self.ids, self.input.as_deref(), &self.cloud).await
    }
}
