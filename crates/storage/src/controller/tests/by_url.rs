//! Images from URLs that somebody gave: fetched by the same mechanism as those with names, with its patience.

use cimi::resources::{Image, ImageSource};

use super::site::{Site, asking, base, described, endorser, signed, whole};
use super::states::{available, failed, numbers, waiting_because};
use super::web_server::Answer;
use super::world::{World, image};

fn bytes() -> Vec<u8> {
    numbers(3 << 18)
}

fn busy() -> Answer {
    Answer::Head("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n".to_owned())
}

fn from(url: &str) -> Image {
    image(
        ImageSource::Url {
            url: url.to_owned(),
        },
        "IMAGE",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_no_time_is_asked_again_and_one_that_has_nothing_is_not() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let url = format!("{}/disk", base(&server));
    let mut settings = asking(world.settings(), &[], None);
    // Each try is one request, so that what goes on after that is the controller's.
    settings.limits.resumes = 0;
    site.put("/disk", busy());
    world.start_with(settings.clone(), None).await;
    let wanted = from(&url);
    world.create(&wanted).await;
    let local = wanted.id.local();
    world.until::<Image>(local, waiting_because("503")).await;
    World::eventually("asked twice", || site.asked("/disk") >= 2).await;
    site.put("/disk", whole(bytes.clone()));
    let read = world.until::<Image>(local, available).await;
    assert_eq!(read.reason, None);
    assert!(read.provenance.is_none(), "nobody vouches for it");
    let path = &read.file.as_ref().expect("file").path;
    assert!(std::fs::read(path).expect("read") == bytes);

    let nothing = from(&format!("{}/nothing", base(&server)));
    world.create(&nothing).await;
    let read = world.until::<Image>(nothing.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("404"), "{reason}");
    assert_eq!(site.asked("/nothing"), 1);

    // A server that never has time is given up in the end.
    settings.fetch_tries = 3;
    site.put("/busy", busy());
    world.start_with(settings, None).await;
    let never = from(&format!("{}/busy", base(&server)));
    world.create(&never).await;
    let read = world.until::<Image>(never.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("given up after 3 tries"), "{reason}");
    assert_eq!(site.asked("/busy"), 3);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_of_an_image_is_not_taken_for_it_however_one_gets_there() {
    let mut world = World::new().await;
    let (site, market) = (Site::default(), Site::default());
    let (server, marketplace) = (site.serve().await, market.serve().await);
    let metadata = described(&bytes(), &["https://x.example.org/x".to_owned()]);
    let entry = signed(&metadata, &endorser("alice@example.org"));
    market.put("/metadata/x", whole(entry.into()));
    let to = format!("{}/metadata/x", base(&marketplace));
    site.put(
        "/short",
        Answer::Head(format!(
            "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n"
        )),
    );
    let settings = asking(world.settings(), &[&marketplace], None);
    world.start_with(settings, None).await;
    for url in [to, format!("{}/short", base(&server))] {
        let wanted = from(&url);
        world.create(&wanted).await;
        let read = world.until::<Image>(wanted.id.local(), failed).await;
        let reason = read.reason.clone().unwrap_or_default();
        assert!(reason.contains("description of an image"), "{reason}");
        assert!(read.file.is_none());
    }
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_while_an_image_comes_brings_it_after_its_start() {
    for place in [
        "image: found, not fetched",
        "image: in the cache, not told",
        "image: in the cache and told",
    ] {
        let mut world = World::new().await;
        let site = Site::default();
        let server = site.serve().await;
        site.put("/disk", whole(bytes()));
        let wanted = from(&format!("{}/disk", base(&server)));
        world.create(&wanted).await;
        world.crash_at(place).await;
        let controller = world.start().await;
        world.until::<Image>(wanted.id.local(), available).await;
        assert_eq!(controller.audit().await.expect("audit"), [], "{place}");
        drop(controller);
        world.kill().await;
    }
}
