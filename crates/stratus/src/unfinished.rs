//! What a command began at the cloud and is of no use before it is finished: it goes again when the command fails or is interrupted.
//!
//! One list for the process, since an interruption drops the command's own state, and a process runs one command.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

use crate::cloud::{Accepted, Api, ApiError, JobEnd, wait_for_job};
use crate::progress::Waiting;

#[derive(Debug)]
struct Begun {
    /// The cloud, and the path there; the oldest first.
    resources: Vec<(Api, String)>,
    /// Requests for more of them that are not answered yet.
    asked: usize,
    /// Jobs of the cloud that remove some of them.
    removals: Vec<(Api, String)>,
    /// The cloud finishes it without this program.
    goes_on: bool,
    /// What it is, if that is worth telling.
    name: Option<String>,
    /// What to tell whoever interrupts, if it is something else.
    farewell: Option<String>,
    /// Files of the user's that are written right now.
    files: Vec<PathBuf>,
    /// Whether the cloud was asked for anything but to show something.
    has_asked: bool,
}

static BEGUN: Mutex<Begun> = Mutex::new(Begun {
    resources: Vec::new(),
    asked: 0,
    removals: Vec::new(),
    goes_on: false,
    name: None,
    farewell: None,
    files: Vec::new(),
    has_asked: false,
});

/// Rung at the end of every request.
static ANSWERED: Notify = Notify::const_new();

fn begun() -> std::sync::MutexGuard<'static, Begun> {
    // The list is whole after every step.
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request under way; however it ends, who waits for its end is told.
struct Request;

impl Request {
    fn begin() -> Self {
        begun().asked += 1;
        Self
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        begun().asked -= 1;
        ANSWERED.notify_waiters();
    }
}

/// Makes a resource, and notes it. An interruption meanwhile waits for the answer: what the cloud made goes again.
///
/// # Errors
/// [`ApiError`].
pub async fn make(api: &Api, collection: &'static str, body: &Value) -> Result<Accepted, ApiError> {
    let (api, body) = (api.clone(), body.clone());
    begun().farewell = None;
    let request = Request::begin();
    // A task of its own: an interruption drops the command, and with it what it waits for.
    let asked = tokio::spawn(async move {
        let _request = request;
        let answer = api.post(collection, &body).await;
        if let Ok(accepted) = &answer
            && accepted.status != 200
            && let Some(path) = path_of(accepted)
        {
            begun().resources.push((api, path));
        }
        answer
    });
    asked.await.unwrap_or_else(|error| {
        let text = format!("the request was given up: {error}");
        Err(ApiError::Network { text })
    })
}

fn path_of(accepted: &Accepted) -> Option<String> {
    let id = accepted.body.get("id").and_then(Value::as_str);
    accepted.location.clone().or_else(|| id.map(str::to_owned))
}

async fn all_answered() {
    loop {
        let mut answered = std::pin::pin!(ANSWERED.notified());
        answered.as_mut().enable();
        if begun().asked == 0 {
            return;
        }
        answered.await;
    }
}

/// Notes that the cloud is asked to do something.
pub fn note_change() {
    begun().has_asked = true;
}

/// Whether it was.
pub fn has_asked_for_change() -> bool {
    begun().has_asked
}

/// Notes a file that is of no use until it is whole: it goes when the command is interrupted.
pub fn note_file(path: &Path) {
    begun().files.push(path.to_owned());
}

/// The file is whole, or gone.
pub fn forget_file(path: &Path) {
    begun().files.retain(|noted| noted != path);
}

/// Removes the files that are not whole. Who still writes one can't give it its name any more.
pub fn remove_files() {
    for file in std::mem::take(&mut begun().files) {
        // It may be whole by now, or not be there yet.
        let _ = std::fs::remove_file(file);
    }
}

/// What whoever interrupts is told from now on, until something is begun at the cloud.
pub fn say(farewell: &str) {
    begun().farewell = Some(farewell.to_owned());
}

/// What whoever interrupts is to be told, if it was said.
#[must_use]
pub fn farewell() -> Option<String> {
    begun().farewell.clone()
}

/// From now on the cloud finishes it alone: an interruption leaves it, a failure does not. Whoever interrupts is told what it is.
pub fn goes_on_as(name: &str) {
    let mut begun = begun();
    begun.goes_on = true;
    begun.name = Some(name.to_owned());
}

/// What goes on at the cloud, if it has a name.
#[must_use]
pub fn name() -> Option<String> {
    begun().name.clone()
}

/// It is finished, or shall stay.
pub fn keep() {
    begun().resources.clear();
}

/// Whether there is something that an interruption shall not leave behind.
#[must_use]
pub fn is_left_by_interruption() -> bool {
    let begun = begun();
    !begun.goes_on && (begun.asked > 0 || !begun.resources.is_empty())
}

/// Has the cloud remove everything, the newest first, since it may refer to older ones; gives what could not be removed, and why.
/// Interrupted and called again, it goes on where it was. [`is_gone`] tells when the cloud has done it.
pub async fn remove() -> Vec<(String, ApiError)> {
    let mut troubles = Vec::new();
    all_answered().await;
    loop {
        let Some((api, path)) = begun().resources.last().cloned() else {
            return troubles;
        };
        match api.delete(&path).await {
            Ok(accepted) => {
                let job = accepted.job.map(|job| (api, job));
                begun().removals.extend(job);
            }
            // Removed by the call that was interrupted.
            Err(ApiError::Refused { status: 404, .. }) => {}
            Err(error) => troubles.push((path, error)),
        }
        begun().resources.pop();
    }
}

/// Waits until the cloud has removed what it was asked to, for `limit` at most; whether it has.
pub async fn is_gone(limit: Duration) -> bool {
    let removals = std::mem::take(&mut begun().removals);
    for (api, job) in removals {
        let ended = wait_for_job(&api, Some(&job), limit, &Waiting::silently()).await;
        if !matches!(ended, Ok(JobEnd::Success)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_holds_nobody_up() {
        let request = Request::begin();
        let panics = tokio::spawn(async move {
            let _request = request;
            panic!("as a defect would");
        });
        let waited = tokio::time::timeout(Duration::from_secs(60), all_answered()).await;
        assert!(waited.is_ok() && panics.await.is_err());
    }

    #[test]
    fn files_that_are_not_whole_go_and_no_others() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let [part, whole, missing] =
            ["image.part", "image", "none.part"].map(|name| folder.path().join(name));
        for file in [&part, &whole] {
            std::fs::write(file, "content").expect("written");
        }
        for file in [&part, &whole, &missing] {
            note_file(file);
        }
        forget_file(&whole);
        remove_files();
        assert!(!part.exists(), "it is of no use");
        assert!(whole.exists(), "it was finished");
        std::fs::write(&part, "somebody else's").expect("written");
        remove_files();
        assert!(part.exists(), "once is enough");
    }
}
