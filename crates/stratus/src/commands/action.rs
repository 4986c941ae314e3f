//! What start-, stop- and restart-instance share: CIMI's actions of a machine.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{Accepted, Api, ApiError, JobEnd, wait_for_job};
use crate::commands::each::{Outcome, each};
use crate::commands::machine_id::{MachineNumber, machines_named};
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

/// Waits until what was asked of each machine is done, `limit` for all together. What came to nothing is refused.
///
/// # Errors
/// [`ApiError`] of the requests.
pub async fn until_done(
    session: &Session,
    api: &Api,
    outcome: &mut Outcome<'_, MachineNumber, Accepted>,
    verb: &str,
    limit: Duration,
) -> Result<(), ApiError> {
    if outcome.is_broken_off() {
        return Ok(());
    }
    let deadline = tokio::time::Instant::now() + limit;
    for (machine, accepted) in std::mem::take(&mut outcome.done) {
        let waiting = Waiting::start(&session.out, format!("{verb} of machine {machine}"));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match wait_for_job(api, accepted.job.as_deref(), left, &waiting).await? {
            JobEnd::Success => outcome.done.push((machine, accepted)),
            JobEnd::Failed(reason) => outcome.refuse(machine, reason),
            JobEnd::StillRunning => {
                let seconds = limit.as_secs();
                let reason = format!(
                    "{verb} of machine {machine} is not done after {seconds} s; it goes on"
                );
                outcome.refuse(machine, reason);
            }
        }
    }
    Ok(())
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
    let machines = machines_named(&api, ids).await?;
    let body = json!({ "action": format!("http://schemas.dmtf.org/cimi/1/action/{verb}"), "force": force });
    let mut outcome = each(&machines, async |machine| {
        session.out.detail(format_args!(
            "Sending \"{verb}\" request for instance {machine}."
        ));
        api.post(&format!("{}/{verb}", machine.path()), &body).await
    })
    .await;
    if let Some(limit) = limit {
        until_done(session, &api, &mut outcome, verb, limit).await?;
    }
    if session.out.is_json() {
        let done = outcome.done.iter();
        session.out.json(
            &done
                .map(|(machine, _)| machine.to_string())
                .collect::<Vec<_>>(),
        )?;
    }
    outcome.result()
}
