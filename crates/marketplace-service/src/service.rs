//! The service itself: what is there, in memory, following the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marketplace::catalogue::{Catalogue, Details, Found, Name, Order, Query, Record};
use marketplace::{Metadata, UtcTime};
use parking_lot::RwLock;
use store::{
    Change, Entry as Stored, Key, Outcome, Prefix, Range, Revision, SharedStore, StoreError,
    Transaction, Watch, WatchError,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::account::Accounts;
use crate::stored::{
    ENTRY, PREFIX, SESSION, SIGN_IN, StoredDocument, StoredEntry, StoredUpload, UPLOAD, cut,
    document_key, entry_name,
};
use crate::waiting::Uploads;
use crate::{Refused, Settings, asking};

/// Entries read at once when everything is read.
const PAGE: usize = 1000;
/// First and longest wait after a failure of the store.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a writer waits until its own change can be read.
const OWN_WRITE: Duration = Duration::from_secs(10);
/// How often it is looked whether endorsers are to be reminded.
const REMINDERS: Duration = Duration::from_secs(3600);
/// How often uploads, letters to sign in by and sessions are looked over whose time is over.
const SWEEP: Duration = Duration::from_secs(600);

/// A Marketplace. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Marketplace(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: SharedStore,
    pub(crate) settings: Settings,
    state: RwLock<State>,
    /// Whose upload is counted and written; one after the other.
    pub(crate) counting: tokio::sync::Mutex<()>,
    /// Turns of queries.
    pub(crate) queries: Arc<Semaphore>,
    /// What the state shows; `None` once it follows the store no more.
    applied: watch::Sender<Option<Revision>>,
}

#[derive(Default)]
struct State {
    catalogue: Catalogue,
    uploads: Uploads,
    accounts: Accounts,
}

impl std::fmt::Debug for Marketplace {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Marketplace")
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// The present, to the second.
pub(crate) fn now() -> UtcTime {
    UtcTime::from_timestamp(jiff::Timestamp::now())
}

impl Marketplace {
    /// Reads what is in the store. Nothing is followed before [`run`](Self::run).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(store: SharedStore, settings: Settings) -> Result<Self, StoreError> {
        let (state, revision) = read(&store).await?;
        Ok(Self(Arc::new(Inner {
            store,
            settings,
            state: RwLock::new(state),
            counting: tokio::sync::Mutex::default(),
            queries: Arc::new(Semaphore::new(asking::AT_ONCE)),
            applied: watch::Sender::new(Some(revision)),
        })))
    }

    /// Follows the store, and forgets uploads and sessions whose time is over, until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let sweeping = async {
            loop {
                self.forget_what_is_over().await;
                sleep(SWEEP).await;
            }
        };
        let reminding = async {
            loop {
                if let Err(error) = self.remind(now()).await {
                    tracing::warn!(%error, "reminding endorsers");
                }
                sleep(REMINDERS).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = reminding => {}
            () = self.follow() => {}
            () = sweeping => {}
        }
        self.0.applied.send_replace(None);
    }

    async fn follow(&self) {
        let prefix = Prefix::new(PREFIX).unwrap_or_else(|_| Prefix::everything());
        let mut wait = BACKOFF.0;
        loop {
            let after = self.0.applied.borrow().unwrap_or_default();
            let ended = match self.0.store.watch(prefix.clone(), after).await {
                Ok(watch) => self.follow_watch(watch, &mut wait).await,
                Err(error) => error.into(),
            };
            match ended {
                WatchError::Compacted { .. } => match read(&self.0.store).await {
                    Ok((state, revision)) => {
                        *self.0.state.write() = state;
                        self.0.applied.send_replace(Some(revision));
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, "reading the Marketplace anew"),
                },
                WatchError::Store(StoreError::Closed) => return,
                WatchError::Store(error) => tracing::warn!(%error, "following the Marketplace"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn follow_watch(&self, mut watch: Watch, wait: &mut Duration) -> WatchError {
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            *wait = BACKOFF.0;
            if !batch.changes.is_empty() {
                let mut state = self.0.state.write();
                for change in &batch.changes {
                    match change {
                        Change::Put(entry) => state.put(entry),
                        Change::Delete { key } => state.delete(key),
                    }
                }
            }
            self.0.applied.send_replace(Some(batch.revision));
        }
    }

    /// Waits until what was written at `revision` can be read, if that comes soon.
    pub(crate) async fn shows(&self, revision: Revision) {
        let mut applied = self.0.applied.subscribe();
        let shown = applied.wait_for(|now| now.is_none_or(|now| now >= revision));
        let _ = timeout(OWN_WRITE, shown).await;
    }

    /// What operators decided.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// How many entries there are, with all that are history.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.read().catalogue.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A page of what is asked for.
    ///
    /// # Errors
    /// [`Refused::TooMuch`] if more is asked for at once than is answered.
    pub fn search(
        &self,
        query: &Query,
        order: Order,
        offset: usize,
        limit: usize,
    ) -> Result<Found, Refused> {
        let state = self.0.state.read();
        Ok(state.catalogue.search(query, order, offset, limit, now())?)
    }

    /// Asks the catalogue itself. Don't keep it: changes wait meanwhile.
    pub fn ask<T>(&self, question: impl FnOnce(&Catalogue) -> T) -> T {
        question(&self.0.state.read().catalogue)
    }

    /// The document of an entry, as it came.
    ///
    /// # Errors
    /// Those of the store; [`Refused::Internal`] if what is stored is damaged.
    pub async fn document(&self, name: &Name) -> Result<Option<String>, Refused> {
        let Ok(key) = document_key(name) else {
            return Ok(None);
        };
        let Some(entry) = self.0.store.get(&key).await? else {
            return Ok(None);
        };
        serde_json::from_slice::<StoredDocument>(&entry.value)
            .map(|stored| Some(stored.document))
            .map_err(|error| Refused::Internal(format!("{key}: {error}")))
    }

    /// Asks about the uploads that wait for their confirmation, or did until their time was over.
    pub(crate) fn ask_uploads<T>(&self, question: impl FnOnce(&Uploads) -> T) -> T {
        question(&self.0.state.read().uploads)
    }

    /// Asks about who is signed in, and about letters to sign in by.
    pub(crate) fn ask_accounts<T>(&self, question: impl FnOnce(&Accounts) -> T) -> T {
        question(&self.0.state.read().accounts)
    }

    async fn forget_what_is_over(&self) {
        let now = now();
        let mut old: Vec<Key> = self.ask_uploads(|uploads| {
            let old = uploads.iter().filter(|(_, waiting)| waiting.until <= now);
            old.map(|(key, _)| key.clone()).collect()
        });
        old.extend(self.ask_accounts(|accounts| accounts.over(now)));
        for key in old {
            // What is old stays old: nobody writes it meanwhile but to remove it.
            match self.0.store.commit(Transaction::new().delete(key)).await {
                Ok(Outcome::Committed(_) | Outcome::Conflict(_)) => {}
                Err(error) => tracing::warn!(%error, "forgetting what nobody confirmed or used"),
            }
        }
    }

    /// What there is of each status, for the health and the metrics.
    #[must_use]
    pub fn figures(&self) -> BTreeMap<&'static str, usize> {
        let state = self.0.state.read();
        BTreeMap::from([
            ("entries", state.catalogue.len()),
            ("waiting", state.uploads.len()),
        ])
    }
}

impl State {
    fn put(&mut self, entry: &Stored) {
        match entry.key.collection() {
            ENTRY => match serde_json::from_slice::<StoredEntry>(&entry.value) {
                Ok(stored) => {
                    self.uploads.learn(&stored);
                    self.accounts.learn(&stored);
                    self.catalogue.add(stored.record);
                }
                Err(error) => tracing::error!(key = %entry.key, %error, "an entry can't be read"),
            },
            UPLOAD => match serde_json::from_slice::<StoredUpload>(&entry.value) {
                Ok(mut stored) => {
                    let title = stored.waiting.title.as_mut();
                    if let Some(title) = title {
                        *title = cut(title);
                    }
                    self.uploads.put(entry.key.clone(), stored.waiting);
                }
                Err(error) => tracing::error!(key = %entry.key, %error, "an upload can't be read"),
            },
            SIGN_IN | SESSION => {
                if let Err(error) = self.accounts.put(&entry.key, &entry.value) {
                    tracing::error!(key = %entry.key, %error, "who is signed in can't be read");
                }
            }
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key) {
        match key.collection() {
            ENTRY => {
                if let Some(name) = entry_name(key) {
                    self.catalogue.remove(&name);
                }
            }
            UPLOAD => {
                self.uploads.remove(key);
            }
            SIGN_IN | SESSION => self.accounts.remove(key),
            _ => {}
        }
    }
}

/// Everything as it is, and a revision after which the rest is to be watched.
async fn read(store: &SharedStore) -> Result<(State, Revision), StoreError> {
    let mut state = State::default();
    let mut begun = None;
    for collection in [ENTRY, UPLOAD, SIGN_IN, SESSION] {
        let Ok(prefix) = Prefix::collection(collection) else {
            continue;
        };
        let mut range = Range::prefix(&prefix).limit(PAGE);
        loop {
            let page = store.range(range.clone()).await?;
            begun.get_or_insert(page.revision);
            for entry in &page.entries {
                state.put(entry);
            }
            match page.entries.last() {
                Some(last) if page.more => range = range.after(&last.key),
                _ => break,
            }
        }
    }
    complete(store, &mut state.catalogue).await?;
    Ok((state, begun.unwrap_or_default()))
}

/// Reads from their documents what entries say that were taken by a version which didn't keep it.
async fn complete(store: &SharedStore, catalogue: &mut Catalogue) -> Result<(), StoreError> {
    let all = catalogue.all();
    let short: Vec<_> = all
        .filter(|(record, _)| record.details.is_none())
        .map(|(record, _)| Arc::clone(record))
        .collect();
    for record in short {
        let Ok(key) = document_key(&record.name()) else {
            continue;
        };
        let Some(entry) = store.get(&key).await? else {
            continue;
        };
        let metadata = serde_json::from_slice::<StoredDocument>(&entry.value)
            .ok()
            .and_then(|stored| Metadata::parse(stored.document.as_bytes()).ok());
        match metadata {
            Some(metadata) => catalogue.add(Record {
                details: Some(Details::of(&metadata)),
                ..(*record).clone()
            }),
            None => tracing::error!(%key, "a document can't be read"),
        }
    }
    Ok(())
}

/// For doors: whether an entry can be started now.
impl Marketplace {
    /// Whether its endorser still stands to it.
    #[must_use]
    pub fn is_valid(&self, record: &Record) -> bool {
        record.is_valid(now())
    }
}
