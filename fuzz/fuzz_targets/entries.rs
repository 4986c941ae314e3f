//! Descriptions of images as strangers upload them: parser, verifier, changes, lists; alone and as changes of a signed one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marketplace::{Entry, Metadata, draft, list};

const SIGNED: &[u8] = include_bytes!("../../crates/marketplace/tests/data/signed.xml");

fuzz_target!(|data: &[u8]| {
    read(data);
    // The first bytes say where the rest replaces something in the signed document.
    if let [high, low, removed, with @ ..] = data {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % SIGNED.len();
        let end = (at + usize::from(*removed)).min(SIGNED.len());
        read(&[&SIGNED[..at], with, &SIGNED[end..]].concat());
    }
});

fn read(document: &[u8]) {
    if let Ok(entry) = Entry::verify(document) {
        // There is one document that this key ever signed.
        let original = Entry::verify(SIGNED).expect("the reference entry");
        assert_eq!(entry.metadata(), original.metadata());
        assert_eq!(entry.certificate(), original.certificate());
    }
    if let Ok(metadata) = Metadata::parse(document) {
        if let Ok(text) = metadata.to_draft() {
            let again = Metadata::parse(text.as_bytes()).expect("what we write is read");
            assert_eq!(Metadata { endorsement: None, ..metadata }, again);
        }
        let text = draft::deprecated(document, "x").expect("what is read can be deprecated");
        let deprecated = Metadata::parse(text.as_bytes()).expect("and is read again");
        assert_eq!(deprecated.deprecated.as_deref(), Some("x"));
    }
    if let Ok(documents) = list::documents(document) {
        for one in documents {
            let _ = Metadata::parse(one);
        }
    }
    let _ = list::message(document);
}
