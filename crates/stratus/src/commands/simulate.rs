//! `stratus simulate`: what a cloud of any size would do.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use simulator::{Scenario, simulate};

use crate::failure::{Failure, Result};
use crate::options::Common;

/// Largest scenario file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Simulate the placement of machines on hosts, in virtual time
///
/// Without a file: --hosts hosts of three kinds, to which --machines machines of three sizes come within an hour. Machines are placed by
/// what places them in a real cloud. Needs no cloud, and no more than this computer.
///
/// JSON: {"hosts", "machines", "hours", "placed", "running", "decisions", "waiting", "balance", "filled", "course"}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What is simulated: a TOML file as --example prints it
    #[arg(value_name = "SCENARIO")]
    scenario: Option<PathBuf>,
    /// How many hosts there are
    #[arg(long, value_name = "NUMBER", default_value_t = 100, conflicts_with = "scenario")]
    hosts: u32,
    /// How many machines come
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, conflicts_with = "scenario")]
    machines: u32,
    /// Another run of the same scenario
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the scenario instead of simulating it
    #[arg(long)]
    example: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let mut scenario = match &self.scenario {
            None => Scenario::of(self.hosts, self.machines),
            Some(path) => read(path)?,
        };
        if let Some(seed) = self.seed {
            scenario.seed = seed;
        }
        scenario.check().map_err(|error| Failure::Check(error.to_string()))?;
        if self.example {
            let text = scenario.text().map_err(|error| Failure::Work(error.to_string()))?;
            return out.bytes(text.as_bytes());
        }
        let quiet = out.quiet > 0;
        let report = tokio::task::spawn_blocking(move || {
            let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
            let bar = ProgressBar::with_draw_target(Some(1000), target);
            if let Ok(style) = ProgressStyle::with_template("simulating {bar:30} {percent}% {eta}") {
                bar.set_style(style);
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 0 to 1")]
            let report = simulate(&scenario, |share| bar.set_position((share * 1000.0) as u64));
            bar.finish_and_clear();
            report
        })
        .await
        .map_err(|error| Failure::Work(error.to_string()))?;
        if let Some(path) = &self.report {
            std::fs::write(path, report.page()).map_err(|error| Failure::Work(format!("{}: {error}", path.display())))?;
        }
        if out.is_json() { out.json(&report) } else { out.line(report) }
    }
}

fn read(path: &std::path::Path) -> Result<Scenario> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| Failure::Check(format!("{shown}: {error}"));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_MAX_BYTES {
        return Err(Failure::Check(format!("{shown} has {length} bytes; a scenario has at most {FILE_MAX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Scenario::parse(&text).map_err(|error| Failure::Check(format!("{shown}: {error}")))
}
