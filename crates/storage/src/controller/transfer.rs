//! Which images are being brought in by this process, and how their workers hear that something changed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The images whose content is on its way.
#[derive(Debug, Clone, Default)]
pub(super) struct Transfers(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

/// One of them; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Transfer {
    all: Transfers,
    local: String,
    changed: Arc<Notify>,
    /// Which part of the way this is.
    pub(super) part: Part,
}

/// A part of the way of an image's content, in percent of all: from, to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part(u8, u8);

impl Part {
    pub(super) const ALL: Self = Self(0, 100);
    pub(super) const FIRST: Self = Self(0, 50);
    pub(super) const SECOND: Self = Self(50, 100);

    /// How far all is when this part is so far; 0 and 100 mean "not begun" and "done".
    fn of_all(self, percent: u8) -> u8 {
        let Self(from, to) = self;
        let gone = u16::from(to - from) * u16::from(percent.min(100)) / 100;
        from.saturating_add(u8::try_from(gone).unwrap_or_default())
            .clamp(1, 99)
    }
}

impl Transfers {
    /// Begins a transfer, unless there is one already.
    pub(super) fn begin(&self, local: &str) -> Option<Transfer> {
        let mut all = self.0.lock();
        if all.contains_key(local) {
            return None;
        }
        let changed = Arc::new(Notify::new());
        all.insert(local.to_owned(), changed.clone());
        metrics::gauge!("storage_imports_running").increment(1);
        Some(Transfer {
            all: self.clone(),
            local: local.to_owned(),
            changed,
            part: Part::ALL,
        })
    }

    /// Whether an image is being brought in.
    pub(super) fn contains(&self, local: &str) -> bool {
        self.0.lock().contains_key(local)
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Tells the worker that its document changed.
    pub(super) fn ring(&self, local: &str) {
        if let Some(changed) = self.0.lock().get(local) {
            changed.notify_one();
        }
    }
}

impl Transfer {
    /// Waits until the document changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The image's id, without its collection.
    pub(super) fn local(&self) -> &str {
        &self.local
    }

    /// How far all is when the present part is so far.
    pub(super) fn of_all(&self, percent: u8) -> u8 {
        self.part.of_all(percent)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.local);
        metrics::gauge!("storage_imports_running").decrement(1);
    }
}

/// Who may send content now: so many at once, and of one owner fewer, so that nobody keeps all others out.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    each: usize,
    owners: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _one: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all.max(1))),
            each: each.max(1),
            owners: Mutex::default(),
        }
    }

    /// Waits for a turn, each owner's in order. None only if there are no turns any more.
    pub(super) async fn take(&self, owner: &str) -> Option<Turn> {
        let own = {
            let mut owners = self.owners.lock();
            // A permit keeps its semaphore: owners without any are forgotten.
            owners.retain(|_, semaphore| semaphore.strong_count() > 0);
            let known = owners.get(owner).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let semaphore = Arc::new(Semaphore::new(self.each));
                owners.insert(owner.to_owned(), Arc::downgrade(&semaphore));
                semaphore
            })
        };
        // The own one first: who waits for it holds nobody else up.
        let own = own.acquire_owned().await.ok()?;
        let one = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn {
            _one: one,
            _own: own,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_owner_waits_for_his_own_turns_and_not_for_those_of_others() {
        let turns = Turns::new(3, 2);
        let now = |owner| turns.take(owner).now_or_never().flatten();
        let first = now("alice").expect("a turn");
        let _second = now("alice").expect("a turn");
        assert!(now("alice").is_none(), "two are hers");
        let other = now("bob").expect("a turn");
        assert!(now("carol").is_none(), "three are all");
        drop(other);
        drop(now("carol").expect("a turn"));
        assert!(now("alice").is_none());
        drop(first);
        assert!(now("alice").is_some());
    }
}
