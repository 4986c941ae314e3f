//! Delivery: each letter is claimed, sent, and removed; what can't be delivered is tried again, later each time.
//!
//! ```text
//!  queued ──claim──▶ due in 5 min ──server takes it──▶ removed
//!              ▲          │ not now: due after the back-off
//!              └──────────┘ never, or after days: told in the log, removed
//! ```
//!
//! A claim is nothing but putting the letter off, guarded by its revision: a daemon that dies with a letter in its hands leaves
//! one that is due again by itself; and when it starts again, by the name that it claims with, at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use store::{Change, Entry, Key, Outcome, Prefix, Range, Revision, SharedStore, Transaction};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    SmtpError, SmtpSettings,
    letter::{COLLECTION, Queued, now_ms},
    smtp::{Server, Undelivered},
};

/// Longer than a delivery can take.
const CLAIM: Duration = Duration::from_secs(300);
/// Letters in delivery at once.
const AT_ONCE: usize = 4;
/// When a letter is given up, after it was queued.
const GIVE_UP: Duration = Duration::from_secs(4 * 24 * 3600);
/// The first pause, doubled with each attempt up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);
/// When the store is asked again after it failed.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// Letters read at once.
const PAGE: usize = 100;

/// Delivers what is queued.
pub struct Postman {
    store: SharedStore,
    server: Arc<Server>,
    /// What it claims with.
    name: Option<Arc<str>>,
}

impl std::fmt::Debug for Postman {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Postman")
    }
}

/// What is known of the letters that wait.
type Waiting = HashMap<Key, Known>;

struct Known {
    /// When it is due.
    due_ms: u64,
    claimed_by: Option<String>,
}

impl Postman {
    /// From the outbox in `store` to the server of `settings`. Asks neither yet.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(store: SharedStore, settings: &SmtpSettings) -> Result<Self, SmtpError> {
        Ok(Self {
            store,
            server: Arc::new(Server::new(settings)?),
            name: None,
        })
    }

    /// With a name that is its own, now and after a restart: letters that were under way when it died go at once, and not after minutes.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Delivers until `stop`. A delivery that is under way then is ended; its letter is due again later.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.follow().await {
                    tracing::warn!("letters wait, since the store fails: {error}");
                }
                sleep(STORE_PAUSE).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Reads what there is, then follows what comes. Returns when the store fails.
    async fn follow(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let prefix = Prefix::collection(COLLECTION).map_err(|error| text(&error))?;
        let (mut waiting, revision) = self.read_all(&prefix).await?;
        // Whatever bears our name was under way when we, or the deliveries of the last round, came to an end.
        let name = self.name.as_deref();
        let mut ours: HashSet<_> = waiting
            .iter_mut()
            .filter(|(_, letter)| name.is_some() && letter.claimed_by.as_deref() == name)
            .map(|(key, letter)| {
                letter.due_ms = 0;
                key.clone()
            })
            .collect();
        let watch = self.store.watch(prefix, revision).await;
        let mut watch = watch.map_err(|error| text(&error))?;
        let mut at_work = JoinSet::new();
        let mut in_hand = HashSet::new();
        loop {
            let next = waiting
                .iter()
                .filter(|(key, _)| !in_hand.contains(*key))
                .min_by_key(|(_, letter)| letter.due_ms);
            let next = next.map(|(key, letter)| (key.clone(), letter.due_ms));
            let pause = next.as_ref().map_or(LONGEST_PAUSE, |(_, due)| {
                Duration::from_millis(due.saturating_sub(now_ms()))
            });
            tokio::select! {
                batch = watch.next() => {
                    for change in batch.map_err(|error| text(&error))?.changes {
                        note(&mut waiting, change);
                    }
                }
                Some(done) = at_work.join_next() => {
                    if let Ok(key) = done {
                        in_hand.remove(&key);
                    }
                }
                () = sleep(pause), if next.is_some() && at_work.len() < AT_ONCE => {
                    let Some((key, _)) = next else { continue };
                    in_hand.insert(key.clone());
                    // Until the watch says when it is due; never again if it is gone.
                    if let Some(letter) = waiting.get_mut(&key) {
                        letter.due_ms = now_ms().saturating_add(millis(CLAIM));
                    }
                    let (store, server) = (self.store.clone(), Arc::clone(&self.server));
                    let claim = Claim { name: self.name.clone(), is_left: ours.remove(&key) };
                    at_work.spawn(async move {
                        if let Err(error) = handle(&store, &server, &key, &claim).await {
                            tracing::warn!(letter = %key, "not delivered now: {error}");
                        }
                        key
                    });
                }
            }
        }
    }

    async fn read_all(&self, prefix: &Prefix) -> Result<(Waiting, Revision), String> {
        let mut waiting = Waiting::new();
        let mut range = Range::prefix(prefix).limit(PAGE);
        // What the watch repeats does no harm; what the first page is older than it must not miss.
        let mut first = None;
        loop {
            let page = self.store.range(range.clone()).await;
            let page = page.map_err(|error| error.to_string())?;
            let revision = *first.get_or_insert(page.revision);
            let last = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                note(&mut waiting, Change::Put(entry));
            }
            match last {
                Some(last) if page.more => range = range.after(&last),
                _ => return Ok((waiting, revision)),
            }
        }
    }
}

/// Takes a change of a letter into account.
fn note(waiting: &mut Waiting, change: Change) {
    match change {
        Change::Put(entry) => match Queued::decode(&entry.value) {
            Ok(queued) => {
                let (due_ms, claimed_by) = (queued.due_ms, queued.claimed_by);
                waiting.insert(entry.key, Known { due_ms, claimed_by });
            }
            Err(error) => {
                tracing::error!(letter = %entry.key, "a letter can't be read and stays unsent: {error}");
                waiting.remove(&entry.key);
            }
        },
        Change::Delete { key } => {
            waiting.remove(&key);
        }
    }
}

/// How a letter is claimed.
struct Claim {
    name: Option<Arc<str>>,
    /// Whether it bears that name from before.
    is_left: bool,
}

/// Claims a letter, sends it, and writes what came of it. Nothing, if another daemon has it.
async fn handle(
    store: &SharedStore,
    server: &Server,
    key: &Key,
    claim: &Claim,
) -> Result<(), String> {
    let text = |error: store::StoreError| error.to_string();
    let Some(entry) = store.get(key).await.map_err(text)? else {
        return Ok(());
    };
    let mut queued = Queued::decode(&entry.value).map_err(|error| error.to_string())?;
    let now = now_ms();
    let is_ours = claim.is_left && queued.claimed_by.as_deref() == claim.name.as_deref();
    if queued.due_ms > now && !is_ours {
        return Ok(());
    }
    queued.attempts = queued.attempts.saturating_add(1);
    queued.due_ms = now.saturating_add(millis(CLAIM));
    queued.claimed_by = claim.name.as_deref().map(str::to_owned);
    let Some(claimed) = write(store, &entry, &queued).await? else {
        return Ok(());
    };
    let id = key.id();
    let sent = match queued.letter.message(&server.from, id) {
        Ok(message) => server.deliver(message).await,
        Err(error) => Err(Undelivered::Never(error.to_string())),
    };
    let old = now_ms().saturating_sub(queued.queued_ms) > millis(GIVE_UP);
    let to = queued.letter.to();
    match sent {
        Ok(()) => {
            metrics::counter!("mail_delivered_total").increment(1);
            tracing::info!(letter = id, to, "delivered");
            remove(store, key, claimed).await
        }
        Err(Undelivered::Never(why)) => give_up(store, key, claimed, to, &why).await,
        Err(Undelivered::NotNow(why)) if old => give_up(store, key, claimed, to, &why).await,
        Err(Undelivered::NotNow(why)) => {
            metrics::counter!("mail_delayed_total").increment(1);
            let pause = pause_after(queued.attempts);
            queued.trouble = Some(why.clone());
            queued.claimed_by = None;
            queued.due_ms = now_ms().saturating_add(millis(pause));
            let claimed = Entry {
                revision: claimed,
                ..entry
            };
            let kept = write(store, &claimed, &queued).await;
            if let Err(error) = &kept {
                tracing::warn!(letter = id, to, %error, "not delivered, and that can't be written down: {why}");
            }
            kept?;
            // Said when it is so: who reads it can end the daemon without holding the letter up.
            tracing::warn!(
                letter = id,
                to,
                attempts = queued.attempts,
                "not delivered, again in {} s: {why}",
                pause.as_secs()
            );
            Ok(())
        }
    }
}

/// Writes a letter in place of `read`. None: somebody was faster.
async fn write(
    store: &SharedStore,
    read: &Entry,
    queued: &Queued,
) -> Result<Option<Revision>, String> {
    let value = queued.encode().map_err(|error| error.to_string())?;
    let transaction = Transaction::new()
        .revision_is(&read.key, read.revision)
        .put(read.key.clone(), value);
    match store.commit(transaction).await {
        Ok(Outcome::Committed(revision)) => Ok(Some(revision)),
        Ok(Outcome::Conflict(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn remove(store: &SharedStore, key: &Key, claimed: Revision) -> Result<(), String> {
    let transaction = Transaction::new()
        .revision_is(key, claimed)
        .delete(key.clone());
    let removed = store.commit(transaction).await;
    removed.map(drop).map_err(|error| error.to_string())
}

async fn give_up(
    store: &SharedStore,
    key: &Key,
    claimed: Revision,
    to: &str,
    why: &str,
) -> Result<(), String> {
    metrics::counter!("mail_given_up_total").increment(1);
    tracing::error!(letter = key.id(), to, "given up: {why}");
    remove(store, key, claimed).await
}

/// How long a letter waits after its `attempts`th failure; a fifth more or less, so that letters spread.
fn pause_after(attempts: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    doubled
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.8..1.2))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_an_hour() {
        assert!(pause_after(1) >= FIRST_PAUSE.mul_f64(0.8) && pause_after(1) < FIRST_PAUSE * 2);
        assert!(pause_after(4) > pause_after(1));
        for attempts in [10, 40, u32::MAX] {
            let pause = pause_after(attempts);
            assert!(pause <= LONGEST_PAUSE.mul_f64(1.2) && pause >= LONGEST_PAUSE / 2);
        }
    }
}
