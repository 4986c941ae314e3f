//! Uploads, by whatever form.

use marketplace::Metadata;

use super::{BROWSER, published};
use crate::support::market::{EMAIL, World, after, alice, image, signed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_taken_or_refused_with_the_reason() {
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
