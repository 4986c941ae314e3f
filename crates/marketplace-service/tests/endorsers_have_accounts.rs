//! Endorsers sign in by letters and certificates, and see, confirm, discard and switch what is theirs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test that panics has failed"
)]

use std::net::IpAddr;

use mail::{
    Postman,
    testing::{Mood, Sink},
};
use marketplace::Metadata;
use marketplace_service::{Marketplace, Refused, Settings, Uploaded, Way};
use store::{Prefix, Range};
use tokio_util::sync::CancellationToken;

use crate::support::{World, after, endorser, endorser_until, image, signed};

const ALICE: &str = "alice@example.org";

fn source(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn settings() -> Settings {
    Settings {
        sends_letters: true,
        url: "https://m.example.org/marketplace/".to_owned(),
        ..Settings::default()
    }
}

async fn count(world: &World, collection: &str) -> usize {
    let prefix = Prefix::collection(collection).unwrap();
    let page = world.store.range(Range::prefix(&prefix)).await.unwrap();
    page.entries.len()
}

/// Letters, as they arrive by SMTP.
struct Mail {
    sink: Sink,
    stop: CancellationToken,
}

impl Mail {
    async fn of(world: &World) -> Self {
        let sink = Sink::start(Mood::Takes).await;
        let stop = CancellationToken::new();
        let postman = Postman::new(world.store.clone(), &sink.settings()).unwrap();
        tokio::spawn(postman.run(stop.clone()));
        Self { sink, stop }
    }

    /// Of the letters up to this number the last one with a link that ends so: what names it, and to whom it went. Letters that were
    /// written at once come in any order.
    async fn link(&self, number: usize, act: &str) -> (String, String) {
        let end = format!("/{act}/");
        let all = self.sink.wait_for(number + 1).await;
        let mut all = all.iter().rev();
        let letter = all.find(|letter| letter.text().contains(&end)).unwrap();
        let text = letter.text();
        let link = text
            .split_whitespace()
            .find(|word| word.ends_with(&end))
            .unwrap_or_else(|| panic!("{text}"));
        let link = link.trim_end_matches(&end).rsplit('/').next().unwrap();
        (link.to_owned(), letter.to.join(","))
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn publish(marketplace: &Marketplace, mail: &Mail, number: usize, document: &[u8]) {
    let uploaded = marketplace.upload(document, source(1)).await.unwrap();
    assert!(matches!(uploaded, Uploaded::Waiting), "{uploaded:?}");
    let (link, _) = mail.link(number, "confirm").await;
    marketplace.confirm(&link).await.unwrap();
}

#[tokio::test]
async fn a_letter_signs_in_once_and_what_is_theirs_is_theirs_alone() {
    let world = World::start(settings()).await;
    let mail = Mail::of(&world).await;
    let (alice, bob) = (
        endorser("Alice", Some(ALICE)),
        endorser("Bob", Some("bob@example.org")),
    );
    let market = world.marketplace.clone();
    let ended = Metadata {
        valid: Some(after(-10)),
        ..image(2)
    };
    let old = Metadata {
        deprecated: Some("a hole".to_owned()),
        ..image(3)
    };
    for (number, metadata) in [&image(1), &ended, &old].into_iter().enumerate() {
        let document = signed(metadata, &alice, ALICE, after(-60));
        publish(&market, &mail, number, &document).await;
    }
    // A second word of the same image: only that counts.
    publish(
        &market,
        &mail,
        3,
        &signed(&image(1), &alice, ALICE, after(-30)),
    )
    .await;
    for (key, email, number) in [
        (&alice, ALICE, 4),
        (&alice, ALICE, 5),
        (&bob, "bob@example.org", 6),
    ] {
        let document = signed(&image(number), key, email, after(-20));
        market.upload(&document, source(1)).await.unwrap();
    }

    // However it is written, the letter goes to the address that entries have.
    market
        .ask_to_sign_in("Alice@Example.ORG", source(9))
        .await
        .unwrap();
    let (link, to) = mail.link(7, "sign-in").await;
    assert_eq!(to, ALICE);
    assert_eq!(market.who_signs_in(&link).await.unwrap(), ALICE);
    let opened = market.sign_in(&link, source(9)).await.unwrap();
    assert_eq!(
        (opened.session.email.as_str(), opened.session.way),
        (ALICE, Way::Letter)
    );
    for again in [
        market.sign_in(&link, source(9)).await.err(),
        market.who_signs_in(&link).await.err(),
        market.sign_in("no-such-link", source(9)).await.err(),
    ] {
        assert!(matches!(again, Some(Refused::NoSignIn)), "{again:?}");
    }

    let session = market.session(&opened.secret).unwrap();
    let account = market.account(ALICE).await.unwrap();
    let of = |number| image(number).identifier;
    let records: Vec<_> = account
        .records
        .iter()
        .map(|record| record.identifier)
        .collect();
    assert_eq!(records.len(), 3, "{records:?}");
    assert!(
        [1, 2, 3]
            .iter()
            .all(|number| records.contains(&of(*number)))
    );
    assert_eq!(account.records[0].identifier, of(1), "the newest first");
    assert!(account.wants_reminders && account.sessions == 1);
    let named = |number| {
        let all = account.waiting.iter();
        let mut of_it = all.filter(|(_, waiting)| waiting.identifier == of(number));
        of_it.next().map(|(name, _)| name.clone())
    };
    assert_eq!(account.waiting.len(), 2);
    let (first, second) = (named(4).unwrap(), named(5).unwrap());

    // Bob's upload waits for Bob, whoever knows its name.
    let of_bob = market.account("bob@example.org").await.unwrap().waiting[0]
        .0
        .clone();
    for refused in [
        market.confirm_own(&session, &of_bob).await.err(),
        market.discard_own(&session, &of_bob).await.err(),
    ] {
        assert!(matches!(refused, Some(Refused::NotWaiting)), "{refused:?}");
    }
    let record = market.confirm_own(&session, &first).await.unwrap();
    assert_eq!(record.identifier, of(4));
    assert_eq!(
        market
            .discard_own(&session, &second)
            .await
            .unwrap()
            .identifier,
        of(5)
    );
    assert!(market.account(ALICE).await.unwrap().waiting.is_empty());
    assert!(matches!(
        market.confirm_own(&session, &first).await,
        Err(Refused::NotWaiting)
    ));

    // It outlives the daemon.
    let world = world.again().await;
    let market = world.marketplace.clone();
    assert_eq!(market.session(&opened.secret).unwrap().email, ALICE);
    // Everywhere is everywhere, letters under way included.
    market.ask_to_sign_in(ALICE, source(9)).await.unwrap();
    let (other, _) = mail.link(8, "sign-in").await;
    let elsewhere = market.sign_in(&other, source(10)).await.unwrap();
    market.ask_to_sign_in(ALICE, source(9)).await.unwrap();
    let (unused, _) = mail.link(9, "sign-in").await;
    market.sign_out_everywhere(ALICE).await.unwrap();
    for secret in [&opened.secret, &elsewhere.secret] {
        assert!(market.session(secret).is_none());
    }
    assert!(matches!(
        market.sign_in(&unused, source(9)).await,
        Err(Refused::NoSignIn)
    ));
    assert_eq!(count(&world, "MarketplaceSession").await, 0);
    assert_eq!(count(&world, "MarketplaceSignIn").await, 0);
}

#[tokio::test]
async fn nobody_learns_whether_an_address_is_known_nor_sends_it_many_letters() {
    let world = World::start(settings()).await;
    let mail = Mail::of(&world).await;
    let market = world.marketplace.clone();
    let alice = endorser("Alice", Some(ALICE));
    publish(
        &market,
        &mail,
        0,
        &signed(&image(1), &alice, ALICE, after(-60)),
    )
    .await;
    // The same is done, but for the letter, and no more than three times.
    for (address, letters) in [(ALICE, 3), ("nobody@example.org", 0)] {
        let before = count(&world, "MarketplaceSignIn").await;
        for network in 20..30 {
            market
                .ask_to_sign_in(address, source(network))
                .await
                .unwrap();
        }
        assert_eq!(
            count(&world, "MarketplaceSignIn").await - before,
            3,
            "{address}"
        );
        let all = mail.sink.wait_for(1 + letters).await;
        let to = all.iter().filter(|letter| letter.to == [address]);
        assert_eq!(
            to.count(),
            if letters == 0 { 0 } else { 1 + letters },
            "{address}"
        );
        // Names that lead to the same mailbox are one.
        market
            .ask_to_sign_in(&address.replace('@', "+x@"), source(40))
            .await
            .unwrap();
        assert_eq!(
            count(&world, "MarketplaceSignIn").await - before,
            3,
            "{address}"
        );
    }
    // One network asks for so many, whomever it names.
    for number in 0..20 {
        let address = format!("{number}@example.org");
        market.ask_to_sign_in(&address, source(50)).await.unwrap();
    }
    let refused = market.ask_to_sign_in("21@example.org", source(50)).await;
    assert!(
        matches!(refused, Err(Refused::TooManyLetters(_))),
        "{refused:?}"
    );
    market
        .ask_to_sign_in("21@example.org", source(51))
        .await
        .unwrap();
    assert!(matches!(
        market.ask_to_sign_in("no address", source(60)).await,
        Err(Refused::Invalid(_))
    ));
    // Of a site with many networks so many, and the others as before.
    let network = |number: u16| format!("2001:db8:7:{number:x}::1").parse().unwrap();
    for number in 0..200 {
        let address = format!("{number}@example.net");
        let asked = market.ask_to_sign_in(&address, network(number));
        asked.await.unwrap();
    }
    match market.ask_to_sign_in("x@example.net", network(201)).await {
        Err(Refused::TooManyLetters(whose)) => assert_eq!(whose, "from 2001:db8:7::/48"),
        other => panic!("{other:?}"),
    }
    let elsewhere = "2001:db8:8::1".parse().unwrap();
    let asked = market.ask_to_sign_in("x@example.net", elsewhere).await;
    asked.unwrap();
    let silent = World::start(Settings::default()).await;
    assert!(matches!(
        silent.marketplace.ask_to_sign_in(ALICE, source(60)).await,
        Err(Refused::NoLetters)
    ));
}

#[tokio::test]
async fn a_certificate_signs_in_whose_owner_confirmed_something_by_it_and_confirms_nothing() {
    let alice = endorser("Alice", Some(ALICE));
    let world = World::start(settings()).await;
    let mail = Mail::of(&world).await;
    let market = world.marketplace.clone();
    let own = alice.certificate().der();
    assert!(
        market.addresses_of(own).is_empty(),
        "nothing is confirmed by it yet"
    );
    // Anybody can make a certificate for her address.
    let mallory = endorser("Alice", Some(ALICE));
    publish(
        &market,
        &mail,
        0,
        &signed(&image(1), &alice, ALICE, after(-60)),
    )
    .await;
    let document = signed(&image(2), &alice, ALICE, after(-50));
    market.upload(&document, source(1)).await.unwrap();
    assert_eq!(market.addresses_of(own), [ALICE]);
    assert!(market.addresses_of(mallory.certificate().der()).is_empty());
    assert!(market.addresses_of(b"no certificate").is_empty());
    for (certificate, email) in [
        (mallory.certificate().der(), ALICE),
        (own, "bob@example.org"),
    ] {
        let refused = market
            .sign_in_by_certificate(certificate, email, source(1))
            .await;
        assert!(matches!(refused, Err(Refused::NotTheirs(_))), "{refused:?}");
    }
    let opened = market
        .sign_in_by_certificate(own, ALICE, source(1))
        .await
        .unwrap();
    assert_eq!(opened.session.way, Way::Certificate);
    let (name, _) = market.account(ALICE).await.unwrap().waiting.remove(0);
    // A stolen key would publish else, which the letter is there to prevent.
    assert!(matches!(
        market.confirm_own(&opened.session, &name).await,
        Err(Refused::ByLetterOnly)
    ));
    assert_eq!(market.len(), 1);
    market.discard_own(&opened.session, &name).await.unwrap();
    market.sign_out(&opened.secret).await.unwrap();
    assert!(market.session(&opened.secret).is_none());
    // One that is past its end signs nobody in.
    let ended = endorser_until("Alice", ALICE, 2021);
    assert!(market.addresses_of(ended.certificate().der()).is_empty());
    // Browsers are not without number.
    let mut secrets = Vec::new();
    for _ in 0..25 {
        let opened = market
            .sign_in_by_certificate(own, ALICE, source(1))
            .await
            .unwrap();
        secrets.push(opened.secret);
    }
    assert_eq!(count(&world, "MarketplaceSession").await, 20);
    assert!(market.session(secrets.last().unwrap()).is_some());
}

#[tokio::test]
async fn who_switches_reminders_off_gets_none_until_they_are_on_again() {
    const DAY: i64 = 86_400;
    let world = World::start(Settings {
        confirms: false,
        reminds: true,
        ..settings()
    })
    .await;
    let market = world.marketplace.clone();
    let alice = endorser("Alice", Some(ALICE));
    let long = Metadata {
        valid: Some(after(100 * DAY)),
        ..image(1)
    };
    let document = signed(&long, &alice, ALICE, after(-60));
    market.upload(&document, source(1)).await.unwrap();
    assert_eq!(market.remind(after(0)).await.unwrap(), 0);
    market.set_reminders(ALICE, false).await.unwrap();
    assert!(!market.wants_reminders(ALICE).await.unwrap());
    assert_eq!(market.remind(after(40 * DAY)).await.unwrap(), 0);
    market.set_reminders(ALICE, true).await.unwrap();
    assert!(market.wants_reminders(ALICE).await.unwrap());
    assert_eq!(market.remind(after(40 * DAY)).await.unwrap(), 1);
    // Also before anybody was reminded.
    market
        .set_reminders("new@example.org", false)
        .await
        .unwrap();
    assert!(!market.wants_reminders("new@example.org").await.unwrap());
}
