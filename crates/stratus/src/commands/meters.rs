//! `stratus meters`.

use serde_json::Value;

use crate::commands::each::each;
use crate::commands::machine_id::MachineNames;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// Show what machines use: CPU, memory, disks, network
///
/// The cloud looks every ten seconds and keeps half an hour. NOW is the mean of the last ten seconds, LEAST and MOST are of
/// all that is kept. A machine that has just been started has no figures yet.
/// JSON: a list of the meters with all their samples.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus meters web")]
pub struct Arguments {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
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
        if self.ids.is_empty() {
            return Err(Failure::Usage("Missing vm-id".to_owned()));
        }
        let api = session.api(&self.cloud)?;
        let mut all = Vec::new();
        let mut rows = Vec::new();
        let names = MachineNames::of(&api);
        let outcome = each(&self.ids, async |id| {
            let machine = names.find(id).await?;
            let answer = api.get(&format!("{}/meters", machine.path())).await?;
            for meter in answer["meters"].as_array().into_iter().flatten() {
                let text = |name: &str| meter[name].as_str().unwrap_or_default().to_owned();
                let last = meter["samples"].as_array().and_then(|samples| samples.last());
                rows.push(vec![
                    machine.to_string(),
                    text("name"),
                    shown(last.map_or(&Value::Null, |sample| &sample["value"])),
                    shown(&meter["minValue"]),
                    shown(&meter["maxValue"]),
                    text("units"),
                ]);
                all.push(meter.clone());
            }
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&all)?;
        } else if !outcome.done.is_empty() {
            session.out.line(table::render(&["ID", "METER", "NOW", "LEAST", "MOST", "UNITS"], rows))?;
        }
        outcome.shown()
    }
}

/// Whole numbers, but for small ones.
fn shown(value: &Value) -> String {
    match value.as_f64() {
        None => String::new(),
        Some(value) if value.abs() < 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}
