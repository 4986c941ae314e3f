//! A disk that is full while an image comes: told, survived, and over when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;

use cimi::resources::{Image, ImageSource};

use super::super::ExportFormat;
use super::site::{Site, asking, base, whole};
use super::states::{available, numbers, waiting_because};
use super::world::{World, image, names};
use crate::confine::QemuImg;

fn bytes() -> Vec<u8> {
    numbers(3 << 18)
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

#[tokio::test(flavor = "multi_thread")]
async fn an_export_without_room_says_so_and_leaves_nothing() {
    let programs = ["/usr/bin/qemu-img", "/usr/local/bin/qemu-img"];
    let found = programs
        .iter()
        .find_map(|path| QemuImg::at(Path::new(path)).ok());
    let Some(qemu_img) = found else {
        eprintln!("skipped: qemu-img (Debian: qemu-utils) is not here");
        return;
    };
    let mut world = World::new().await;
    let dir = world.storage_dir();
    let Some(small) = SmallDisk::mount(&dir, "size=16m") else {
        return;
    };
    let site = Site::default();
    let server = site.serve().await;
    site.put("/disk", whole(bytes()));
    let mut settings = asking(world.settings(), &[], None);
    settings.qemu_img = Some(qemu_img);
    let controller = world.start_with(settings, None).await;
    let wanted = from(&format!("{}/disk", base(&server)));
    world.create(&wanted).await;
    let read = world.until::<Image>(wanted.id.local(), available).await;
    let image = &read.document.0;
    let before = names(&dir);
    let used = || rustix::fs::statvfs(&dir).expect("a file system").f_bavail;
    let free = used();
    // With less than it may take it isn't begun.
    let ballast = dir.join("ballast");
    for left in [1 << 20, 9 << 20] {
        let block = rustix::fs::statvfs(&dir).expect("a file system").f_frsize;
        let taken = (used() * block).saturating_sub(left);
        let taken = vec![7; usize::try_from(taken).expect("small")];
        std::fs::write(&ballast, taken).expect("room for it");
        let export = controller
            .export(image, Some(ExportFormat::Vpc), None)
            .await;
        if let Err(error) = &export {
            assert!(error.is_for_want_of_space(), "{error}");
        }
        assert_eq!(export.is_err(), left == 1 << 20, "{left}");
        drop(export);
        std::fs::remove_file(&ballast).expect("there");
    }
    assert_eq!(names(&dir), before);
    World::eventually("nothing stays taken", || used() == free).await;
    // As it is kept, and as what is made while it is sent, it needs none.
    std::fs::write(&ballast, vec![7; 1 << 20]).expect("room for it");
    for format in [None, Some(ExportFormat::Qcow2)] {
        controller
            .export(image, format, None)
            .await
            .expect("no room needed");
    }
    drop(controller);
    world.kill().await;
    drop(small);
}
