//! `stratus doctor`: what is there that should not be, and what is missing.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::cloud::{Body, text_of};
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::printable;
use crate::session::Session;

/// How long the examination may take.
const EXAMINATION_LIMIT: Duration = Duration::from_secs(300);

/// Look for what was left over or lost, and repair it
///
/// For administrators. Compares the cloud's documents with processes, taps, cgroups, disk files, leases and firewall entries, and says
/// for each difference how to repair it; --repair does so. The exit status is 0 when nothing was found and 1 when something was.
///
/// JSON: {"findings": [{"kind", "what", "detail", "repair", "severity"}]}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Repair what can be repaired
    #[arg(long)]
    repair: bool,
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
        let api = session.api(&self.cloud)?.with_timeout(EXAMINATION_LIMIT);
        let path = if self.repair { "/stratus/doctor?repair=true" } else { "/stratus/doctor" };
        let report = api.send(Method::POST, path, Body::Empty).await?.body;
        let findings = report.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
        if session.out.is_json() {
            session.out.json(&report)?;
        } else if findings.is_empty() {
            session.out.line("Nothing lost, nothing left over.")?;
        }
        for finding in findings.iter().filter(|_| !session.out.is_json()) {
            let member = |name: &str| printable(&finding.get(name).map(text_of).unwrap_or_default());
            session.out.line(format_args!("{} {}: {}: {}", member("severity"), member("kind"), member("what"), member("detail")))?;
            session.out.line(format_args!("\trepair: {}", member("repair")))?;
        }
        if findings.is_empty() { Ok(()) } else { Err(Failure::Exit(1)) }
    }
}
