//! Tags of endorsers, and short URLs: what they lead to, and whom nobody believes.

use marketplace::Metadata;

use super::site::{
    Site, asking, base, described, endorser, seconds_from_now, signed, signed_at, whole, withdrawn,
};
use super::states::numbers;
use super::web_server::{Answer, WebServer};
use super::world::World;
use crate::controller::Settings;
use crate::import::{Reach, Redirects};
use crate::registry::LookupError;

const TAGGED: &str = "/metadata/alice@example.org";

fn tagged(number: u32, tag: &str) -> Metadata {
    let mut metadata = described(
        &numbers(1024 + number),
        &["https://x.example.org/x".to_owned()],
    );
    metadata.tag = Some(tag.to_owned());
    metadata
}

/// What the Marketplaces say of a tag of Alice's.
async fn asked(settings: &Settings, tag: &str) -> Result<(String, String), LookupError> {
    let found = settings.registries.tagged("alice@example.org", tag).await?;
    let identifier = found.entry.metadata().identifier.to_string();
    Ok((identifier, found.marketplace))
}

async fn refused(settings: &Settings, tag: &str) -> String {
    match asked(settings, tag).await {
        Err(LookupError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_endorsement_of_a_tag_counts_wherever_it_is() {
    let world = World::new().await;
    let (first, second) = (Site::default(), Site::default());
    let servers = [first.serve().await, second.serve().await];
    let [one, two] = [&servers[0], &servers[1]];
    let settings = asking(world.settings(), &[one, two], None);
    let alice = endorser("alice@example.org");
    let (old, new) = (tagged(1, "base"), tagged(2, "base"));
    first.put(
        TAGGED,
        whole(signed_at(&old, &alice, seconds_from_now(-60)).into()),
    );
    let is = |metadata: &Metadata, at: &str| Ok((metadata.identifier.to_string(), at.to_owned()));
    assert_eq!(asked(&settings, "base").await, is(&old, "m0"));
    second.put(TAGGED, whole(signed(&new, &alice).into()));
    assert_eq!(asked(&settings, "base").await, is(&new, "m1"));
    // The very same entry at both: the order of the configuration decides.
    let same = signed(&new, &alice);
    first.put(TAGGED, whole(same.clone().into()));
    second.put(TAGGED, whole(same.into()));
    assert_eq!(asked(&settings, "base").await, is(&new, "m0"));
    // What is replaced by something that may not be used is not taken instead of it.
    let mut expired = tagged(3, "base");
    expired.valid = Some(seconds_from_now(-1));
    first.put(
        TAGGED,
        whole(signed_at(&old, &alice, seconds_from_now(-60)).into()),
    );
    second.put(TAGGED, whole(signed(&expired, &alice).into()));
    let reason = refused(&settings, "base").await;
    assert!(reason.contains("not valid any more"), "{reason}");
    second.put(
        TAGGED,
        whole(withdrawn(&new, &alice, "it has a hole").into()),
    );
    let reason = refused(&settings, "base").await;
    assert!(reason.contains("it has a hole"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_believed_of_its_endorser_only() {
    let world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let policy = world.storage_dir().with_extension("cfg");
    std::fs::write(
        &policy,
        "[endorsers]\nblacklistendorsers = alice@example.org\n",
    )
    .expect("a policy");
    let open = asking(world.settings(), &[&server], None);
    let closed = asking(world.settings(), &[&server], Some(&policy));
    let alice = endorser("alice@example.org");
    let none = refused(&open, "base").await;
    assert!(
        none.contains("(m0) has an image with the tag `base` of alice@example.org"),
        "{none}"
    );
    let good = signed(&tagged(1, "base"), &alice);
    for (document, why) in [
        (
            signed(&tagged(1, "base"), &endorser("eve@example.org")),
            "not of this tag and endorser",
        ),
        (signed(&tagged(1, "other"), &alice), "not of this tag"),
        (
            good.replace("A test", "a tesT"),
            "an entry of Marketplace m0 is refused",
        ),
    ] {
        site.put(TAGGED, whole(document.into()));
        let reason = refused(&open, "base").await;
        assert!(reason.contains(why), "`{why}` in {reason}");
    }
    // What is no entry says nothing of the tag: neither that there is one, nor that there is none.
    site.put(TAGGED, whole("nonsense".into()));
    match asked(&open, "base").await {
        Err(LookupError::Unavailable(reason)) => {
            assert!(reason.contains("answered nonsense"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    site.put(TAGGED, whole(good.into()));
    asked(&open, "base").await.expect("found");
    let reason = refused(&closed, "base").await;
    assert!(reason.contains("alice@example.org"), "{reason}");
    for bad in ["", "a\nb", &"x".repeat(201)] {
        assert!(refused(&open, bad).await.contains("no tag"));
    }
    let no_address = open.registries.tagged("../alice", "base").await;
    assert!(matches!(no_address, Err(LookupError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marketplace_that_is_silent_leaves_the_answer_open() {
    let world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let down = WebServer::start_with(|_, _| {
        Answer::Head("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n".to_owned())
    })
    .await;
    let settings = asking(world.settings(), &[&down, &server], None);
    match asked(&settings, "base").await {
        Err(LookupError::Unavailable(reason)) => assert!(reason.contains("m0"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let entry = signed(&tagged(1, "base"), &endorser("alice@example.org"));
    site.put(TAGGED, whole(entry.into()));
    asked(&settings, "base").await.expect("found");
}

fn leading_to(address: &str) -> Answer {
    Answer::Head(format!(
        "HTTP/1.1 302 Found\r\nlocation: {address}\r\ncontent-length: 0\r\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn short_urls_lead_to_entries_of_configured_marketplaces_only() {
    let world = World::new().await;
    let (site, market) = (Site::default(), Site::default());
    let (server, marketplace) = (site.serve().await, market.serve().await);
    let settings = asking(world.settings(), &[&marketplace], None);
    let reach = |allowed: &str| Reach {
        allowed: vec![allowed.parse().expect("a block")],
        ..Reach::default()
    };
    let by = |reach| Redirects::new(reqwest::Client::builder(), reach).expect("a client");
    let redirects = by(reach("127.0.0.0/8"));
    let registries = &settings.registries;
    let id = "MMZu9WvwKIro-rtBQfDk4PsKO7_";
    let entry = format!("{}/marketplace/metadata/{id}", base(&marketplace));
    let tag = format!("{}/metadata/a@b?tag=x%20y", base(&marketplace));
    let short = |path: &str| format!("{}{path}", base(&server));
    site.put("/entry", leading_to(&entry));
    site.put("/tag", leading_to(&tag));
    site.put("/relative", leading_to("/entry"));
    site.put("/round", leading_to("/round"));
    site.put("/image", whole(vec![1; 10]));
    site.put("/elsewhere", leading_to(&short(&format!("/metadata/{id}"))));
    site.put(
        "/file",
        leading_to(&format!("{}/files/x.img", base(&marketplace))),
    );
    site.put("/other-kind", leading_to("ftp://example.org/x"));
    for (path, to) in [
        ("/entry", Some(&entry)),
        ("/relative", Some(&entry)),
        ("/tag", Some(&tag)),
        ("/round", None),
        ("/image", None),
        ("/elsewhere", None),
        ("/file", None),
        ("/other-kind", None),
        ("/absent", None),
    ] {
        let found = registries.entry_behind(&redirects, &short(path)).await;
        assert_eq!(found.as_ref(), to, "{path}");
    }
    for (url, is_one) in [
        (&entry, true),
        (&tag, true),
        (&format!("{}/tag/a@b/x", base(&marketplace)), true),
        (&format!("{}/tags/a@b/x", base(&marketplace)), false),
        (&short("/tag/a@b/x"), false),
        (&"no URL".to_owned(), false),
    ] {
        assert_eq!(registries.have_entry_at(url), is_one, "{url}");
    }
    assert_eq!(
        market.asked(&format!("/marketplace/metadata/{id}")),
        0,
        "named, not asked"
    );
    // Where images may not come from, nobody is asked either.
    let before = site.asked("/entry");
    let redirects = by(reach("10.9.9.0/24"));
    let found = registries.entry_behind(&redirects, &short("/entry")).await;
    assert_eq!(found, None);
    assert_eq!(site.asked("/entry"), before);
}
