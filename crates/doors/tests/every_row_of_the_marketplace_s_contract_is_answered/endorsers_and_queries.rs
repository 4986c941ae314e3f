//! Who endorsed what, their tags, and queries.

use super::{ASKS_JSON, ASKS_XML, BROWSER, HTML, JSON, Row, TABLE, XML, are_answered, published};
use crate::support::market::EMAIL;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endorsers_are_told_and_queries_answered() {
    let (world, _) = published().await;
    let query = "SELECT%20%3Ft%20%7B%20%3Fx%20dcterms:title%20%3Ft%20.%20%3Fx%20slreq:bytes%20'1048576'%20%7D%20ORDER%20BY%20%3Ft";
    let rows: Vec<Row<'_>> = vec![
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
    ];
    are_answered(&world, rows).await;
    let (reply, text) = world.get("/query", "").await;
    assert_eq!((reply.status, &*text), (204, ""));
    assert_eq!(world.ask("POST /query", "", b"").await.status, 405);
}
