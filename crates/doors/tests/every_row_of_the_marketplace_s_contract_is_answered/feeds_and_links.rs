//! Forms, feeds, links, and what is nothing here.

use super::{
    ASKS_JSON, ASKS_XML, BROWSER, HTML, JSON, Row, XML, are_answered, identifiers, published,
};
use crate::support::market::{World, after, alice, image, signed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_feeds_and_the_rest() {
    let (world, _) = published().await;
    let [_, two, _, _] = identifiers();
    let rows: Vec<Row<'_>> = vec![
        // Forms, feeds, the rest.
        (
            "/upload".into(),
            BROWSER,
            200,
            HTML,
            "multipart/form-data",
            "null",
        ),
        (
            "/feed.atom".into(),
            "",
            200,
            "application/atom+xml",
            &two,
            "null",
        ),
        (
            "/feed.rss".into(),
            "",
            200,
            "application/rss+xml",
            &two,
            "null",
        ),
        (
            "/action/48c5bb94-ac78-4e6b-8f0b-3a4c2d1e0f9a/confirm".into(),
            ASKS_JSON,
            404,
            JSON,
            "no such upload",
            "null",
        ),
        (
            "/action/48c5bb94-ac78-4e6b-8f0b-3a4c2d1e0f9a/abort/".into(),
            ASKS_XML,
            404,
            XML,
            "no such upload",
            "null",
        ),
        (
            "/action/48c5bb94-ac78-4e6b-8f0b-3a4c2d1e0f9a/abuse/".into(),
            BROWSER,
            404,
            HTML,
            "no such upload",
            "null",
        ),
        // Anything else is nothing here: who mistyped a path is told so.
        (
            "/nothing/like/this".into(),
            BROWSER,
            404,
            "application/xml",
            "there is nothing at",
            "web server",
        ),
        (
            "/metadata/nonsense".into(),
            "Accept: image/png\r\n",
            404,
            HTML,
            "Not Found",
            "<error>",
        ),
    ];
    are_answered(&world, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_are_read_by_a_feed_reader() {
    let (world, _) = published().await;
    for path in ["/feed.atom", "/feed.rss"] {
        let (_, text) = world.get(path, "").await;
        let feed = feed_rs::parser::parse(text.as_bytes())
            .unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        assert!(!feed.id.is_empty() && feed.title.unwrap().content.contains("new images"));
        assert_eq!(feed.entries.len(), 5, "{path}");
        if path == "/feed.atom" {
            // RFC 4287 §4.1.1: required of a feed.
            assert!(feed.updated.is_some());
        }
        let mut ids = std::collections::BTreeSet::new();
        for entry in feed.entries {
            let link = &entry.links[0].href;
            assert!(
                link.starts_with("http://m.example.org/metadata/"),
                "{path}: {link}"
            );
            assert!(ids.insert(entry.id), "{path}");
            let title = entry.title.unwrap().content;
            assert!(title.contains("web server"), "{path}: {title}");
            let at = entry.updated.or(entry.published).unwrap().timestamp();
            assert!((at - after(0).unix_seconds()).abs() < 600, "{path}: {at}");
            assert!(entry.summary.unwrap().content.len() > 5, "{path}");
        }
        // What a description says is text, not markup.
        assert!(!text.contains("<b>"), "{path}");
    }
}

/// What a caller says of the host would get to others by caches, feeds and letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_lead_to_the_configured_address_and_never_to_the_caller_s_host() {
    let settings = |is_url_given| marketplace_service::Settings {
        confirms: false,
        url: "https://m.example.org/".to_owned(),
        is_url_given,
        ..marketplace_service::Settings::default()
    };
    let trusting = || doors::Limits {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..doors::Limits::default()
    };
    let forwarded = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: proxy.example.org\r\n";
    for (world, expected) in [
        (
            World::start(settings(false)).await,
            "https://m.example.org/",
        ),
        (World::start(settings(true)).await, "https://m.example.org/"),
        (
            World::behind(settings(true), trusting()).await,
            "https://m.example.org/",
        ),
        (
            World::behind(settings(false), trusting()).await,
            "https://proxy.example.org/",
        ),
    ] {
        let key = alice();
        let document = signed(&image(1), &key, after(-60));
        let headers = format!("Content-Type: application/xml\r\n{forwarded}");
        let uploaded = world
            .ask_host(
                "evil.example.org",
                "POST /metadata",
                &headers,
                document.as_bytes(),
            )
            .await;
        assert_eq!(uploaded.status, 201);
        let location = uploaded.header("location").to_owned();
        assert!(
            location.starts_with(&format!("{expected}metadata/")),
            "{location}"
        );
        let path = location
            .strip_prefix(expected.trim_end_matches('/'))
            .unwrap();
        for path in ["/feed.atom", "/feed.rss", "/metadata", path] {
            let headers = format!("{BROWSER}{forwarded}");
            let request = format!("GET {path}");
            let reply = world
                .ask_host("evil.example.org", &request, &headers, b"")
                .await;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert_eq!(reply.status, 200, "{path}: {text}");
            assert!(!text.contains("evil"), "{path}: {text}");
            assert!(
                path == "/metadata" || text.contains(expected),
                "{path}: {text}"
            );
        }
    }
}
