//! In which form who gets a list, and how addresses may be written.

use super::{
    ASKS_JSON, ASKS_XML, BROWSER, HTML, JSON, Row, XML, are_answered, identifiers, published,
};
use crate::support::market::EMAIL;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_the_form_that_is_asked_for() {
    let (world, created) = published().await;
    let [one, two, three, _] = identifiers();
    let rows: Vec<Row<'_>> = vec![
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
    ];
    are_answered(&world, rows).await;
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
    // Browsers are led from the beginning to the list.
    assert_eq!(
        world.get("/", BROWSER).await.0.headers["location"],
        "/metadata"
    );
}
