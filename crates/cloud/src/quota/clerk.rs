//! Which daemon counts what somebody has.
//!
//! A daemon counts exactly what goes through itself. So that several daemons on one store can't each let the last one
//! through, only one at a time may make anything for an owner: the one whose mark is in the store under the owner's key.
//! Every creation demands, in its transaction, that the mark is still the one its daemon wrote. Who wants to take over
//! writes another mark; what the former one has under way then conflicts, and whatever it finished is seen by the new one
//! before it counts. Nothing is written for a creation itself, so that those of one owner still share commits.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use documents::{Documents, DocumentsError};
use parking_lot::Mutex;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use store::{Key, Revision};

/// Where the marks are.
const COLLECTION: &str = "QuotaClerk";
/// How long a daemon that was relieved leaves the other one alone: so that both come to do something.
const POLITE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(50));

/// Whose use is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counted {
    /// One user.
    User(Arc<str>),
    /// All members of a group.
    Group(Arc<str>),
    /// All members of an organisation, by the account that admits it.
    Organisation(Arc<str>),
}

/// That this daemon counts for somebody, as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) whose: Counted,
    pub(super) key: Key,
    pub(super) revision: Revision,
}

/// One owner.
#[derive(Debug, Default)]
struct Clerk {
    held: Option<Revision>,
    /// When another daemon was seen to have taken over.
    lost: Option<Instant>,
}

type Shared = Arc<tokio::sync::Mutex<Clerk>>;

/// Whom this daemon counts for.
#[derive(Debug, Default)]
pub(super) struct Clerks(Mutex<HashMap<Counted, Shared>>);

impl Clerks {
    /// This daemon's mark for somebody: the one it has, or a new one. What was made until then is in the caches.
    pub(super) async fn mark(
        &self,
        documents: &Documents,
        whose: Counted,
    ) -> Result<Mark, DocumentsError> {
        let clerk = Arc::clone(self.0.lock().entry(whose.clone()).or_default());
        let mut clerk = clerk.lock().await;
        let key = key_of(&whose)?;
        if let Some(revision) = clerk.held {
            return Ok(Mark {
                whose,
                key,
                revision,
            });
        }
        if let Some(lost) = clerk.lost.take() {
            let polite = rand::rng().random_range(POLITE.0..POLITE.1);
            tokio::time::sleep(polite.saturating_sub(lost.elapsed())).await;
        }
        loop {
            let there = documents.store().get(&key).await?;
            let there = there.map_or(Revision::ZERO, |entry| entry.revision);
            let mark = documents.changes().put_raw(&key, there, b"{}".to_vec());
            match mark.commit().await {
                Ok(revision) => {
                    clerk.held = Some(revision);
                    return Ok(Mark {
                        whose,
                        key,
                        revision,
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes note that a mark isn't in the store any more.
    pub(super) async fn lost(&self, mark: &Mark) {
        let clerk = self.0.lock().get(&mark.whose).map(Arc::clone);
        let Some(clerk) = clerk else { return };
        let mut clerk = clerk.lock().await;
        // Perhaps it was taken again since by another request.
        if clerk.held == Some(mark.revision) {
            clerk.held = None;
            clerk.lost = Some(Instant::now());
        }
    }
}

/// Where the mark is: names may be subjects of certificates, with spaces and of any length, which keys can't have.
fn key_of(whose: &Counted) -> Result<Key, DocumentsError> {
    let (kind, name) = match whose {
        Counted::User(name) => ("user", name),
        Counted::Group(name) => ("group", name),
        Counted::Organisation(name) => ("organisation", name),
    };
    let digest = Sha256::digest(name.as_bytes());
    Ok(Key::new(COLLECTION, &format!("{kind}/{digest:x}"))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_have_something_has_a_key() {
        let subject = "CN=Jörg Muß/x,O=Example Org,C=EU".repeat(50);
        let of = |whose: fn(Arc<str>) -> Counted| key_of(&whose(subject.as_str().into())).unwrap();
        assert_ne!(of(Counted::User), of(Counted::Group));
    }
}
