//! Waiting for work that outlasts its request.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Api, ApiError};
use crate::progress::Waiting;

/// Pauses between looks: short at first, since most work ends within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// Reached its goal.
    Success,
    /// Ended without reaching it; the cloud's words.
    Failed(String),
    /// Not ended within the time given.
    StillRunning,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct JobView {
    state: String,
    status_message: Option<String>,
}

/// Waits until a job has ended, for `limit` at most. Without a job the work is done already.
///
/// # Errors
/// [`ApiError`] of the requests.
pub async fn wait_for_job(
    api: &Api,
    job: Option<&str>,
    limit: Duration,
    waiting: &Waiting,
) -> Result<JobEnd, ApiError> {
    let Some(job) = job else {
        return Ok(JobEnd::Success);
    };
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let view: JobView = api.view(job).await?;
        match view.state.as_str() {
            "SUCCESS" => return Ok(JobEnd::Success),
            "FAILED" | "STOPPED" => {
                return Ok(JobEnd::Failed(
                    view.status_message
                        .unwrap_or_else(|| format!("the job ended as {}", view.state)),
                ));
            }
            _ if Instant::now() >= deadline => return Ok(JobEnd::StillRunning),
            _ => {}
        }
        waiting.tick();
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
