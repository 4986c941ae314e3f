//! Pages of tables, as DataTables asks for them, and plain lists.

use super::{ASKS_JSON, JSON, NOTHING, Row, are_answered, identifiers, published};
use crate::support::market::EMAIL;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_searched_sorted_and_turned() {
    let (world, created) = published().await;
    let [one, two, _, four] = identifiers();
    let rows: Vec<Row<'_>> = vec![
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
            NOTHING,
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
    ];
    are_answered(&world, rows).await;
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
}
