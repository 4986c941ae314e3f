//! Following a collection: what becomes of the members that the caller may see, as it happens.
//!
//! One follower a type ([`hub`]) looks at the cache's changes, remembers what each document was before, and tells all who
//! watch. Each of these sees what its caller may see, by the access control list of that moment: what can't be seen any
//! more is told as removed, what never could be isn't told at all. Nothing is kept for a watcher but its place: who is too
//! slow for the last changes begins anew, each time it happens. A watch ends when what its caller has shown counts no more, or for other rights.
//!
//! Logs are followed as documents are ([`logs`]); short lists that are made of documents are read again when one of these
//! changes ([`short`]).

mod hub;
mod logs;
mod short;

use std::{collections::HashMap, collections::VecDeque, net::IpAddr, pin::Pin, sync::Arc};

use cimi::{Right, model::Kind, query::Filter};
use documents::Documents;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use self::hub::{Batch, Hub, Place, Snapshot};
use crate::{
    Cloud, CloudError, OpContext, Result, View, access, front::by_kind, standing::Standing,
};

/// Watches of one user at once.
const OF_ONE_USER: usize = 16;
/// Watches at once.
const OF_ALL: usize = 1_024;
/// Watches at once of those who have not logged in, for what everybody may see.
const OF_STRANGERS: usize = 128;
/// Members that are read at once where all are told.
const PAGE: usize = 256;

/// From where on to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Everything there is, then what changes.
    Beginning,
    /// What changes from now on.
    Now,
    /// What changed after this revision, as far as that is still known; else as from the beginning.
    Revision(u64),
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Watched {
    /// What was told before counts no more: all members follow.
    Reset,
    /// A member is new or changed.
    Changed {
        /// What it is now.
        now: View,
        /// What it was when it was told last, if that is known.
        before: Option<View>,
    },
    /// There is no such member any more, or the caller may not see it, or it doesn't satisfy the filter.
    Removed(Arc<str>),
    /// Everything up to this revision has been told.
    UpTo(u64),
}

/// What a watch tells, as it happens. Ends with the cloud, and with what the caller's rights rest on.
pub type Watching = Pin<Box<dyn Stream<Item = Watched> + Send>>;

/// All watches of a cloud.
#[derive(Default)]
pub(crate) struct Watches {
    hubs: Mutex<HashMap<Kind, Arc<Hub>>>,
    going_on: Mutex<HashMap<Who, usize>>,
}

impl Cloud {
    /// Follows a collection, as far as the caller may see its members and `filter` holds for them.
    ///
    /// # Errors
    /// Those of a list; [`CloudError::Unavailable`] if there are too many watches.
    pub fn watch(
        &self,
        context: &OpContext,
        kind: Kind,
        filter: Option<Filter>,
        since: Since,
    ) -> Result<Watching> {
        access::require_list(context, kind)?;
        if kind == Kind::ResourceMetadata {
            return self.watch_types(context, filter, since);
        }
        let hub = self.hub(kind)?;
        let counted = Counted::one_more(self, context)?;
        let (place, receiver) = hub.join();
        let mut watcher = Watcher {
            documents: self.0.documents.clone(),
            standing: self.standing(context, None),
            filter,
            hub,
            receiver,
            told: place.revision,
            waiting: VecDeque::new(),
            rest: None,
            _counted: counted,
        };
        watcher.begin(since, &place);
        Ok(Box::pin(futures::stream::unfold(
            watcher,
            async |mut watcher| watcher.next().await.map(|watched| (watched, watcher)),
        )))
    }

    fn hub(&self, kind: Kind) -> Result<Arc<Hub>> {
        let documents = &self.0.documents;
        let mut hubs = self.0.watches.hubs.lock();
        if let Some(hub) = hubs.get(&kind) {
            return Ok(Arc::clone(hub));
        }
        let hub = if kind == Kind::EventLog {
            logs::hub(documents.clone())
        } else {
            by_kind!(kind, R => Hub::of::<R>(documents.clone()), else return Err(CloudError::not_found(kind)))
        };
        let hub = Arc::new(hub);
        hubs.insert(kind, Arc::clone(&hub));
        Ok(hub)
    }
}

/// Whose watches are counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    /// Somebody who has not logged in, by where they are.
    Stranger(Option<IpAddr>),
}

impl Who {
    fn of(context: &OpContext) -> Self {
        match context.user() {
            Some(user) => Self::User(user.to_owned()),
            None => Self::Stranger(context.peer.map(accounts::network_of)),
        }
    }
}

/// A watch that is going on, until dropped.
struct Counted {
    cloud: Cloud,
    who: Who,
}

impl Counted {
    fn one_more(cloud: &Cloud, context: &OpContext) -> Result<Self> {
        let who = Who::of(context);
        let mut going_on = cloud.0.watches.going_on.lock();
        if going_on.values().sum::<usize>() >= OF_ALL {
            return Err(CloudError::Unavailable(format!(
                "{OF_ALL} watches are going on already; try again later"
            )));
        }
        let of_strangers = going_on
            .iter()
            .filter(|(who, _)| matches!(who, Who::Stranger(_)));
        if matches!(who, Who::Stranger(_))
            && of_strangers.map(|(_, count)| count).sum::<usize>() >= OF_STRANGERS
        {
            return Err(CloudError::Unavailable(format!(
                "{OF_STRANGERS} watches without a login are going on already; log in, or try again later"
            )));
        }
        let own = going_on.entry(who.clone()).or_default();
        if *own >= OF_ONE_USER {
            return Err(CloudError::Unavailable(format!(
                "you have {OF_ONE_USER} watches going on already; end one of them"
            )));
        }
        *own += 1;
        Ok(Self {
            cloud: cloud.clone(),
            who,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut going_on = self.cloud.0.watches.going_on.lock();
        if let Some(own) = going_on.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                going_on.remove(&self.who);
            }
        }
    }
}

/// One who watches.
struct Watcher {
    documents: Documents,
    standing: Standing,
    filter: Option<Filter>,
    hub: Arc<Hub>,
    receiver: Receiver<Arc<Batch>>,
    /// All up to here has been told, or waits to be.
    told: u64,
    waiting: VecDeque<Watched>,
    /// Members that are still to be told of, if not all are.
    rest: Option<Rest>,
    _counted: Counted,
}

/// What remains to be told of all there is.
struct Rest {
    /// Up to this member it was told.
    after: Option<Arc<str>>,
    /// When that began.
    revision: u64,
}

impl Watcher {
    fn begin(&mut self, since: Since, place: &Place) {
        match since {
            Since::Now => self.waiting.push_back(Watched::UpTo(place.revision)),
            Since::Revision(revision) if self.replay(revision) => {}
            Since::Beginning | Since::Revision(_) => self.everything(place.revision),
        }
    }

    /// Tells what happened after `revision`, if that is still known.
    fn replay(&mut self, revision: u64) -> bool {
        let Some(missed) = self.hub.after(revision) else {
            return false;
        };
        self.told = revision;
        if missed.is_empty() {
            self.waiting.push_back(Watched::UpTo(revision));
        }
        for batch in missed {
            self.tell(&batch);
        }
        true
    }

    /// Tells of all members there are.
    fn everything(&mut self, revision: u64) {
        self.waiting.clear();
        self.waiting.push_back(Watched::Reset);
        self.told = revision;
        self.rest = Some(Rest {
            after: None,
            revision,
        });
    }

    /// Has the next members wait to be told, a page of them: nobody's memory holds all. What changes meanwhile is told after
    /// the last one, be it told already or not.
    fn next_page(&mut self, rest: Rest) {
        let after = rest.after.as_deref();
        let context = self.standing.context();
        let page = self.hub.readable(&self.documents, context, after, PAGE);
        for snapshot in &page {
            if let Some(view) = self.seen(&**snapshot) {
                let told = Watched::Changed {
                    now: view,
                    before: None,
                };
                self.waiting.push_back(told);
            }
        }
        match page.last() {
            Some(last) if page.len() >= PAGE => {
                self.rest = Some(Rest {
                    after: Some(last.local()),
                    ..rest
                });
            }
            _ => self.waiting.push_back(Watched::UpTo(rest.revision)),
        }
    }

    fn tell(&mut self, batch: &Batch) {
        if batch.revision <= self.told {
            return;
        }
        for change in &batch.changes {
            let now = change.now.as_ref().and_then(|now| self.seen(&**now));
            let before = change.before.as_ref().and_then(|seen| self.seen(&**seen));
            match (now, before) {
                (Some(now), before) => {
                    let is_told = |seen: &Arc<dyn Snapshot>| seen.is_of_its_moment();
                    let before = before.filter(|_| change.before.as_ref().is_some_and(is_told));
                    self.waiting.push_back(Watched::Changed { now, before });
                }
                (None, Some(before)) => self.waiting.push_back(Watched::Removed(before.id)),
                (None, None) => {}
            }
        }
        self.told = batch.revision;
        self.waiting.push_back(Watched::UpTo(batch.revision));
    }

    /// A document, if the caller may see it and asked for such.
    fn seen(&self, snapshot: &dyn Snapshot) -> Option<View> {
        let context = self.standing.context();
        if context.right_on(snapshot.acl()) < Some(Right::View) {
            return None;
        }
        let view = snapshot.view(&self.documents, context);
        let wanted = self
            .filter
            .as_ref()
            .is_none_or(|filter| filter.matches(&view));
        wanted.then_some(view)
    }

    async fn next(&mut self) -> Option<Watched> {
        loop {
            if !self.standing.counts() {
                return None;
            }
            if let Some(watched) = self.waiting.pop_front() {
                return Some(watched);
            }
            if let Some(rest) = self.rest.take() {
                self.next_page(rest);
                // Of a page little may be seen: others have their turn between two of them.
                tokio::task::yield_now().await;
                continue;
            }
            let received = tokio::select! {
                received = self.receiver.recv() => received,
                () = self.standing.changed() => continue,
            };
            match received {
                Ok(batch) => self.tell(&batch),
                Err(RecvError::Lagged(_)) => {
                    let (place, receiver) = self.hub.join();
                    self.receiver = receiver;
                    if !self.replay(self.told) {
                        self.everything(place.revision);
                    }
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
