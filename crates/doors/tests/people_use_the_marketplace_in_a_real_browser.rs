//! The pages of the Marketplace as Chromium shows them: found, read, published, confirmed; also dark, narrow and without scripts.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use crate::support::market::{Door, EMAIL, World, after, alice, endorser, image, signed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_find_and_read_images_in_a_real_browser() {
    let Some(browser) = testkit::Browser::start().await else {
        return;
    };
    let world = World::with_thirty_images().await;
    let key = alice();
    let base = format!("http://{}", world.address());
    browser.resize(1200, 900).await;
    browser.open(&format!("{base}/")).await;
    browser.wait_for("30 images, shown 1 to 25").await;
    browser.picture("marketplace-find").await;
    // Without sending the form: the list follows the typing.
    browser.fill("search", "server 17.qcow2").await;
    browser.wait_for("1 image, shown 1 to 1").await;
    browser.click("#results td a").await;
    browser.wait_for("Start it").await;
    let command = format!("stratus-run-instance {}", image(17).identifier);
    browser.wait_for(&command).await;
    // What a document says is text, never part of the page.
    browser.wait_for("With <b>everything</b> & more").await;
    browser.picture("marketplace-entry").await;
    browser.resize(420, 900).await;
    browser.picture("marketplace-entry-narrow").await;
    browser
        .open(&format!("{base}/metadata?search=server"))
        .await;
    browser.picture("marketplace-find-narrow").await;
    browser.resize(1200, 900).await;
    browser.open(&format!("{base}/upload")).await;
    browser.wait_for("Publish an image").await;
    browser.picture("marketplace-upload").await;
    for width in [1200, 900, 420] {
        browser.resize(width, 900).await;
        let beside = "const text = document.querySelector('.command pre').getBoundingClientRect(); \
                      const button = document.querySelector('.command button').getBoundingClientRect(); \
                      return button.width > 0 && (button.left >= text.right || button.bottom <= text.top);";
        assert_eq!(
            browser.run(beside).await,
            true,
            "Copy beside the text, {width}"
        );
    }
    browser.picture("marketplace-upload-narrow").await;
    browser.resize(1200, 900).await;
    browser.open(&format!("{base}/endorsers/{EMAIL}")).await;
    browser.wait_for("What was endorsed in the last").await;
    browser.picture("marketplace-endorser").await;

    // The link of a letter shows a page whose button publishes.
    let asking = World::asking().await;
    assert_eq!(
        asking
            .post(&signed(&image(1), &key, after(-60)))
            .await
            .status,
        202
    );
    let path = asking.link(0, "confirm").await;
    browser
        .open(&format!("http://{}{path}", asking.address()))
        .await;
    browser.wait_for("Is this description yours?").await;
    browser.picture("marketplace-confirm").await;
    browser.click("main button").await;
    browser.wait_for("Published").await;
    browser.picture("marketplace-published").await;
    assert_eq!(asking.marketplace.len(), 1);
}

/// As some read it: in the dark, on a telephone, and where no script may run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_without_scripts_find_publish_and_confirm() {
    let Some(browser) = testkit::Browser::start().await else {
        return;
    };
    let world = World::with_thirty_images().await;
    let key = alice();
    let old = marketplace::Metadata {
        deprecated: Some("It has a hole".to_owned()),
        ..image(3)
    };
    let document = signed(&old, &key, after(-1));
    assert_eq!(world.post(&document).await.status, 201);
    let base = format!("http://{}", world.address());
    browser.scripts(false).await;
    browser.dark(true).await;
    browser.resize(420, 900).await;
    browser.open(&format!("{base}/")).await;
    browser.wait_for("29 images, shown 1 to 25").await;
    browser.picture("marketplace-find-dark").await;
    browser.click("a[rel=next]").await;
    browser.wait_for("29 images, shown 26 to 29").await;
    browser.fill("search", "server 17.qcow2").await;
    browser.click("form button").await;
    browser.wait_for("1 image, shown 1 to 1").await;
    browser.click("#results td a").await;
    browser.wait_for("Start it").await;
    browser.picture("marketplace-entry-dark").await;
    let path = format!("{base}/metadata/{}", image(3).identifier);
    browser.open(&format!("{path}?status=all")).await;
    browser.click("#results td a").await;
    browser.wait_for("It has a hole").await;
    browser.picture("marketplace-deprecated-dark").await;
    browser
        .open(&format!("{base}/endorsers/{EMAIL}/tags"))
        .await;
    browser.wait_for("web").await;

    // By the form, with the file as it is on a disk.
    let asking = World::asking().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("entry.xml");
    std::fs::write(&file, signed(&image(40), &key, after(-60))).unwrap();
    let base = format!("http://{}", asking.address());
    browser.open(&format!("{base}/upload")).await;
    browser
        .choose("input[type=file]", file.to_str().unwrap())
        .await;
    browser.picture("marketplace-upload-dark").await;
    browser.click("main form button").await;
    browser.wait_for("Nearly done").await;
    browser.picture("marketplace-waiting-dark").await;
    let path = asking.link(0, "confirm").await;
    browser.open(&format!("{base}{path}")).await;
    browser.wait_for("Is this description yours?").await;
    assert_eq!(asking.marketplace.len(), 0, "looking publishes nothing");
    browser.picture("marketplace-confirm-dark").await;
    browser.click("main button").await;
    browser.wait_for("Published").await;
    assert_eq!(asking.marketplace.len(), 1);
    // Again: the link is gone, and a page says so.
    browser.open(&format!("{base}{path}")).await;
    browser.wait_for("Not Found").await;
    browser.picture("marketplace-gone-dark").await;
}

/// What is chosen beside the words, and what leads from an entry to what else is said of its image. As pages alone do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_choose_among_images_and_go_from_an_entry_to_others_of_its_image() {
    let Some(browser) = testkit::Browser::start().await else {
        return;
    };
    let world = World::start(marketplace_service::Settings {
        confirms: false,
        title: "Example Marketplace".to_owned(),
        ..marketplace_service::Settings::default()
    })
    .await;
    let bob = endorser("Bob", "bob@example.org");
    let alice = alice();
    let of = |number: u8, os: &str, title: &str| marketplace::Metadata {
        os: Some(os.to_owned()),
        title: Some(title.to_owned()),
        ..image(number)
    };
    let expired = marketplace::Metadata {
        valid: Some(after(-10)),
        ..of(4, "debian", "expired one")
    };
    let old = marketplace::Metadata {
        deprecated: Some("It has a hole".to_owned()),
        ..of(5, "debian", "withdrawn one")
    };
    let (begun, second) = (after(-300), after(-200));
    for (metadata, key, at) in [
        (of(1, "debian", "first words"), &alice, begun),
        (of(1, "debian", "second words"), &alice, second),
        (of(1, "debian", "words of Bob"), &bob, after(-100)),
        (of(2, "ubuntu", "an ubuntu"), &bob, after(-90)),
        (of(3, "debian", "a debian"), &alice, after(-80)),
        (expired, &alice, after(-70)),
        (old, &alice, after(-60)),
    ] {
        assert_eq!(world.post(&signed(&metadata, key, at)).await.status, 201);
    }
    let base = format!("http://{}", world.address());
    browser.resize(1200, 900).await;
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static str,
        &'static [&'static str],
    );
    for scripts in [false, true] {
        browser.scripts(scripts).await;
        let cases: [Case; 6] = [
            (&[("os", "ubuntu")], "an ubuntu", &["a debian", "words"]),
            (
                &[("status", "expired")],
                "expired one",
                &["a debian", "withdrawn one"],
            ),
            (
                &[("status", "deprecated")],
                "withdrawn one",
                &["a debian", "expired one"],
            ),
            (
                &[("status", "all"), ("os", "debian")],
                "withdrawn one",
                &["an ubuntu"],
            ),
            (
                &[("endorser", "bob@")],
                "an ubuntu",
                &["a debian", "second words"],
            ),
            (
                &[("endorser", "bob@"), ("os", "debian")],
                "words of Bob",
                &["an ubuntu", "a debian"],
            ),
        ];
        for (choices, there, not_there) in cases {
            browser.open(&format!("{base}/metadata")).await;
            for (name, value) in choices {
                match *name {
                    "endorser" => browser.fill(name, value).await,
                    _ => browser.select(name, value).await,
                }
            }
            browser.click("form button").await;
            // The form goes on showing what was chosen, and the list is that.
            browser.wait_for(there).await;
            for wrong in not_there {
                browser.wait_without(wrong).await;
            }
            if !scripts {
                for (name, value) in choices {
                    let (name, value) = (*name, value.replace('@', "%40"));
                    let url = browser.url().await;
                    assert!(url.contains(&format!("{name}={value}")), "{url}");
                }
            }
        }
    }

    // From what was said first to what is said now, and to whom else says something.
    browser.scripts(false).await;
    let first = format!("{base}/metadata/{}/{EMAIL}/{}", image(1).identifier, begun);
    browser.open(&first).await;
    browser.wait_for("first words").await;
    browser
        .wait_for("The endorser has said something newer of this image")
        .await;
    let text = browser.text().await;
    let history = text.split_once("History").unwrap().1;
    let history = history.split_once("Other endorsers of this image").unwrap();
    assert_eq!(history.0.matches("valid").count(), 1, "{text}");
    assert_eq!(history.0.matches("superseded").count(), 1, "{text}");
    // Times, since a day may have several.
    let moment =
        |time: marketplace::UtcTime| time.to_string().replace('T', " ").replace('Z', " UTC");
    for time in [begun, second] {
        assert!(history.0.contains(&moment(time)), "{text}");
    }
    assert!(!text.contains("Start it"), "{text}");
    assert!(history.1.contains("bob@example.org"), "{text}");
    browser.picture("marketplace-entry-history").await;
    browser.follow("see the newest entry").await;
    browser.wait_for("second words").await;
    let text = browser.text().await;
    assert!(!text.contains("something newer"), "{text}");
    browser.follow("bob@example.org").await;
    browser.wait_for("words of Bob").await;
    let text = browser.text().await;
    let (_, others) = text.split_once("Other endorsers of this image").unwrap();
    assert!(others.contains(EMAIL), "{text}");
    // What isn't this one's history is not in it.
    let history = text.split_once("History").unwrap().1;
    let history = history.split_once("Other endorsers").unwrap().0;
    assert_eq!(history.matches("valid").count(), 1, "{text}");
}

/// A query is asked, corrected and asked again, with and without scripts; its rows lead to the entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_ask_queries() {
    let Some(browser) = testkit::Browser::start().await else {
        return;
    };
    let world = World::start(marketplace_service::Settings {
        confirms: false,
        title: "Example Marketplace".to_owned(),
        ..marketplace_service::Settings::default()
    })
    .await;
    let base = format!("http://{}", world.address());
    browser.resize(1200, 900).await;
    browser.open(&format!("{base}/")).await;
    browser.wait_for("There is no such image yet.").await;
    browser.picture("marketplace-find-none").await;
    browser.open(&format!("{base}/query")).await;
    // The example is a query that works, also where nothing is.
    browser.click("main form button").await;
    browser.wait_for("Nothing is so.").await;
    browser.picture("marketplace-query-none").await;

    let key = alice();
    for number in 1..=40 {
        let document = signed(&image(number), &key, after(-60 + i64::from(number)));
        assert_eq!(world.post(&document).await.status, 201);
    }
    for (scripts, width) in [(true, 1200), (false, 400)] {
        browser.scripts(scripts).await;
        browser.resize(width, 900).await;
        browser.open(&format!("{base}/query")).await;
        browser.picture(&format!("marketplace-query-{width}")).await;
        browser.click("main form button").await;
        browser.wait_for("25 rows").await;
        browser.wait_for(&image(40).identifier.to_string()).await;
        browser
            .picture(&format!("marketplace-query-many-{width}"))
            .await;
        let one = "SELECT ?x ?title ?compression WHERE { ?x dcterms:title ?title FILTER (?title = \"web server 7\") OPTIONAL { ?x dcterms:compression ?compression } }";
        // What is wrong is said above the query, which is still there to be mended.
        browser
            .fill("query", &one.replace("FILTER", "FILTRE"))
            .await;
        browser.click("main form button").await;
        browser.wait_for("FILTRE").await;
        let alert = "return document.querySelector('[role=alert]').textContent + '|' + document.querySelector('textarea').value";
        if scripts {
            let shown = browser.run(alert).await;
            let (told, kept) = shown.as_str().unwrap().split_once('|').unwrap();
            assert!(told.contains("FILTRE"), "{told}");
            assert!(kept.contains("web server 7"), "{kept}");
        }
        browser
            .picture(&format!("marketplace-query-wrong-{width}"))
            .await;
        browser.fill("query", one).await;
        browser.click("main form button").await;
        browser.wait_for("1 row").await;
        browser
            .picture(&format!("marketplace-query-one-{width}"))
            .await;
        browser.click("#results td a").await;
        browser.wait_for("Start it").await;
        browser.wait_for(&image(7).identifier.to_string()).await;
        browser.picture(&format!("marketplace-entry-{width}")).await;
    }
}

/// Signed in by a letter, without scripts: what waits is confirmed, what is published seen, reminders switched, and all left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endorsers_use_their_account() {
    let Some(browser) = testkit::Browser::start().await else {
        return;
    };
    let settings = marketplace_service::Settings {
        sends_letters: true,
        title: "Example Marketplace".to_owned(),
        ..marketplace_service::Settings::default()
    };
    let door = Door {
        is_encrypted: true,
        ..Door::default()
    };
    let world = World::behind_door(settings, door).await;
    let key = alice();
    let source = [127, 0, 0, 1].into();
    let soon = marketplace::Metadata {
        valid: Some(after(3 * 86_400)),
        ..image(1)
    };
    for (metadata, at) in [(soon, -60), (image(2), -50)] {
        let document = signed(&metadata, &key, after(at));
        world
            .marketplace
            .upload(document.as_bytes(), source)
            .await
            .unwrap();
    }
    let base = format!("https://{}", world.address());
    browser.scripts(false).await;
    browser.resize(1200, 900).await;
    browser.open(&format!("{base}/metadata")).await;
    browser.follow("Account").await;
    browser.wait_for("There is no password").await;
    browser.picture("marketplace-sign-in").await;
    browser.fill("email", "Alice@example.org").await;
    browser.click("main form button").await;
    browser.wait_for("Look into your mail").await;
    let path = world.link(2, "sign-in").await;
    browser.open(&format!("{base}{path}")).await;
    browser.wait_for("Sign in as alice@example.org?").await;
    browser.click("main button").await;
    browser.wait_for("Waiting for your confirmation").await;
    browser.wait_for("web server 1").await;
    browser.wait_for("web server 2").await;
    browser.picture("marketplace-account-waiting").await;
    browser.click("button[value=confirm]").await;
    browser.wait_for("Published").await;
    browser.open(&format!("{base}/account")).await;
    browser.click("button[value=confirm]").await;
    browser.wait_for("Published").await;
    assert_eq!(world.marketplace.len(), 2);
    browser.open(&format!("{base}/account")).await;
    browser.wait_for("ends soon").await;
    browser.wait_for("Nothing.").await;
    browser.click("button[value=off]").await;
    browser.wait_for("You don't get").await;
    assert!(!world.marketplace.wants_reminders(EMAIL).await.unwrap());
    browser.resize(420, 900).await;
    browser.dark(true).await;
    browser.picture("marketplace-account-narrow-dark").await;
    browser.click("button[value=everywhere]").await;
    browser.wait_for("There is no password").await;
    // The link of the letter is used up.
    browser.open(&format!("{base}{path}")).await;
    browser.wait_for("Not Found").await;
    browser.wait_for("ask for another letter").await;
}
