//! How long queries take over 100,000 entries: those that StratusLab's Marketplace asks for its own pages, and some that people ask.
//!
//! `cargo bench -p marketplace-query --bench queries`. Each has to end within the 5 seconds that a service gives it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use marketplace::catalogue::{Catalogue, Common, Details, Record, Sums};
use marketplace::digest::Digest;
use marketplace::{ImageIdentifier, UtcTime};
use marketplace_query::{Limits, Query, Snapshot};

const ENTRIES: u32 = 100_000;
const BUDGET: Duration = Duration::from_secs(5);

const QUERIES: [(&str, &str); 8] = [
    (
        "newest of all, a page",
        "SELECT ?identifier ?email ?created ?os ?title WHERE { ?x dcterms:identifier ?identifier ; slterms:tag 'latest' ; slreq:endorsement ?e . \
         ?e dcterms:created ?created ; slreq:endorser ?w . ?w slreq:email ?email . OPTIONAL { ?x slterms:os ?os } OPTIONAL { ?x dcterms:title ?title } \
         FILTER NOT EXISTS { ?x slterms:deprecated ?d } } LIMIT 100",
    ),
    (
        "of one endorser, in order",
        "SELECT ?identifier ?created { ?x dcterms:identifier ?identifier ; slreq:endorsement ?e . ?e dcterms:created ?created ; \
         slreq:endorser ?w . ?w slreq:email 'endorser.7@example.org' } ORDER BY DESC(?created)",
    ),
    (
        "a regular expression over titles",
        "SELECT ?x ?title { ?x dcterms:title ?title FILTER regex(?title, 'image 777', 'i') } LIMIT 100",
    ),
    (
        "endorsers by number of images",
        "SELECT ?email (COUNT(DISTINCT ?id) AS ?n) { ?x dcterms:identifier ?id ; slreq:endorsement [ slreq:endorser [ slreq:email ?email ] ] } \
         GROUP BY ?email ORDER BY DESC(?n) LIMIT 10",
    ),
    (
        "who says this, as whatever",
        "SELECT ?s ?p { ?s ?p 'Author 77' } LIMIT 100",
    ),
    (
        "what has this checksum",
        "SELECT ?id { ?x dcterms:identifier ?id ; slreq:checksum [ slreq:value '00000309000003090000030900000309000003090' ] } LIMIT 100",
    ),
    (
        "checksums of somebody's images",
        "SELECT ?id ?made { ?x slreq:checksum [ slreq:algorithm 'SHA-256' ; slreq:value ?v ] ; dcterms:identifier ?id ; dcterms:created ?made ; \
         dcterms:creator 'Author 77' } LIMIT 100",
    ),
    (
        "the newest, without the tag",
        "SELECT ?id ?email (MAX(?created) AS ?last) { ?x dcterms:identifier ?id ; slreq:endorsement ?e . ?e dcterms:created ?created ; \
         slreq:endorser ?w . ?w slreq:email ?email . FILTER (?created > '2026-06-01T00:00:00Z') } GROUP BY ?id ?email LIMIT 100",
    ),
];

fn record(number: u32) -> Record {
    let mut sha1 = [0; 20];
    for (byte, from) in sha1
        .iter_mut()
        .zip((number / 2).to_be_bytes().iter().cycle())
    {
        *byte = *from;
    }
    let created =
        UtcTime::from_unix_seconds(1_700_000_000 + i64::from(number) * 900).expect("a time");
    Record {
        identifier: ImageIdentifier::from_sha1(&Digest::from_bytes(sha1)),
        email: format!("endorser.{}@example.org", number % 2000).into(),
        created,
        subject: "CN=Somebody,O=Example".to_owned(),
        issuer: "CN=Authority,O=Example".to_owned(),
        is_email_certified: true,
        uses_sha1: false,
        received: created,
        bytes: u64::from(number),
        valid: Some(created.plus_days(180)),
        deprecated: number.is_multiple_of(20).then(|| "too old".to_owned()),
        os: Some("debian".to_owned()),
        os_version: Some("12".to_owned()),
        os_arch: Some("x86_64".to_owned()),
        kind: Some("machine".to_owned()),
        version: Some("1.0".to_owned()),
        format: Some("qcow2".to_owned()),
        title: Some(format!("debian image {number}")),
        tag: Some("base".to_owned()),
        description: Some("For physics, with compilers and editors".to_owned()),
        locations: vec![format!("https://images.example.org/{number}.qcow2")],
        details: Some(Details {
            common: Arc::new(Common {
                image_type: Some("base".to_owned()),
                compression: Some("gz".to_owned()),
                creator: Some(format!("Author {}", number % 2_000)),
                publisher: Some("Example Org".to_owned()),
                hypervisor: Some("kvm".to_owned()),
                disks_buses: vec!["virtio".to_owned()],
                inbound_ports: vec![22],
                ..Common::default()
            }),
            made: Some(created.to_string().into()),
            checksums: Some(Box::new(Sums {
                md5: Some(Digest::from_bytes([1; 16])),
                sha256: Some(Digest::from_bytes([2; 32])),
                sha512: Some(Digest::from_bytes([3; 64])),
                others: Vec::new(),
            })),
            others: None,
        }),
    }
}

fn main() {
    let mut catalogue = Catalogue::new();
    for number in 0..ENTRIES {
        catalogue.add(record(number));
    }
    let start = Instant::now();
    let data = Snapshot::of(&catalogue);
    println!(
        "{:<36} {:>9.2?}",
        "snapshot of the catalogue",
        start.elapsed()
    );
    for (name, text) in QUERIES {
        let query: Query = text.parse().expect("a query");
        let start = Instant::now();
        let answer = query.answer(&data, Limits::default(), &|| true);
        let took = start.elapsed();
        match answer {
            Ok(table) => println!("{name:<36} {took:>9.2?} {:>6} rows", table.rows.len()),
            Err(error) => println!("{name:<36} {took:>9.2?} {error}"),
        }
        assert!(took <= BUDGET, "{name}: slower than a service waits");
    }
}
