//! The Marketplace over HTTP: published, confirmed by a real letter, found in every form, deprecated, and followed by another one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::time::Duration;

use marketplace::Metadata;
use marketplace_service::Follower;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    client::PATIENCE,
    market::{EMAIL, World, after, alice, image, signed},
};

fn asks_nobody() -> marketplace_service::Settings {
    marketplace_service::Settings {
        confirms: false,
        ..marketplace_service::Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_uploaded_confirmed_by_letter_found_and_deprecated() {
    let world = World::start(marketplace_service::Settings {
        url: "http://m.example.org/".to_owned(),
        sends_letters: true,
        ..marketplace_service::Settings::default()
    })
    .await;
    let key = alice();
    let document = signed(&image(1), &key, after(-60));
    // By form, as a browser sends it.
    let body = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"Metadata File\"; filename=\"a.xml\"\r\n\
         Content-Type: text/xml\r\n\r\n{document}\r\n--xyz--\r\n"
    );
    let form = "Content-Type: multipart/form-data; boundary=xyz\r\nAccept: text/html\r\n";
    let reply = world.ask("POST /metadata", form, body.as_bytes()).await;
    assert_eq!(
        reply.status,
        202,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let (reply, text) = world.get("/metadata", "").await;
    assert_eq!(reply.status, 404);
    assert!(text.contains("no metadata matching query found"), "{text}");
    // People are told the same by a page like any other.
    let (reply, text) = world.get("/metadata", "Accept: text/html\r\n").await;
    assert_eq!(reply.status, 200);
    assert!(text.contains("There is no such image yet"), "{text}");

    let letter = &world.sink.wait_for(1).await[0];
    assert_eq!(letter.to, [EMAIL]);
    let text = letter.text();
    let link = text
        .split_whitespace()
        .find(|word| word.ends_with("/confirm/"))
        .unwrap();
    let path = link.strip_prefix("http://m.example.org").unwrap();
    // Opening it does nothing but show a page.
    for _ in 0..2 {
        let (reply, text) = world.get(path, "Accept: text/html\r\n").await;
        assert_eq!(reply.status, 200);
        assert!(text.contains("Confirm and publish") && text.contains("<form method=\"post\""));
    }
    assert!(world.marketplace.is_empty());
    let foreign = "Sec-Fetch-Site: cross-site\r\n";
    let reply = world.ask(&format!("POST {path}"), foreign, b"").await;
    assert_eq!(reply.status, 403);
    let reply = world.ask(&format!("POST {path}"), "", b"").await;
    assert_eq!(
        reply.status,
        201,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let location = reply.headers["location"].clone();
    let reply = world.ask(&format!("POST {path}"), "", b"").await;
    assert_eq!(reply.status, 404);

    let path = location.strip_prefix("http://m.example.org").unwrap();
    let (reply, text) = world.get(path, "Accept: application/xml\r\n").await;
    assert_eq!(reply.headers["content-type"], "application/rdf+xml");
    assert_eq!(text, document);
    let reply = world
        .post(&signed(
            &Metadata {
                deprecated: Some("old".to_owned()),
                ..image(1)
            },
            &key,
            after(0),
        ))
        .await;
    assert_eq!(reply.status, 202);
    let text = world.sink.wait_for(2).await[1].text();
    assert!(text.contains("deprecating"), "{text}");
    let link = text
        .split_whitespace()
        .find(|word| word.ends_with("/confirm/"))
        .unwrap();
    let path = link.strip_prefix("http://m.example.org").unwrap();
    assert_eq!(
        world.ask(&format!("POST {path}"), "", b"").await.status,
        201
    );
    assert_eq!(world.get("/metadata", "").await.0.status, 404);
    let (_, text) = world.get("/metadata?status=deprecated", "").await;
    assert!(text.contains("slterms:deprecated"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_in_every_form_that_clients_ask_for() {
    let world = World::start(asks_nobody()).await;
    let key = alice();
    for number in 1..=3 {
        let document = signed(&image(number), &key, after(-60 + i64::from(number)));
        let reply = world.post(&document).await;
        assert_eq!(
            reply.status,
            201,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        assert_eq!(reply.body, b"metadata entry created\n");
    }
    // As libcloud and the commands of StratusLab ask: XML, though nobody says so.
    for path in [
        "/metadata",
        "/marketplace/metadata",
        "//metadata/",
        "/marketplace//metadata",
    ] {
        let (reply, text) = world.get(path, "Accept: */*\r\n").await;
        assert_eq!(reply.headers["content-type"], "application/xml", "{path}");
        let documents = marketplace::list::documents(text.as_bytes()).unwrap();
        assert_eq!(documents.len(), 3);
        for document in documents {
            // Each can be verified where it stands.
            marketplace::Entry::verify(document).unwrap();
        }
    }
    let id = image(2).identifier.to_string();
    for path in [
        format!("/metadata/{id}"),
        format!("/metadata/{id}/{EMAIL}"),
        format!("/metadata?identifier={id}"),
    ] {
        let (_, text) = world.get(&path, "").await;
        let documents = marketplace::list::documents(text.as_bytes()).unwrap();
        assert_eq!(documents.len(), 1, "{path}");
    }
    // The newest image of a tag.
    for path in [
        format!("/tag/{EMAIL}/web"),
        format!("/metadata/{EMAIL}?tag=%22web%22"),
    ] {
        let (_, text) = world.get(&path, "").await;
        assert!(
            text.contains(&image(3).identifier.to_string()),
            "{path}: {text}"
        );
    }
    let table = "/metadata?sEcho=7&iDisplayStart=1&iDisplayLength=1&iSortCol_0=10&sSortDir_0=asc&sSearch=SERVER";
    let (reply, _) = world.get(table, "Accept: application/json\r\n").await;
    let json = reply.json();
    assert_eq!(json["sEcho"], 7);
    assert_eq!(
        (
            json["iTotalRecords"].as_u64(),
            json["iTotalDisplayRecords"].as_u64()
        ),
        (Some(3), Some(3))
    );
    assert_eq!(json["aaData"][0][10], "web server 2");
    assert_eq!(json["aaData"][0].as_array().unwrap().len(), 11);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let reply = world
        .ask("POST /metadata", form, b"sEcho=1&sSearch=nothing-has-it")
        .await;
    assert_eq!(reply.json()["rMsg"], "no metadata matching query found");
    let (reply, _) = world
        .get(
            "/metadata?limit=2&search=server",
            "Accept: application/json\r\n",
        )
        .await;
    assert_eq!(reply.json()["entries"].as_array().unwrap().len(), 2);
    let (reply, _) = world
        .get(&format!("/metadata/{EMAIL}?tag=web&media=json"), "")
        .await;
    let subject = format!("http://mp.stratuslab.eu/#{}", image(3).identifier);
    assert!(reply.json()[&subject].is_object());

    let html = "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\n";
    for path in [
        "/metadata?search=server".to_owned(),
        format!("/tag/{EMAIL}/web"),
        "/endorsers".to_owned(),
        format!("/endorsers/{EMAIL}"),
        format!("/endorsers/{EMAIL}/tags"),
        "/upload".to_owned(),
    ] {
        let (reply, text) = world.get(&path, html).await;
        assert_eq!(reply.status, 200, "{path}: {text}");
        assert!(
            reply.headers["content-type"].starts_with("text/html"),
            "{path}"
        );
        assert!(
            text.contains("</html>") && !text.contains("<b>everything"),
            "{path}: {text}"
        );
    }
    let (_, text) = world.get(&format!("/endorsers/{EMAIL}/tags"), "").await;
    assert!(
        text.contains("<binding name=\"tag\"><literal>web</literal>"),
        "{text}"
    );
    let (_, text) = world.get("/endorsers", "").await;
    assert!(text.contains("CN=Alice \\&lt;&amp;\\&gt;"), "{text}");
    for feed in ["/feed.atom", "/feed.rss"] {
        let (reply, text) = world.get(feed, "").await;
        assert_eq!(reply.status, 200);
        assert!(text.contains("With &lt;b&gt;everything"), "{text}");
    }
    assert_eq!(world.get("/", "").await.0.status, 303);
    // There is no cloud here.

    assert_eq!(world.get("/cimi/Machine", "").await.0.status, 404);
    assert_eq!(world.get("/health", "").await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_said_in_the_form_of_the_caller() {
    let world = World::start(asks_nobody()).await;
    let document = signed(&image(1), &alice(), after(-60));
    let altered = document.replace("1.qcow2", "2.qcow2");
    let reply = world.post(&altered).await;
    assert_eq!(reply.status, 400);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(
        text.contains("<error>invalid metadata: signature validation: true"),
        "{text}"
    );
    let json = "Content-Type: application/xml\r\nAccept: application/json\r\n";
    let reply = world.ask("POST /metadata", json, b"<a>").await;
    assert!(
        reply.json()["400"]
            .as_str()
            .unwrap()
            .starts_with("invalid metadata: ")
    );
    let plain = "Content-Type: application/xml\r\n";
    let reply = world.ask("POST /metadata", plain, b"").await;
    assert_eq!(
        (reply.status, &*reply.body),
        (400, &b"post with null entity\n"[..])
    );
    let form = "Content-Type: multipart/form-data; boundary=x\r\n";
    let reply = world.ask("POST /metadata", form, b"--x--\r\n").await;
    assert_eq!(
        (reply.status, &*reply.body),
        (400, &b"no valid file uploaded\n"[..])
    );
    let long = vec![b' '; 500 << 10];
    assert_eq!(world.ask("POST /metadata", plain, &long).await.status, 413);
    let id = image(1).identifier;
    for path in [
        format!("/metadata/{id}/{EMAIL}/2030-01-01T00:00:00Z"),
        "/metadata/nonsense/x@y/2030-01-01T00:00:00Z".to_owned(),
    ] {
        let (reply, text) = world.get(&path, "Accept: application/xml\r\n").await;
        assert_eq!(reply.status, 404);
        assert!(
            text.contains("<error>metadata entry not found.</error>"),
            "{text}"
        );
    }
    assert_eq!(world.ask("DELETE /metadata", "", b"").await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_marketplace_is_followed_and_nothing_of_it_is_believed_unverified() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (central, site) = (
        World::start(asks_nobody()).await,
        World::start(asks_nobody()).await,
    );
    let key = alice();
    let documents: Vec<_> = (1..=2)
        .map(|number| signed(&image(number), &key, after(-60)))
        .collect();
    for document in &documents {
        assert_eq!(central.post(document).await.status, 201);
    }
    let client = reqwest::Client::builder().build().unwrap();
    let url = format!("http://{}/marketplace/", central.address());
    let follow = |url: &str| {
        let every = Duration::from_millis(100);
        Follower::new(site.marketplace.clone(), client.clone(), url, every).unwrap()
    };
    let running = tokio::spawn(follow(&url).run(site.stop.clone()));
    let there = async |count: usize| {
        let waiting = async {
            while site.marketplace.len() < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it is followed");
    };
    there(2).await;
    // Ended in between, it goes on where it was.
    running.abort();
    let deprecation = Metadata {
        deprecated: Some("a hole".to_owned()),
        ..image(1)
    };
    assert_eq!(
        central
            .post(&signed(&deprecation, &key, after(-30)))
            .await
            .status,
        201
    );
    assert_eq!(
        central
            .post(&signed(&image(3), &key, after(-30)))
            .await
            .status,
        201
    );
    tokio::spawn(follow(&url).run(site.stop.clone()));
    there(4).await;
    let (_, text) = site
        .get(&format!("/metadata/{}", image(2).identifier), "")
        .await;
    assert!(
        text.contains(documents[1].split_once("?>").unwrap().1.trim()),
        "byte for byte"
    );
    assert_eq!(
        site.get(&format!("/metadata/{}", image(1).identifier), "")
            .await
            .0
            .status,
        404
    );

    // One that tells lies: what it has isn't signed by anybody.
    let liar = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = liar.local_addr().unwrap();
    let altered = documents[0].replace("1.qcow2", "9.qcow2");
    let (asked, mut asked_for) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = liar.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let is_list = head.starts_with("GET /metadata?");
            let body = if is_list {
                let id = image(9).identifier;
                format!(
                    "{{\"aaData\":[[\"\",\"a\",\"a\",\"a\",\"{EMAIL}\",\"a\",\"2026-01-01T00:00:00Z\",\"{id}\"],[\"x\"],[]]}}"
                )
            } else {
                altered.clone()
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            // It is asked for its endorsers, too.
            if is_list || head.starts_with("GET /metadata/") {
                let _ = asked.send(is_list).await;
            }
        }
    });
    let stop = CancellationToken::new();
    tokio::spawn(follow(&format!("http://{address}")).run(stop.clone()));
    // It was asked for the document once, and again and again for the list.
    let (mut documents_asked, mut lists_asked) = (0, 0);
    while lists_asked < 3 {
        let is_list = timeout(PATIENCE, asked_for.recv()).await.unwrap().unwrap();
        documents_asked += usize::from(!is_list);
        lists_asked += usize::from(is_list);
    }
    assert_eq!(documents_asked, 1);
    assert_eq!(site.marketplace.len(), 4);
    stop.cancel();
}
