//! What kill-instance and shutdown-instance share: only the verb differs.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;

use crate::cloud::Body;
use crate::commands::action::until_done;
use crate::commands::each::each;
use crate::commands::machine_id::machines_named;
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

/// Removes the machines named as arguments and in the file. One that is refused does not keep the others.
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
    // All are found before the first machine goes: a typing error must not leave half the work done.
    let machines = machines_named(&api, &texts).await?;
    let mut outcome = each(&machines, async |machine| {
        session.out.detail(format_args!(
            "Sending \"{shown}\" request for instance {machine}."
        ));
        let path = format!("{}/{verb}", machine.path());
        api.send(Method::POST, &path, Body::Empty).await
    })
    .await;
    if *wait {
        let limit = Duration::from_secs(*timeout);
        until_done(session, &api, &mut outcome, verb, limit).await?;
        for (machine, _) in &outcome.done {
            session.out.step(format_args!("Machine {machine} is gone"));
        }
    }
    let done = outcome.done.iter();
    let list: Vec<String> = done.map(|(machine, _)| machine.to_string()).collect();
    session.out.detail(format_args!(
        "\"{shown}\" {} VMs: {}",
        list.len(),
        list.join(", ")
    ));
    if session.out.is_json() {
        session.out.json(&list)?;
    }
    outcome.result()
}
