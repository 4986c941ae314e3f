//! That the daemon which keeps the images and volumes is there: of two with copies of the same data one has the part, and the other
//! one is told who.
//!
//! ```text
//!  StoragePulse/own, under a lease ──▶ taken, with StorageKeeper/own ──▶ this daemon writes, and hands out volumes
//!        ▲                                                                    │ nothing heard of the store for LIFE − MARGIN
//!        │                                                                    ▼
//!        └── let go, or its lease has ended: another may take it      hands out no volume, ends those that it has, writes nothing
//! ```
//!
//! The lease ends no earlier than LIFE after it was asked for last, by the clock of the store, and who has it counts from
//! before it asks, by a clock that nobody sets: so the volumes are ended before another one begins, whatever lies between. What it
//! writes is compared with the key, however late it arrives ([`Tenure`]). Machines on this computer that have volumes of this
//! folder go on: they are this host's, and no other one is given what they have.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use cimi::{Acl, Common, StorageKeeperId, Timestamp, resources::StorageKeeper};
use documents::{Cached, Changes, Documents, DocumentsError};
use parking_lot::Mutex;
use serde_json::Map;
use store::{Change, Key, LeaseId, Prefix, Revision, StoreError, Tenure, WatchError};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use vmhost::guard::Moment;

use super::folder::Folder;

const COLLECTION: &str = "StoragePulse";
const DOING: &str = "saying who keeps the images";

/// What it says of itself where others read it.
#[derive(Clone, Debug)]
pub(crate) struct Myself {
    /// Of this computer and its state directory: the same after a restart, and no other's.
    pub(crate) name: String,
    /// The same, but another when the computer was switched off meanwhile: there may be a copy of its disks in another. None: nobody
    /// else reaches the database, so that there is nobody to be told from.
    pub(crate) instance: Option<String>,
    /// How people call the computer.
    pub(crate) computer: String,
    /// `HOST:PORT` of its door for hosts; empty: it has none.
    pub(crate) address: String,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    /// How long the part stays with one that isn't heard of.
    life: Duration,
    /// How often it says that it is there.
    every: Duration,
    /// How long before another one may have it, it ends what it does.
    margin: Duration,
    /// How long another one is waited for longer than its life: the store may take a moment to notice.
    grace: Duration,
}

const TIMES: Times = Times {
    life: Duration::from_secs(15),
    every: Duration::from_secs(3),
    margin: Duration::from_secs(3),
    grace: Duration::from_secs(5),
};

/// The part, as this daemon has it or doesn't. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Pulse(Arc<Inner>);

struct Inner {
    documents: Documents,
    myself: Myself,
    folder: Folder,
    key: Key,
    times: Times,
    taken: watch::Sender<Option<Revision>>,
    tenure: Tenure,
    /// The one that the key is under, or may be.
    lease: Mutex<Option<Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: LeaseId,
    /// At which revision the key was put under it; none: that isn't known.
    taken: Option<Revision>,
    /// When it was last asked to go on, and did.
    heard: Moment,
}

impl Pulse {
    /// Of the data in `folder`.
    ///
    /// # Errors
    /// If that isn't the data of this cloud.
    pub(crate) fn of(documents: Documents, folder: &Path, myself: Myself) -> anyhow::Result<Self> {
        Self::timed(documents, folder, myself, TIMES)
    }

    fn timed(
        documents: Documents,
        folder: &Path,
        myself: Myself,
        times: Times,
    ) -> anyhow::Result<Self> {
        let folder = Folder::of(folder);
        let kept = documents.storage_keepers.get(StorageKeeper::OWN);
        folder.known(kept.as_ref().map(|kept| &kept.document.0))?;
        let key = Key::new(COLLECTION, StorageKeeper::OWN)?;
        let (taken, tenure) = Tenure::of(key.clone());
        Ok(Self(Arc::new(Inner {
            documents,
            myself,
            folder,
            key,
            times,
            taken,
            tenure,
            lease: Mutex::default(),
        })))
    }

    /// Whether the part is held; none if it can't be anybody else's.
    pub(crate) fn tenure(&self) -> Option<Tenure> {
        let is_shared = self.0.myself.instance.is_some();
        is_shared.then(|| self.0.tenure.clone())
    }

    /// Waits, before anything of the data is opened, until nobody else has the part: one that was killed has it for a moment still.
    ///
    /// # Errors
    /// If somebody else has it for longer, and so is there; those of the store.
    pub(crate) async fn until_free(&self) -> anyhow::Result<()> {
        let inner = &self.0;
        if inner.myself.instance.is_none() {
            return Ok(());
        }
        let store = inner.documents.store();
        let is_free = async {
            loop {
                let there = store.get(&inner.key).await?;
                let Some(there) = there.filter(|there| !inner.is_mine(&there.value)) else {
                    return Ok::<_, StoreError>(());
                };
                tracing::info!(
                    "another daemon keeps the images and volumes: waiting whether it is there"
                );
                inner.until_changed(there.revision).await?;
            }
        };
        match timeout(inner.times.life + inner.times.grace, is_free).await {
            Ok(free) => free.context("looking who keeps the images"),
            Err(_) => Err(inner.is_anothers()),
        }
    }

    /// Takes the part, and says so where entries find it. The data is open by now: of two with the same folder only one comes here.
    ///
    /// # Errors
    /// If another daemon has it; if what it has is no copy of this folder; those of the store.
    pub(crate) async fn take(&self) -> anyhow::Result<()> {
        let inner = &self.0;
        loop {
            let taking = match &inner.myself.instance {
                Some(instance) => inner.try_take(instance).await,
                None => inner.announce().await,
            };
            match taking? {
                Taking::Taken => return Ok(()),
                // Another daemon at the same moment: what it wrote is looked at, as soon as it shows.
                Taking::Changed => sleep(BEHIND).await,
            }
        }
    }

    /// Keeps it, for ever.
    ///
    /// # Errors
    /// If another daemon has it.
    pub(crate) async fn hold(&self) -> anyhow::Error {
        let Some(instance) = &self.0.myself.instance else {
            return std::future::pending().await;
        };
        loop {
            sleep(self.0.until_next()).await;
            if let Err(error) = self.0.beat(instance).await {
                self.0.taken.send_replace(None);
                return error;
            }
        }
    }

    /// Leaves it to whoever comes. Nothing of the data is written any more.
    pub(crate) async fn let_go(&self) {
        self.0.taken.send_replace(None);
        let lease = self.0.lease.lock().take();
        if let Some(lease) = lease {
            // If this fails it ends by itself.
            let _ = self.0.documents.store().revoke(lease.id).await;
        }
    }
}

/// How soon it is looked again for what another daemon has written and reads here don't show yet.
const BEHIND: Duration = Duration::from_millis(10);

enum Taking {
    Taken,
    /// Something is otherwise than was read.
    Changed,
}

/// What the store says to a sign of life.
enum Heard {
    /// It is under the lease that was taken at this revision.
    Yes(Revision),
    Ended,
    /// Why not.
    No(String),
}

impl Inner {
    fn is_mine(&self, value: &[u8]) -> bool {
        let own = self.myself.instance.as_deref();
        own.is_some_and(|own| own.as_bytes() == value)
    }

    fn is_anothers(&self) -> anyhow::Error {
        let kept = self.documents.storage_keepers.get(StorageKeeper::OWN);
        let (computer, address) = kept.map_or_else(Default::default, |kept| {
            let name = kept.common.name.clone().unwrap_or_default();
            (name, kept.address.clone())
        });
        anyhow::anyhow!(
            "the images and volumes of this cloud are kept by another daemon, on {computer} ({address}), which is there: the data \
             here is a copy of its, or the same. To have them kept here, stop that daemon first; if its computer is lost, this \
             is {} s later. Else leave the role `storage` out here (`--roles entry,scheduler`)",
            self.times.life.as_secs()
        )
    }

    /// Says where it is, if that isn't said yet.
    async fn announce(&self) -> anyhow::Result<Taking> {
        let (kept, keeper) = self.next()?;
        let is_said = |kept: &Cached<StorageKeeper>| {
            let of = |keeper: &StorageKeeper| {
                let name = keeper.common.name.clone();
                let (folder, instance) = (keeper.folder.clone(), keeper.instance.clone());
                (name, folder, instance, keeper.address.clone())
            };
            of(kept) == of(&keeper)
        };
        if !kept.as_deref().is_some_and(is_said) {
            let changes = self.changes(kept.as_deref(), &keeper);
            match changes.commit().await {
                Ok(_) => {}
                Err(error) if error.is_conflict() => return Ok(Taking::Changed),
                Err(error) => return Err(error).context(DOING),
            }
        }
        self.folder.settle(&keeper.folder)?;
        Ok(Taking::Taken)
    }

    async fn try_take(&self, instance: &str) -> anyhow::Result<Taking> {
        let store = self.documents.store();
        let there = store.get(&self.key).await.context(DOING)?;
        if let Some(there) = there.as_ref().filter(|there| !self.is_mine(&there.value)) {
            // So that it can be said whose it is.
            let shown = self.documents.wait_for(there.revision).await;
            shown.map_err(DocumentsError::from).context(DOING)?;
            return Err(self.is_anothers());
        }
        let there = there.map_or(Revision::ZERO, |there| there.revision);
        let (kept, keeper) = self.next()?;
        let heard = Moment::now();
        let id = store.grant(self.times.life).await.context(DOING)?;
        let before = self.lease.lock().replace(Lease {
            id,
            taken: None,
            heard,
        });
        let put = self.changes(kept.as_deref(), &keeper);
        let put = put.put_raw_with_lease(&self.key, there, instance.as_bytes().to_vec(), id);
        let taken = match put.commit().await {
            Ok(taken) => taken,
            Err(error) if error.is_conflict() => {
                // It is under none of them; that it ends late harms nobody.
                let _ = store.revoke(id).await;
                return Ok(Taking::Changed);
            }
            Err(DocumentsError::Store(StoreError::LeaseNotFound { .. })) => {
                return Ok(Taking::Changed);
            }
            Err(error) => return Err(error).context(DOING),
        };
        self.folder.settle(&keeper.folder)?;
        if let Some(lease) = &mut *self.lease.lock() {
            lease.taken = Some(taken);
        }
        if self.left().is_zero() {
            // It took so long that it may be over.
            return Ok(Taking::Changed);
        }
        self.taken.send_replace(Some(taken));
        tracing::info!(%taken, "this daemon keeps the images and volumes");
        if let Some(before) = before {
            // The key is not under it any more.
            let _ = store.revoke(before.id).await;
        }
        Ok(Taking::Taken)
    }

    /// What is said of the storage, and what this daemon says of it.
    fn next(&self) -> anyhow::Result<(Option<Arc<Cached<StorageKeeper>>>, StorageKeeper)> {
        let kept = self.documents.storage_keepers.get(StorageKeeper::OWN);
        let known = self
            .folder
            .known(kept.as_ref().map(|kept| &kept.document.0))?;
        let mut keeper = match &kept {
            Some(kept) => kept.document.0.clone(),
            None => StorageKeeper {
                id: StorageKeeperId::from_local(StorageKeeper::OWN)?,
                common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
                folder: String::new(),
                instance: String::new(),
                address: String::new(),
                unknown: Map::new(),
            },
        };
        // Another's until now, of which there may be a copy.
        if known.is_none() || keeper.instance != self.myself.name {
            keeper.folder = self.folder.renamed(known.as_deref())?;
        }
        keeper.instance.clone_from(&self.myself.name);
        keeper.address.clone_from(&self.myself.address);
        keeper.common.name = Some(self.myself.computer.clone());
        Ok((kept, keeper))
    }

    fn changes(&self, kept: Option<&Cached<StorageKeeper>>, keeper: &StorageKeeper) -> Changes<'_> {
        let changes = self.documents.changes();
        match kept {
            Some(kept) => changes.replace(kept, keeper.clone()),
            None => changes.create(keeper),
        }
    }

    /// How long what it does may go on after the store was asked to hear it, and did.
    const fn good(&self) -> Duration {
        self.times.life.saturating_sub(self.times.margin)
    }

    /// How long that is yet.
    fn left(&self) -> Duration {
        let heard = self.lease.lock().map(|lease| lease.heard.elapsed());
        heard.map_or(Duration::ZERO, |heard| self.good().saturating_sub(heard))
    }

    fn until_next(&self) -> Duration {
        let left = self.left();
        // With none left it does nothing by now, and tries on.
        match left.is_zero() {
            true => self.times.every,
            false => left.min(self.times.every),
        }
    }

    /// Says once that it is there; what it does ends when nobody has heard it for too long.
    async fn beat(&self, instance: &str) -> anyhow::Result<()> {
        // Before it is asked once more, which takes its time.
        if self.left().is_zero() {
            self.rest("the store isn't heard");
        }
        let lease = *self.lease.lock();
        let heard = match lease {
            Some(lease) => self.keep_alive(lease).await,
            None => Heard::Ended,
        };
        match heard {
            // The key was under the lease all the time: nobody else has had it.
            Heard::Yes(taken) if !self.left().is_zero() => {
                if self.taken.send_replace(Some(taken)).is_none() {
                    tracing::info!("the store is heard again: volumes are handed out again");
                }
            }
            Heard::Yes(_) => {}
            Heard::Ended => {
                self.rest("it was said too late that this daemon is there");
                match self.try_take(instance).await {
                    Ok(_) => {}
                    Err(error) if is_of_store(&error) => tracing::warn!("{error:#}; trying on"),
                    Err(error) => return Err(error),
                }
            }
            Heard::No(why) => {
                tracing::warn!(
                    why,
                    "it can't be said that this daemon keeps the images; trying on"
                );
            }
        }
        if self.left().is_zero() {
            self.rest("the store isn't heard");
        }
        Ok(())
    }

    async fn keep_alive(&self, lease: Lease) -> Heard {
        let asked = Moment::now();
        // What comes later may come too late.
        let left = self.left();
        let limit = if left.is_zero() { self.good() } else { left };
        let answer = timeout(limit, self.documents.store().keep_alive(lease.id)).await;
        match (answer, lease.taken) {
            (Ok(Ok(_)), Some(taken)) => {
                *self.lease.lock() = Some(Lease {
                    heard: asked,
                    ..lease
                });
                Heard::Yes(taken)
            }
            // Whether the key is under it isn't known.
            (Ok(Ok(_)), None) | (Ok(Err(StoreError::LeaseNotFound { .. })), _) => Heard::Ended,
            (Ok(Err(error)), _) => Heard::No(error.to_string()),
            (Err(_), _) => Heard::No("it doesn't answer in time".to_owned()),
        }
    }

    /// Ends what only who has the part may do.
    fn rest(&self, why: &str) {
        if self.taken.send_replace(None).is_some() {
            tracing::error!(
                why,
                "another daemon may keep the volumes of this cloud from now on: none is handed out here, and those that hosts use are \
                 ended; their guests wait"
            );
        }
    }

    /// Waits until the key isn't any more what it was at `seen`.
    async fn until_changed(&self, seen: Revision) -> Result<(), StoreError> {
        let prefix = Prefix::collection(COLLECTION).map_err(|_| StoreError::Closed)?;
        let mut watch = self.documents.store().watch(prefix, seen).await?;
        loop {
            match watch.next().await {
                Ok(batch) => {
                    let is_it = |change: &Change| *change.key() == self.key;
                    if batch.changes.iter().any(is_it) {
                        return Ok(());
                    }
                }
                // Much has happened: look again.
                Err(WatchError::Compacted { .. }) => return Ok(()),
                Err(WatchError::Store(error)) => return Err(error),
            }
        }
    }
}

/// Whether it is for want of the store, which may answer later.
fn is_of_store(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<StoreError>() || cause.is::<DocumentsError>())
}

#[cfg(test)]
mod tests;
