//! `stratus config`: StratusLab's file of a whole cloud, shown and changed.

use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::json;

use crate::config::{SiteFile, SiteKey};
use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::output::Output;

/// Show and set the keys of StratusLab's file of a whole cloud
///
/// With a key alone its value is shown, with words behind it it gets these as its value; without a key all are listed. What the file
/// doesn't say is as in the reference file, FILE.ref beside it or, if there is none, the one of this program. 'stratus install' says
/// which keys count for Stratus; what its daemon is told besides is in its own configuration ('stratusd reference-config').
///
/// JSON: a list of {"section", "key", "value", "default"}, for one key such an object.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus config -k -s one-deployment
  stratus config frontend_ip
  stratus config frontend_ip 192.0.2.1
  stratus config -c ./stratuslab.cfg quarantine_period 2d")]
pub struct Arguments {
    /// The key
    #[arg(value_name = "key")]
    key: Option<String>,
    /// Its new value; several words are joined by a blank
    #[arg(value_name = "value", allow_hyphen_values = true)]
    value: Vec<String>,
    /// List all keys with their values and defaults
    #[arg(short, long, conflicts_with = "key")]
    keys: bool,
    /// Only those of a section
    #[arg(short = 's', long = "section", value_name = "SECTION", conflicts_with = "key")]
    of_section: Option<String>,
    /// Remove the file: all is as in the reference file then
    #[arg(short, long, conflicts_with_all = ["key", "keys", "of_section"])]
    remove: bool,
    #[command(flatten)]
    common: Common,
}

/// Width of the list, and of its columns.
const WIDTH: usize = 76;
const COLUMN: usize = 25;

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        // Option -c names this file here, not the user's.
        let site = SiteFile::read(self.common.config.as_deref())?;
        if self.remove {
            return remove(&out, site.path());
        }
        match &self.key {
            Some(key) if self.value.is_empty() => show(&out, &site, key),
            Some(key) => site.set(key, &self.value.join(" ")),
            None => list(&out, &site, self.of_section.as_deref()),
        }
    }
}

fn remove(out: &Output, path: &Path) -> Result {
    std::fs::remove_file(path).map_err(|error| Failure::file(path, &error))?;
    out.detail(format_args!("removed {}", path.display()));
    Ok(())
}

fn as_json(known: &SiteKey) -> serde_json::Value {
    json!({ "section": known.section, "key": known.key, "value": known.value, "default": known.default })
}

fn show(out: &Output, site: &SiteFile, key: &str) -> Result {
    let wanted = key.to_lowercase();
    let known = site.keys()?.into_iter().find(|known| known.key == wanted);
    let known = known.ok_or_else(|| crate::config::no_key(key))?;
    if out.is_json() {
        return out.json(&as_json(&known));
    }
    if out.verbose > 0 {
        out.line("")?;
    }
    out.line(known.value)
}

fn list(out: &Output, site: &SiteFile, section: Option<&str>) -> Result {
    let keys = site.keys()?;
    if let Some(name) = section
        && !keys.iter().any(|known| known.section == name)
    {
        return Err(Failure::Work(format!("'{name}'")).with_hint("There is no such section: stratus config -k lists all."));
    }
    let shown: Vec<&SiteKey> = keys.iter().filter(|known| section.is_none_or(|name| known.section == name)).collect();
    if out.is_json() {
        return out.json(&shown.into_iter().map(as_json).collect::<Vec<_>>());
    }
    out.line(table(&shown, std::io::stdout().is_terminal()))
}

/// The list, as StratusLab's command has it; colours only for a terminal.
fn table(keys: &[&SiteKey], is_coloured: bool) -> String {
    let bold = |text: &str| if is_coloured { format!("\u{1b}[1m\u{1b}[31m{text}\u{1b}[0m") } else { text.to_owned() };
    let title = |text: &str| bold(&format!("{text:^WIDTH$}"));
    // A value of several lines would break the columns.
    let flat = |text: &str| text.replace('\n', " ");
    let row = |key: &str, value: &str, default: &str| {
        let (key, value) = (format!(" {key}"), format!("|  {}", flat(value)));
        format!("{key:<COLUMN$}{value:<COLUMN$}|  {}", flat(default))
    };
    let (double, single) = ("=".repeat(WIDTH), "-".repeat(WIDTH));
    let mut lines = vec![String::new(), double.clone(), title("Section"), single.clone(), String::new()];
    lines.extend([bold(&row("Config key", "Current value", "Default value")), String::new(), double]);
    for group in keys.chunk_by(|a, b| a.section == b.section) {
        lines.extend(group.first().map(|known| title(&known.section)));
        lines.push(single.clone());
        lines.extend(group.iter().map(|known| row(&known.key, &known.value, known.default.as_deref().unwrap_or_default())));
        lines.push(single.clone());
    }
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_section() {
        let key = |section: &str, key: &str, value: &str| SiteKey { section: section.to_owned(), key: key.to_owned(), value: value.to_owned(), default: Some("d".to_owned()) };
        let keys = [key("a", "one", "x\ny"), key("a", "two", ""), key("b", "three", "z")];
        let text = table(&keys.iter().collect::<Vec<_>>(), false);
        let row = |key: &str, value: &str| format!("{key:<25}{value:<25}|  d\n");
        assert!(text.contains(&format!("{}{}", row(" one", "|  x y"), row(" two", "|"))), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("----")).count(), 5, "{text}");
        assert!(table(&[&keys[0]], true).contains("\u{1b}[1m"));
    }
}
