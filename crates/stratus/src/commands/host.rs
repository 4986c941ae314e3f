//! `stratus host …`: where machines run.

mod moving;
mod token;

use clap::Subcommand;
use serde_json::json;

use self::moving::{How, Move, migrate, until_moved};
use self::token::Token;

use crate::cloud::{Api, HostView, MachineView, text_of};
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::session::Session;
use crate::table;

/// List the hosts that machines run on, look at one, keep new machines off it; let hosts join, and remove them
///
/// For administrators.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the hosts
    ///
    /// USED is what machines were promised. JSON: a list of the hosts' documents as the cloud gives them.
    List(Asking),
    Show(Show),
    Maintenance(Maintenance),
    Drain(Drain),
    Move(Move),
    Evacuate(Evacuate),
    Token(Box<Token>),
    Remove(Remove),
}

/// Remove a host that has joined: it is cut off at once
///
/// A host with machines is not removed, unless it is lost and all of them were killed: they end with it. JSON: {"host"}.
#[derive(Debug, clap::Args)]
struct Remove {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Start the machines of a lost host elsewhere, once you know that it is off
///
/// Those that boot from a volume go: with a restart policy they are started at once, the others when they are started. What has a
/// root disk or saved memory on the host stays until that is back. A host that is back nevertheless ends what it still runs of them.
/// JSON: {"host", "evacuated", "left"}: lists of the machines' ids.
#[derive(Debug, clap::Args)]
#[command(after_help = "Volumes are safe without your word: one host writes them at a time. But a guest that still runs there would be there twice, with
its addresses.")]
struct Evacuate {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    /// Your word that the host is switched off, or cut off from all networks
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Show everything that is known of a host
///
/// JSON: the host's document as the cloud gives it.
#[derive(Debug, clap::Args)]
struct Show {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    asking: Asking,
}

/// Place no new machines on a host; those that are there run on
///
/// JSON: {"host", "maintenance"}.
#[derive(Debug, clap::Args)]
struct Maintenance {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    /// End it: the host takes machines again
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Prepare a host for being switched off: maintenance, and which machines are on it
///
/// No machine is moved unless --move is given; run it again to see what is left. JSON: {"host", "machines"}: the machines' documents
/// as the cloud gives them, with --wait those that are left in the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "A machine that runs goes on running while it is moved ('stratus host move --help'). One for which no other host has room stays, and
its reason says why ('stratus describe-instance -v ID'). A machine that is stopped keeps its disks on the host, and can be moved, too.")]
struct Drain {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    /// Move all machines to other hosts
    #[arg(long = "move")]
    moves: bool,
    #[command(flatten)]
    how: How,
    /// Return when it is empty, or none of those that are left is on its way
    #[arg(long, requires = "moves")]
    wait: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::List(asking) => &asking.common,
            Action::Show(show) => &show.asking.common,
            Action::Maintenance(maintenance) => &maintenance.common,
            Action::Drain(drain) => &drain.common,
            Action::Move(one) => &one.common,
            Action::Evacuate(evacuate) => &evacuate.common,
            Action::Token(token) => token.common(),
            Action::Remove(remove) => &remove.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::List(asking) => list(&asking).await,
            Action::Show(show) => show.run().await,
            Action::Maintenance(maintenance) => maintenance.run().await,
            Action::Drain(drain) => drain.run().await,
            Action::Move(one) => one.run().await,
            Action::Evacuate(evacuate) => evacuate.run().await,
            Action::Token(token) => token.run().await,
            Action::Remove(remove) => remove.run().await,
        }
    }
}

/// The host of that name, or of that id.
async fn find(api: &Api, name: &str) -> Result<HostView> {
    let hosts: Vec<HostView> = api.views("Host").await?;
    let known: Vec<_> = hosts.iter().map(|host| host.name.clone().unwrap_or_else(|| host.id.clone())).collect();
    let is_it = |host: &HostView| host.name.as_deref() == Some(name) || host.id == name || host.id.strip_prefix("Host/") == Some(name);
    hosts
        .into_iter()
        .find(is_it)
        .ok_or_else(|| Failure::Work(format!("there is no host '{name}'; there are: {}", known.join(", "))))
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    if session.out.is_json() {
        return session.out.json(&api.list("Host").await?);
    }
    let hosts: Vec<HostView> = api.views("Host").await?;
    let rows = hosts.iter().map(|host| {
        // Of one that has only joined nothing is known yet.
        let known = |name: &str| host.other.get(name).filter(|_| host.state.as_deref() != Some("JOINED"));
        let text = |name: &str| known(name).map(text_of).unwrap_or_default();
        let number = |name: &str| known(name).and_then(serde_json::Value::as_u64);
        let of = |used: Option<u64>, all: Option<u64>, shown: fn(u64) -> String| match (used, all) {
            (Some(used), Some(all)) => format!("{}/{}", shown(used), shown(all)),
            (None, Some(all)) => shown(all),
            _ => String::new(),
        };
        vec![
            host.name.clone().unwrap_or_else(|| host.id.clone()),
            host.state.clone().unwrap_or_default(),
            text("machines"),
            of(number("cpuUsed"), number("cpu"), |count| count.to_string()),
            of(number("memoryUsed"), number("memory"), |kib| table::shown_bytes(kib.saturating_mul(1024))),
            number("diskFreeBytes").map(table::shown_bytes).unwrap_or_default(),
            text("accelerator"),
            text("troubles"),
        ]
    });
    session.out.line(table::render(&["NAME", "STATE", "MACHINES", "CPU USED", "MEMORY USED", "DISK FREE", "ACCELERATOR", "TROUBLES"], rows))
}

impl Show {
    async fn run(self) -> Result {
        let (session, api) = self.asking.begin()?;
        let host = find(&api, &self.host).await?;
        if session.out.is_json() {
            return session.out.json(&api.get(&host.id).await?);
        }
        let own = ["resourceURI", "operations", "acl"];
        let shown = host.other.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let number = |name: &str| host.other.get(name).and_then(serde_json::Value::as_u64);
        let booked = |used: &str, all: &str, shown: fn(u64) -> String| {
            let (used, all) = (number(used)?, number(all)?);
            Some(format!("{} of {}, {} free", shown(used), shown(all), shown(all.saturating_sub(used))))
        };
        let kib = |kib: u64| table::shown_bytes(kib.saturating_mul(1024));
        let head = [
            ("id", Some(host.id.clone())),
            ("name", host.name.clone()),
            ("state", host.state.clone()),
            ("cpu promised", booked("cpuUsed", "cpu", |count| count.to_string())),
            ("cpu load", number("cpuLoad").map(|percent| format!("{}.{:02}", percent / 100, percent % 100))),
            ("memory promised", booked("memoryUsed", "memory", kib)),
            ("memory load", number("memoryLoad").map(kib)),
        ];
        let head = head.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in head.chain(shown.map(|(name, value)| (name.as_str(), text_of(value)))) {
            session.out.line(format_args!("{name:18} {value}"))?;
        }
        Ok(())
    }
}

async fn set_maintenance(api: &Api, host: &HostView, on: bool) -> Result {
    api.put(&format!("{}?$select=maintenance", host.id), &json!({ "maintenance": on })).await?;
    Ok(())
}

impl Drain {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let host = find(&api, &self.host).await?;
        // First, or one could come while they are looked for.
        set_maintenance(&api, &host, true).await?;
        let there = format!("Machine?$filter=host='{}'", host.id);
        if session.out.is_json() && !self.moves {
            return session.out.json(&json!({ "host": self.host, "machines": api.list(&there).await? }));
        }
        let machines: Vec<MachineView> = api.views(&there).await?;
        if self.moves {
            for machine in &machines {
                // One that can't be asked now, or was already, keeps no other from going.
                if let Err(error) = migrate(&api, &machine.id, None, &self.how).await {
                    session.out.warning(error);
                }
            }
            if self.wait {
                until_moved(&session, &api, &there).await?;
            }
            if session.out.is_json() {
                return session.out.json(&json!({ "host": self.host, "machines": api.list(&there).await? }));
            }
            if self.wait {
                session.out.detail(format_args!("{} takes no new machines, and has none any more: it can be switched off", self.host));
                return Ok(());
            }
        }
        if machines.is_empty() {
            session.out.detail(format_args!("{} takes no new machines, and has none: it can be switched off", self.host));
            return Ok(());
        }
        let rows = machines.iter().map(|machine| {
            vec![
                machine.vmid.map(|vmid| vmid.to_string()).unwrap_or_default(),
                machine.shown_state().to_owned(),
                machine.owner.clone().unwrap_or_default(),
                machine.name.clone().unwrap_or_default(),
            ]
        });
        session.out.line(table::render(&["ID", "STATE", "OWNER", "NAME"], rows))?;
        let what = if self.moves { "are being moved" } else { "are left on it, until they are moved or removed" };
        session.out.detail(format_args!("{} takes no new machines; those above {what}", self.host));
        Ok(())
    }
}

impl Evacuate {
    async fn run(self) -> Result {
        if !self.off {
            return Err(Failure::Usage(format!(
                "a machine that still runs on {0} would be there twice: make sure that {0} is switched off or cut off from all networks, and say so by --off",
                self.host
            )));
        }
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let host = find(&api, &self.host).await?;
        let there = format!("Machine?$filter=host='{}'", host.id);
        let before: Vec<MachineView> = api.views(&there).await?;
        api.post(&format!("{}/evacuate", host.id), &json!({ "action": "evacuate" })).await?;
        let after: Vec<MachineView> = api.views(&there).await?;
        let left: Vec<&str> = after.iter().map(|machine| machine.id.as_str()).collect();
        let (stay, go): (Vec<_>, Vec<_>) = before.iter().partition(|machine| left.contains(&machine.id.as_str()));
        if session.out.is_json() {
            let ids = |machines: &[&MachineView]| machines.iter().map(|machine| machine.id.clone()).collect::<Vec<_>>();
            return session.out.json(&json!({ "host": self.host, "evacuated": ids(&go), "left": ids(&stay) }));
        }
        let rows = before.iter().map(|machine| {
            let stays = left.contains(&machine.id.as_str());
            vec![
                machine.vmid.map(|vmid| vmid.to_string()).unwrap_or_default(),
                machine.owner.clone().unwrap_or_default(),
                machine.name.clone().unwrap_or_default(),
                if stays { "stays: its disk or memory is only there" } else { "goes on elsewhere" }.to_owned(),
            ]
        });
        if before.is_empty() {
            session.out.step(format_args!("There are no machines on {}", self.host));
            return Ok(());
        }
        session.out.line(table::render(&["ID", "OWNER", "NAME", "WHAT BECOMES OF IT"], rows))
    }
}

impl Maintenance {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let host = find(&api, &self.host).await?;
        let on = !self.off;
        set_maintenance(&api, &host, on).await?;
        session.out.detail(format_args!("{} takes {} machines", self.host, if on { "no new" } else { "new" }));
        if session.out.is_json() { session.out.json(&json!({ "host": self.host, "maintenance": on })) } else { Ok(()) }
    }
}

impl Remove {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let host = find(&api, &self.host).await?;
        api.delete(&host.id).await?;
        session.out.detail(format_args!("{} is removed", self.host));
        if session.out.is_json() { session.out.json(&json!({ "host": self.host })) } else { Ok(()) }
    }
}
