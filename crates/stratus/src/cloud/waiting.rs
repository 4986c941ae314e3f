//! Waiting for work that outlasts its request: the cloud tells when it has ended.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Api, ApiError, Told};
use crate::progress::Waiting;

/// Pauses between looks where the cloud doesn't tell: short at first, since most work ends within a second.
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

impl JobView {
    /// How it ended, if it has.
    fn end(self) -> Option<JobEnd> {
        match self.state.as_str() {
            "SUCCESS" => Some(JobEnd::Success),
            "FAILED" | "STOPPED" => {
                let said = self.status_message;
                let reason = said.unwrap_or_else(|| format!("the job ended as {}", self.state));
                Some(JobEnd::Failed(reason))
            }
            _ => None,
        }
    }
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
    let mut tells = true;
    loop {
        if let Some(end) = api.view::<JobView>(job).await?.end() {
            return Ok(end);
        }
        if Instant::now() >= deadline {
            return Ok(JobEnd::StillRunning);
        }
        if tells {
            match told_end(api, job, deadline, waiting).await {
                Listening::Ended(end) => return Ok(end),
                Listening::BrokeOff => {}
                Listening::NothingIsTold => tells = false,
            }
        }
        waiting.tick();
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What came of listening.
enum Listening {
    /// It has ended, or the time has.
    Ended(JobEnd),
    /// One has to look, and may listen again.
    BrokeOff,
    /// This cloud tells nothing.
    NothingIsTold,
}

/// Listens until a job has ended.
async fn told_end(api: &Api, job: &str, deadline: Instant, waiting: &Waiting) -> Listening {
    let list = format!("Job?$filter=id='{job}'&$select=state,statusMessage");
    let mut events = match api.follow(&list).await {
        Ok(Some(events)) => events,
        Ok(None) => return Listening::NothingIsTold,
        // The next look tells what is wrong.
        Err(_) => return Listening::BrokeOff,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Listening::Ended(JobEnd::StillRunning);
        }
        tokio::select! {
            told = events.next() => match told {
                Some(Told { event, data }) if event == "changed" => {
                    let view: JobView = serde_json::from_value(data).unwrap_or_default();
                    if let Some(end) = view.end() {
                        return Listening::Ended(end);
                    }
                }
                Some(Told { event, .. }) if event != "removed" => {}
                _ => return Listening::BrokeOff,
            },
            () = tokio::time::sleep(left.min(LONGEST_PAUSE)) => waiting.tick(),
        }
    }
}
