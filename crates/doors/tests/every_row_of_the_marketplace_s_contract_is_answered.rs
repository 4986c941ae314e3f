//! StratusLab's Marketplace as its contract lists it: every route, parameter, status and representation, row by row.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod endorsers_and_queries;
mod feeds_and_links;
mod finding;
mod representations;
mod tables;
mod uploads;

use marketplace::Metadata;

use crate::support::market::{World, after, alice, image, signed};

const XML: &str = "application/xml";
const JSON: &str = "application/json";
const RDF: &str = "application/rdf+xml";
const TABLE: &str = "application/sparql-results+xml";
const HTML: &str = "text/html";
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nUser-Agent: Mozilla/5.0\r\n";
const ASKS_JSON: &str = "Accept: application/json\r\n";
const ASKS_XML: &str = "Accept: application/xml\r\n";
const NOTHING: &str = "no metadata matching query found";

/// Image 1: valid. Image 2: expired. Image 3: valid, then deprecated. Image 4: valid, on a storage service. Returns when 1 was endorsed.
async fn published() -> (World, String) {
    let world = World::start(marketplace_service::Settings {
        confirms: false,
        ..marketplace_service::Settings::default()
    })
    .await;
    let key = alice();
    let created = after(-60);
    let expired = Metadata {
        valid: Some(after(-30)),
        ..image(2)
    };
    let gone = Metadata {
        deprecated: Some("a hole".to_owned()),
        ..image(3)
    };
    let stored = Metadata {
        locations: vec![
            "pdisk:pdisk.example.org:8445:48c5bb94-ac78-4e6b-8f0b-3a4c2d1e0f9a".to_owned(),
        ],
        tag: Some("stored".to_owned()),
        ..image(4)
    };
    for (image, at) in [
        (image(1), created),
        (expired, after(-59)),
        (image(3), after(-58)),
        (gone, after(-57)),
        (stored, after(-56)),
    ] {
        let reply = world.post(&signed(&image, &key, at)).await;
        assert_eq!(
            reply.status,
            201,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    }
    (world, created.to_string())
}

/// The identifiers of the four images.
fn identifiers() -> [String; 4] {
    [1, 2, 3, 4].map(|number| image(number).identifier.to_string())
}

/// Path, headers, status, media type, what is in it, what is not.
type Row<'r> = (String, &'r str, u16, &'r str, &'r str, &'r str);

async fn are_answered(world: &World, rows: Vec<Row<'_>>) {
    for (path, headers, status, media, there, not_there) in rows {
        let (reply, text) = world.get(&path, headers).await;
        let row = format!("{path} {headers:?}: {} {text}", reply.status);
        assert_eq!(reply.status, status, "{row}");
        assert!(
            reply.headers["content-type"].starts_with(media),
            "{}: {row}",
            reply.headers["content-type"]
        );
        assert!(text.contains(there), "`{there}` is missing in {row}");
        assert!(!text.contains(not_there), "`{not_there}` is in {row}");
    }
}
