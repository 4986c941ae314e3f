//! A disk that is full while images come, with their documents on it or beside it: told, survived, and over when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use cimi::resources::{Image, ImageSource, ImageState};
use tokio::sync::Notify;

use super::site::{Site, asking, base, whole};
use super::web_server::Answer;
use super::world::{World, image, names};

fn available(image: &Image) -> bool {
    image.state == ImageState::Available
}

fn waiting_because(text: &'static str) -> impl Fn(&Image) -> bool {
    move |image| {
        let reason = image.reason.as_deref().unwrap_or_default();
        image.state == ImageState::Creating && reason.contains(text)
    }
}

fn bytes() -> Vec<u8> {
    (0..3_u32 << 18)
        .flat_map(|n| (n / 5).to_le_bytes())
        .collect()
}

fn from(url: &str) -> Image {
    image(
        ImageSource::Url {
            url: url.to_owned(),
        },
        "IMAGE",
    )
}

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "small"])
            .arg(at)
            .output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: cannot mount a tmpfs: {mounted:?}");
        None
    }

    fn enlarge(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(done.expect("mount").success());
    }
}

/// What takes all of a small disk but so many pages; gone when dropped.
struct Filler(PathBuf);

impl Filler {
    fn leaving(disk: &Path, pages: u64) -> Self {
        let path = disk.join("filler");
        let file = std::fs::File::create(&path).expect("file");
        let free = rustix::fs::statvfs(disk).expect("statvfs");
        let taken = free.f_bfree.saturating_sub(pages) * free.f_frsize;
        if taken > 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken)
                .expect("allocated");
        }
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_the_image_comes_when_there_is_room() {
    let mut world = World::new().await;
    let dir = world.storage_dir();
    let Some(small) = SmallDisk::mount(&dir, "size=2m") else {
        return;
    };
    let site = Site::default();
    let server = site.serve().await;
    site.put("/disk", whole(bytes()));
    let mut settings = asking(world.settings(), &[], None);
    settings.fetch_tries = u32::MAX;
    world.start_with(settings, None).await;
    let wanted = from(&format!("{}/disk", base(&server)));
    world.create(&wanted).await;
    let local = wanted.id.local();
    world
        .until::<Image>(local, |image| {
            image.needs_space && waiting_because("not enough space")(image)
        })
        .await;
    small.enlarge("size=8m");
    let read = world.until::<Image>(local, available).await;
    assert!(!read.needs_space && read.reason.is_none(), "{read:?}");
    assert!(std::fs::read(&read.file.as_ref().expect("file").path).expect("read") == bytes());
    assert_eq!(
        names(&dir.join("cache/disks/incoming")),
        Vec::<String>::new()
    );
    world.kill().await;
    drop(small);
}

/// The documents are on the small disk, too: what can't be written down either is found out when it can.
#[tokio::test(flavor = "multi_thread")]
async fn however_little_is_left_for_documents_and_images_both_go_on_when_there_is_more() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let Some(small) = SmallDisk::mount(folder.path(), "size=24m") else {
        return;
    };
    let mut world = World::within(folder.path()).await;
    let site = Site::default();
    let server = site.serve().await;
    let mut settings = asking(world.settings(), &[], None);
    settings.fetch_tries = u32::MAX;
    let controller = world.start_with(settings, None).await;
    let content: Vec<u8> = (0..12_u32 << 10)
        .flat_map(|n| (n | 1).to_le_bytes())
        .collect();
    for pages in [0, 1, 2, 4, 6, 9, 12, 13, 14, 16, 20, 40] {
        let gate = Arc::new(Notify::new());
        site.put(
            "/disk",
            Answer::After(gate.clone(), Box::new(whole(content.clone()))),
        );
        let asked = site.asked("/disk");
        let fetched = from(&format!("{}/disk", base(&server)));
        let sent = image(ImageSource::Upload, "IMAGE");
        world.create(&fetched).await;
        world.create(&sent).await;
        World::eventually("it is asked for", || site.asked("/disk") > asked).await;
        site.put("/disk", whole(content.clone()));
        let filler = Filler::leaving(&small.0, pages);
        gate.notify_one();
        let parts = futures::stream::iter(vec![Ok(Bytes::from(content.clone()))]);
        let taken = controller.take(&sent, None, parts).await;
        let local = fetched.id.local();
        // Either it is there, or it did not come and is asked for again.
        let is_there = || {
            let read = world.documents.images.get(local);
            read.is_some_and(|image| available(&image))
        };
        World::eventually("it was tried", || {
            is_there() || site.asked("/disk") > asked + 1
        })
        .await;
        drop(filler);
        let read = world.until::<Image>(local, available).await;
        let path = &read.file.as_ref().expect("file").path;
        assert!(std::fs::read(path).expect("read") == content, "{pages}");
        if let Err(error) = &taken {
            let told = error.to_string();
            assert!(
                told.contains("space") || told.contains("full"),
                "{pages}: {told}"
            );
        }
        let came = taken.is_ok();
        let settled = |image: &Image| match image.state {
            ImageState::Available => came,
            ImageState::Error => !came,
            // Not even its beginning could be written down: it waits to be sent again.
            ImageState::Creating => !came && image.progress == Some(0),
            ImageState::Deleting => false,
        };
        let read = world.until::<Image>(sent.id.local(), settled).await;
        if read.state == ImageState::Creating {
            let parts = futures::stream::iter(vec![Ok(Bytes::from(content.clone()))]);
            controller
                .take(&sent, None, parts)
                .await
                .expect("there is room");
        }
        for image in [&fetched, &sent] {
            world.delete_image(image.id.local()).await;
            world.until_gone::<Image>(image.id.local()).await;
        }
        assert_eq!(controller.audit().await.expect("audit"), [], "{pages}");
        for folder in ["images", "incoming"] {
            let folder = world.storage_dir().join("cache/disks").join(folder);
            World::eventually("nothing is left", || names(&folder).is_empty()).await;
        }
    }
    drop(controller);
    world.kill().await;
    drop(world);
    drop(small);
}
