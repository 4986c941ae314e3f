//! The `nft` program: a change set in, a listing out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{NetworkError, Result};
use crate::ruleset::Binding;
use crate::ruleset::groups::Found;

/// A rule set of a thousand machines loads in tens of milliseconds; a busy host may be slow.
const RUN_LIMIT: Duration = Duration::from_secs(20);

/// The program, by its path.
#[derive(Debug, Clone)]
pub struct Nft {
    /// `nft`, or where it is.
    pub program: PathBuf,
}

/// What stands in our tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// NICs that may send.
    pub bindings: Vec<Binding>,
    /// Packets by counter.
    pub packets: BTreeMap<String, u64>,
}

impl Nft {
    /// Applies a text as one transaction: all of it or nothing.
    ///
    /// # Errors
    /// `nft` is missing, too slow, or refuses; the reason is its own first lines.
    pub async fn apply(&self, text: String) -> Result<()> {
        self.run(&["-f", "-"], Some(text)).await.map(drop)
    }

    /// What the table of that name holds in these families; `None` unless there is one in each.
    ///
    /// # Errors
    /// `nft` is missing, too slow, or answers something that cannot be understood.
    pub async fn list(&self, table: &str, wanted: &[&str]) -> Result<Option<Listing>> {
        let tables = parse(&self.run(&["-j", "list", "tables"], None).await?)?;
        let families: Vec<&str> = objects(&tables, "table")
            .filter(|t| t.get("name").and_then(Value::as_str) == Some(table))
            .filter_map(|t| t.get("family").and_then(Value::as_str))
            .collect();
        let mut listing = Listing::default();
        for family in wanted {
            if !families.contains(family) {
                return Ok(None);
            }
            let arguments = ["-j", "list", "table", family, table];
            read_table(&parse(&self.run(&arguments, None).await?)?, &mut listing);
        }
        Ok(Some(listing))
    }

    /// What the table of security groups of that name holds, without what is in its sets, and its counters; `None` unless it is
    /// there.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub(crate) async fn groups(&self, table: &str) -> Result<Option<(Found, Listing)>> {
        let tables = parse(&self.run(&["-j", "list", "tables", "bridge"], None).await?)?;
        let named = |object: &Value| object.get("name").and_then(Value::as_str) == Some(table);
        if !objects(&tables, "table").any(named) {
            return Ok(None);
        }
        let arguments = ["-j", "-t", "list", "table", "bridge", table];
        let listed = parse(&self.run(&arguments, None).await?)?;
        let names = |kind| {
            let names = objects(&listed, kind).filter_map(|one| one.get("name")?.as_str());
            names.map(str::to_owned).collect()
        };
        let mut listing = Listing::default();
        read_table(&listed, &mut listing);
        Ok(Some((Found::of(names("chain"), names("set")), listing)))
    }

    async fn run(&self, arguments: &[&str], input: Option<String>) -> Result<Vec<u8>> {
        let run = async {
            let missing = |source| NetworkError::Program {
                program: self.program.clone(),
                source,
            };
            let mut child = Command::new(&self.program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(missing)?;
            let stdin = child.stdin.take();
            // It reads all before it writes, so feeding it first cannot lock up.
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            let output = child.wait_with_output().await.map_err(missing)?;
            if output.status.success() {
                return Ok(output.stdout);
            }
            let said = String::from_utf8_lossy(&output.stderr);
            let reason: String = said
                .lines()
                .take(3)
                .collect::<Vec<_>>()
                .join("; ")
                .chars()
                .take(500)
                .collect();
            Err(NetworkError::Firewall { reason })
        };
        tokio::time::timeout(RUN_LIMIT, run)
            .await
            .unwrap_or_else(|_| {
                Err(NetworkError::Timeout {
                    what: "nft".into(),
                    limit: RUN_LIMIT,
                })
            })
    }
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| NetworkError::Firewall {
        reason: format!("its listing is no JSON: {error}"),
    })
}

fn objects<'a>(listing: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    listing
        .get("nftables")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(move |object| object.get(kind))
}

fn read_table(table: &Value, into: &mut Listing) {
    for counter in objects(table, "counter") {
        if let (Some(name), Some(packets)) = (
            counter.get("name").and_then(Value::as_str),
            counter.get("packets").and_then(Value::as_u64),
        ) {
            // Both IP families have some of the same names.
            *into.packets.entry(name.to_owned()).or_default() += packets;
        }
    }
    let bindings = objects(table, "set")
        .filter(|set| set.get("name").and_then(Value::as_str) == Some("bindings"));
    for element in bindings
        .filter_map(|set| set.get("elem").and_then(Value::as_array))
        .flatten()
    {
        // What is not readable is not one of ours, and goes with the next `establish`.
        into.bindings.extend(read_binding(element));
    }
}

fn read_binding(element: &Value) -> Option<Binding> {
    let mut parts = element.get("concat")?.as_array()?.iter().map(Value::as_str);
    let binding = Binding {
        port: parts.next()??.parse().ok()?,
        mac: parts.next()??.parse().ok()?,
        ip: parts.next()??.parse().ok()?,
    };
    parts.next().is_none().then_some(binding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_of_nft_1_0_6_is_understood() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "bridge", "name": "stratus_x", "handle": 1}},
            {"counter": {"family": "bridge", "name": "spoofed_mac", "table": "stratus_x", "handle": 3, "packets": 4, "bytes": 40}},
            {"set": {"family": "bridge", "name": "macs", "table": "stratus_x", "elem": [{"concat": ["stx-t1", "02:00:ac:10:00:05"]}]}},
            {"set": {"family": "bridge", "name": "bindings", "table": "stratus_x", "elem": [
                {"concat": ["stx-t1", "02:00:ac:10:00:05", "172.16.0.5"]}, {"concat": ["odd"]}, 7]}}]}"#;
        let mut listing = Listing::default();
        read_table(&parse(text.as_bytes()).unwrap(), &mut listing);
        assert_eq!(listing.packets.get("spoofed_mac"), Some(&4));
        assert_eq!(listing.bindings.len(), 1);
        assert_eq!(listing.bindings[0].ip.to_string(), "172.16.0.5");
    }
}
