//! Short lists as they go on: what a resource has of its own, and the types there are. They are made of documents, or of what
//! is measured, when somebody looks. So each who watches looks again when that may have changed, and tells what differs from what
//! was told. Nothing is remembered for who comes back: they are told everything anew.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use cimi::{model::Kind, model::describe, query::Filter};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, sleep, sleep_until},
};

use super::{Counted, Since, Watched, Watching, hub::Batch};
use crate::{Cloud, CloudError, OpContext, Result, View, access, metadata, standing::Standing};

/// Between two looks at least: what changes without end is told so often.
const REST: Duration = Duration::from_millis(100);
/// And as many times what the look took: who watches what is long leaves the others their time.
const REST_OF_LOOKS: u32 = 20;
/// Between two looks at what is measured at most: half of what passes between two measurements.
const MEASURED: Duration = Duration::from_secs(5);

/// Something of the documents changed.
type News = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// What is followed.
enum List {
    Types,
    Own {
        parent: Kind,
        id: String,
        collection: String,
    },
}

impl List {
    async fn members(&self, cloud: &Cloud, context: &OpContext) -> Result<Vec<View>> {
        match self {
            Self::Types => Ok(types()),
            Self::Own {
                parent,
                id,
                collection,
            } => Ok(cloud.members(context, *parent, id, collection).await?.0),
        }
    }
}

fn types() -> Vec<View> {
    metadata::list(&cimi::query::Query::default()).members
}

/// Types of documents that such members are made of, beside what they belong to. Of meters there are none: they are looked at.
const fn made_of(members: Kind) -> &'static [Kind] {
    match members {
        Kind::Event => &[Kind::Event],
        Kind::ForwardingGroupNetwork | Kind::MachineNetworkInterface => &[Kind::Network],
        Kind::NetworkNetworkPort => &[Kind::NetworkPort],
        Kind::VolumeVolumeImage => &[Kind::VolumeImage],
        _ => &[],
    }
}

/// The types of documents that such a collection may change with.
fn rests_on(parent: Kind, members: Kind) -> impl Iterator<Item = Kind> {
    let owners: &[Kind] = match parent {
        // A log is there as long as what it is about, which may be any of these.
        Kind::EventLog => &[Kind::Machine, Kind::Volume, Kind::System],
        Kind::ForwardingGroup => &[Kind::ForwardingGroup],
        Kind::Host => &[Kind::Host],
        Kind::Machine => &[Kind::Machine],
        Kind::Network => &[Kind::Network],
        Kind::SecurityGroup => &[Kind::SecurityGroup],
        Kind::System => &[Kind::System],
        Kind::Volume => &[Kind::Volume],
        _ => &[],
    };
    owners.iter().chain(made_of(members)).copied()
}

impl Cloud {
    /// Follows a resource's own collection: that of `parent` by its type, id and attribute. Ends with the resource.
    ///
    /// # Errors
    /// Those of [`members`](Self::members); [`CloudError::Unavailable`] if there are too many watches.
    pub async fn watch_members(
        &self,
        context: &OpContext,
        (parent, id, collection): (Kind, &str, &str),
        filter: Option<Filter>,
        since: Since,
    ) -> Result<Watching> {
        let none = || CloudError::not_found(format!("{parent}/{id}/{collection}"));
        let members = describe(parent)
            .own_collection(collection)
            .ok_or_else(none)?;
        let list = List::Own {
            parent,
            id: id.to_owned(),
            collection: collection.to_owned(),
        };
        // Before the first look: what changes after that is news.
        let news = rests_on(parent, members)
            .map(|kind| Ok(news_of(self.hub(kind)?.join().1)))
            .collect::<Result<Vec<_>>>()?;
        let is_measured = members == Kind::Meter;
        let revision = self.0.documents.revision().0;
        let seen = (revision, list.members(self, context).await?);
        self.watch_short(context, (list, seen), (news, is_measured), filter, since)
    }

    /// Follows ResourceMetadata, which never changes: that is told once.
    pub(super) fn watch_types(
        &self,
        context: &OpContext,
        filter: Option<Filter>,
        since: Since,
    ) -> Result<Watching> {
        let revision = self.0.documents.revision().0;
        let seen = (revision, types());
        self.watch_short(
            context,
            (List::Types, seen),
            (Vec::new(), false),
            filter,
            since,
        )
    }

    fn watch_short(
        &self,
        context: &OpContext,
        (list, (revision, members)): (List, (u64, Vec<View>)),
        (news, is_measured): (Vec<News>, bool),
        filter: Option<Filter>,
        since: Since,
    ) -> Result<Watching> {
        access::require_user(context)?;
        let mut watcher = Watcher {
            cloud: self.clone(),
            standing: self.standing(context, None),
            list,
            filter,
            // One that never ends, so that no news is no end.
            news: stream::select_all(news.into_iter().chain([stream::pending().boxed()])),
            is_measured,
            looked: Instant::now(),
            rest: REST,
            told: HashMap::new(),
            waiting: VecDeque::from([Watched::Reset]),
            is_over: false,
            _counted: Counted::one_more(self, context)?,
        };
        watcher.compare(members);
        if since == Since::Now {
            watcher.waiting.clear();
        }
        watcher.waiting.push_back(Watched::UpTo(revision));
        Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
            watcher.next().await.map(|watched| (watched, watcher))
        })))
    }
}

/// A ring for each batch. Who missed some looks at all there is anyway.
fn news_of(receiver: Receiver<Arc<Batch>>) -> News {
    stream::unfold(receiver, async |mut receiver| match receiver.recv().await {
        Ok(_) | Err(RecvError::Lagged(_)) => Some(((), receiver)),
        Err(RecvError::Closed) => None,
    })
    .boxed()
}

/// One who watches.
struct Watcher {
    cloud: Cloud,
    standing: Standing,
    list: List,
    filter: Option<Filter>,
    news: stream::SelectAll<News>,
    is_measured: bool,
    looked: Instant,
    rest: Duration,
    told: HashMap<Arc<str>, View>,
    waiting: VecDeque<Watched>,
    /// There is nothing to follow any more.
    is_over: bool,
    _counted: Counted,
}

impl Watcher {
    async fn next(&mut self) -> Option<Watched> {
        loop {
            if !self.standing.counts() {
                return None;
            }
            if let Some(watched) = self.waiting.pop_front() {
                return Some(watched);
            }
            if self.is_over {
                return None;
            }
            let measured = async {
                if self.is_measured {
                    sleep(MEASURED).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _ = self.news.next() => {}
                () = measured => {}
                () = self.standing.changed() => continue,
            }
            sleep_until(self.looked + self.rest).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let begun = Instant::now();
        // What comes from here on rings again.
        while self.news.next().now_or_never().is_some() {}
        let revision = self.cloud.0.documents.revision().0;
        let members = self.list.members(&self.cloud, self.standing.context());
        match members.await {
            Ok(members) => self.compare(members),
            // A host that can't be asked just now is asked again.
            Err(CloudError::Unavailable(_)) => {}
            // What had them is gone, or not for the caller any more.
            Err(_) => {
                self.compare(Vec::new());
                self.is_over = true;
            }
        }
        if !self.waiting.is_empty() {
            self.waiting.push_back(Watched::UpTo(revision));
        }
        self.looked = Instant::now();
        self.rest = REST.max((self.looked - begun) * REST_OF_LOOKS);
    }

    /// Has what differs from what was told wait to be told.
    fn compare(&mut self, members: Vec<View>) {
        let filter = self.filter.as_ref();
        let mut seen = HashSet::new();
        for now in members {
            if filter.is_some_and(|filter| !filter.matches(&now)) {
                continue;
            }
            seen.insert(Arc::clone(&now.id));
            let before = self.told.insert(Arc::clone(&now.id), now.clone());
            if before.as_ref().is_none_or(|before| !is_same(before, &now)) {
                self.waiting.push_back(Watched::Changed { now, before });
            }
        }
        let gone = self.told.extract_if(|id, _| !seen.contains(id));
        self.waiting
            .extend(gone.map(|(id, _)| Watched::Removed(id)));
    }
}

/// Whether a member is shown as it was.
fn is_same(before: &View, now: &View) -> bool {
    let right = now.right;
    let as_written = before.stamp.is_some() && before.stamp == now.stamp;
    before.right == right
        && (as_written
            || before.document.attributes(right) == now.document.attributes(right)
                && before.document.operations(right) == now.document.operations(right))
}
