//! Places of uploads that wait, and who has them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use marketplace::{Metadata, SigningKey};
use marketplace_service::{Marketplace, Refused, Settings, Uploaded};
use tokio_util::sync::CancellationToken;

use crate::support::{World, after, endorser, image, signed};

const ALICE: &str = "alice@example.org";

fn by_letter() -> Settings {
    Settings {
        url: "https://m.example.org/marketplace/".to_owned(),
        sends_letters: true,
        ..Settings::default()
    }
}

async fn upload(
    world: &World,
    key: &SigningKey,
    email: &str,
    image: &Metadata,
    source: &str,
) -> Result<Uploaded, Refused> {
    let document = signed(image, key, email, after(-60));
    let source = source.parse().unwrap();
    world.marketplace.upload(&document, source).await
}

fn is_too_many(uploaded: Result<Uploaded, Refused>, whose: &str) {
    let refused = uploaded.unwrap_err();
    assert!(matches!(refused, Refused::TooMany(_)), "{refused}");
    assert!(refused.to_string().contains(whose), "{refused}");
}

/// The name in the links of the letter about an image.
async fn link(world: &World, image: &Metadata) -> String {
    let letters = store::Prefix::collection("Letter").unwrap();
    let page = world.store.range(store::Range::prefix(&letters)).await;
    let texts = page.unwrap().entries.into_iter();
    let mut texts = texts.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
    let about = image.identifier.to_string();
    let text = texts.find(|text| text.contains(&about)).unwrap();
    let rest = text.split("/action/").nth(1).unwrap();
    rest.split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn strangers_with_any_number_of_certificates_do_not_block_an_endorser() {
    let world = World::start(Settings {
        waiting_per_email: 2,
        ..by_letter()
    })
    .await;
    let alice = endorser("Alice", Some(ALICE));
    // Something of hers is here, confirmed.
    upload(&world, &alice, ALICE, &image(1), "192.0.2.1")
        .await
        .unwrap();
    let name = link(&world, &image(1)).await;
    world.marketplace.confirm(&name).await.unwrap();
    let world = world.again().await;

    // One network has one share, however many certificates are made there and however the address is written.
    let mut taken = 0;
    for (number, email) in (10..18).zip(
        [ALICE, "Alice@Example.org", "alice+x@example.org"]
            .iter()
            .cycle(),
    ) {
        let stranger = endorser("Stranger", Some(email));
        let uploaded = upload(&world, &stranger, email, &image(number), "203.0.113.1").await;
        taken += usize::from(uploaded.is_ok());
    }
    assert_eq!(taken, 2);
    // Many networks have five together: nobody gets more letters.
    for number in 20..40 {
        let stranger = endorser("Stranger", Some(ALICE));
        let source = format!("203.0.113.{number}");
        let uploaded = upload(&world, &stranger, ALICE, &image(number), &source).await;
        taken += usize::from(uploaded.is_ok());
    }
    assert_eq!(taken, 10);
    let new = endorser("Alice", Some(ALICE));
    let uploaded = upload(&world, &new, ALICE, &image(50), "192.0.2.1").await;
    is_too_many(uploaded, "in the name of alice@example.org wait");
    // What she reports makes place for a certificate that nobody knows.
    let name = link(&world, &image(10)).await;
    world.marketplace.report(&name).await.unwrap();
    upload(&world, &new, ALICE, &image(50), "192.0.2.1")
        .await
        .unwrap();
    // By the certificate that she confirmed she has her own share all the time, and no more than that.
    for number in [51, 52] {
        upload(&world, &alice, ALICE, &image(number), "192.0.2.1")
            .await
            .unwrap();
    }
    let many = upload(&world, &alice, ALICE, &image(53), "192.0.2.1").await;
    is_too_many(many, "signed by this certificate");
}

#[tokio::test]
async fn one_who_sends_much_leaves_place_and_what_is_reported_takes_none() {
    // A network may have 400 KiB of them.
    let world = World::start(Settings {
        waiting_bytes: 700 << 10,
        ..by_letter()
    })
    .await;
    let large = |number: u8| Metadata {
        title: Some("long ".repeat(1000)),
        description: Some("x".repeat(250 << 10)),
        ..image(number)
    };
    let key = endorser("Anybody", None);
    let upload = async |number: u8, source: &str| {
        let email = format!("a{number}@example.org");
        upload(&world, &key, &email, &large(number), source).await
    };
    upload(1, "2001:db8:1:1::1").await.unwrap();
    is_too_many(
        upload(2, "2001:db8:1:2::1").await,
        "from 2001:db8:1::/48, by their lengths,",
    );
    upload(3, "2001:db8:2:1::1").await.unwrap();
    is_too_many(upload(4, "192.0.2.1").await, "of all endorsers");

    let name = link(&world, &image(1)).await;
    let waiting = world.marketplace.waiting_upload(&name).await.unwrap();
    assert_eq!(waiting.title.unwrap().chars().count(), 100);
    world.marketplace.report(&name).await.unwrap();
    upload(4, "192.0.2.1").await.unwrap();
    // Its document is gone, and that it was there is not.
    let uploads = store::Prefix::collection("MarketplaceUpload").unwrap();
    let page = world.store.range(store::Range::prefix(&uploads)).await;
    let entries = page.unwrap().entries;
    let long = entries.iter().filter(|entry| entry.value.len() > 250 << 10);
    assert_eq!((entries.len(), long.count()), (3, 2));
    assert!(
        world
            .marketplace
            .waiting_upload(&name)
            .await
            .unwrap()
            .is_reported
    );
}

#[tokio::test]
async fn an_address_that_no_letter_reaches_is_the_uploader_s_fault() {
    let world = World::start(by_letter()).await;
    let key = endorser("Anybody", None);
    for email in [".a@example.org", "a.@example.org", "a@-b.org"] {
        let refused = upload(&world, &key, email, &image(1), "192.0.2.1").await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Refused::Invalid(_)), "{refused}");
        assert_eq!(
            refused.to_string(),
            format!("invalid metadata: invalid email address: {email}")
        );
    }
}

#[tokio::test]
async fn the_same_document_at_the_same_moment_is_known_and_another_one_is_not() {
    let world = World::start(Settings {
        confirms: false,
        ..Settings::default()
    })
    .await;
    // Another daemon, which hasn't seen yet what the first one takes.
    let late = Marketplace::open(world.store.clone(), world.marketplace.settings().clone());
    let late = late.await.unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    late.clone().run(stop).await;

    let alice = endorser("Alice", Some(ALICE));
    let (created, source) = (after(-60), "192.0.2.1".parse().unwrap());
    let document = signed(&image(1), &alice, ALICE, created);
    let first = world.marketplace.upload(&document, source).await.unwrap();
    assert!(matches!(first, Uploaded::Created(_)), "{first:?}");
    assert!(late.is_empty());
    let second = late.upload(&document, source).await.unwrap();
    let Uploaded::Known(record) = second else {
        panic!("{second:?}");
    };
    assert_eq!(record.created, created);
    let other = Metadata {
        title: Some("other".to_owned()),
        ..image(1)
    };
    let other = signed(&other, &alice, ALICE, created);
    let refused = late.upload(&other, source).await.unwrap_err();
    assert!(matches!(refused, Refused::Taken(_)), "{refused}");

    // And of very many at once.
    let document = signed(&image(2), &alice, ALICE, created);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (marketplace, document) = (world.marketplace.clone(), document.clone());
        tasks.spawn(async move { marketplace.upload(&document, source).await.unwrap() });
    }
    let uploaded = tasks.join_all().await;
    let created = uploaded
        .iter()
        .filter(|one| matches!(one, Uploaded::Created(_)));
    assert_eq!(created.count(), 1);
}
