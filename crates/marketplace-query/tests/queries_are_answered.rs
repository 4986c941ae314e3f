//! What queries find, what is refused by its name, and that whatever is asked ends.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::cell::Cell;

use marketplace::catalogue::{Catalogue, Record};
use marketplace::digest::Digest;
use marketplace::{ImageIdentifier, UtcTime};
use marketplace_query::{Error, Limits, Query, Snapshot, Table, Value};
use proptest::prelude::*;

fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

fn identifier(image: u8) -> ImageIdentifier {
    ImageIdentifier::from_sha1(&Digest::from_bytes([image; 20]))
}

fn record(image: u8, email: &str, created: &str) -> Record {
    Record {
        identifier: identifier(image),
        email: email.into(),
        created: at(created),
        subject: format!("CN={email}"),
        issuer: "CN=ca".to_owned(),
        is_email_certified: true,
        uses_sha1: false,
        received: at(created),
        bytes: 1000 * u64::from(image),
        valid: Some(at("2031-01-01T00:00:00Z")),
        deprecated: None,
        os: Some(["ubuntu", "Debian"][usize::from(image % 2)].to_owned()),
        os_version: Some("24.04".to_owned()),
        os_arch: Some("x86_64".to_owned()),
        kind: Some("machine".to_owned()),
        version: None,
        format: Some("qcow2".to_owned()),
        title: Some(format!("title {image}")),
        tag: Some("base".to_owned()),
        description: Some("a <b>\"quoted\"</b> & long\ntext".to_owned()),
        locations: vec![
            format!("https://a.example.org/{image}"),
            format!("https://b.example.org/{image}"),
        ],
        details: None,
    }
}

/// Image 1 by alice twice (the first is history) and by bob; image 2, expired, and image 3, deprecated, by alice.
fn catalogue() -> Catalogue {
    let mut all = Catalogue::new();
    all.add(record(1, "alice@x", "2030-01-01T00:00:00Z"));
    all.add(record(1, "alice@x", "2030-01-02T00:00:00Z"));
    all.add(record(1, "bob@x", "2030-01-03T00:00:00Z"));
    all.add(Record {
        valid: Some(at("2029-01-01T00:00:00Z")),
        ..record(2, "alice@x", "2030-01-04T00:00:00Z")
    });
    all.add(Record {
        deprecated: Some("a hole".to_owned()),
        title: None,
        ..record(3, "alice@x", "2030-01-05T00:00:00Z")
    });
    all
}

fn asked_of(catalogue: &Catalogue, query: &str) -> Result<Table, Error> {
    query
        .parse::<Query>()?
        .answer(&Snapshot::of(catalogue), Limits::default(), &|| true)
}

fn answer(query: &str) -> Table {
    asked_of(&catalogue(), query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Rows as text, `-` for nothing.
fn rows(query: &str) -> Vec<String> {
    let text = |value: &Option<Value>| value.as_ref().map_or("-", Value::text).to_owned();
    let row = |row: &Vec<Option<Value>>| row.iter().map(text).collect::<Vec<_>>().join(" ");
    answer(query).rows.iter().map(row).collect()
}

#[test]
fn the_listing_of_the_latest_valid_entries_as_the_original_asks_for_it() {
    let listing = r#"
        # what StratusLab's Marketplace asks for its own list
        PREFIX dcterms: <http://purl.org/dc/terms/>
        PREFIX slreq: <http://mp.stratuslab.eu/slreq#>
        PREFIX slterms: <http://mp.stratuslab.eu/slterms#>
        SELECT DISTINCT ?identifier ?email ?created ?os ?description
        WHERE {
            ?x dcterms:identifier ?identifier ;
               slreq:endorsement ?endorsement ;
               dcterms:valid ?valid .
            ?endorsement slreq:endorser ?endorser ; dcterms:created ?created .
            ?endorser slreq:email ?email .
            ?x slterms:tag "latest" .
            OPTIONAL { ?x slterms:os ?os . }
            OPTIONAL { ?x slterms:deprecated ?deprecated . }
            OPTIONAL { ?x dcterms:description ?description . }
            FILTER (!bound(?deprecated))
            FILTER (?valid > "2030-06-01T00:00:00Z")
        } ORDER BY DESC(?created) LIMIT 10 OFFSET 0"#;
    let found = answer(listing);
    assert_eq!(
        found.variables,
        ["identifier", "email", "created", "os", "description"]
    );
    let names: Vec<_> = found
        .rows
        .iter()
        .map(|row| {
            (
                row[1].as_ref().unwrap().text().to_owned(),
                row[2].as_ref().unwrap().text().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("bob@x".to_owned(), "2030-01-03T00:00:00Z".to_owned()),
            ("alice@x".to_owned(), "2030-01-02T00:00:00Z".to_owned())
        ]
    );
}

/// The document of StratusLab's that is signed: whatever it says of the image can be asked.
#[test]
fn all_that_a_description_says_is_asked() {
    let signed = include_bytes!("../../marketplace/tests/data/signed.xml");
    let entry = marketplace::Entry::verify(signed).unwrap();
    let mut all = catalogue();
    all.add(Record::of(&entry, at("2030-01-15T08:06:00Z")));
    let said = |query: &str| -> Vec<String> {
        let table = asked_of(&all, query).unwrap_or_else(|error| panic!("{query}: {error}"));
        let text = |value: &Option<Value>| value.as_ref().map_or("-", Value::text).to_owned();
        let rows = table.rows.iter();
        rows.map(|row| row.iter().map(text).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let subject = "<http://mp.stratuslab.eu/#Dtx9D_zD0sVtc2F3Z6V68foTrWj/alice@example.org/2030-01-15T08:05:00Z>";
    let of_entry = said(&format!(
        "SELECT ?p ?o {{ {subject} ?p ?o FILTER isLiteral(?o) }} ORDER BY ?p ?o"
    ));
    let expected = [
        "http://mp.stratuslab.eu/slreq#bytes 1048576",
        "http://mp.stratuslab.eu/slterms#disks-bus virtio",
        "http://mp.stratuslab.eu/slterms#hypervisor kvm",
        "http://mp.stratuslab.eu/slterms#inbound-port 22",
        "http://mp.stratuslab.eu/slterms#kind machine",
        "http://mp.stratuslab.eu/slterms#location https://images.example.org/zerolinux-1.0-x86_64-base-2.1.img.gz",
        "http://mp.stratuslab.eu/slterms#os zerolinux",
        "http://mp.stratuslab.eu/slterms#os-arch x86_64",
        "http://mp.stratuslab.eu/slterms#os-version 1.0",
        "http://mp.stratuslab.eu/slterms#tag latest",
        "http://mp.stratuslab.eu/slterms#version 2.1",
        "http://purl.org/dc/terms/alternative zerolinux",
        "http://purl.org/dc/terms/compression gz",
        "http://purl.org/dc/terms/created 2030-01-15T08:00:00Z",
        "http://purl.org/dc/terms/creator Alice Endorser",
        "http://purl.org/dc/terms/description One mebibyte of zero bytes, used as a test vector.",
        "http://purl.org/dc/terms/format raw",
        "http://purl.org/dc/terms/identifier Dtx9D_zD0sVtc2F3Z6V68foTrWj",
        "http://purl.org/dc/terms/publisher Example Org",
        "http://purl.org/dc/terms/title zerolinux-test",
        "http://purl.org/dc/terms/type base",
        "http://purl.org/dc/terms/valid 2030-07-12T08:00:00Z",
    ];
    assert_eq!(of_entry, expected);

    let sums = said(&format!(
        "SELECT ?a ?v {{ {subject} slreq:checksum ?c . ?c slreq:algorithm ?a ; slreq:value ?v }}"
    ));
    assert_eq!(
        sums,
        [
            "MD5 b6d81b360a5672d80c27430f39153e2c",
            "SHA-1 3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3",
            "SHA-256 30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
            "SHA-512 d6292685b380e338e025b3415a90fe8f9d39a46e7bdba8cb78c50a338cefca741f69e4e46411c32de1afdedfb268e579a51f81ff85e56f55b0ee7c33fe8c25c9",
        ]
    );
    // From what is known to what has it, each way.
    let by_sum = "SELECT ?id { ?x dcterms:identifier ?id ; slreq:checksum [ slreq:algorithm 'SHA-256' ; slreq:value '30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58' ] }";
    assert_eq!(said(by_sum), ["Dtx9D_zD0sVtc2F3Z6V68foTrWj"]);
    let other_algorithm = by_sum.replace("'SHA-256'", "'SHA-512'");
    assert!(said(&other_algorithm).is_empty());
    let made = "SELECT ?id ?endorsed { ?x dcterms:created '2030-01-15T08:00:00Z' ; dcterms:creator 'Alice Endorser' ; dcterms:identifier ?id ; slreq:endorsement [ dcterms:created ?endorsed ] }";
    assert_eq!(
        said(made),
        ["Dtx9D_zD0sVtc2F3Z6V68foTrWj 2030-01-15T08:05:00Z"]
    );
    // The time of an endorsement is not that of an image.
    assert!(
        said("SELECT ?id { ?x dcterms:identifier ?id ; dcterms:created '2030-01-15T08:05:00Z' }")
            .is_empty()
    );
    // As StratusLab's Marketplace asks for an entry and its checksums.
    let contract = r#"PREFIX dcterms: <http://purl.org/dc/terms/>
        PREFIX slreq: <http://mp.stratuslab.eu/slreq#>
        PREFIX slterms: <http://mp.stratuslab.eu/slterms#>
        SELECT ?creator ?publisher ?compression ?hypervisor ?type (COUNT(?checksum) AS ?sums) WHERE {
            ?x dcterms:identifier "Dtx9D_zD0sVtc2F3Z6V68foTrWj" ; slreq:checksum ?checksum ; dcterms:creator ?creator ; dcterms:type ?type .
            OPTIONAL { ?x dcterms:publisher ?publisher } OPTIONAL { ?x dcterms:compression ?compression } OPTIONAL { ?x slterms:hypervisor ?hypervisor }
        } GROUP BY ?creator ?publisher ?compression ?hypervisor ?type"#;
    assert_eq!(said(contract), ["Alice Endorser Example Org gz kvm base 4"]);
}

#[test]
fn every_part_that_is_promised_answers() {
    // Newest by hand: nothing later of the same image and endorser.
    let newest = rows(
        "SELECT ?email ?created { ?x dcterms:identifier ?id ; slreq:endorsement [ dcterms:created ?created ; slreq:endorser [ slreq:email ?email ] ] .
           FILTER NOT EXISTS { ?y dcterms:identifier ?id ; slreq:endorsement [ dcterms:created ?later ; slreq:endorser [ slreq:email ?email ] ] . FILTER (?later > ?created) }
         } ORDER BY ?created",
    );
    assert_eq!(
        newest,
        [
            "alice@x 2030-01-02T00:00:00Z",
            "bob@x 2030-01-03T00:00:00Z",
            "alice@x 2030-01-04T00:00:00Z",
            "alice@x 2030-01-05T00:00:00Z"
        ]
    );
    // The same by an inner query.
    let inner = rows(
        "SELECT ?email ?latest { { SELECT ?id ?email (MAX(?created) AS ?latest) { ?x dcterms:identifier ?id ; slreq:endorsement ?e .
            ?e dcterms:created ?created ; slreq:endorser ?w . ?w slreq:email ?email } GROUP BY ?id ?email }
            ?y dcterms:identifier ?id ; slreq:endorsement ?f . ?f dcterms:created ?latest } ORDER BY ?latest",
    );
    assert_eq!(inner, newest);
    let counted = rows(
        "SELECT ?email (COUNT(*) AS ?entries) (COUNT(DISTINCT ?id) AS ?images) (MIN(?c) AS ?first) (SAMPLE(?email) AS ?one)
         { ?x dcterms:identifier ?id ; slreq:endorsement [ slreq:endorser [ slreq:email ?email ] ; dcterms:created ?c ] }
         GROUP BY ?email ORDER BY DESC(?entries)",
    );
    assert_eq!(
        counted,
        [
            "alice@x 4 3 2030-01-01T00:00:00Z alice@x",
            "bob@x 1 1 2030-01-03T00:00:00Z bob@x"
        ]
    );
    assert_eq!(
        rows("SELECT (COUNT(?x) AS ?n) { ?x slterms:os \"plan9\" }"),
        ["0"]
    );
    let table = answer("SELECT (COUNT(?x) AS ?n) { ?x slterms:os ?os }");
    assert_eq!(
        table.rows[0][0],
        Some(Value::Typed("5".to_owned(), "integer"))
    );

    let both = "SELECT DISTINCT ?t { { ?x dcterms:title ?t . FILTER regex(?t, \"^TITLE 1\", \"i\") } UNION { ?x slterms:deprecated ?t } } ORDER BY ?t";
    assert_eq!(rows(both), ["a hole", "title 1"]);
    assert_eq!(
        rows("SELECT ?t { ?x slterms:deprecated ?d OPTIONAL { ?x dcterms:title ?t } }"),
        ["-"]
    );
    assert_eq!(
        rows(
            "SELECT DISTINCT (COALESCE(?t, 'none') AS ?n) { ?x slterms:deprecated ?d OPTIONAL { ?x dcterms:title ?t } }"
        ),
        ["none"]
    );
    let locations = "SELECT ?l { <http://mp.stratuslab.eu/#ID/bob@x/2030-01-03T00:00:00Z> slterms:location ?l } ORDER BY DESC(?l)";
    let locations = locations.replace("ID", &identifier(1).to_string());
    assert_eq!(
        rows(&locations),
        ["https://b.example.org/1", "https://a.example.org/1"]
    );
    let checksum = "SELECT ?a ?v { ?x slreq:checksum [ slreq:algorithm ?a ; slreq:value ?v ] ; slreq:bytes '2000' }";
    assert_eq!(rows(checksum), [format!("SHA-1 {}", "02".repeat(20))]);
    // Which properties, by a variable; and what somebody says of an entry, by its name.
    let properties =
        rows("SELECT DISTINCT ?p { ?x slterms:deprecated 'a hole' ; ?p ?o } ORDER BY ?p");
    assert!(
        properties.contains(&"http://mp.stratuslab.eu/slterms#deprecated".to_owned()),
        "{properties:?}"
    );
    assert!(
        !properties.contains(&"http://purl.org/dc/terms/title".to_owned()),
        "{properties:?}"
    );
    for (filter, count) in [
        ("?e = 'bob@x'", 1),
        ("?e != 'bob@x'", 4),
        ("?e IN ('bob@x', 'carol@x')", 1),
        ("?e NOT IN ('bob@x')", 4),
        (
            "CONTAINS(?e, 'lic') && STRSTARTS(?e, 'al') && STRENDS(?e, '@x')",
            4,
        ),
        ("UCASE(?e) = 'BOB@X' || LCASE('X') = 'y'", 1),
        ("STRLEN(?e) > 5", 4),
        ("xsd:integer(?b) >= 2000", 2),
        // Text isn't a number.
        ("?b >= 2000", 0),
        ("IF(?e = 'bob@x', true, false)", 1),
        ("isIRI(?x) && isBlank(?w) && isLiteral(?e) && !isIRI(?e)", 5),
        ("STR(?x) = 'nothing'", 0),
        ("EXISTS { ?x slterms:deprecated ?d }", 1),
        ("?unbound = 'x' || ?e = 'bob@x'", 1),
        ("!(?unbound = 'x')", 0),
    ] {
        let query = format!(
            "SELECT ?x {{ ?x slreq:bytes ?b ; slreq:endorsement [ slreq:endorser ?w ] . ?w slreq:email ?e . FILTER ({filter}) }}"
        );
        assert_eq!(answer(&query).rows.len(), count, "{filter}");
    }
    assert_eq!(rows("SELECT * { ?x slterms:deprecated ?reason }").len(), 1);
    assert_eq!(
        answer("SELECT * { ?x slterms:deprecated ?reason }").variables,
        ["x", "reason"]
    );
    assert_eq!(
        rows("SELECT ?x { ?x slterms:os ?os } LIMIT 2 OFFSET 4").len(),
        1
    );
    assert!(rows("SELECT ?x { ?x slterms:os ?os } LIMIT 0").is_empty());
}

#[test]
fn answers_are_well_formed_whatever_is_in_them() {
    let table = answer(
        "SELECT ?x ?e ?d (COUNT(*) AS ?n) { ?x slterms:deprecated ?r ; dcterms:description ?d ; slreq:endorsement ?e } GROUP BY ?x ?e ?d",
    );
    let xml = table.to_xml();
    assert!(
        xml.contains("<literal>a &lt;b&gt;&quot;quoted&quot;&lt;/b&gt; &amp; long\ntext</literal>"),
        "{xml}"
    );
    assert!(xml.contains("<bnode>b0</bnode>"), "{xml}");
    assert!(xml.contains("<uri>http://mp.stratuslab.eu/#"), "{xml}");
    assert!(
        xml.contains("<literal datatype=\"http://www.w3.org/2001/XMLSchema#integer\">1</literal>"),
        "{xml}"
    );
    let json = table.to_json();
    assert!(json.contains(r#""vars":["x","e","d","n"]"#), "{json}");
    assert!(
        json.contains(r#""type":"bnode""#) && json.contains(r#"\"quoted\""#),
        "{json}"
    );
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    for (query, text) in [
        ("", "SELECT is expected"),
        ("ASK { ?x ?p ?o }", "query not allowed."),
        (
            "CONSTRUCT { ?x ?p ?o } WHERE { ?x ?p ?o }",
            "query not allowed.",
        ),
        ("DESCRIBE <a>", "query not allowed."),
        ("DELETE WHERE { ?x ?p ?o }", "query not allowed."),
        ("SELECT ?x FROM <a> { ?x ?p ?o }", "query not allowed."),
        (
            "SELECT ?x FROM NAMED <a> { ?x ?p ?o }",
            "query not allowed.",
        ),
        ("SELECT ?x { GRAPH ?g { ?x ?p ?o } }", "query not allowed."),
        ("BASE <a> SELECT ?x { ?x ?p ?o }", "BASE is not supported"),
        (
            "SELECT ?x { ?x ?p ?o MINUS { ?x ?p ?o } }",
            "MINUS is not supported",
        ),
        ("SELECT ?x { BIND (1 AS ?x) }", "BIND is not supported"),
        ("SELECT ?x { VALUES ?x { 1 } }", "VALUES is not supported"),
        (
            "SELECT ?x { SERVICE <http://localhost> { ?x ?p ?o } }",
            "SERVICE is not supported",
        ),
        (
            "SELECT ?x { ?x slterms:os/slterms:kind ?o }",
            "a property path",
        ),
        ("SELECT ?x { ?x ^slterms:os ?o }", "a property path"),
        (
            "SELECT ?x { ?x dcterms:rights ?o }",
            "<http://purl.org/dc/terms/rights> is nothing that the index has",
        ),
        ("SELECT ?x { ?x a ?o }", "22-rdf-syntax-ns#type> is nothing"),
        (
            "SELECT ?x { ?x foaf:name ?o }",
            "a prefix that is declared (PREFIX name: <iri>) is expected at line 1, column 16",
        ),
        ("SELECT ?x { ?x slterms:os 'a'@en }", "a language"),
        (
            "SELECT ?x { ?x slterms:os '1'^^xsd:integer }",
            "the datatype",
        ),
        (
            "SELECT ?x { ?x slterms:os ?o FILTER (NOW() > ?o) }",
            "the function NOW is not supported",
        ),
        (
            "SELECT ?x { ?x slterms:os ?o FILTER (1 + 1 = 2) }",
            "reckoning",
        ),
        (
            "SELECT ?x { ?x slterms:os ?o FILTER (regex(?o)) }",
            "regex with 1 arguments",
        ),
        (
            "SELECT ?x ?y { ?x slterms:os ?y } GROUP BY ?x",
            "neither in GROUP BY",
        ),
        (
            "SELECT (COUNT(*) AS ?n) { ?x slterms:os ?y } GROUP BY ?y HAVING (COUNT(*) > 1)",
            "HAVING is not supported",
        ),
        (
            "SELECT (AVG(?y) AS ?n) { ?x slreq:bytes ?y }",
            "the function AVG is not supported",
        ),
        (
            "SELECT ?x { ?x slterms:os ?y FILTER (COUNT(?y) > 1) }",
            "COUNT outside of SELECT",
        ),
        (
            "SELECT ?x { ?x slterms:os 'a\n' }",
            "a text that ends in its line",
        ),
        (
            "SELECT ?x { ?x slterms:os ?y ",
            "at line 1, column 30, where there is `the end`",
        ),
        ("SELECT ?x\n{ ?x slterms:os ; }", "at line 2, column 17"),
        (
            "SELECT ?x { ?x slterms:os ?o } LIMIT x",
            "a number is expected",
        ),
    ] {
        let error = asked_of(&catalogue(), query).unwrap_err().to_string();
        assert!(error.contains(text), "{query}: {error}");
    }
}

#[test]
fn what_asks_for_too_much_ends() {
    let mut all = Catalogue::new();
    for day in 1..=28_u8 {
        for image in 0..40 {
            all.add(record(
                image,
                "alice@x",
                &format!("2030-01-{day:02}T00:00:00Z"),
            ));
        }
    }
    // Every entry with every other one, four times over.
    let product = "SELECT ?a { ?a slterms:os ?o . ?b slterms:os ?p . ?c slterms:os ?q . ?d slterms:os ?r . FILTER (?o = 'none') }";
    assert_eq!(asked_of(&all, product), Err(Error::TooLong));
    let kept = "SELECT ?a ?b { ?a slterms:os ?o . ?b slterms:os ?p } ORDER BY ?a";
    let error = asked_of(&all, kept).unwrap_err().to_string();
    assert!(error.contains("would be kept"), "{error}");
    let few = Limits {
        rows: 100,
        ..Limits::default()
    };
    let query: Query = "SELECT ?a { ?a slterms:os ?o }".parse().unwrap();
    let error = query
        .answer(&Snapshot::of(&all), few, &|| true)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("more than 100 rows; add LIMIT 100"),
        "{error}"
    );
    // Out of time.
    let looks = Cell::new(0);
    let goes_on = || {
        looks.set(looks.get() + 1);
        looks.get() < 3
    };
    let query: Query = product.parse().unwrap();
    assert_eq!(
        query.answer(&Snapshot::of(&all), Limits::default(), &goes_on),
        Err(Error::TooLong)
    );
    assert_eq!(looks.get(), 3);

    for deep in [
        "{".repeat(5000),
        format!("SELECT ?x {}", "{".repeat(5000)),
        format!("SELECT ?x {{ FILTER {}", "(".repeat(5000)),
        format!("SELECT ?x {{ FILTER ({}", "!".repeat(5000)),
    ] {
        assert!(asked_of(&all, &deep).is_err());
    }
    let long = format!("SELECT ?x {{ ?x slterms:os ?o }} #{}", " ".repeat(20_000));
    assert!(matches!(asked_of(&all, &long), Err(Error::TooLarge(_))));
    let many: String = (0..70).map(|number| format!("?v{number} ")).collect();
    assert!(matches!(
        asked_of(&all, &format!("SELECT {many} {{ }}")),
        Err(Error::TooLarge(_))
    ));
    // Expressions that would take for ever elsewhere, and ones that are none.
    assert!(
        asked_of(
            &all,
            "SELECT ?x { ?x slterms:os ?o FILTER regex(?o, '((((a{1,1000}){1,1000}){1,1000}))') }"
        )
        .unwrap()
        .rows
        .is_empty()
    );
    assert!(
        asked_of(
            &all,
            "SELECT ?x { ?x slterms:os ?o FILTER regex(?o, '(a+)+$') }"
        )
        .unwrap()
        .rows
        .len()
            < 2000
    );
    assert!(
        asked_of(&all, "SELECT ?x { ?x slterms:os ?o FILTER regex(?o, '[') }")
            .unwrap()
            .rows
            .is_empty()
    );
}

/// Words of which texts are made that nearly are queries.
const WORDS: [&str; 44] = [
    "SELECT",
    "DISTINCT",
    "?x",
    "?y",
    "?z",
    "*",
    "{",
    "}",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ".",
    ";",
    ",",
    "slterms:os",
    "dcterms:title",
    "slreq:endorsement",
    "\"latest\"",
    "'ubuntu'",
    "FILTER",
    "OPTIONAL",
    "UNION",
    "NOT",
    "EXISTS",
    "bound",
    "regex",
    "=",
    "!=",
    "<",
    ">",
    "&&",
    "||",
    "!",
    "GROUP BY",
    "ORDER BY",
    "DESC",
    "LIMIT",
    "3",
    "-1",
    "(COUNT(*) AS ?n)",
    "<http://mp.stratuslab.eu/#x>",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_harms(text in "\\PC{0,200}") {
        let _ = text.parse::<Query>();
        let _ = format!("SELECT ?x {{ ?x slterms:os {text} }}").parse::<Query>();
    }

    #[test]
    fn no_words_harm(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40)) {
        let text = words.join(" ");
        let few = Limits { steps: 20_000, rows: 100, values: 1000 };
        for text in [text.clone(), format!("SELECT ?x {{ ?x slterms:os ?y {text} }}"), format!("SELECT * {{ {text} }}")] {
            if let Ok(query) = text.parse::<Query>() {
                let _ = query.answer(&Snapshot::of(&catalogue()), few, &|| true);
            }
        }
    }

    /// Triples and filters in any order find what a plain filter finds.
    #[test]
    fn the_order_of_what_is_asked_makes_no_difference(
        entries in prop::collection::vec((0..5_u8, 0..3_usize, 1..28_u8, any::<bool>()), 0..25),
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
        os in prop::sample::select(vec!["ubuntu", "Debian"]),
        day in 1..28_u8,
    ) {
        let mut all = Catalogue::new();
        for (image, who, day, is_deprecated) in entries {
            let email = ["a@x", "b@x", "c@y"][who];
            all.add(Record {
                deprecated: is_deprecated.then(|| "old".to_owned()),
                ..record(image, email, &format!("2030-03-{day:02}T00:00:00Z"))
            });
        }
        let from = format!("2030-03-{day:02}T00:00:00Z");
        let mut expected: Vec<_> = all.all()
            .filter(|(record, is_newest)| {
                *is_newest && record.os.as_deref() == Some(os) && record.deprecated.is_none() && record.created >= at(&from)
            })
            .map(|(record, _)| record.path())
            .collect();
        expected.sort();
        let parts = [
            format!("?x slterms:os '{os}'"),
            "?x slterms:tag 'latest'".to_owned(),
            "?x slreq:endorsement ?e".to_owned(),
            "?e dcterms:created ?c".to_owned(),
            "?e slreq:endorser ?w".to_owned(),
            format!("FILTER (?c >= '{from}')"),
            "FILTER NOT EXISTS { ?x slterms:deprecated ?d }".to_owned(),
        ];
        let parts: Vec<_> = order.iter().map(|place| parts[*place].as_str()).collect();
        let query = format!("SELECT ?x {{ {} }}", parts.join(" . "));
        let table = asked_of(&all, &query).unwrap();
        let mut found: Vec<_> = table.rows.iter().map(|row| {
            row[0].as_ref().unwrap().text().strip_prefix("http://mp.stratuslab.eu/#").unwrap().to_owned()
        }).collect();
        found.sort();
        prop_assert_eq!(found, expected);
    }
}
