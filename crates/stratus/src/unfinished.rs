//! What a command began at the cloud and is of no use before it is finished: it goes again when the command fails or is interrupted.
//!
//! One list for the process, since an interruption drops the command's own state, and a process runs one command.

use std::sync::{Mutex, PoisonError};

use crate::cloud::{Api, ApiError};

#[derive(Debug)]
struct Begun {
    /// The cloud, and the path there; the oldest first.
    resources: Vec<(Api, String)>,
    /// The cloud finishes it without this program.
    goes_on: bool,
    /// What it is, if that is worth telling.
    name: Option<String>,
}

static BEGUN: Mutex<Begun> = Mutex::new(Begun {
    resources: Vec::new(),
    goes_on: false,
    name: None,
});

fn begun() -> std::sync::MutexGuard<'static, Begun> {
    // The list is whole after every step.
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a resource that was made just now.
pub fn note(api: &Api, path: &str) {
    begun().resources.push((api.clone(), path.to_owned()));
}

/// From now on the cloud finishes it alone: an interruption leaves it, a failure does not.
pub fn goes_on() {
    begun().goes_on = true;
}

/// As [`goes_on`], and whoever interrupts is told what it is.
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
    !begun.goes_on && !begun.resources.is_empty()
}

/// Removes everything, the newest first, since it may refer to older ones; gives what could not be removed, and why. Interrupted
/// and called again, it goes on where it was.
pub async fn remove() -> Vec<(String, ApiError)> {
    let mut troubles = Vec::new();
    loop {
        let Some((api, path)) = begun().resources.last().cloned() else {
            return troubles;
        };
        match api.delete(&path).await {
            // Removed by the call that was interrupted.
            Ok(_) | Err(ApiError::Refused { status: 404, .. }) => {}
            Err(error) => troubles.push((path, error)),
        }
        begun().resources.pop();
    }
}
