//! What endorsers do with uploads that wait, and what a Marketplace that has no room, no letter or no turn answers.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use marketplace::Metadata;
use store::{Key, Outcome, SqliteOptions, Store as _, StoreError, Transaction};

use crate::support::{
    client::PATIENCE,
    market::{World, after, alice, image, signed},
};

fn by_letter() -> marketplace_service::Settings {
    marketplace_service::Settings {
        url: "http://m.example.org/".to_owned(),
        sends_letters: true,
        ..marketplace_service::Settings::default()
    }
}

/// The paths behind the links of a letter that has come: to confirm, to withdraw, to report.
async fn links(world: &World, letter: usize) -> [String; 3] {
    let text = world.sink.wait_for(letter + 1).await[letter].text();
    ["/confirm/", "/abort/", "/abuse/"].map(|end| {
        let link = text.split_whitespace().find(|word| word.ends_with(end));
        let path = link.unwrap().strip_prefix("http://m.example.org");
        path.unwrap().to_owned()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_withdrawn_or_reported_and_published_no_more() {
    let world = World::start(by_letter()).await;
    let key = alice();
    let document = signed(&image(1), &key, after(-60));
    assert_eq!(world.post(&document).await.status, 202);
    let [confirm, abort, _] = links(&world, 0).await;
    // Looking does nothing, nor does another site's page.
    let (reply, text) = world.get(&abort, "Accept: text/html\r\n").await;
    assert_eq!(reply.status, 200);
    assert!(
        text.contains("Withdraw this upload?") && text.contains("<form method=\"post\""),
        "{text}"
    );
    let foreign = "Sec-Fetch-Site: cross-site\r\n";
    let reply = world.ask(&format!("POST {abort}"), foreign, b"").await;
    assert_eq!(reply.status, 403);
    let reply = world.ask(&format!("POST {abort}"), "", b"").await;
    assert_eq!(
        (reply.status, String::from_utf8(reply.body).unwrap()),
        (
            200,
            format!(
                "aborted addition of metadata entry {}\n",
                image(1).identifier
            )
        )
    );
    for gone in [&abort, &confirm] {
        let reply = world.ask(&format!("POST {gone}"), "", b"").await;
        assert_eq!(reply.status, 404, "{gone}");
    }
    assert!(world.marketplace.is_empty());
    // A slip is no verdict: the same can be uploaded again.
    assert_eq!(world.post(&document).await.status, 202);

    let [confirm, _, abuse] = links(&world, 1).await;
    let reply = world.ask(&format!("POST {abuse}"), "", b"").await;
    assert_eq!(reply.status, 200);
    let reply = world.ask(&format!("POST {confirm}"), "", b"").await;
    assert_eq!(reply.status, 409);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("reported as abuse"), "{text}");
    assert!(world.marketplace.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_too_much_waiting_is_told_when_to_come_back() {
    let world = World::start(marketplace_service::Settings {
        waiting_per_email: 1,
        ..by_letter()
    })
    .await;
    let key = alice();
    let upload = async |number: u8| world.post(&signed(&image(number), &key, after(-60))).await;
    assert_eq!(upload(1).await.status, 202);
    let many = upload(2).await;
    assert_eq!((many.status, many.header("retry-after")), (429, "86400"));
    let text = String::from_utf8(many.body).unwrap();
    assert!(text.contains("<error>too many uploads"), "{text}");
    // There is a place again when the first is out of the way.
    let [confirm, ..] = links(&world, 0).await;
    let reply = world.ask(&format!("POST {confirm}"), "", b"").await;
    assert_eq!(reply.status, 201);
    assert_eq!(upload(2).await.status, 202);
}

/// The operator has given it a name that no letter can hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_letter_can_be_written_an_upload_is_refused_and_not_kept() {
    let world = World::start(marketplace_service::Settings {
        title: "long ".repeat(200_000),
        ..by_letter()
    })
    .await;
    let reply = world.post(&signed(&image(1), &alice(), after(-60))).await;
    let text = String::from_utf8(reply.body).unwrap();
    assert_eq!(reply.status, 500, "{text}");
    assert!(
        text.contains("<error>error sending confirmation email"),
        "{text}"
    );
    let waiting = store::Prefix::collection("MarketplaceUpload").unwrap();
    let kept = world.store.range(store::Range::prefix(&waiting)).await;
    assert!(kept.unwrap().entries.is_empty());
}

/// Until nothing fits any more, however small.
async fn fill(world: &World) {
    for bytes in [20_000, 300] {
        for number in 0..100_000 {
            let key = Key::new("Filler", &format!("{bytes}-{number}")).unwrap();
            let written = Transaction::new().put(key, vec![b'x'; bytes]);
            match world.store.commit(written).await {
                Ok(Outcome::Committed(_)) => {}
                Err(StoreError::Full { .. }) => break,
                other => panic!("neither written nor full: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_nothing_is_published_or_lost_and_with_room_again_it_goes_on() {
    let small = SqliteOptions {
        max_bytes: Some(2 << 20),
        ..SqliteOptions::default()
    };
    let world = World::with_database(by_letter(), small).await;
    let key = alice();
    let large = |number: u8| Metadata {
        description: Some("words ".repeat(4000)),
        ..image(number)
    };
    let [first, second] = [1, 2].map(|number| signed(&large(number), &key, after(-60)));
    assert_eq!(world.post(&first).await.status, 202);
    let [confirm, ..] = links(&world, 0).await;
    // The letter is out of the database, too.
    let letters = store::Prefix::collection("Letter").unwrap();
    let wait = async {
        loop {
            let left = world.store.range(store::Range::prefix(&letters)).await;
            if left.unwrap().entries.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    fill(&world).await;
    let full = |reply: &crate::support::client::Reply| {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, "5"),
            "{text}"
        );
        assert!(text.contains("can't write at the moment"), "{text}");
    };
    full(&world.post(&second).await);
    full(&world.ask(&format!("POST {confirm}"), "", b"").await);
    // Reading goes on; nothing is half there.
    let (reply, _) = world.get("/metadata", "").await;
    assert_eq!(reply.status, 404);
    let (reply, text) = world.get(&confirm, "Accept: text/html\r\n").await;
    assert_eq!(reply.status, 200);
    assert!(text.contains("Is this description yours?"), "{text}");
    assert!(world.marketplace.is_empty());

    let world = world.again(by_letter(), SqliteOptions::default()).await;
    let reply = world.ask(&format!("POST {confirm}"), "", b"").await;
    assert_eq!(reply.status, 201);
    let (_, text) = world
        .get(&format!("/metadata/{}", image(1).identifier), "")
        .await;
    assert!(text.contains(first.split_once("?>").unwrap().1.trim()));
    // What was refused was not kept: it is new.
    assert_eq!(world.post(&second).await.status, 202);
    assert_eq!(world.sink.wait_for(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_confirms_sees_what_and_by_which_certificate() {
    const PAGE: &str = "Accept: text/html\r\n";
    let world = World::start(by_letter()).await;
    let key = alice();
    let first = signed(&image(1), &key, after(-60));
    assert_eq!(world.post(&first).await.status, 202);
    let letter = world.sink.wait_for(1).await[0].text();
    let fingerprint = key.certificate().fingerprint();
    assert!(letter.contains(&fingerprint), "{letter}");
    let [confirm, ..] = links(&world, 0).await;
    let strange = "This certificate has not been used here for this address";
    let (_, text) = world.get(&confirm, PAGE).await;
    for told in [
        "With &#60;b&#62;everything&#60;/b&#62; &#38; more",
        "https://images.example.org/1.qcow2",
        "(self-signed)",
        &fingerprint,
    ] {
        assert!(text.contains(told), "no {told}: {text}");
    }
    // The first of an address is none of several.
    assert!(
        !text.contains(strange) && !letter.contains("ATTENTION"),
        "{text}{letter}"
    );
    assert_eq!(
        world.ask(&format!("POST {confirm}"), "", b"").await.status,
        201
    );

    // The page of the entry calls its certificate what it is.
    let path = format!("/metadata/{}/alice@example.org", image(1).identifier);
    let name = marketplace::Entry::verify(first.as_bytes()).unwrap();
    let created = name.endorsement().created;
    let (reply, text) = world.get(&format!("{path}/{created}"), PAGE).await;
    assert_eq!(reply.status, 200);
    assert!(
        text.contains(">self-signed<") && !text.contains("address certified"),
        "{text}"
    );

    // The same again is told to be there, and what its endorser has said since.
    let known = world.post(&first).await;
    assert_eq!(
        (known.status, String::from_utf8(known.body).unwrap()),
        (200, "metadata entry exists\n".to_owned())
    );
    let withdrawn = Metadata {
        deprecated: Some("it has a hole".to_owned()),
        valid: Some(after(-3600)),
        ..image(1)
    };
    assert_eq!(
        world
            .post(&signed(&withdrawn, &key, after(-30)))
            .await
            .status,
        202
    );
    let [confirm, ..] = links(&world, 1).await;
    let (_, text) = world.get(&confirm, PAGE).await;
    assert!(
        text.contains("nobody shall use the image any more: it has a hole")
            && text.contains("listed only among what has expired"),
        "{text}"
    );
    assert_eq!(
        world.ask(&format!("POST {confirm}"), "", b"").await.status,
        201
    );
    let known = world.post(&first).await;
    let text = String::from_utf8(known.body).unwrap();
    assert!(
        known.status == 200 && text.contains("has withdrawn it: it has a hole"),
        "{text}"
    );

    // Somebody else's certificate in the same name.
    let other = signed(&image(2), &alice(), after(-20));
    assert_eq!(world.post(&other).await.status, 202);
    let letter = world.sink.wait_for(3).await[2].text();
    assert!(letter.contains("ATTENTION: This certificate"), "{letter}");
    let [confirm, ..] = links(&world, 2).await;
    let (_, text) = world.get(&confirm, PAGE).await;
    assert!(text.contains(strange), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_not_found_by_browsers_and_programs_alike() {
    let world = World::start(by_letter()).await;
    let nobodys = format!("/metadata/{}", image(9).identifier);
    let (reply, text) = world.get(&nobodys, "Accept: */*\r\n").await;
    assert_eq!(
        (reply.status, text.as_str()),
        (404, "no metadata matching query found\n")
    );
    assert!(reply.header("content-type").starts_with("text/plain"));
    let (reply, _) = world
        .get(&nobodys, "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\n")
        .await;
    assert_eq!(reply.status, 404);
    let (reply, _) = world
        .get(
            "/metadata",
            "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\n",
        )
        .await;
    assert_eq!(reply.status, 200);
}
