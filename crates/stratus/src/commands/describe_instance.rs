//! `stratus describe-instance`: machines and how they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cloud::{Api, Endpoint, Login, MachineView};
use crate::commands::each::each;
use crate::commands::machine_id::{MachineNames, MachineNumber};
use crate::failure::{Failure, Result};
use crate::machine_table::{Row, render};
use crate::options::{Cloud, Common, PortTranslation};
use crate::reverse_names::reverse_names;
use crate::session::Session;

/// How long names of addresses are waited for, all together.
const NAMES_LIMIT: Duration = Duration::from_millis(300);

/// Show machines and their state
///
/// Without arguments all your machines that are not gone; with numbers or names these, also gone ones (Done). One that is not there
/// is told and does not keep the others from being shown; the exit status is then not zero.
/// The columns: number, state, CPUs, memory in KiB, CPU use in percent, name or address, translated ports when there are any, name.
/// With -v a machine that has something to say about its state (why it failed, for instance) says it below its row; with -vvv and
/// one number all attributes are shown.
///
/// States: Pending (waiting for a host), Prolog (disks are prepared), Boot, Running, Shutdown, Epilog (being cleared away), Done,
/// Failed, Unknown (halted by itself, or its host is not heard of), Stopped, Suspended.
///
/// JSON: a list of {"id", "uri", "name", "state", "reason", "vcpu", "memoryKiB", "cpuPercent", "address", "addresses", "networks",
/// "hostName", "ssh": {"host", "port"}, "host", "owner", "image"}; members that are not known are null. With -m also "endpoint".
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus describe-instance
  stratus describe-instance -v 7 8
  stratus describe-instance --format json | jq '.[] | select(.state == \"Running\") | .address'")]
pub struct Arguments {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
    /// Show addresses, not their names
    #[arg(short = 'n', long = "no-names")]
    no_names: bool,
    /// Show the machines of all clouds in endpoints of the configuration
    #[arg(short = 'm', long = "multi-cloud")]
    all_clouds: bool,
    #[command(flatten)]
    ports: PortTranslation,
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
        if self.all_clouds {
            return self.all_clouds(&session).await;
        }
        let api = session.api(&self.cloud)?;
        let names = MachineNames::of(&api);
        match self.ids.as_slice() {
            [] => {
                let mut machines: Vec<MachineView> = api.views("Machine").await?;
                machines.sort_by_key(|machine| machine.vmid);
                self.show(&session, &machines)
            }
            [id] if session.out.verbose >= 3 => all_attributes(&session, &api, &names.find(id).await?).await,
            ids => {
                let mut machines = Vec::with_capacity(ids.len());
                let outcome = each(ids, async |id| {
                    machines.push(names.find(id).await?.look_up(&api).await?);
                    Ok(())
                })
                .await;
                // Of none of those that were asked for there is a table of nothing.
                if !machines.is_empty() {
                    self.show(&session, &machines)?;
                }
                outcome.shown()
            }
        }
    }

    fn show(&self, session: &Session, machines: &[MachineView]) -> Result {
        let names = self.names(machines);
        if session.out.is_json() {
            return session.out.json(&machines.iter().map(|machine| as_json(machine, &names)).collect::<Vec<_>>());
        }
        let is_translated = machines.iter().any(|machine| machine.ssh.as_ref().is_some_and(|ssh| ssh.port != 22 && ssh.port != 0));
        let with_ports = is_translated || session.settings.switch(self.ports.enabled, "port_translation");
        let rows: Vec<Row> = machines
            .iter()
            .map(|machine| {
                let note = machine.reason.clone().filter(|reason| session.out.verbose > 0 && !reason.is_empty());
                Row::of(machine, shown_host(machine, &names), with_ports, note)
            })
            .collect();
        session.out.line(render(&rows, with_ports))
    }

    fn names(&self, machines: &[MachineView]) -> BTreeMap<IpAddr, String> {
        if self.no_names {
            return BTreeMap::new();
        }
        let addresses: BTreeSet<IpAddr> = machines.iter().filter_map(|machine| machine.address()?.parse().ok()).collect();
        reverse_names(addresses, NAMES_LIMIT)
    }

    /// One cloud after the other; one that does not answer is reported and does not end the command.
    async fn all_clouds(&self, session: &Session) -> Result {
        let lines = session.settings.text(None, "endpoints").ok_or_else(|| Failure::Check("endpoints is not set in the configuration".to_owned()))?;
        let timeout = Duration::from_secs(session.settings.parsed(None, "endpoint_timeout", "a number of seconds")?.unwrap_or(5));
        let mut answers = Vec::new();
        let mut failed = false;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_whitespace();
            let (Some(url), Some(user), Some(password), None) = (words.next(), words.next(), words.next(), words.next()) else {
                return Err(Failure::Check("a line of endpoints is not 'URL USER PASSWORD'".to_owned()));
            };
            if !session.out.is_json() {
                session.out.line(format_args!("::: {url} : {user} :::"))?;
            }
            match self.one_cloud(session, url, user, password, timeout).await {
                Ok(machines) if session.out.is_json() => {
                    let names = self.names(&machines);
                    answers.extend(machines.iter().map(|machine| {
                        let mut value = as_json(machine, &names);
                        value["endpoint"] = url.into();
                        value
                    }));
                }
                Ok(machines) => self.show(session, &machines)?,
                Err(failure @ Failure::ClosedOutput) => return Err(failure),
                Err(failure) => {
                    failed = true;
                    crate::output::write_stderr(&format!("  [ERROR] {url}: {failure}\n"));
                }
            }
        }
        if session.out.is_json() {
            session.out.json(&answers)?;
        }
        if failed { Err(Failure::Exit(1)) } else { Ok(()) }
    }

    async fn one_cloud(&self, session: &Session, url: &str, user: &str, password: &str, timeout: Duration) -> Result<Vec<MachineView>> {
        let api = session.connect(Endpoint::parse(url)?, Some(Login::Password(user.to_owned(), password.to_owned())), &self.cloud)?.with_timeout(timeout);
        match tokio::time::timeout(timeout, api.views("Machine")).await {
            Ok(machines) => Ok(machines?),
            Err(_) => Err(Failure::Network(format!("no answer within {} s", timeout.as_secs()))),
        }
    }
}

fn shown_host<'a>(machine: &'a MachineView, names: &'a BTreeMap<IpAddr, String>) -> &'a str {
    let name = machine.address().and_then(|address| names.get(&address.parse().ok()?));
    name.map(String::as_str).or_else(|| machine.address()).or_else(|| machine.ssh.as_ref().map(|ssh| ssh.host.as_str())).unwrap_or("-")
}

fn as_json(machine: &MachineView, names: &BTreeMap<IpAddr, String>) -> Value {
    let name = machine.address().and_then(|address| names.get(&address.parse().ok()?));
    json!({
        "id": machine.vmid, "uri": machine.id, "name": machine.name, "state": machine.shown_state(), "reason": machine.reason,
        "vcpu": machine.cpu, "memoryKiB": machine.memory_used.or(machine.memory), "cpuPercent": machine.cpu_percent,
        "address": machine.address(), "addresses": machine.addresses, "addresses6": machine.addresses6, "networks": machine.networks, "hostName": name,
        "ssh": machine.ssh_place(), "host": machine.hostname, "owner": machine.owner, "image": machine.image_identifier,
    })
}

async fn all_attributes(session: &Session, api: &Api, id: &MachineNumber) -> Result {
    let document = id.document(api).await?;
    if session.out.is_json() {
        return session.out.json(&document);
    }
    let mut attributes = BTreeMap::new();
    flatten("", &document, &mut attributes);
    session.out.line("-".repeat(25))?;
    session.out.line(format_args!("{id} (all attributes)"))?;
    attributes.iter().try_for_each(|(name, value)| session.out.line(format_args!("  {name} = {}", crate::output::printable(value))))
}

/// Nested names joined by `_`, in lower case; of repeated elements the last counts, as it always did.
fn flatten(prefix: &str, value: &Value, attributes: &mut BTreeMap<String, String>) {
    let inner = |name: &str| if prefix.is_empty() { name.to_lowercase() } else { format!("{prefix}_{}", name.to_lowercase()) };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| flatten(&inner(name), value, attributes)),
        Value::Array(items) => items.iter().for_each(|item| flatten(prefix, item, attributes)),
        Value::Null => {}
        other => {
            attributes.insert(prefix.to_owned(), crate::cloud::text_of(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_flattened() {
        let mut attributes = BTreeMap::new();
        flatten("", &json!({"vmid": 7, "ssh": {"host": "h", "port": 22}, "addresses": ["a", "b"], "machineImage": {"href": "x"}, "n": null}), &mut attributes);
        let lines: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(lines, ["addresses=b", "machineimage_href=x", "ssh_host=h", "ssh_port=22", "vmid=7"]);
    }
}
