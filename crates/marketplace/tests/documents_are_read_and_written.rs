//! Drafts and entries become types and documents again; what is not a description of an image is refused with the reason.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use marketplace::digest::Digest;
use marketplace::metadata::Extension;
use marketplace::{Checksums, Error, Metadata};
use proptest::prelude::*;

const DRAFT: &str = include_str!("data/draft.xml");
const SIGNED: &str = include_str!("data/signed.xml");

#[test]
fn the_reference_entry_is_read() {
    let entry = Metadata::parse(SIGNED.as_bytes()).unwrap();
    assert_eq!(entry.identifier.to_string(), "Dtx9D_zD0sVtc2F3Z6V68foTrWj");
    assert_eq!(entry.bytes, 1_048_576);
    assert_eq!(
        entry
            .checksums
            .md5
            .map(|digest| digest.to_string())
            .as_deref(),
        Some("b6d81b360a5672d80c27430f39153e2c")
    );
    let endorsement = entry.endorsement.as_ref().unwrap();
    assert_eq!(endorsement.created.to_string(), "2030-01-15T08:05:00Z");
    assert_eq!(endorsement.email, "alice@example.org");
    assert_eq!(
        endorsement.issuers,
        ["CN=Alice Endorser,OU=Images,O=Example Org,C=EU"]
    );
    assert_eq!(entry.tag.as_deref(), Some("zerolinux"));
    assert_eq!(entry.inbound_ports, [22]);
    assert_eq!(entry.disks_buses, ["virtio"]);
    assert_eq!(entry.deprecated, None);
    assert_eq!(entry.extensions, []);
    assert!(!entry.is_expired("2030-07-12T07:59:59Z".parse().unwrap()));
    assert!(entry.is_expired("2030-07-12T08:00:00Z".parse().unwrap()));

    let mut draft = Metadata::parse(DRAFT.as_bytes()).unwrap();
    assert_eq!(draft.to_draft().unwrap(), DRAFT);
    draft.endorsement = entry.endorsement.clone();
    assert_eq!(draft, entry);
}

/// A change of the signed document and the message about it.
fn refused(from: &str, to: &str) -> Error {
    assert!(SIGNED.contains(from), "{from}");
    Metadata::parse(SIGNED.replacen(from, to, 1).as_bytes()).unwrap_err()
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_the_contract() {
    let sha1 = "<slreq:value>3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3</slreq:value>";
    let endorsement_end = "</slreq:endorsement>";
    for (from, to, message) in [
        (
            "<dcterms:type>base</dcterms:type>",
            "",
            "description must have exactly 1 dcterms:type element",
        ),
        (
            "<dcterms:type>base",
            "<dcterms:type>x</dcterms:type><dcterms:type>base",
            "description must have exactly 1 dcterms:type element",
        ),
        (
            "<dcterms:type>base",
            "<dcterms:type rdf:parseType='Resource'><slterms:os>x</slterms:os>",
            "dcterms:type cannot have child elements",
        ),
        (
            "<slreq:algorithm>SHA-1<",
            "<slreq:algorithm>SHA1<",
            "description must have exactly 1 slterms:checksum element using SHA-1 algorithm",
        ),
        (
            "<slreq:algorithm>SHA-256<",
            "<slreq:algorithm>SHA-1<",
            "description must have exactly 1 slterms:checksum element using SHA-1 algorithm",
        ),
        (
            "<slterms:os>",
            "<slterms:os>x</slterms:os><slterms:os>",
            "description must have at most 1 os element",
        ),
        (
            "<slterms:version>",
            "<slterms:version>x</slterms:version><slterms:version>",
            "description must have at most 1 version element",
        ),
        (
            "<dcterms:valid>",
            "<dcterms:valid>2031-01-01T00:00:00Z</dcterms:valid><dcterms:valid>",
            "description must have at most 1 valid element",
        ),
        (
            "rdf:about=\"#Dtx9",
            "rdf:about=\"#Etx9",
            "rdf:about attribute (Etx9D_zD0sVtc2F3Z6V68foTrWj) and dcterms:identifier (Dtx9D_zD0sVtc2F3Z6V68foTrWj) are not consistent",
        ),
        (
            sha1,
            "<slreq:value>3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a4</slreq:value>",
            "checksum from identifier (3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3) and SHA-1 checksum (3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a4) are not consistent",
        ),
        (
            sha1,
            "<slreq:value>3b71</slreq:value>",
            "3b71 is not a valid SHA-1 checksum",
        ),
        (
            sha1,
            "<slreq:value></slreq:value>",
            "XML schema validation exception: ",
        ),
        (
            sha1,
            "<slreq:value>xyz</slreq:value>",
            "XML schema validation exception: ",
        ),
        (
            "<dcterms:valid>2030-07-12T08:00:00Z",
            "<dcterms:valid>2030-07-12",
            "dcterms:valid value (2030-07-12) is not a valid date",
        ),
        (
            "<dcterms:valid>2030-07-12T08:00:00Z",
            "<dcterms:valid>2030-13-12T08:00:00Z",
            "Unparseable date: 2030-13-12T08:00:00Z",
        ),
        (
            "2030-01-15T08:05:00Z</created>",
            "yesterday</created>",
            "dcterms:created value (yesterday) is not a valid date",
        ),
        (
            " xml:base=\"http://mp.stratuslab.eu/\"",
            "",
            "XML schema validation exception: root element must have xml:base attribute with value http://mp.stratuslab.eu/",
        ),
        (
            "xml:base=\"http://mp.stratuslab.eu/\"",
            "xml:base=\"http://mp.stratuslab.eu\"",
            "XML schema validation exception: root element must have xml:base",
        ),
        (
            "rdf:about=\"#Dtx9",
            "rdf:about=\"Dtx9",
            "XML schema validation exception: rdf:about",
        ),
        (
            "<slreq:bytes>1048576</slreq:bytes>",
            "",
            "XML schema validation exception: slreq:bytes is missing or out of order",
        ),
        (
            "<slreq:bytes>1048576",
            "<slreq:bytes>-1",
            "XML schema validation exception: slreq:bytes must be an integer",
        ),
        (
            "<slreq:bytes>1048576",
            "<slreq:bytes>1e6",
            "XML schema validation exception: slreq:bytes must be an integer",
        ),
        (
            "<email>alice@example.org",
            "<email>bob@example.org</email><email>alice@example.org",
            "XML schema validation exception: ",
        ),
        (
            "<email>alice@example.org",
            "<email>alice",
            "XML schema validation exception: slreq:email is not an e-mail address: alice",
        ),
        (
            "<email>alice@example.org",
            "<email>alice<!-- -->/x@example.org",
            "XML schema validation exception: slreq:email is not an e-mail address: alice/x@example.org",
        ),
        (
            "parseType=\"Resource\"",
            "parseType=\"Literal\"",
            "XML schema validation exception: ",
        ),
        (
            "<slterms:inbound-port>22",
            "<slterms:inbound-port>65536",
            "XML schema validation exception: inbound-port must be an integer from 0 to 65535, it is 65536",
        ),
        (
            "<slterms:inbound-port>22</slterms:inbound-port>",
            "<slterms:icmp>256</slterms:icmp>",
            "XML schema validation exception: icmp must",
        ),
        (
            "<slterms:inbound-port>22</slterms:inbound-port>",
            "<slterms:serial-number>x</slterms:serial-number>",
            "XML schema validation exception: slterms:serial-number must",
        ),
        (
            "<slterms:inbound-port>22</slterms:inbound-port>",
            "<slterms:tag>latest</slterms:tag>",
            "XML schema validation exception: slterms:tag",
        ),
        (
            endorsement_end,
            "</slreq:endorsement><slreq:endorsement rdf:parseType=\"Resource\"/>",
            "XML schema validation exception: there is more than one slreq:endorsement",
        ),
        (
            "<slreq:endorsement rdf",
            "<dcterms:title>x</dcterms:title><slreq:endorsement rdf",
            "XML schema validation exception: slreq:endorsement is out of order",
        ),
        (
            "</Signature>",
            "</Signature><Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/>",
            "XML schema validation exception: there is more than one signature",
        ),
        (
            "</Signature>",
            "</Signature><dcterms:x/>",
            "XML schema validation exception: there is more than one signature",
        ),
        (
            "<slterms:os>",
            "stray<slterms:os>",
            "XML schema validation exception: Description holds text",
        ),
        (
            "<slterms:os>",
            "<x:y xmlns:x='u'><x:z>1</x:z></x:y><slterms:os>",
            "invalid RDF/XML: y has elements in it",
        ),
        (
            "<slterms:os>",
            "<x:y xmlns:x='u' z='1'/><slterms:os>",
            "invalid RDF/XML: the attribute z",
        ),
        (
            "<slterms:os>",
            "<y xmlns=''/><slterms:os>",
            "invalid RDF/XML: y has no namespace",
        ),
        (
            "<?xml version=\"1.0\"",
            "<!DOCTYPE x><?xml version=\"1.0\"",
            "unable to parse metadata: ",
        ),
        (
            "?><rdf:RDF",
            "?><!DOCTYPE rdf:RDF [<!ENTITY a 'b'>]><rdf:RDF",
            "unable to parse metadata: document types",
        ),
        ("</rdf:RDF>", "", "unable to parse metadata: "),
        (
            "<slterms:os>",
            "&nbsp;<slterms:os>",
            "unable to parse metadata: ",
        ),
    ] {
        let error = refused(from, to).to_string();
        assert!(error.starts_with(message), "{from} to {to}: {error}");
    }
    let long = SIGNED.replacen(
        "<dcterms:title>",
        &format!("<dcterms:title>{}", "x".repeat(1 << 20)),
        1,
    );
    assert!(matches!(
        Metadata::parse(long.as_bytes()),
        Err(Error::TooLong { .. })
    ));
    assert!(matches!(
        Metadata::parse(b"\xff\xfe<"),
        Err(Error::NotXml(_))
    ));
}

#[test]
fn drafts_and_deprecations_of_the_old_client_are_read() {
    let endorsement = SIGNED
        .split_once("<slreq:endorsement rdf:")
        .and_then(|(_, rest)| rest.split_once("</slreq:endorsement>"))
        .unwrap()
        .0;
    let endorsement = format!("<slreq:endorsement rdf:{endorsement}</slreq:endorsement>");
    let last = endorsement.replacen("rdf:parseType", "parseType", 1);
    let old = SIGNED.replacen(&endorsement, "", 1).replacen(
        "  </rdf:Description>",
        &format!("<slterms:deprecated/>{last}</rdf:Description>"),
        1,
    );
    let old = Metadata::parse(old.as_bytes()).unwrap();
    assert_eq!(old.deprecated.as_deref(), Some(""));
    assert!(old.endorsement.is_some());

    let without = Metadata::parse(SIGNED.replacen(&endorsement, "", 1).as_bytes()).unwrap();
    assert_eq!(without.endorsement, None);
    let wrong_place = DRAFT
        .replacen(
            "<dcterms:compression>gz</dcterms:compression>",
            "<dcterms:compression/>",
            1,
        )
        .replacen(
            "<slterms:os>",
            "<slterms:compression>bz2</slterms:compression><slterms:os>",
            1,
        );
    let wrong_place = Metadata::parse(wrong_place.as_bytes()).unwrap();
    assert_eq!(wrong_place.compression.as_deref(), Some("bz2"));
}

#[test]
fn other_prefixes_and_unknown_elements_are_kept() {
    let unknown = "<c:machine xmlns:c=\"http://schemas.dmtf.org/cimi/1\" rdf:parseType=\"Resource\"><c:cpu>2</c:cpu><!-- of --><c:memory>4 &lt; 5</c:memory></c:machine>";
    let text = DRAFT
        .replacen(
            "    <dcterms:publisher>",
            &format!("    {unknown}\n    <dcterms:title>second</dcterms:title><dcterms:publisher>"),
            1,
        )
        .replace("slterms:", "t:")
        .replace("xmlns:slterms=", "xmlns:t=");
    let metadata = Metadata::parse(text.as_bytes()).unwrap();
    assert_eq!(metadata.os.as_deref(), Some("zerolinux"));
    assert_eq!(metadata.title.as_deref(), Some("zerolinux-test"));
    let names: Vec<_> = metadata
        .extensions
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names, ["machine", "title"]);
    let again = Metadata::parse(metadata.to_draft().unwrap().as_bytes()).unwrap();
    assert_eq!(again, metadata);
    assert!(
        again
            .to_draft()
            .unwrap()
            .contains("<c:cpu>2</c:cpu><!-- of --><c:memory>4 &lt; 5</c:memory>")
    );
}

#[test]
fn what_xml_can_not_hold_is_refused() {
    let mut metadata = Metadata::parse(DRAFT.as_bytes()).unwrap();
    metadata.description = Some("a\u{1}b".to_owned());
    assert_eq!(
        metadata.to_draft(),
        Err(Error::Unwritable {
            element: "dcterms:description",
            character: '\u{1}'
        })
    );
}

fn sentence() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[ -~\t\n\r\u{a0}-\u{2fff}]{1,40}")
}

fn token() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(
        "[!-~\u{e0}-\u{ff}]{1,20}".prop_filter("means nothing", |text| text != "none"),
    )
}

prop_compose! {
    fn texts()(all in proptest::array::uniform10(sentence())) -> [Option<String>; 10] { all }
}

prop_compose! {
    fn descriptions()(
        sha1: [u8; 20], bytes: u64, md5: Option<[u8; 16]>, sha256: Option<[u8; 32]>, other in proptest::option::of("[0-9a-f]{1,20}"),
        texts in texts(), tokens in proptest::array::uniform9(token()), image_type in "[a-z]{0,8}",
        serial_number: Option<u64>, valid in proptest::option::of(0_i64..200_000_000_000),
        locations in proptest::collection::vec("https://[!-~]{1,30}", 0..3), inbound_ports: Vec<u16>, icmp_types: Vec<u8>, has_extension: bool,
    ) -> Metadata {
        let checksums = Checksums {
            md5: md5.map(Digest::from_bytes), sha1: Digest::from_bytes(sha1), sha256: sha256.map(Digest::from_bytes), sha512: None,
            others: other.map(|value| ("BLAKE <3".to_owned(), value)).into_iter().collect(),
        };
        let [creator, publisher, created, title, tag, description, deprecated, replaces, is_replaced_by, is_version_of] = texts;
        let [kind, os, os_version, os_arch, version, compression, format, hypervisor, bus] = tokens;
        Metadata {
            kind, os, os_version, os_arch, version, compression, format, hypervisor, disks_buses: bus.into_iter().collect(),
            creator, publisher, created, title, tag, description, deprecated, replaces, is_replaced_by, is_version_of,
            serial_number, valid: valid.and_then(marketplace::UtcTime::from_unix_seconds), locations, inbound_ports: inbound_ports.clone(), outbound_ports: inbound_ports, icmp_types,
            extensions: has_extension.then(|| Extension { namespace: "u:x".to_owned(), name: "y".to_owned(), xml: "<x:y xmlns:x=\"u:x\">&amp;</x:y>".to_owned() }).into_iter().collect(),
            ..Metadata::new(checksums, bytes, image_type)
        }
    }
}

proptest! {
    #[test]
    fn any_description_survives_being_written(description in descriptions()) {
        let text = description.to_draft().unwrap();
        prop_assert_eq!(Metadata::parse(text.as_bytes()).unwrap(), description);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Metadata::parse(&bytes);
        let _ = marketplace::list::documents(&bytes);
    }

    #[test]
    fn any_change_is_read_without_panic(at in 0..SIGNED.len(), with in "[ -~]{0,3}", removed in 0_usize..40) {
        let end = (at + removed).min(SIGNED.len());
        let text = format!("{}{with}{}", &SIGNED[..at], &SIGNED[end..]);
        let _ = Metadata::parse(text.as_bytes());
    }
}
