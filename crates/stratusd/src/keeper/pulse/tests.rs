#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use store::{Outcome, SharedStore, SqliteStore, Transaction, testing::Interposed};
use tokio::task::JoinHandle;

use super::*;

/// Long enough for a busy machine to say in time that it is there, short enough to be waited for.
const LIFE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);

/// The store, and the cable to it.
struct Cable {
    behind: SharedStore,
    is_cut: AtomicBool,
    /// Of whom it is noted whether it has the part whenever it says that it is there.
    watched: Mutex<Option<Tenure>>,
    had_it: Mutex<Vec<bool>>,
}

impl Cable {
    fn to(behind: SharedStore) -> Arc<Self> {
        Arc::new(Self {
            behind,
            is_cut: AtomicBool::new(false),
            watched: Mutex::default(),
            had_it: Mutex::default(),
        })
    }
}

impl Cable {
    fn or_cut(&self) -> Result<(), StoreError> {
        match self.is_cut.load(Ordering::SeqCst) {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Interposed for Cable {
    fn behind(&self) -> &SharedStore {
        &self.behind
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.or_cut()?;
        self.behind.commit(transaction).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        if let Some(tenure) = &*self.watched.lock() {
            self.had_it.lock().push(tenure.is_held());
        }
        self.or_cut()?;
        self.behind.keep_alive(lease).await
    }
}

/// One daemon.
struct Daemon {
    cable: Arc<Cable>,
    documents: Documents,
    pulse: Pulse,
    holding: Option<JoinHandle<anyhow::Error>>,
}

fn myself(name: &str) -> Myself {
    Myself {
        name: name.to_owned(),
        instance: Some(format!("{name} since today")),
        computer: format!("store-{name}"),
        address: format!("{name}.example.org:8443"),
    }
}

struct World {
    folder: tempfile::TempDir,
    store: SharedStore,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        std::fs::create_dir(folder.path().join("first")).unwrap();
        Self { folder, store }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As `cp -a` does.
    fn copy(&self, from: &str, to: &str) {
        let _ = std::fs::create_dir(self.data(to));
        let (from, to) = (self.data(from), self.data(to));
        std::fs::copy(from.join("storage-id"), to.join("storage-id")).unwrap();
    }

    /// A daemon of this name with the data of this folder, as it starts.
    async fn daemon(&self, name: &str, data: &str) -> anyhow::Result<Daemon> {
        let cable = Cable::to(self.store.clone());
        let documents = Documents::open(cable.clone()).await?;
        let myself = myself(name);
        let times = Times {
            life: LIFE,
            every: LIFE / 16,
            margin: LIFE / 4,
            grace: LIFE / 2,
        };
        let pulse = Pulse::timed(documents.clone(), &self.data(data), myself, times)?;
        pulse.until_free().await?;
        pulse.take().await?;
        let held = pulse.clone();
        Ok(Daemon {
            cable,
            documents,
            pulse,
            holding: Some(tokio::spawn(async move { held.hold().await })),
        })
    }
}

impl Daemon {
    /// Whether what it writes is written.
    async fn writes(&self) -> bool {
        let tenure = self.pulse.tenure().unwrap();
        let store = tenure.over(self.documents.store().clone());
        let key = Key::new("Document", "1").unwrap();
        match store.commit(Transaction::new().put(key, "x")).await {
            Ok(Outcome::Committed(_)) => true,
            Ok(Outcome::Conflict(_)) | Err(StoreError::NotHeld { .. } | StoreError::Closed) => {
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Until it does: for a moment it may not know whether it still has the part.
    async fn until_it_writes(&self) {
        let writes = async {
            while !self.writes().await {
                sleep(BEHIND).await;
            }
        };
        timeout(PATIENCE, writes).await.unwrap();
    }

    fn cut(&self, is_cut: bool) {
        self.cable.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// Killed.
    fn kill(&mut self) {
        self.holding.take().unwrap().abort();
    }

    async fn end_of_holding(&mut self) -> String {
        let ended = timeout(PATIENCE, self.holding.take().unwrap());
        ended.await.unwrap().unwrap().to_string()
    }
}

fn refusal(started: anyhow::Result<Daemon>) -> String {
    match started {
        Ok(_) => panic!("it has taken the part"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_with_copies_of_the_data_one_has_the_part_and_a_copy_that_stayed_behind_is_known()
 {
    let world = World::new();
    let mut first = world.daemon("a", "first").await.unwrap();
    first.until_it_writes().await;
    world.copy("first", "copy");
    let refused = refusal(world.daemon("b", "copy").await);
    assert!(
        refused.contains("on store-a (a.example.org:8443)") && refused.contains("stop that daemon"),
        "{refused}"
    );
    // It is not disturbed.
    first.until_it_writes().await;

    // Started again: it doesn't wait for the end of its former self, and wouldn't come to it here.
    let again = world.daemon("a", "first").await.unwrap();
    again.until_it_writes().await;
    assert!(!first.writes().await);
    first.kill();
    let mut first = again;
    // Killed for good: the other one takes it when its life is over.
    first.kill();
    let mut second = world.daemon("b", "copy").await.unwrap();
    second.until_it_writes().await;
    assert!(!first.writes().await, "what it still sends comes too late");

    // Its data is older now.
    second.kill();
    second.pulse.let_go().await;
    let refused = refusal(world.daemon("a", "first").await);
    assert!(refused.contains("in a copy of it"), "{refused}");
    // As the operator has carried it over.
    world.copy("copy", "first");
    world.daemon("a", "first").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_isnt_heard_has_ended_all_before_another_one_begins() {
    let world = World::new();
    let mut first = world.daemon("a", "first").await.unwrap();
    world.copy("first", "copy");
    let tenure = first.pulse.tenure().unwrap();

    // Back before anybody else has come: it goes on.
    first.cut(true);
    tenure.ended().await;
    assert!(!first.writes().await);
    first.cut(false);
    first.until_it_writes().await;

    first.cut(true);
    let ended = first.pulse.tenure().unwrap().ended();
    let second = world.daemon("b", "copy").await.unwrap();
    assert!(!tenure.is_held());
    ended.await;
    second.until_it_writes().await;
    first.cut(false);
    let why = first.end_of_holding().await;
    assert!(why.contains("on store-b"), "{why}");
    assert!(!first.writes().await);
    second.until_it_writes().await;
}

#[tokio::test]
async fn when_its_time_is_over_it_rests_before_it_asks_once_more() {
    let world = World::new();
    let cable = Cable::to(world.store.clone());
    let documents = Documents::open(cable.clone()).await.unwrap();
    // As long as another one isn't to have it, but for a margin of all of that: the time is over whenever it is looked.
    let times = Times {
        margin: TIMES.life,
        ..TIMES
    };
    let pulse = Pulse::timed(documents, &world.data("first"), myself("a"), times).unwrap();
    let tenure = pulse.tenure().unwrap();
    let taken = Revision(1);
    *pulse.0.lease.lock() = Some(Lease {
        id: world.store.grant(TIMES.life).await.unwrap(),
        taken: Some(taken),
        heard: Moment::now(),
    });
    pulse.0.taken.send_replace(Some(taken));
    *cable.watched.lock() = Some(tenure.clone());
    assert!(tenure.is_held());
    // However long the store takes to say that it isn't there.
    cable.is_cut.store(true, Ordering::SeqCst);
    pulse.0.beat("a since today").await.unwrap();
    assert_eq!(*cable.had_it.lock(), [false]);
    assert!(!tenure.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_database_alone_says_once_where_it_is_and_needs_no_pulse() {
    let world = World::new();
    let documents = Documents::open(world.store.clone()).await.unwrap();
    let begin = async |computer: &str| {
        let myself = Myself {
            name: "a".to_owned(),
            instance: None,
            computer: computer.to_owned(),
            address: String::new(),
        };
        let pulse = Pulse::of(documents.clone(), &world.data("first"), myself).unwrap();
        pulse.until_free().await.unwrap();
        pulse.take().await.unwrap();
        assert!(pulse.tenure().is_none());
        documents.revision()
    };
    let first = begin("laptop").await;
    assert_eq!(begin("laptop").await, first, "nothing is written again");
    assert!(begin("called otherwise").await > first);
    let kept = documents.storage_keepers.get(StorageKeeper::OWN).unwrap();
    assert_eq!(kept.common.name.as_deref(), Some("called otherwise"));
}
