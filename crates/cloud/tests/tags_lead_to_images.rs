//! Tags of endorsers and short URLs: what they lead to is asked when they are used.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use cimi::{
    model::Kind,
    resources::{ImageSource, ImageState},
};
use serde_json::json;

use crate::{
    image_finder::{ID, became, wanted, with_finder},
    support::{World, alice, bob, split, violations},
};

#[tokio::test]
async fn a_tag_is_the_image_that_it_leads_to_when_it_is_asked_for() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let newer = "NMZu9WvwKIro-rtBQfDk4PsKO7_";
    let leads_to = |to: &str| {
        let mut tags = finder.tags.lock().unwrap();
        tags.insert("base".to_owned(), to.to_owned());
    };
    let tag = "base@alice@x.org";
    let problems = violations(wanted(&world, &alice(), tag).await);
    assert!(
        problems[0].contains("no Marketplace has it"),
        "{problems:?}"
    );
    leads_to(ID);
    let (by_identifier, _) = wanted(&world, &alice(), &format!("marketplace:{ID}"))
        .await
        .unwrap();
    // However it is written, whoever asks.
    for location in [
        tag,
        "marketplace:base@alice@x.org",
        "https://m.org/metadata/alice@x.org?tag=base",
        "https://m.org/marketplace/tag/alice%40x.org/base",
        "https://s.org/tag/alice@x.org/base",
        &format!("https://s.org/metadata/{ID}"),
    ] {
        let (image, existed) = wanted(&world, &bob(), location).await.unwrap();
        assert_eq!((&image, existed), (&by_identifier, true), "{location}");
    }
    // Tomorrow it is another one; the first stays what it is.
    leads_to(newer);
    let (image, existed) = wanted(&world, &alice(), tag).await.unwrap();
    assert!(!existed && image != by_identifier);
    let read = world.documents.images.get(split(&image).1).unwrap();
    assert_eq!(read.desired.expected.identifier.as_deref(), Some(newer));
    // Not only on demand.
    let body = json!({"imageLocation": {"href": tag}, "name": "mine"});
    let mine = world
        .create(&alice(), Kind::MachineImage, body)
        .await
        .unwrap();
    let read = world.documents.images.get(split(&mine.view.id).1).unwrap();
    assert_eq!(read.desired.source, ImageSource::Marketplace);
    assert_eq!(read.desired.expected.identifier.as_deref(), Some(newer));
}

#[tokio::test]
async fn a_tag_is_its_endorser_s_image_or_none() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let tagged = ("base".to_owned(), ID.to_owned());
    finder.tags.lock().unwrap().extend([tagged]);
    let before = world.documents.images.all().len();
    // Mallory endorsed the same image later, and names other places to fetch it from.
    *finder.goes_by.lock().unwrap() = Some("mallory@x.org".to_owned());
    for location in ["base@alice@x.org", "https://m.org/tag/alice@x.org/base"] {
        let refused = violations(wanted(&world, &alice(), location).await);
        for part in ["goes by that of mallory@x.org", ID] {
            assert!(refused[0].contains(part), "{location}: {refused:?}");
        }
    }
    assert_eq!(world.documents.images.all().len(), before);
}

#[tokio::test]
async fn a_path_like_that_of_a_tag_is_an_image_s_on_other_servers() {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    for path in ["tag/alice@x.org/base", "metadata/alice@x.org?tag=base"] {
        let url = format!("https://elsewhere.org/{path}");
        let (image, _) = wanted(&world, &alice(), &url).await.unwrap();
        let read = world.documents.images.get(split(&image).1).unwrap();
        assert_eq!(read.desired.source, ImageSource::Url { url });
    }
}

#[tokio::test]
async fn where_a_url_leads_is_asked_until_something_was_fetched_from_it() {
    let mut world = World::start().await;
    let finder = with_finder(&mut world).await;
    let asked = || {
        finder
            .asked_behind
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let url = "https://h.org/x.img";
    let (image, _) = wanted(&world, &alice(), url).await.unwrap();
    assert_eq!(asked(), 1);
    assert_eq!(wanted(&world, &alice(), url).await.unwrap().0, image);
    assert_eq!(asked(), 1, "it is on its way");
    became(&world, &image, ImageState::Error).await;
    wanted(&world, &alice(), url).await.unwrap();
    assert_eq!(asked(), 2);
    // An import is of what is there.
    let body = json!({"imageLocation": {"href": "https://m.org/tag/alice@x.org/base"}});
    let problems = violations(world.create(&alice(), Kind::MachineImage, body).await);
    assert!(
        problems[0].contains("no Marketplace has it"),
        "{problems:?}"
    );
    let body = json!({"imageLocation": {"href": "https://s.org/short"}});
    world
        .create(&alice(), Kind::MachineImage, body)
        .await
        .unwrap();
    assert_eq!(asked(), 2);
}
