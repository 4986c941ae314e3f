//! `stratus host …`: where machines run.

use clap::Subcommand;

use crate::cloud::{HostView, text_of};
use crate::failure::Result;
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// List the hosts that machines run on
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
}

/// List the hosts
///
/// For administrators. USED is what machines were promised. JSON: a list of the hosts' documents as the cloud gives them.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        let Action::List(list) = &self.action;
        &list.common
    }

    pub(super) async fn run(self) -> Result {
        let Action::List(list) = self.action;
        let session = Session::new(&list.common)?;
        let api = session.api(&list.cloud)?;
        if session.out.is_json() {
            return session.out.json(&api.list("Host").await?);
        }
        let hosts: Vec<HostView> = api.views("Host").await?;
        let rows = hosts.iter().map(|host| {
            let text = |name: &str| host.other.get(name).map(text_of).unwrap_or_default();
            let number = |name: &str| host.other.get(name).and_then(serde_json::Value::as_u64);
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
}
