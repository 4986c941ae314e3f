//! `stratus suspend-instance`.

use crate::commands::action::{Action, act};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Write the memory of machines to disk and end their processes
///
/// A suspended machine uses no CPU and no memory of its host; it keeps its disks, address and volumes.
/// `stratus start-instance` lets it go on where it was; `stop-instance` and `restart-instance` give its memory up.
/// The command returns when the cloud has accepted the request; with --wait when it is done.
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus suspend-instance 7")]
pub struct Arguments {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
    /// Wait until it is done, for --timeout seconds at most
    #[arg(long)]
    wait: bool,
    /// Seconds to wait [default: 300]
    #[arg(long, value_name = "SECONDS", default_value_t = 300, hide_default_value = true)]
    timeout: u64,
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
        let limit = self.wait.then(|| std::time::Duration::from_secs(self.timeout));
        act(&session, &Action { verb: "suspend", force: false, limit }, &self.ids, &self.cloud).await
    }
}
