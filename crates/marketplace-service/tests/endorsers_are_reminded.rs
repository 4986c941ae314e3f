//! What endorsers are reminded of, when, and how often.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that panics has failed"
)]

use mail::{
    Postman,
    testing::{Mood, Sink},
};
use marketplace::{Metadata, UtcTime};
use marketplace_service::Settings;
use tokio_util::sync::CancellationToken;

use crate::support::{World, after, endorser, image, signed};

const SOURCE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const DAY: i64 = 86_400;

#[tokio::test]
async fn of_what_they_have_each_month_and_of_what_ends_each_day() {
    let settings = Settings {
        confirms: false,
        sends_letters: true,
        reminds: true,
        url: "https://m.example.org/marketplace/".to_owned(),
        ..Settings::default()
    };
    let world = World::start(settings).await;
    let (alice, bob) = (
        endorser("Alice", Some("alice@example.org")),
        endorser("Bob", Some("bob@example.org")),
    );
    let ends = |number, days: i64| Metadata {
        valid: Some(after(days * DAY)),
        ..image(number)
    };
    for (image, key, email) in [
        (ends(1, 10), &alice, "alice@example.org"),
        (ends(2, 100), &alice, "alice@example.org"),
        (ends(3, 100), &bob, "bob@example.org"),
    ] {
        let document = signed(&image, key, email, after(-60));
        world.marketplace.upload(&document, SOURCE).await.unwrap();
    }
    let begun = after(0);
    let at = |days: i64, hours: i64| {
        UtcTime::from_unix_seconds(begun.unix_seconds() + days * DAY + hours * 3600).unwrap()
    };
    let remind = async |days, hours| world.marketplace.remind(at(days, hours)).await.unwrap();
    // Nobody is reminded because this Marketplace has begun to.
    assert_eq!(remind(0, 0).await, 0);
    assert_eq!(remind(6, 0).await, 0);
    // Three days before the end, once a day, until the end.
    assert_eq!(remind(7, 1).await, 1);
    assert_eq!(remind(7, 2).await, 0);
    assert_eq!(remind(8, 1).await, 1);
    assert_eq!(remind(9, 2).await, 1);
    assert_eq!(remind(10, 2).await, 0);
    // A month later everybody has a list.
    assert_eq!(remind(31, 0).await, 2);
    assert_eq!(remind(32, 0).await, 0);
    // Two at once write one letter.
    let (one, other) = (world.marketplace.clone(), world.marketplace.clone());
    let (one, other) = tokio::join!(one.remind(at(62, 0)), other.remind(at(62, 0)));
    assert_eq!(one.unwrap() + other.unwrap(), 2);

    let sink = Sink::start(Mood::Takes).await;
    let stop = CancellationToken::new();
    let postman = Postman::new(world.store.clone(), &sink.settings()).unwrap();
    tokio::spawn(postman.run(stop.clone()));
    let letters = sink.wait_for(7).await;
    let to_bob: Vec<_> = letters
        .iter()
        .filter(|letter| letter.to == ["bob@example.org"])
        .collect();
    assert_eq!(to_bob.len(), 2);
    let warning = letters
        .iter()
        .find(|letter| letter.text().contains("not valid any more"))
        .unwrap()
        .text();
    let first = image(1).identifier.to_string();
    assert!(
        warning.contains(&first) && warning.contains("?media=xml"),
        "{warning}"
    );
    assert!(
        !warning.contains(&image(2).identifier.to_string()),
        "{warning}"
    );
    let list = to_bob[0].text();
    assert!(
        list.contains(&format!(
            "https://m.example.org/marketplace/metadata/{}/bob@example.org/",
            image(3).identifier
        )),
        "{list}"
    );
    stop.cancel();

    // Without the settings, nothing.
    let silent = World::start(Settings {
        confirms: false,
        ..Settings::default()
    })
    .await;
    silent
        .marketplace
        .upload(
            &signed(&ends(1, 1), &alice, "alice@example.org", after(-60)),
            SOURCE,
        )
        .await
        .unwrap();
    assert_eq!(silent.marketplace.remind(after(40 * DAY)).await.unwrap(), 0);
}
