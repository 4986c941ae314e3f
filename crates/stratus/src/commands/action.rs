//! What start-, stop- and restart-instance share: CIMI's actions of a machine.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{Accepted, Api, JobEnd, wait_for_job};
use crate::commands::each::{Outcome, each};
use crate::commands::machine_id::{MachineNames, MachineNumber};
use crate::failure::{Failure, Result};
use crate::options::Cloud;
use crate::progress::Waiting;
use crate::session::Session;

/// An action and how it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Action {
    /// `start`, `stop` or `restart`.
    pub verb: &'static str,
    /// Without asking the guest.
    pub force: bool,
    /// How long its end is waited for; nothing: not at all.
    pub limit: Option<Duration>,
}

/// What was asked of a machine.
#[derive(Debug)]
pub struct Asked {
    /// The machine.
    pub machine: MachineNumber,
    /// What the cloud answered; nothing if there was nothing to be done any more.
    pub accepted: Option<Accepted>,
}

/// Waits until what was asked of each machine is done, `limit` for all together. What came to nothing is refused.
pub async fn until_done(
    session: &Session,
    api: &Api,
    outcome: &mut Outcome<'_, Asked>,
    verb: &str,
    limit: Duration,
) {
    let deadline = tokio::time::Instant::now() + limit;
    let until_done = async |_: &str, Asked { machine, accepted }: &Asked| {
        let Some(accepted) = accepted else {
            return Ok(());
        };
        let waiting = Waiting::start(&session.out, format!("{verb} of machine {machine}"));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match wait_for_job(api, accepted.job.as_deref(), left, &waiting).await {
            Ok(JobEnd::Success) => Ok(()),
            Ok(JobEnd::Failed(reason)) => Err(Failure::Work(reason)),
            Ok(JobEnd::StillRunning) => {
                let seconds = limit.as_secs();
                Err(Failure::Work(format!(
                    "{verb} of machine {machine} is not done after {seconds} s; it goes on"
                )))
            }
            // The job of a removal goes with what it was about, when nobody looks for long.
            Err(error) if error.is_status(404) && machine.is_gone(api).await => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    outcome.then(until_done).await;
}

/// Asks for the action on every machine. One that refuses does not keep the others.
///
/// # Errors
/// What the cloud says, and [`Failure::Usage`] when no machine is named.
pub async fn act(session: &Session, action: &Action, ids: &[String], cloud: &Cloud) -> Result {
    let Action { verb, force, limit } = *action;
    if ids.is_empty() {
        return Err(Failure::Usage("Missing vm-id".to_owned()));
    }
    let api = session.api(cloud)?;
    let names = MachineNames::of(&api);
    let body = json!({ "action": format!("http://schemas.dmtf.org/cimi/1/action/{verb}"), "force": force });
    let mut outcome = each(ids, async |id| {
        let machine = names.find(id).await?;
        session.out.detail(format_args!(
            "Sending \"{verb}\" request for instance {machine}."
        ));
        let path = format!("{}/{verb}", machine.path());
        let accepted = Some(api.post(&path, &body).await?);
        Ok(Asked { machine, accepted })
    })
    .await;
    if let Some(limit) = limit {
        until_done(session, &api, &mut outcome, verb, limit).await;
    }
    if session.out.is_json() {
        session.out.json(&numbers(&outcome))?;
    }
    outcome.result()
}

/// The machines for which it was done.
pub fn numbers(outcome: &Outcome<'_, Asked>) -> Vec<String> {
    let done = outcome.done.iter();
    done.map(|(_, asked)| asked.machine.to_string()).collect()
}
