//! Queries in SPARQL, as anybody asks a Marketplace: what is read is answered within its limits, and the answer is XML and JSON.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use marketplace::catalogue::{Catalogue, Record};
use marketplace::{Entry, UtcTime};
use marketplace_query::{Error, Limits, Query, Snapshot};

const SIGNED: &[u8] = include_bytes!("../../crates/marketplace/tests/data/signed.xml");
const LIMITS: Limits = Limits { steps: 200_000, rows: 50, values: 5_000 };

/// The reference entry, received several times.
static ENTRIES: LazyLock<Snapshot> = LazyLock::new(|| {
    let entry = Entry::verify(SIGNED).expect("the reference entry");
    let mut catalogue = Catalogue::new();
    for day in 0..5 {
        let at = UtcTime::from_unix_seconds(1_700_000_000).expect("a time").plus_days(day);
        catalogue.add(Record { created: at, title: Some(format!("title {day}")), ..Record::of(&entry, at) });
    }
    Snapshot::of(&catalogue)
});

fuzz_target!(|text: &str| {
    let Ok(query) = text.parse::<Query>() else {
        return;
    };
    let answer: Result<_, Error> = query.answer(&ENTRIES, LIMITS, &|| true);
    if let Ok(table) = answer {
        assert!(table.rows.len() <= LIMITS.rows);
        serde_json::from_str::<serde_json::Value>(&table.to_json()).expect("the answer is JSON");
        roxmltree::Document::parse(&table.to_xml()).expect("the answer is XML");
    }
});
