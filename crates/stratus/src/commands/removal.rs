//! What kill-instance and shutdown-instance share: only the verb differs.

use std::path::{Path, PathBuf};

use reqwest::Method;

use crate::cloud::Body;
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

/// Removes the machines named as arguments and in the file. One that is refused does not keep the others.
///
/// # Errors
/// What the cloud says, and [`Failure::Usage`] when no machine is named.
pub async fn remove(
    session: &Session,
    removal: Removal,
    ids: &[String],
    input: Option<&Path>,
    cloud: &Cloud,
) -> Result {
    let (verb, shown) = match removal {
        Removal::Kill => ("kill", "Kill"),
        Removal::Shutdown => ("shutdown", "Shutdown"),
    };
    let file = input.map(Path::to_path_buf).or_else(|| {
        session
            .settings
            .text(None, "in_vm_ids_file")
            .filter(|_| ids.is_empty())
            .map(PathBuf::from)
    });
    let mut texts = ids.to_vec();
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
    let outcome = each(&machines, async |machine| {
        session.out.detail(format_args!(
            "Sending \"{shown}\" request for instance {machine}."
        ));
        let path = format!("{}/{verb}", machine.path());
        api.send(Method::POST, &path, Body::Empty).await
    })
    .await;
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
