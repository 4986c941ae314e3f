//! `stratus start-instance`.

use crate::commands::action::{Action, act};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Start machines that are stopped, or let them go on that are paused or suspended
///
/// A stopped machine keeps its disks and address; it is started again from them.
/// A paused or suspended machine goes on where it was.
/// The command returns when the cloud has accepted the request; with --wait when it is done.
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus start-instance 7")]
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
        act(&session, &Action { verb: "start", force: false, limit }, &self.ids, &self.cloud).await
    }
}
