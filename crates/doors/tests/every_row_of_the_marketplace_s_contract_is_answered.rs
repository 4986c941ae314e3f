//! StratusLab's Marketplace as its contract lists it: every route, parameter, status and representation, row by row.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use marketplace::Metadata;

use crate::support::market::{EMAIL, World, after, alice, image, signed};

const XML: &str = "application/xml";
const JSON: &str = "application/json";
const RDF: &str = "application/rdf+xml";
const TABLE: &str = "application/sparql-results+xml";
const HTML: &str = "text/html";
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nUser-Agent: Mozilla/5.0\r\n";
const ASKS_JSON: &str = "Accept: application/json\r\n";
const ASKS_XML: &str = "Accept: application/xml\r\n";

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_reading() {
    let (world, created) = published().await;
    let [one, two, three, four] = [1, 2, 3, 4].map(|number| image(number).identifier.to_string());
    let nothing = "no metadata matching query found";
    let query = "SELECT%20%3Ft%20%7B%20%3Fx%20dcterms:title%20%3Ft%20.%20%3Fx%20slreq:bytes%20'1048576'%20%7D%20ORDER%20BY%20%3Ft";
    // Path, headers, status, media type, what is in it, what is not.
    let rows: Vec<(String, &str, u16, &str, &str, &str)> = vec![
        // Content negotiation.
        ("/metadata".into(), "", 200, XML, &one, &two),
        (
            "/metadata".into(),
            "Accept: */*\r\n",
            200,
            XML,
            &one,
            &three,
        ),
        (
            "/metadata".into(),
            "Accept: */*\r\nUser-Agent: Mozilla/5.0\r\n",
            200,
            HTML,
            "web server 1",
            "web server 2",
        ),
        (
            "/metadata".into(),
            BROWSER,
            200,
            HTML,
            "web server 1",
            "web server 2",
        ),
        (
            "/metadata".into(),
            "Accept: text/xml\r\n",
            200,
            XML,
            &one,
            &two,
        ),
        (
            "/metadata".into(),
            "Accept: application/rdf+xml\r\n",
            200,
            XML,
            &one,
            &two,
        ),
        ("/metadata?media=xml".into(), BROWSER, 200, XML, &one, &two),
        (
            "/metadata?media=json".into(),
            BROWSER,
            200,
            JSON,
            "aaData",
            &two,
        ),
        (
            "/metadata?media=html".into(),
            "",
            200,
            HTML,
            "web server 1",
            "web server 2",
        ),
        (
            "/metadata?media=pdf".into(),
            ASKS_XML,
            400,
            XML,
            "<error>`media` can't be `pdf`; it is xml, json or html</error>",
            &one,
        ),
        // Slashes, and both roots.
        ("/metadata/".into(), "", 200, XML, &one, &two),
        ("//metadata".into(), "", 200, XML, &one, &two),
        ("/marketplace/metadata/".into(), "", 200, XML, &one, &two),
        // Status.
        ("/metadata?status=valid".into(), "", 200, XML, &four, &three),
        ("/metadata?status=expired".into(), "", 200, XML, &two, &one),
        (
            "/metadata?status=deprecated".into(),
            "",
            200,
            XML,
            &three,
            &one,
        ),
        (
            "/metadata?status=all".into(),
            "",
            200,
            XML,
            &three,
            "metadata entry",
        ),
        // Any other word: no filter (6.4).
        (
            "/metadata?status=whatever".into(),
            "",
            200,
            XML,
            &two,
            "metadata entry",
        ),
        // Location.
        ("/metadata?location=all".into(), "", 200, XML, &four, &two),
        ("/metadata?location=web".into(), "", 200, XML, &one, &four),
        ("/metadata?location=pdisk".into(), "", 200, XML, &four, &one),
        (
            "/metadata?location=moon".into(),
            ASKS_JSON,
            400,
            JSON,
            "{\"400\":\"`location` can't be `moon`; it is all, web or pdisk\"}",
            &one,
        ),
        // Filters by parameter and by path, told by their form.
        (
            format!("/metadata?identifier={one}"),
            "",
            200,
            XML,
            &one,
            &four,
        ),
        (
            format!("/metadata?email={EMAIL}"),
            "",
            200,
            XML,
            &four,
            &two,
        ),
        (
            format!("/metadata?created={created}"),
            "",
            200,
            XML,
            &one,
            &four,
        ),
        (format!("/metadata/{one}"), "", 200, XML, &one, &four),
        (format!("/metadata/{EMAIL}"), "", 200, XML, &four, &two),
        (
            format!("/metadata/{one}/{EMAIL}"),
            "",
            200,
            XML,
            &one,
            &four,
        ),
        (
            format!("/metadata/{EMAIL}/{created}"),
            "",
            200,
            XML,
            &one,
            &four,
        ),
        (
            format!("/metadata/{two}"),
            ASKS_XML,
            404,
            XML,
            nothing,
            "rdf:RDF",
        ),
        (
            format!("/metadata/{two}?status=expired"),
            "",
            200,
            XML,
            &two,
            &one,
        ),
        (
            "/metadata/nobody@example.org".into(),
            ASKS_XML,
            404,
            XML,
            nothing,
            "rdf:RDF",
        ),
        (
            "/metadata/no-identifier".into(),
            ASKS_XML,
            404,
            XML,
            nothing,
            "rdf:RDF",
        ),
        // One document, whatever its status.
        (
            format!("/metadata/{one}/{EMAIL}/{created}"),
            "",
            200,
            RDF,
            "SignatureValue",
            "<metadata>",
        ),
        (
            format!("/metadata/{three}/{EMAIL}/{}", after(0)),
            ASKS_XML,
            404,
            XML,
            "metadata entry not found.",
            "rdf:RDF",
        ),
        (
            format!("/metadata/{one}/{EMAIL}/{created}"),
            ASKS_JSON,
            200,
            JSON,
            "http://mp.stratuslab.eu/slreq#bytes",
            "SignatureValue",
        ),
        (
            format!("/metadata/{one}/{EMAIL}/{created}"),
            BROWSER,
            200,
            HTML,
            "web server 1",
            "SignatureValue",
        ),
        // Tags: the newest that isn't deprecated; the validity doesn't matter.
        (
            format!("/metadata/{EMAIL}?tag=web"),
            "",
            200,
            RDF,
            &two,
            &three,
        ),
        (
            format!("/metadata/{EMAIL}?tag=%22stored%22"),
            "",
            200,
            RDF,
            &four,
            &one,
        ),
        (format!("/tag/{EMAIL}/web"), "", 200, RDF, &two, &three),
        (
            format!("/tag/{EMAIL}/%22stored%22"),
            "",
            200,
            RDF,
            &four,
            &one,
        ),
        (
            format!("/tag/{EMAIL}/none"),
            ASKS_JSON,
            404,
            JSON,
            "{\"404\":\"metadata entry not found.\"}",
            &one,
        ),
        // The table of DataTables.
        (
            "/metadata?sEcho=5&iDisplayStart=0&iDisplayLength=1".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"sEcho\":5",
            &one,
        ),
        (
            "/metadata".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"sEcho\":0",
            &two,
        ),
        (
            "/metadata?sSearch=WEB%20/1.qcow2".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":1,",
            &four,
        ),
        (
            "/metadata?sSearch_1=debi&sSearch_3=x86".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":2,",
            &two,
        ),
        (
            "/metadata?sSearch_1=windows".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"aaData\":[]",
            &one,
        ),
        (
            "/metadata?sSearch_2=12&sSearch_4=alice&sSearch_5=MACH".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":2,",
            &two,
        ),
        (
            "/metadata?sSearch_2=13".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":0,",
            &one,
        ),
        (
            "/metadata?sSearch_4=bob".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":0,",
            &one,
        ),
        (
            "/metadata?sSearch_5=disk".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":0,",
            &one,
        ),
        (
            "/metadata?endorser=ALICE@".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":2,",
            &two,
        ),
        (
            "/metadata?endorser=bob@".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"aaData\":[]",
            &one,
        ),
        (
            "/metadata?endorsed-from=2001-01-01".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"iTotalDisplayRecords\":2,",
            &two,
        ),
        (
            "/metadata?endorsed-to=2001-01-01".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"aaData\":[]",
            &one,
        ),
        (
            "/metadata?endorsed-from=2001-01-01&endorsed-to=2001-01-01T08:00:00Z".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"aaData\":[]",
            &one,
        ),
        (
            "/metadata?endorsed-from=soon".into(),
            ASKS_JSON,
            400,
            JSON,
            "`endorsed-from` can't be `soon`; write 2030-01-15",
            &one,
        ),
        (
            "/metadata?sSearch=windows".into(),
            ASKS_JSON,
            200,
            JSON,
            nothing,
            &one,
        ),
        (
            "/metadata?iDisplayStart=0&iDisplayLength=1&iSortCol_0=10&sSortDir_0=desc".into(),
            ASKS_JSON,
            200,
            JSON,
            "web server 4",
            "web server 1",
        ),
        (
            "/metadata?iDisplayStart=0&iDisplayLength=1&iSortCol_0=10&sSortDir_0=asc".into(),
            ASKS_JSON,
            200,
            JSON,
            "web server 1",
            "web server 4",
        ),
        (
            "/metadata?limit=1&sort=title".into(),
            ASKS_JSON,
            200,
            JSON,
            "\"title\":\"web server 1\"",
            "aaData",
        ),
        (
            "/metadata?limit=many".into(),
            ASKS_JSON,
            400,
            JSON,
            "`limit` can't be `many`; it is a number",
            "aaData",
        ),
        // Endorsers.
        (
            "/endorsers".into(),
            "",
            200,
            TABLE,
            "<literal>alice@example.org</literal>",
            "null",
        ),
        (
            "/endorsers".into(),
            ASKS_JSON,
            200,
            "application/sparql-results+json",
            "\"vars\":[\"email\",\"subject\",\"issuer\"]",
            "null",
        ),
        ("/endorsers".into(), BROWSER, 200, HTML, EMAIL, "null"),
        (
            format!("/endorsers/{EMAIL}"),
            "",
            200,
            TABLE,
            "<variable name=\"deprecated\"/>",
            "null",
        ),
        (
            format!("/endorsers/{EMAIL}?range=no-number"),
            "",
            200,
            TABLE,
            "a hole",
            "null",
        ),
        (
            format!("/endorsers/{EMAIL}?range=0"),
            "",
            200,
            TABLE,
            "<results>\n</results>",
            "a hole",
        ),
        (
            format!("/endorsers/{EMAIL}"),
            BROWSER,
            200,
            HTML,
            "web server 2",
            "null",
        ),
        (
            format!("/endorsers/{EMAIL}/tags"),
            "",
            200,
            TABLE,
            "<binding name=\"tag\"><literal>web</literal></binding>",
            "null",
        ),
        (
            format!("/endorsers/{EMAIL}/tags"),
            BROWSER,
            200,
            HTML,
            "stored",
            "null",
        ),
        // Queries.
        (
            format!("/query?query={query}"),
            "",
            200,
            TABLE,
            "<literal>web server 2</literal>",
            "null",
        ),
        (
            format!("/query?query={query}"),
            ASKS_JSON,
            200,
            "application/sparql-results+json",
            "web server 4",
            "null",
        ),
        (
            format!("/query?query={query}"),
            "Accept: application/sparql-results+json\r\n",
            200,
            "application/sparql-results+json",
            "web server 4",
            "null",
        ),
        (
            format!("/query?query={query}"),
            BROWSER,
            200,
            HTML,
            "web server 3",
            "null",
        ),
        (
            "/query?query=ASK%20%7B%7D".into(),
            ASKS_XML,
            400,
            XML,
            "<error>query not allowed.",
            "null",
        ),
        (
            "/query?query=SELECT%20%3Fx%20FROM%20%3Ca%3E%20%7B%7D".into(),
            ASKS_JSON,
            400,
            JSON,
            "query not allowed.",
            "null",
        ),
        (
            "/query?query=SELECT".into(),
            ASKS_XML,
            400,
            XML,
            "is expected at line 1",
            "null",
        ),
        (
            "/query?query=SELECT".into(),
            BROWSER,
            400,
            HTML,
            "is expected at line 1",
            "null",
        ),
        ("/query".into(), BROWSER, 200, HTML, "<textarea", "null"),
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
    let (reply, text) = world.get("/query", "").await;
    assert_eq!((reply.status, &*text), (204, ""));
    let (reply, _) = world
        .get(&format!("/metadata/{one}/{EMAIL}/{created}"), ASKS_JSON)
        .await;
    assert_eq!(
        reply.headers["content-disposition"],
        format!("attachment; filename={one}.json")
    );
    let (reply, _) = world
        .get(&format!("/metadata/{one}/{EMAIL}/{created}"), "")
        .await;
    assert_eq!(
        reply.headers["content-disposition"],
        format!("attachment; filename={one}.xml")
    );
    // The table's columns, in the order of the contract.
    let (reply, _) = world.get(&format!("/metadata/{one}"), ASKS_JSON).await;
    let row = reply.json()["aaData"][0].clone();
    let expected = [
        "",
        "debian",
        "12",
        "x86_64",
        EMAIL,
        "machine",
        &created,
        &one,
        "https://images.example.org/1.qcow2",
        "With <b>everything</b> & more",
        "web server 1",
    ];
    assert_eq!(row, serde_json::json!(expected));
    // Browsers are led from the beginning to the list.
    assert_eq!(
        world.get("/", BROWSER).await.0.headers["location"],
        "/metadata"
    );
    assert_eq!(world.ask("POST /query", "", b"").await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_uploads() {
    let (world, _) = published().await;
    let key = alice();
    let document = signed(&image(9), &key, after(-20));
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let reply = world
        .ask(
            "POST /metadata",
            form,
            b"sEcho=2&sSearch=server&status=expired",
        )
        .await;
    let json = reply.json();
    assert_eq!(
        (
            json["sEcho"].as_u64(),
            json["iTotalDisplayRecords"].as_u64()
        ),
        (Some(2), Some(1))
    );
    // The pages of a table, asked for by a form as DataTables can.
    for (start, title) in [(0, "web server 1"), (1, "web server 4")] {
        let body = format!(
            "sEcho=3&iDisplayStart={start}&iDisplayLength=1&iSortCol_0=10&sSortDir_0=asc&iColumns=11&bRegex=false"
        );
        let reply = world.ask("POST /metadata", form, body.as_bytes()).await;
        let json = reply.json();
        assert_eq!(
            (
                json["iTotalRecords"].as_u64(),
                json["iTotalDisplayRecords"].as_u64()
            ),
            (Some(2), Some(2))
        );
        let rows = json["aaData"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0][10]), (1, &title.into()), "{json}");
    }
    let rdf = "Content-Type: application/rdf+xml\r\n";
    let reply = world.ask("POST /metadata", rdf, document.as_bytes()).await;
    assert_eq!(
        (reply.status, &*reply.body),
        (201, &b"metadata entry created\n"[..])
    );
    let place = format!("/metadata/{}/{EMAIL}/", image(9).identifier);
    assert!(
        reply.headers["location"].contains(&place),
        "{}",
        reply.headers["location"]
    );
    // The same again, and another one of the same name.
    assert_eq!(
        world
            .ask("POST /metadata", rdf, document.as_bytes())
            .await
            .status,
        200
    );
    let other = Metadata {
        title: Some("another".to_owned()),
        ..image(9)
    };
    let created = marketplace::Entry::verify(document.as_bytes())
        .unwrap()
        .endorsement()
        .created;
    assert_eq!(world.post(&signed(&other, &key, created)).await.status, 409);
    let old = world.post(&signed(&other, &key, after(-3000))).await;
    let text = String::from_utf8(old.body).unwrap();
    assert!(
        old.status == 400 && text.contains("older than latest entry"),
        "{text}"
    );
    for (document, text) in [
        ("", "post with null entity"),
        ("<a/>", "invalid metadata: "),
        ("no xml", "invalid metadata: unable to parse metadata"),
    ] {
        let reply = world.ask("POST /metadata", rdf, document.as_bytes()).await;
        let body = String::from_utf8(reply.body).unwrap();
        assert!(
            reply.status == 400 && body.contains(text),
            "{document}: {body}"
        );
    }

    let replica = World::start(marketplace_service::Settings {
        is_read_only: true,
        ..marketplace_service::Settings::default()
    })
    .await;
    let reply = replica
        .ask("POST /metadata", rdf, document.as_bytes())
        .await;
    assert_eq!(
        (reply.status, &*reply.body),
        (403, &b"read-only repository\n"[..])
    );

    // Nobody can be asked where there is no mail: that is said, to programs and to people.
    let silent = World::start(marketplace_service::Settings::default()).await;
    let reply = silent.post(&document).await;
    let text = String::from_utf8(reply.body).unwrap();
    assert_eq!(reply.status, 403, "{text}");
    assert!(
        text.contains("<error>this Marketplace has no mail server to ask alice@example.org"),
        "{text}"
    );
    let (_, text) = silent.get("/upload", BROWSER).await;
    assert!(text.contains("no mail server"), "{text}");
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
