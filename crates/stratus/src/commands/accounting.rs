//! `stratus accounting …`: who used what from when to when.

use std::collections::{BTreeMap, HashMap};

use cimi::Timestamp;
use clap::Subcommand;
use serde_json::{Value, json};

use super::usage_formats;
use crate::cloud::text_of;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::Format;
use crate::session::Session;

/// Show who used what from when to when
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Export(Export),
}

/// Write out what was used in a period: machines while they ran, their disks, addresses, volumes, images
///
/// Administrators see all users, others what they used themselves. Each use is told whole, 'hours' is what lies in the period; what goes on still has no end. Records stay when what was used, and who used it, are gone.
#[derive(Debug, clap::Args)]
#[command(mut_arg("format", |format| format.help("How it is written: csv, json or xml [default: csv]")), after_help = "A time is 2026-01-31 (its first moment, UTC) or 2026-01-31T12:00:00Z. --from is included, --to is not.

Formats: csv, one line a use. json, a list of the same. xml, StratusLab's usagerecord for each user.

Examples:
  stratus accounting export --from 2026-01-01 --to 2026-02-01 > january.csv
  stratus accounting export --from 2026-01-01 --format xml --user joe
  stratus accounting export --from 2026-01-01 --group physics")]
struct Export {
    /// What ended before is left out
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// What began then or later is left out; not given: until now
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// Of this user only
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    user: Option<String>,
    /// Of those only who are members of this group now (for administrators)
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

fn time(text: &str) -> std::result::Result<Timestamp, String> {
    let whole = format!("{text}T00:00:00Z");
    let day = (text.len() == 10).then_some(whole.as_str());
    day.unwrap_or(text).parse().map_err(|_| "is not a time such as 2026-01-31 or 2026-01-31T12:00:00Z".to_owned())
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Export(export) => &export.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Export(export) => export.run().await,
        }
    }
}

impl Export {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let to = self.to.unwrap_or_else(Timestamp::now);
        let from = self.from.unwrap_or(Timestamp::from_millis(0));
        if from >= to {
            return Err(Failure::Check(format!("the period is empty: --to {to} is not after --from {from}")));
        }
        let encoded = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut asked = format!("/stratus/accounting?from={}&to={}", encoded(&from.to_string()), encoded(&to.to_string()));
        if let Some(user) = &self.user {
            asked.push_str(&format!("&user={}", encoded(user)));
        }
        if let Some(group) = &self.group {
            asked.push_str(&format!("&group={}", encoded(group)));
        }
        // What ends while it is read is told twice, first as going on.
        let mut uses: Vec<Value> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut next = None::<String>;
        loop {
            let path = next.as_ref().map_or_else(|| asked.clone(), |next| format!("{asked}&after={}", encoded(next)));
            let mut page = api.get(&path).await?;
            let Some(Value::Array(read)) = page.get_mut("uses").map(Value::take) else {
                return Err(Failure::Work("the cloud answered without uses".to_owned()));
            };
            for used in read {
                let id = used.get("id").map(text_of).unwrap_or_default();
                match places.get(&id).and_then(|place| uses.get_mut(*place)) {
                    Some(earlier) => *earlier = used,
                    None => {
                        places.insert(id, uses.len());
                        uses.push(used);
                    }
                }
            }
            next = page.get("next").map(text_of);
            if next.is_none() {
                break;
            }
        }
        uses.sort_by_cached_key(|used| ["user", "start", "id"].map(|name| used.get(name).map(text_of).unwrap_or_default()));
        match self.common.format {
            Format::Json => session.out.json(&json!(uses)),
            Format::Csv | Format::Table => session.out.bytes(usage_formats::csv(&uses).as_bytes()),
            Format::Xml => {
                let mut by_user: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
                for used in &uses {
                    by_user.entry(used.get("user").map(text_of).unwrap_or_default()).or_default().push(used);
                }
                session.out.bytes(usage_formats::xml(&by_user, from, to).as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_read() {
        assert_eq!(time("2026-01-31").map(|time| time.to_string()), Ok("2026-01-31T00:00:00.000Z".to_owned()));
        assert_eq!(time("2026-01-31T12:00:00+01:00").map(|time| time.to_string()), Ok("2026-01-31T11:00:00.000Z".to_owned()));
        for wrong in ["", "yesterday", "2026-13-01", "2026-1-1"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
