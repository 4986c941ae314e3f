//! What is brought in counts with the size that shows at its end, and nobody has more than the quota then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cimi::resources::{Image, ImageSource, ImageState};
use cimi::size::GIBIBYTE;
use cloud::{PerUser, Quotas};
use documents::room::{ImageRooms, NoRoom, Room, Unbounded};
use documents::{Documents, DocumentsError};
use parking_lot::Mutex;

use super::super::{Settings, StorageController};
use super::web_server::{Answer, WebServer};
use super::world::{World, image, names};
use crate::{Durability, Error, qcow2};

/// So much of images may one user have.
fn bounded(documents: &Documents, image_gib: u64) -> Arc<Quotas> {
    let per_user = PerUser {
        image_gib,
        ..PerUser::default()
    };
    Arc::new(Quotas::new(documents.clone(), per_user))
}

/// A disk of nearly a gibibyte whose file is small; every `number` makes another one.
fn disk(dir: &Path, number: u64) -> Bytes {
    let path = dir.join(format!("disk-{number}.qcow2"));
    let size = GIBIBYTE - number * 65_536;
    qcow2::create(&path, size, None, Durability::Cached).expect("disk");
    std::fs::read(&path).expect("read").into()
}

fn settings_at(world: &World, dir: PathBuf, quotas: Arc<Quotas>) -> Settings {
    let mut settings = world.settings();
    settings.dir = dir;
    settings.imports_per_owner = 4;
    settings.rooms = quotas;
    // Nearly empty disks.
    settings.limits.size.max_virtual_per_byte = u64::MAX;
    settings
}

/// Files of images below a storage's directory.
fn cached(dir: &Path) -> usize {
    names(&dir.join("cache/disks/images")).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_that_take_images_at_once_reach_the_quota_and_never_pass_it() {
    const IMAGES: u64 = 10;
    const ROOM: usize = 3;
    let world = World::new().await;
    let mut daemons = Vec::new();
    for name in ["one", "other"] {
        let documents = Documents::open(world.documents.store().clone()).await;
        let documents = documents.expect("documents");
        let (dir, quotas) = (
            world.dir.path().join(name),
            bounded(&documents, ROOM as u64),
        );
        let settings = settings_at(&world, dir.clone(), quotas);
        let controller = StorageController::open(documents.clone(), settings).await;
        daemons.push((controller.expect("open"), documents, dir));
    }
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..IMAGES {
        let wanted = image(ImageSource::Upload, "IMAGE");
        world.create(&wanted).await;
        let (controller, documents, _) = &daemons[usize::try_from(number % 2).expect("small")];
        let revision = world.documents.revision();
        documents.wait_for(revision).await.expect("seen");
        let (controller, bytes) = (controller.clone(), disk(world.dir.path(), number));
        sending.spawn(async move {
            let content = futures::stream::iter([Ok(bytes)]);
            (controller.take(&wanted, None, content).await, wanted)
        });
    }
    let mut taken = 0;
    for (outcome, wanted) in sending.join_all().await {
        let read = world.until::<Image>(wanted.id.local(), |image| {
            image.state != ImageState::Creating
        });
        let read = read.await;
        match outcome {
            Ok(()) => {
                taken += 1;
                assert_eq!(read.state, ImageState::Available);
            }
            Err(Error::Quota(reason)) => {
                assert_eq!(read.state, ImageState::Error);
                assert_eq!(read.reason.as_ref(), Some(&reason));
                let told = reason.contains("image space in GiB quota exceeded (Quota: 3, Used: ");
                assert!(told, "{reason}");
                assert!(read.file.is_none());
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, ROOM, "not one less, not one more");
    let kept: usize = daemons.iter().map(|(_, _, dir)| cached(dir)).sum();
    assert_eq!(kept, ROOM, "what was refused is in no cache");
    for (_, _, dir) in &daemons {
        assert_eq!(names(&dir.join("unwanted")), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_turns_out_too_large_fails_with_the_reason_and_can_be_had_when_others_went() {
    let mut world = World::new().await;
    let dir = world.storage_dir();
    let settings = settings_at(&world, dir.clone(), bounded(&world.documents, 1));
    world.start_with(settings, None).await;
    let mut wanted = Vec::new();
    for number in 1..=2 {
        let bytes = Arc::new(disk(world.dir.path(), number).to_vec());
        let server = WebServer::start(move |_| Answer::Body {
            bytes: bytes.clone(),
            etag: "one",
            ranges: true,
            at_most: usize::MAX,
        })
        .await;
        let url = server.url.clone();
        let one = image(ImageSource::Url { url }, "IMAGE");
        world.create(&one).await;
        let done = |image: &Image| image.state != ImageState::Creating;
        let read = world.until::<Image>(one.id.local(), done).await;
        wanted.push((read, server));
    }
    assert_eq!(wanted[0].0.state, ImageState::Available);
    let refused = &wanted[1].0;
    assert_eq!(refused.state, ImageState::Error);
    let reason = refused.reason.as_deref().expect("a reason");
    assert_eq!(
        reason,
        "image space in GiB quota exceeded (Quota: 1, Used: 1, Requested: 1): remove images, or ask the administrator for more"
    );
    assert_eq!(cached(&dir), 1);
    // The first one goes, and the second one, made anew, comes.
    let first = wanted[0].0.id.local();
    world.delete_image(first).await;
    world.until_gone::<Image>(first).await;
    let again = image(refused.desired.source.clone(), "IMAGE");
    world.create(&again).await;
    let done = |image: &Image| image.state != ImageState::Creating;
    let read = world.until::<Image>(again.id.local(), done).await;
    assert_eq!(read.state, ImageState::Available, "{:?}", read.reason);
    World::eventually("the first one's file goes", || cached(&dir) == 1).await;
    // Seen again from its file, it needs no room.
    let settings = settings_at(&world, dir.clone(), bounded(&world.documents, 1));
    world.start_with(settings, None).await;
    tokio::time::timeout(Duration::from_secs(60), async {
        world
            .until::<Image>(again.id.local(), |i| i.state == ImageState::Available)
            .await
    })
    .await
    .expect("still there");
    world.kill().await;
}

/// Rooms of a store that is away for the first so many questions.
#[derive(Debug)]
struct Away {
    answers_after: usize,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl ImageRooms for Away {
    async fn room(&self, _image: &Image, _bytes: u64) -> Result<Box<dyn Room>, NoRoom> {
        if self.asked.fetch_add(1, Ordering::Relaxed) < self.answers_after {
            let key = "what alice has".to_owned();
            return Err(NoRoom::NotNow(DocumentsError::Conflict { key }));
        }
        Ok(Box::new(Unbounded))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_for_which_no_room_can_be_had_now_asks_again_and_else_leaves_nothing() {
    for (answers_after, comes) in [(1, true), (usize::MAX, false)] {
        let world = World::new().await;
        let dir = world.storage_dir();
        let mut settings = settings_at(&world, dir.clone(), bounded(&world.documents, 1));
        settings.rooms = Arc::new(Away {
            answers_after,
            asked: AtomicUsize::new(0),
        });
        let controller = StorageController::open(world.documents.clone(), settings).await;
        let controller = controller.expect("open");
        let wanted = image(ImageSource::Upload, "IMAGE");
        world.create(&wanted).await;
        let content = futures::stream::iter([Ok(disk(world.dir.path(), 1))]);
        let outcome = controller.take(&wanted, None, content).await;
        assert_eq!(outcome.is_ok(), comes, "{outcome:?}");
        let done = |image: &Image| image.state != ImageState::Creating;
        let read = world.until::<Image>(wanted.id.local(), done).await;
        if comes {
            assert_eq!((read.state, cached(&dir)), (ImageState::Available, 1));
        } else {
            assert_eq!((read.state, cached(&dir)), (ImageState::Error, 0));
            let reason = read.reason.as_deref().unwrap_or_default();
            assert!(reason.contains("send the image again later"), "{reason}");
            assert_eq!(names(&dir.join("unwanted")), Vec::<String>::new());
        }
    }
}

/// Gives the image to somebody else while room is asked for the first time.
#[derive(Debug)]
struct Handed {
    documents: Documents,
    asked: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl ImageRooms for Handed {
    async fn room(&self, image: &Image, _bytes: u64) -> Result<Box<dyn Room>, NoRoom> {
        let owner = image.common.acl.owner.principal.clone();
        self.asked.lock().push(owner);
        let hand = |image: &mut Image| {
            let is_bobs = image.common.acl.owner.principal == "bob";
            image.common.acl.owner.principal = "bob".to_owned();
            Ok::<_, DocumentsError>(!is_bobs)
        };
        self.documents.update(image.id.local(), hand).await?;
        Ok(Box::new(Unbounded))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_that_of_who_owns_the_image_when_it_is_there() {
    let world = World::new().await;
    let rooms = Arc::new(Handed {
        documents: world.documents.clone(),
        asked: Mutex::default(),
    });
    let dir = world.storage_dir();
    let mut settings = settings_at(&world, dir, bounded(&world.documents, 1));
    settings.rooms = rooms.clone();
    let controller = StorageController::open(world.documents.clone(), settings).await;
    let controller = controller.expect("open");
    let wanted = image(ImageSource::Upload, "IMAGE");
    let first = wanted.common.acl.owner.principal.clone();
    world.create(&wanted).await;
    let content = futures::stream::iter([Ok(disk(world.dir.path(), 1))]);
    controller
        .take(&wanted, None, content)
        .await
        .expect("taken");
    assert_eq!(*rooms.asked.lock(), [first, "bob".to_owned()]);
}
