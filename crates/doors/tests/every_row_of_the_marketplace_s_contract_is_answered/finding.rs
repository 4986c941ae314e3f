//! Lists by status, place and filters; one document; tags.

use super::{
    ASKS_JSON, ASKS_XML, BROWSER, HTML, JSON, NOTHING, RDF, Row, XML, are_answered, identifiers,
    published,
};
use crate::support::market::{EMAIL, after};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_by_what_is_asked_of_them() {
    let (world, created) = published().await;
    let [one, two, three, four] = identifiers();
    let rows: Vec<Row<'_>> = vec![
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
            NOTHING,
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
            NOTHING,
            "rdf:RDF",
        ),
        (
            "/metadata/no-identifier".into(),
            ASKS_XML,
            404,
            XML,
            NOTHING,
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
    ];
    are_answered(&world, rows).await;
}
