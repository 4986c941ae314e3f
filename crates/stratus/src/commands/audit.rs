//! `stratus audit`: who did what.

use serde_json::Value;

use crate::cloud::text_of;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// Show who did what to which resource, from where, with what result
///
/// For administrators. A line is a request that changed something, or was refused; the newest are at the end. A name in (parentheses) is of somebody who could not log in. JSON: a list of {"time", "requestId", "user", "token", "claimed", "address", "method", "path", "made", "status", "outcome", "others"}. A status 'timeout' is of a request that ran into its time limit: what it wanted may have been done. '403 (+812)' stands for 812 more that were refused in the same minute.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus audit
  stratus audit --last 1000 --user joe
  stratus audit --last 10000 --format json | jq '.[] | select(.status == 403)'")]
pub struct Arguments {
    /// How many of the newest entries
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
    /// Only what this user did, logins with a wrong password included
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
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
        let api = session.api(&self.cloud)?;
        let mut path = format!("/stratus/audit?last={}", self.last);
        if let Some(user) = &self.user {
            let user = percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC);
            path.push_str(&format!("&user={user}"));
        }
        let answer = api.get(&path).await?;
        let Some(Value::Array(entries)) = answer.get("entries") else {
            return Err(Failure::Work("the cloud answered without entries".to_owned()));
        };
        if session.out.is_json() {
            return session.out.json(entries);
        }
        let rows = entries.iter().map(|entry| {
            let text = |name: &str| entry.get(name).map(text_of).unwrap_or_default();
            let who = match (text("user"), text("claimed")) {
                (user, _) if !user.is_empty() => user,
                (_, claimed) if !claimed.is_empty() => format!("({claimed})"),
                // Whoever had the letter.
                _ => text("authenticatedBy"),
            };
            let what = Some(text("about")).filter(|about| !about.is_empty()).unwrap_or_else(|| text("path"));
            let status = match (text("outcome"), text("others")) {
                (outcome, _) if outcome == "unknown" => "timeout".to_owned(),
                (_, others) if !others.is_empty() => format!("{} (+{others})", text("status")),
                _ => text("status"),
            };
            vec![text("time"), who, text("address"), text("method"), what, status, text("made")]
        });
        session.out.line(table::render(&["TIME", "USER", "FROM", "METHOD", "WHAT", "STATUS", "MADE"], rows))
    }
}
