//! Imports of one image that happen at once do the work once.
//!
//! The work runs in a task of its own. Everybody who waits for it holds a share of the [`Flight`]; when the last share
//! is dropped the task is ended, its channel closes, and the blocking half clears up behind itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::source::FIRST_PAUSE;
use super::{Image, ImageStore, Imported, Limits, Progress, Source, pipeline, source};
use crate::digest::Expected;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::inspect::Refusal;

/// Pieces of the source under way to the blocking half.
pub(super) const PIECES_IN_FLIGHT: usize = 8;

pub(super) type Flights = HashMap<Key, Weak<Flight>>;

/// What makes two imports the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Identifier(ImageIdentifier),
    /// The checksum of the file that it comes in.
    File(String),
    Url(String),
}

/// One running import.
#[derive(Debug)]
pub(super) struct Flight {
    store: ImageStore,
    key: Option<Key>,
    url: Option<String>,
    expected: Expected,
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<Imported, Error>>>,
    task: JoinHandle<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(key) = &self.key {
            let mut flights = self.store.inner.flights.lock();
            // A later import may have taken the place already.
            if flights
                .get(key)
                .is_some_and(|flight| flight.strong_count() == 0)
            {
                flights.remove(key);
            }
        }
    }
}

/// Waits for the import of this image, doing it if nobody does.
pub(super) async fn join(
    store: &ImageStore,
    source: Source,
    expected: Expected,
    limits: Limits,
    progress: &watch::Sender<Progress>,
) -> Result<Imported, Error> {
    let url = match &source {
        Source::Url { url, .. } => Some(url.clone()),
        Source::Stream { .. } | Source::File(_) | Source::Disk(_) => None,
    };
    let key = expected
        .known_identifier()
        .map(Key::Identifier)
        .or_else(|| expected.source.name().map(Key::File))
        .or_else(|| url.clone().map(Key::Url));
    let mut source = Some(source);
    loop {
        if let Some(image) = expected
            .known_identifier()
            .and_then(|identifier| store.find(&identifier))
        {
            let imported = Imported {
                image,
                already_present: true,
            };
            return accept(store, imported, &expected).await;
        }
        let lead = || {
            let own = source.take()?;
            let (key, url) = (key.clone(), url.clone());
            Some(start(store, key, url, own, expected.clone(), limits))
        };
        // One's own source is only used up by leading, and a leader returns.
        let Some((flight, leading)) = running_or(store, key.as_ref(), lead) else {
            return Err(Error::Cancelled);
        };
        match flight.wait(progress).await {
            outcome if leading => return outcome,
            Ok(imported) => {
                let imported = Imported {
                    already_present: true,
                    ..imported
                };
                return accept(store, imported, &expected).await;
            }
            // The same request would only fail the same way; any other deserves its own try.
            Err(error) if url.is_some() && flight.url == url && flight.expected == expected => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, "the import waited for failed; trying on our own");
            }
        }
    }
}

/// The import of this key that is under way, or the one that `lead` begins, which is then `true`.
fn running_or(
    store: &ImageStore,
    key: Option<&Key>,
    lead: impl FnOnce() -> Option<Arc<Flight>>,
) -> Option<(Arc<Flight>, bool)> {
    // Outlives the lock: the last share of a flight takes it.
    let found: Option<Arc<Flight>>;
    {
        let mut flights = store.inner.flights.lock();
        found = key.and_then(|key| flights.get(key)).and_then(Weak::upgrade);
        let is_running = |flight: &&Arc<Flight>| flight.outcome.borrow().is_none();
        match found.as_ref().filter(is_running) {
            Some(running) => Some((Arc::clone(running), false)),
            None => {
                let flight = lead()?;
                if let Some(key) = key {
                    flights.insert(key.clone(), Arc::downgrade(&flight));
                }
                Some((flight, true))
            }
        }
    }
}

/// What somebody else brought must be what was asked for here.
async fn accept(
    store: &ImageStore,
    imported: Imported,
    expected: &Expected,
) -> Result<Imported, Error> {
    same(store, &imported.image, expected).await?;
    Ok(imported)
}

/// Whether an image is what is stated.
pub(super) async fn same(
    store: &ImageStore,
    image: &Arc<Image>,
    expected: &Expected,
) -> Result<(), Error> {
    let (store, read, stated) = (store.clone(), image.clone(), expected.clone());
    super::blocking(move || pipeline::compare(&store, &read, &stated)).await?;
    match expected.format {
        Some(stated) if stated != image.format => Err(Refusal::NotAsStated {
            stated,
            found: image.format.as_str(),
        }
        .into()),
        _ => Ok(()),
    }
}

impl Flight {
    /// The outcome; until then `to` follows the progress.
    async fn wait(&self, to: &watch::Sender<Progress>) -> Result<Imported, Error> {
        let mut progress = self.progress.clone();
        let mut outcome = self.outcome.clone();
        loop {
            tokio::select! {
                biased;
                done = outcome.wait_for(Option::is_some) => {
                    to.send_replace(*self.progress.borrow());
                    // The sender is only dropped without an outcome when the task panicked or its runtime ends.
                    return done.ok().and_then(|done| done.clone()).unwrap_or(Err(Error::Cancelled));
                }
                Ok(()) = progress.changed() => {
                    to.send_replace(*progress.borrow_and_update());
                }
            }
        }
    }
}

fn start(
    store: &ImageStore,
    key: Option<Key>,
    url: Option<String>,
    source: Source,
    expected: Expected,
    limits: Limits,
) -> Arc<Flight> {
    let (progress, progress_receiver) = watch::channel(Progress::default());
    let (outcome, outcome_receiver) = watch::channel(None);
    let task = tokio::spawn({
        let (store, expected) = (store.clone(), expected.clone());
        async move {
            let result = work(store, source, expected, limits, Arc::new(progress)).await;
            outcome.send_replace(Some(result));
        }
    });
    Arc::new(Flight {
        store: store.clone(),
        key,
        url,
        expected,
        progress: progress_receiver,
        outcome: outcome_receiver,
        task,
    })
}

/// Imports, from the beginning if it broke off where it can't be taken up.
async fn work(
    store: ImageStore,
    source: Source,
    expected: Expected,
    limits: Limits,
    progress: Arc<watch::Sender<Progress>>,
) -> Result<Imported, Error> {
    let mut source = source;
    let mut failures = 0;
    loop {
        let again = source.again();
        let imported = once(&store, source, &expected, limits, progress.clone()).await;
        match (imported, again) {
            (Err(error @ Error::BrokeOff { .. }), Some(same)) if failures < limits.resumes => {
                tracing::info!(%error, "starting again from the beginning");
                tokio::time::sleep(FIRST_PAUSE * 2_u32.saturating_pow(failures.min(8))).await;
                failures += 1;
                source = same;
                progress.send_replace(Progress::default());
            }
            (imported, _) => return imported,
        }
    }
}

async fn once(
    store: &ImageStore,
    source: Source,
    expected: &Expected,
    limits: Limits,
    progress: Arc<watch::Sender<Progress>>,
) -> Result<Imported, Error> {
    let (to, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
    // Dropping `_waiting` with this future is what ends a program that works for it.
    let (cancelled, _waiting) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(
        Error::errno("make a pipe for an import into", &store.inner.dir),
    )?;
    let is_proven = expected.is_proof();
    let blocking = super::blocking({
        let (store, expected, progress) = (store.clone(), expected.clone(), progress.clone());
        move || {
            store.require_space(expected.bytes.unwrap_or(0))?;
            pipeline::run(&store, pieces, &expected, &limits, &progress, &cancelled)
        }
    });
    let ((), result) = tokio::join!(
        source::pump(source, is_proven, limits, progress, to),
        blocking
    );
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::mpsc as threads;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// One of this key, whose outcome is known already.
    fn ended(store: &ImageStore, key: &Key) -> Arc<Flight> {
        let (_, progress) = watch::channel(Progress::default());
        let (_, outcome) = watch::channel(Some(Err(Error::Cancelled)));
        Arc::new(Flight {
            store: store.clone(),
            key: Some(key.clone()),
            url: None,
            expected: Expected::default(),
            progress,
            outcome,
            task: tokio::spawn(async {}),
        })
    }

    #[tokio::test]
    async fn who_meets_an_import_that_ends_just_then_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), super::super::Options::default()).unwrap();
        let key = Key::Url("http://127.0.0.1/disk".to_owned());
        let (old, new) = (ended(&store, &key), ended(&store, &key));
        let place = Arc::downgrade(&old);
        store.inner.flights.lock().insert(key.clone(), place);
        let (done, told) = threads::channel();
        // In a thread of its own: one that waits for itself never comes back.
        thread::spawn({
            let (store, key) = (store.clone(), key.clone());
            move || {
                let lead = || {
                    // Those who had the old one go away: the share that was just found is the last.
                    drop(old);
                    Some(new)
                };
                let (flight, is_led) = running_or(&store, Some(&key), lead).unwrap();
                done.send((flight, is_led)).unwrap();
            }
        });
        let (flight, is_led) = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(is_led);
        // The end of the old one doesn't take the place of the new one.
        let there = store.inner.flights.lock().get(&key).and_then(Weak::upgrade);
        assert!(there.is_some_and(|there| Arc::ptr_eq(&there, &flight)));
    }
}
