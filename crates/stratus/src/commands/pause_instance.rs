//! `stratus pause-instance`.

use crate::commands::action::{Action, act};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Halt machines where they are; their memory stays in the host's memory
///
/// A paused machine executes nothing and answers nobody, but keeps all it has; `stratus start-instance` lets it go on.
/// The command returns when the cloud has accepted the request; with --wait when it is done.
/// JSON: a list of the numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus pause-instance 7")]
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
        act(&session, &Action { verb: "pause", force: false, limit }, &self.ids, &self.cloud).await
    }
}
