//! What kill-instance and shutdown-instance share: only the verb differs.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;

use crate::cloud::{Accepted, Api, Body, MachineView};
use crate::commands::action::{Asked, numbers, until_done};
use crate::commands::each::each;
use crate::commands::machine_id::{MachineNames, MachineNumber};
use crate::failure::{Failure, Result};
use crate::options::Cloud;
use crate::session::Session;

/// How machines are removed.
#[derive(Debug, Clone, Copy)]
pub enum Removal {
    /// At once.
    Kill,
    /// By the power button first.
    Shutdown,
}

/// Which machines, and whether their end is waited for.
#[derive(Debug, clap::Args)]
pub struct Machines {
    /// Numbers or names of machines
    #[arg(value_name = "vm-id")]
    ids: Vec<String>,
    /// File with numbers or names, one a line [key: in_vm_ids_file]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Return when the machines are gone, and what they had is free
    #[arg(long, help_heading = "Waiting")]
    wait: bool,
    /// Seconds to wait [default: 600]
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        hide_default_value = true,
        help_heading = "Waiting"
    )]
    timeout: u64,
}

/// Removes the machines named as arguments and in the file. One that is refused, or that nobody finds, does not keep the others;
/// one that is gone already is what was wanted.
///
/// # Errors
/// What the cloud says, and [`Failure::Usage`] when no machine is named.
pub async fn remove(
    session: &Session,
    removal: Removal,
    machines: &Machines,
    cloud: &Cloud,
) -> Result {
    let (verb, shown) = match removal {
        Removal::Kill => ("kill", "Kill"),
        Removal::Shutdown => ("shutdown", "Shutdown"),
    };
    let Machines {
        ids,
        input,
        wait,
        timeout,
    } = machines;
    let file = input.clone().or_else(|| {
        session
            .settings
            .text(None, "in_vm_ids_file")
            .filter(|_| ids.is_empty())
            .map(PathBuf::from)
    });
    let mut texts = ids.clone();
    if let Some(file) = &file {
        let content = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
        texts.extend(
            content
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
    } else if ids.is_empty() {
        return Err(Failure::Usage(
            "Missing vm-id or input file (-i/--input)".to_owned(),
        ));
    }
    let api = session.api(cloud)?;
    let names = MachineNames::of(&api);
    let mut outcome = each(&texts, async |text| {
        let machine = names.find(text).await?;
        session.out.detail(format_args!(
            "Sending \"{shown}\" request for instance {machine}."
        ));
        if matches!(removal, Removal::Kill) && is_going(&api, &machine).await {
            session
                .out
                .step(format_args!("Machine {machine} is being removed already"));
        }
        let accepted = send(&api, &machine, verb).await?;
        if accepted.is_none() {
            session
                .out
                .step(format_args!("Machine {machine} is gone already"));
        }
        Ok(Asked { machine, accepted })
    })
    .await;
    if *wait {
        let limit = Duration::from_secs(*timeout);
        until_done(session, &api, &mut outcome, verb, limit).await;
        let removed = outcome
            .done
            .iter()
            .filter(|(_, asked)| asked.accepted.is_some());
        for (_, Asked { machine, .. }) in removed {
            session.out.step(format_args!("Machine {machine} is gone"));
        }
    }
    let list = numbers(&outcome);
    session.out.detail(format_args!(
        "\"{shown}\" {} VMs: {}",
        list.len(),
        list.join(", ")
    ));
    if session.out.is_json() {
        session.out.json(&list)?;
    }
    // For what was gone already nothing was done.
    outcome.done.retain(|(_, asked)| asked.accepted.is_some());
    outcome.result()
}

/// Whether a machine's end is under way.
async fn is_going(api: &Api, machine: &MachineNumber) -> bool {
    let seen = api.view::<MachineView>(&machine.path()).await;
    seen.is_ok_and(|machine| machine.state.as_deref() == Some("DELETING"))
}

/// Asks for a machine's end; nothing if it has come already, of which its record tells.
async fn send(api: &Api, machine: &MachineNumber, verb: &str) -> Result<Option<Accepted>> {
    let path = format!("{}/{verb}", machine.path());
    match api.send(Method::POST, &path, Body::Empty).await {
        Ok(accepted) => Ok(Some(accepted)),
        Err(error) if error.is_status(404) && machine.is_gone(api).await => Ok(None),
        Err(error) => Err(error.into()),
    }
}
