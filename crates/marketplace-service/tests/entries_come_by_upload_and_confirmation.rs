//! From an upload to an entry, over a real database and a real mail server.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::net::{IpAddr, Ipv4Addr};

use mail::Postman;
use mail::testing::{Mood, Sink};
use marketplace::catalogue::{Order, Query, Status};
use marketplace::policy::{Authorities, Lists, Policy, Revocation};
use marketplace_service::{Refused, Settings, Trusted, Uploaded};
use store::snapshot;
use tokio_util::sync::CancellationToken;

use crate::support::{World, after, at, certified, endorser, endorser_until, image, signed, until};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fn asks_nobody() -> Settings {
    Settings {
        confirms: false,
        ..Settings::default()
    }
}

fn by_letter() -> Settings {
    Settings {
        url: "https://m.example.org/marketplace/".to_owned(),
        administrator: Some("root@example.org".to_owned()),
        sends_letters: true,
        ..Settings::default()
    }
}

/// The name in the link of a letter that does `what`.
fn link(text: &str, what: &str) -> String {
    let address = text
        .split_whitespace()
        .find(|word| word.ends_with(&format!("/{what}/")))
        .unwrap_or_else(|| panic!("no link to {what} in {text}"));
    let name = address.strip_prefix("https://m.example.org/marketplace/action/");
    name.unwrap().split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn an_endorser_confirms_by_letter_once_and_what_was_sent_is_kept_byte_for_byte() {
    let sink = Sink::start(Mood::Refuses(450)).await;
    let world = World::start(by_letter()).await;
    let stop = CancellationToken::new();
    let postman = Postman::new(world.store.clone(), &sink.settings()).unwrap();
    tokio::spawn(postman.run(stop.clone()));
    let alice = endorser("Alice", Some("alice@example.org"));
    let mut document = signed(&image(1), &alice, "alice@example.org", after(-60));
    document.extend_from_slice(b"\n<!-- kept, though it is not signed -->\n");

    let uploaded = world.marketplace.upload(&document, SOURCE).await.unwrap();
    assert!(matches!(uploaded, Uploaded::Waiting));
    assert!(world.marketplace.is_empty());
    // The mail server is back, the daemon was killed meanwhile.
    let world = world.again().await;
    sink.becomes(Mood::Takes);
    let letters = sink.wait_for(1).await;
    assert_eq!(letters[0].to, ["alice@example.org"]);
    let text = letters[0].text();
    assert!(text.contains(&image(1).identifier.to_string()), "{text}");
    let name = link(&text, "confirm");

    // A scanner that opens the link does nothing by it.
    let waiting = world.marketplace.waiting_upload(&name).await.unwrap();
    assert_eq!(waiting.email, "alice@example.org");
    assert!(world.marketplace.is_empty());
    let record = world.marketplace.confirm(&name).await.unwrap();
    let there = world
        .marketplace
        .document(&record.name())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(there.as_bytes(), document);
    let again = world.marketplace.confirm(&name).await.unwrap_err();
    assert!(matches!(again, Refused::NotWaiting), "{again}");
    // Uploaded again it needs no confirmation: it is there.
    let known = world.marketplace.upload(&document, SOURCE).await.unwrap();
    assert!(matches!(known, Uploaded::Known(_)));
    stop.cancel();
}

#[tokio::test]
async fn endorsers_withdraw_and_report_and_time_runs_out() {
    let sink = Sink::start(Mood::Takes).await;
    let world = World::start(Settings {
        waiting_per_email: 3,
        ..by_letter()
    })
    .await;
    let stop = CancellationToken::new();
    let postman = Postman::new(world.store.clone(), &sink.settings()).unwrap();
    tokio::spawn(postman.run(stop.clone()));
    // Nobody certified the address: the letter goes to whom it belongs.
    let mallory = endorser("Mallory", None);
    let upload = async |number: u8| {
        let document = signed(&image(number), &mallory, "victim@example.org", after(-60));
        world.marketplace.upload(&document, SOURCE).await
    };
    upload(1).await.unwrap();
    upload(2).await.unwrap();
    upload(3).await.unwrap();
    let many = upload(4).await.unwrap_err();
    assert!(matches!(many, Refused::TooMany(_)), "{many}");
    let mut texts: Vec<_> = sink
        .wait_for(3)
        .await
        .iter()
        .map(mail::testing::Received::text)
        .collect();
    texts.sort_by_key(|text| (1..=3).find(|n| text.contains(&image(*n).identifier.to_string())));

    world
        .marketplace
        .withdraw(&link(&texts[0], "abort"))
        .await
        .unwrap();
    let gone = world.marketplace.confirm(&link(&texts[0], "confirm")).await;
    assert!(matches!(gone.unwrap_err(), Refused::NotWaiting));
    // There is place for another one.
    upload(4).await.unwrap();

    world
        .marketplace
        .report(&link(&texts[1], "abuse"))
        .await
        .unwrap();
    // What was reported takes no place of the owner's.
    upload(5).await.unwrap();
    let reported = world.marketplace.confirm(&link(&texts[1], "confirm")).await;
    assert!(matches!(reported.unwrap_err(), Refused::Reported));
    until("the administrator is told", || {
        sink.received()
            .iter()
            .any(|letter| letter.to == ["root@example.org"])
    })
    .await;
    assert!(world.marketplace.is_empty());
    stop.cancel();

    let world = World::start(Settings {
        waits_for: std::time::Duration::ZERO,
        ..by_letter()
    })
    .await;
    let document = signed(&image(1), &mallory, "victim@example.org", after(-60));
    world.marketplace.upload(&document, SOURCE).await.unwrap();
    let world = world.again().await;
    until("what is over is forgotten", || {
        world.marketplace.figures().get("waiting") == Some(&0)
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_old_or_too_long_is_refused_with_the_reason() {
    let world = World::start(asks_nobody()).await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let email = "alice@example.org";
    let upload = async |document: &[u8]| world.marketplace.upload(document, SOURCE).await;
    let refused = async |document: &[u8]| upload(document).await.unwrap_err().to_string();

    let document = signed(&image(1), &alice, email, after(-60));
    assert!(matches!(
        upload(&document).await.unwrap(),
        Uploaded::Created(_)
    ));
    // Any byte of what is signed.
    for at in (0..document.len()).step_by(97) {
        let mut altered = document.clone();
        altered[at] ^= 1;
        if let Ok(uploaded) = upload(&altered).await {
            panic!("byte {at}: {uploaded:?}");
        }
    }
    let older = signed(&image(1), &alice, email, after(-120));
    assert!(
        refused(&older)
            .await
            .starts_with("invalid metadata: older than latest entry")
    );
    // Another endorser of the same image is another entry.
    let bob = endorser("Bob", Some("bob@example.org"));
    let other = signed(&image(1), &bob, "bob@example.org", after(-3600));
    assert!(matches!(
        upload(&other).await.unwrap(),
        Uploaded::Created(_)
    ));
    // The same image, endorser and time, other contents.
    let time = after(-10);
    upload(&signed(&image(1), &alice, email, time))
        .await
        .unwrap();
    let changed = marketplace::Metadata {
        title: Some("other".to_owned()),
        ..image(1)
    };
    let taken = upload(&signed(&changed, &alice, email, time))
        .await
        .unwrap_err();
    assert!(matches!(taken, Refused::Taken(_)), "{taken}");
    let long = marketplace::Metadata {
        description: Some("x".repeat(Settings::LONGEST)),
        ..image(2)
    };
    let long = signed(&long, &alice, email, after(-10));
    assert!(matches!(
        upload(&long).await.unwrap_err(),
        Refused::TooLong(_)
    ));
    assert_eq!(
        refused(b"").await.split(':').next(),
        Some("invalid metadata")
    );

    let found = world
        .marketplace
        .search(&Query::default(), Order::default(), 0, 10)
        .unwrap();
    assert_eq!(found.matching, 2);
    // A deprecation hides the image of its endorser.
    let deprecation = marketplace::Metadata {
        deprecated: Some("a hole".to_owned()),
        ..image(1)
    };
    upload(&signed(&deprecation, &alice, email, after(0)))
        .await
        .unwrap();
    let valid = world
        .marketplace
        .search(&Query::default(), Order::default(), 0, 10)
        .unwrap();
    assert_eq!(
        valid
            .page
            .iter()
            .map(|it| it.email.to_string())
            .collect::<Vec<_>>(),
        ["bob@example.org"]
    );

    let closed = World::start(Settings {
        is_read_only: true,
        ..asks_nobody()
    })
    .await;
    let refused = closed
        .marketplace
        .upload(&document, SOURCE)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "read-only repository");
}

/// It was good when the entry says it was signed; but it is long over, and whoever has the key now can say so.
#[tokio::test]
async fn what_was_signed_by_an_expired_certificate_is_not_taken_any_more() {
    let world = World::start(Settings {
        confirms: false,
        ..Settings::default()
    })
    .await;
    let old = endorser_until("Alice", "alice@example.org", 2021);
    let document = signed(
        &image(1),
        &old,
        "alice@example.org",
        at("2020-06-01T00:00:00Z"),
    );
    let refused = world
        .marketplace
        .upload(&document, SOURCE)
        .await
        .unwrap_err();
    assert!(matches!(refused, Refused::Invalid(_)));
    assert!(
        refused
            .to_string()
            .contains("CN=Alice has expired (2021-01-01T00:00:00Z)"),
        "{refused}"
    );
    assert_eq!(world.marketplace.len(), 0);
    let current = endorser_until("Alice", "alice@example.org", 2090);
    let document = signed(
        &image(1),
        &current,
        "alice@example.org",
        at("2020-06-01T00:00:00Z"),
    );
    let uploaded = world.marketplace.upload(&document, SOURCE).await.unwrap();
    assert!(matches!(uploaded, Uploaded::Created(_)));
}

/// Entries that a version took which kept less of them are completed from their documents.
#[tokio::test]
async fn entries_of_earlier_versions_answer_queries_too() {
    let world = World::start(Settings {
        confirms: false,
        ..Settings::default()
    })
    .await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let mut described = image(1);
    described.creator = Some("Alice herself".to_owned());
    let document = signed(&described, &alice, "alice@example.org", after(-60));
    world.marketplace.upload(&document, SOURCE).await.unwrap();
    let range = store::Range::prefix(&store::Prefix::collection("MarketplaceEntry").unwrap());
    let entry = world.store.range(range).await.unwrap().entries.remove(0);
    let mut value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    assert!(value.as_object_mut().unwrap().remove("details").is_some());
    let value = serde_json::to_vec(&value).unwrap();
    let transaction = store::Transaction::new().put(entry.key, value);
    let outcome = world.store.commit(transaction).await.unwrap();
    assert!(matches!(outcome, store::Outcome::Committed(_)));
    let again = world.again().await;
    let query = "SELECT ?who { ?x dcterms:creator ?who }";
    let found = again.marketplace.query(query).await.unwrap();
    assert_eq!(found.rows.len(), 1);
    assert_eq!(found.rows[0][0].as_ref().unwrap().text(), "Alice herself");
}

#[tokio::test]
async fn trusted_endorsers_need_not_confirm_and_others_do() {
    let (authority, carol) = certified("Carol", "carol@example.org");
    let trusted = Policy {
        endorsers: Lists {
            white: vec!["CN=Carol".to_owned()],
            black: Vec::new(),
        },
        authorities: Authorities::from_pem(&authority).unwrap(),
        ..Policy::default()
    };
    let world = World::start(Settings {
        trusted: Some(Trusted::always(trusted)),
        ..by_letter()
    })
    .await;
    let document = signed(&image(1), &carol, "carol@example.org", after(-60));
    let uploaded = world.marketplace.upload(&document, SOURCE).await.unwrap();
    assert!(matches!(uploaded, Uploaded::Created(_)));
    // The name alone, by nobody's authority.
    let impostor = endorser("Carol", Some("carol@example.org"));
    let document = signed(&image(2), &impostor, "carol@example.org", after(-60));
    let uploaded = world.marketplace.upload(&document, SOURCE).await.unwrap();
    assert!(matches!(uploaded, Uploaded::Waiting));

    // A certificate that is its own authority, as one makes it for oneself.
    let dave = endorser("Dave", Some("dave@example.org"));
    let document = signed(&image(3), &dave, "dave@example.org", after(-60));
    let own = marketplace::Entry::verify(&document).unwrap();
    let trusts_dave = Policy {
        endorsers: Lists {
            white: vec!["CN=Dave".to_owned()],
            black: Vec::new(),
        },
        authorities: Authorities::from_files(
            [("own.pem", own.certificate().der())],
            Revocation::IfPresent,
        )
        .unwrap()
        .0,
        ..Policy::default()
    };
    let own_world = World::start(Settings {
        trusted: Some(Trusted::always(trusts_dave)),
        ..by_letter()
    })
    .await;
    let uploaded = own_world.marketplace.upload(&document, SOURCE).await;
    assert!(matches!(uploaded.unwrap(), Uploaded::Created(_)));
    let other = endorser("Dave", Some("dave@example.org"));
    let other = signed(&image(3), &other, "dave@example.org", after(-50));
    let uploaded = own_world.marketplace.upload(&other, SOURCE).await;
    assert!(matches!(uploaded.unwrap(), Uploaded::Waiting));

    let document = signed(&image(2), &impostor, "carol@example.org", after(-60));
    let silent = World::start(Settings::default()).await;
    let refused = silent
        .marketplace
        .upload(&document, SOURCE)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("this Marketplace has no mail server to ask carol@example.org"),
        "{refused}"
    );
}

#[tokio::test]
async fn of_many_at_once_none_is_lost_and_the_newest_is_the_newest() {
    let world = World::start(asks_nobody()).await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let documents: Vec<_> = (0..12)
        .map(|number| signed(&image(1), &alice, "alice@example.org", after(-100 + number)))
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for document in documents {
        let marketplace = world.marketplace.clone();
        tasks.spawn(async move { marketplace.upload(&document, SOURCE).await });
    }
    let mut created = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Ok(Uploaded::Created(_)) => created += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(
                error.to_string().contains("older than latest entry"),
                "{error}"
            ),
        }
    }
    assert!(created >= 1);
    assert_eq!(world.marketplace.len(), created);
    let newest = world.marketplace.ask(|catalogue| {
        catalogue
            .newest(image(1).identifier, "alice@example.org")
            .cloned()
    });
    let history = world
        .marketplace
        .ask(|catalogue| catalogue.of_image(image(1).identifier));
    assert_eq!(
        newest.unwrap().created,
        history.iter().map(|it| it.created).max().unwrap()
    );
}

#[tokio::test]
async fn a_backup_of_the_store_holds_the_entries_byte_for_byte() {
    let world = World::start(asks_nobody()).await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let document = signed(&image(1), &alice, "alice@example.org", after(-60));
    world.marketplace.upload(&document, SOURCE).await.unwrap();
    let mut file = Vec::new();
    snapshot::write(&*world.store, &mut file).await.unwrap();

    let restored = World::start(asks_nobody()).await;
    snapshot::read(&mut file.as_slice(), &*restored.store)
        .await
        .unwrap();
    let restored = restored.again().await;
    let all = Query {
        status: Status::Any,
        ..Query::default()
    };
    let found = restored
        .marketplace
        .search(&all, Order::default(), 0, 10)
        .unwrap();
    let name = found.page[0].name();
    let there = restored.marketplace.document(&name).await.unwrap().unwrap();
    assert_eq!(there.as_bytes(), document);
}

/// That the outbox is where letters wait is a promise of its crate; here, that an upload without one is not kept either.
#[tokio::test]
async fn an_upload_and_its_letter_are_one() {
    let world = World::start(by_letter()).await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let document = signed(&image(1), &alice, "alice@example.org", after(-60));
    world.marketplace.upload(&document, SOURCE).await.unwrap();
    let page = world
        .store
        .range(store::Range::prefix(&store::Prefix::everything()))
        .await
        .unwrap();
    let collections: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.key.collection())
        .collect();
    assert_eq!(collections, ["Letter", "MarketplaceUpload"]);
    assert_eq!(page.entries[0].revision, page.entries[1].revision);
    // The link is in the letter, and nothing that the store has beside leads to it.
    let upload = String::from_utf8_lossy(&page.entries[1].value).into_owned();
    let letter = String::from_utf8_lossy(&page.entries[0].value).into_owned();
    let name = letter
        .split("/action/")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    assert!(!upload.contains(name) && !page.entries[1].key.as_str().contains(name));
}

#[tokio::test]
async fn nobody_endorses_in_the_future() {
    let world = World::start(asks_nobody()).await;
    let alice = endorser("Alice", Some("alice@example.org"));
    let upload = async |created| {
        let document = signed(&image(1), &alice, "alice@example.org", created);
        world.marketplace.upload(&document, SOURCE).await
    };
    let refused = upload(after(3600)).await.unwrap_err().to_string();
    assert!(refused.contains("endorsed in the future"), "{refused}");
    // Clocks differ a little.
    upload(after(60)).await.unwrap();
}

/// Whoever uploads decides about the title, and about whose address the letter goes to.
#[tokio::test]
async fn a_letter_says_nothing_that_a_stranger_wrote() {
    let world = World::start(by_letter()).await;
    let mallory = endorser("Mallory", None);
    let spoken = marketplace::Metadata {
        title: Some("Your account is closed\n\nOpen https://evil.example.net".to_owned()),
        ..image(1)
    };
    let document = signed(&spoken, &mallory, "victim@example.org", after(-60));
    world.marketplace.upload(&document, SOURCE).await.unwrap();
    let everything = store::Range::prefix(&store::Prefix::everything());
    let page = world.store.range(everything).await.unwrap();
    let letter = page
        .entries
        .iter()
        .find(|entry| entry.key.collection() == "Letter");
    let letter = String::from_utf8_lossy(&letter.unwrap().value).into_owned();
    assert!(
        letter.contains(&image(1).identifier.to_string()),
        "{letter}"
    );
    assert!(
        !letter.contains("evil") && !letter.contains("closed"),
        "{letter}"
    );
}

#[tokio::test]
async fn strangers_do_not_use_up_the_place_of_an_endorser_and_nobody_gets_more_at_once() {
    let world = World::start(Settings {
        waiting_per_email: 3,
        waiting_per_source: 9,
        ..by_letter()
    })
    .await;
    let mallory = endorser("Mallory", None);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=20 {
        let document = signed(&image(number), &mallory, "alice@example.org", after(-60));
        let marketplace = world.marketplace.clone();
        tasks.spawn(async move { marketplace.upload(&document, SOURCE).await });
    }
    let uploaded = tasks.join_all().await;
    assert_eq!(uploaded.iter().filter(|one| one.is_ok()).count(), 3);
    let upload = async |number: u8, key: &marketplace::SigningKey, source: &str| {
        let document = signed(&image(number), key, "alice@example.org", after(-60));
        let uploaded = world.marketplace.upload(&document, source.parse().unwrap());
        uploaded.await
    };
    // By her own certificate she goes on.
    let alice = endorser("Alice", Some("alice@example.org"));
    upload(30, &alice, "2001:db8::1").await.unwrap();
    // One customer of IPv6 has many addresses.
    for number in 40..48 {
        let stranger = endorser("Stranger", None);
        let address = format!("2001:db8::{number}");
        let email = format!("a{number}@example.org");
        let document = signed(&image(number), &stranger, &email, after(-60));
        let uploaded = world
            .marketplace
            .upload(&document, address.parse().unwrap());
        uploaded.await.unwrap();
    }
    let many = upload(50, &alice, "2001:db8::ffff").await.unwrap_err();
    assert!(many.to_string().contains("from 2001:db8::/64"), "{many}");
    upload(50, &alice, "2001:db8:0:1::1").await.unwrap();

    let full = World::start(Settings {
        waiting_bytes: 1000,
        ..by_letter()
    })
    .await;
    let document = signed(&image(1), &alice, "alice@example.org", after(-60));
    let many = full
        .marketplace
        .upload(&document, SOURCE)
        .await
        .unwrap_err();
    assert!(matches!(many, Refused::TooMany(_)), "{many}");
}
