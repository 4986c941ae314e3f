//! The reference entry verifies, whatever is the same to XML; anything else is refused, and most of it before any cryptography.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use crate::support::{DRAFT, SIGNED, between, endorser, entry, signed_by};
use marketplace::{Entry, Error};
use proptest::prelude::*;

fn verified(text: &str) -> Result<Entry, Error> {
    Entry::verify(text.as_bytes())
}

#[test]
fn the_reference_entry_verifies() {
    let entry = entry(SIGNED);
    assert_eq!(entry.document(), SIGNED.as_bytes());
    assert_eq!(
        entry.path(),
        "Dtx9D_zD0sVtc2F3Z6V68foTrWj/alice@example.org/2030-01-15T08:05:00Z"
    );
    assert!(entry.is_email_certified());
    assert!(entry.uses_sha1());
    assert_eq!(
        entry.certificate().subject(),
        "CN=Alice Endorser,OU=Images,O=Example Org,C=EU"
    );
}

#[test]
fn what_is_the_same_to_xml_verifies() {
    for (what, text) in [
        (
            "a comment",
            SIGNED
                .replace(
                    "<dcterms:title>",
                    "<!-- a <b> --><dcterms:title>zero<!-- x -->",
                )
                .replace("x -->zerolinux-test", "x -->linux-test"),
        ),
        ("a comment behind the root", format!("{SIGNED}<!-- c -->\n")),
        ("line ends of Windows", SIGNED.replace('\n', "\r\n")),
        ("line ends of old Macs", SIGNED.replace('\n', "\r")),
        ("carriage returns in Base64", {
            let value = between(SIGNED, "<SignatureValue>", "</SignatureValue>");
            SIGNED.replace(value, &value.replace('\n', "&#13;\n"))
        }),
        ("Base64 on one line", {
            let value = between(SIGNED, "<X509Certificate>", "</X509Certificate>");
            SIGNED.replace(value, &value.replace('\n', ""))
        }),
        (
            "other quotes and space in tags",
            SIGNED.replace(
                "rdf:about=\"#Dtx9D_zD0sVtc2F3Z6V68foTrWj\"",
                "rdf:about  =\n '#Dtx9D_zD0sVtc2F3Z6V68foTrWj' ",
            ),
        ),
        (
            "CDATA",
            SIGNED.replace("zerolinux-test", "<![CDATA[zerolinux]]>-test"),
        ),
        (
            "a reference to a character",
            SIGNED.replace("zerolinux-test", "zero&#108;inux&#x2d;test"),
        ),
        (
            "no declaration",
            SIGNED.split_once("?>").unwrap().1.to_owned(),
        ),
    ] {
        let entry = verified(&text).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            entry.metadata().title.as_deref(),
            Some("zerolinux-test"),
            "{what}"
        );
    }
}

#[test]
fn altered_contents_are_told_from_a_wrong_key() {
    let contents = Error::SignatureMismatch {
        signature: true,
        content: false,
    };
    for (from, to) in [
        (
            "https://images.example.org/z",
            "https://images.example.org/y",
        ),
        ("https://images", "http://images"),
        (">base<", "> base<"),
        ("zerolinux-test", "zerolinux-test "),
        ("<email>alice@example.org", "<email>malory@example.org"),
        ("xfuGvrUsfBZrB5tbHZGgka", "xfuGvrUsfBZrB5tbHZGgkb"),
        ("<dcterms:type>", "<?x y?><dcterms:type>"),
    ] {
        let error = verified(&SIGNED.replacen(from, to, 1)).unwrap_err();
        if from.starts_with("xfu") {
            // The digest is part of what is signed.
            assert_eq!(
                error,
                Error::SignatureMismatch {
                    signature: false,
                    content: false
                }
            );
        } else {
            assert_eq!(error, contents, "{to}");
        }
    }
    assert_eq!(
        contents.to_string(),
        "signature validation: truecontent (ref='') validity: false"
    );
    // Somebody else's certificate, of a key of the same kind.
    let (one, other) = (
        signed_by(&endorser("A", None)),
        signed_by(&endorser("A", None)),
    );
    let certificate = |text| between(text, "<X509Certificate>", "</X509Certificate>").to_owned();
    let swapped = one.replace(&certificate(&one), &certificate(&other));
    assert_eq!(
        verified(&swapped).unwrap_err(),
        Error::SignatureMismatch {
            signature: false,
            content: true
        }
    );
}

#[test]
fn other_shapes_are_refused_before_any_cryptography() {
    let signature = between(SIGNED, "<Signature xmlns", "</Signature>");
    let reference = between(SIGNED, "<Reference", "</Reference>");
    let certificate = between(SIGNED, "<X509Certificate>", "</X509Certificate>");
    let enveloped = between(SIGNED, "<Transform ", "/>");
    let object = "<Object Id=\"x\"><y/></Object>";
    let changed = |from: &str, to: &str| SIGNED.replacen(from, to, 1);
    for (what, text) in [
        (
            "two signatures",
            changed(signature, &format!("{signature}{signature}")),
        ),
        (
            "an empty second signature",
            changed(
                "</Signature>",
                "</Signature><Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/>",
            ),
        ),
        (
            "a signature before the description",
            changed(signature, "").replacen(
                "<rdf:Description",
                &format!("{signature}<rdf:Description"),
                1,
            ),
        ),
        (
            "a signature in the description",
            changed(signature, "").replacen(
                "</rdf:Description>",
                &format!("{signature}</rdf:Description>"),
                1,
            ),
        ),
        (
            "a signature deep in the description",
            changed(
                "</rdf:Description>",
                &format!(
                    "<x:y xmlns:x=\"u\" rdf:parseType=\"Resource\">{signature}</x:y></rdf:Description>"
                ),
            ),
        ),
        ("another reference", changed("URI=\"\"", "URI=\"#x\"")),
        ("a reference without place", changed(" URI=\"\"", "")),
        (
            "a reference with a type",
            changed(
                "URI=\"\"",
                "URI=\"\" Type=\"http://www.w3.org/2000/09/xmldsig#Object\"",
            ),
        ),
        (
            "two references",
            changed(reference, &format!("{reference}{reference}")),
        ),
        ("no reference", changed(reference, "")),
        (
            "an object",
            changed("</Signature>", &format!("{object}</Signature>")),
        ),
        (
            "only an object",
            changed("URI=\"\"", "URI=\"#x\"").replacen(
                "</Signature>",
                &format!("{object}</Signature>"),
                1,
            ),
        ),
        (
            "a manifest",
            changed(reference, &format!("{reference}<Manifest/>")),
        ),
        ("no transform", changed(enveloped, "")),
        (
            "an XPath transform",
            changed("xmldsig#enveloped-signature", "xmldsig#xpath"),
        ),
        (
            "an XSLT transform",
            changed(
                enveloped,
                &format!(
                    "{enveloped}<Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xslt-19991116\"/>"
                ),
            ),
        ),
        (
            "a transform with contents",
            changed(
                enveloped,
                &enveloped.replace("/>", "><XPath>x</XPath></Transform>"),
            ),
        ),
        (
            "three transforms",
            changed(
                enveloped,
                &format!(
                    "{enveloped}{0}{0}",
                    "<Transform Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/>"
                ),
            ),
        ),
        (
            "exclusive canonicalization",
            changed(
                "http://www.w3.org/TR/2001/REC-xml-c14n-20010315#WithComments",
                "http://www.w3.org/2001/10/xml-exc-c14n#",
            ),
        ),
        (
            "a shortened HMAC",
            changed(
                "xmldsig#rsa-sha1\"/>",
                "xmldsig#hmac-sha1\"><HMACOutputLength>0</HMACOutputLength></SignatureMethod>",
            ),
        ),
        ("MD5", changed("xmldsig#sha1\"", "xmldsig-more#md5\"")),
        (
            "another method than the key's",
            changed("xmldsig#rsa-sha1", "xmldsig-more#eddsa-ed25519").replacen(
                "2000/09/xmldsig-more",
                "2021/04/xmldsig-more",
                1,
            ),
        ),
        ("no certificate", changed(certificate, "")),
        (
            "a key beside the certificate",
            changed("<KeyInfo>", "<KeyInfo><KeyName>x</KeyName>"),
        ),
        (
            "a key instead of the certificate",
            changed(between(SIGNED, "<X509Data>", "</X509Data>"), "<KeyValue/>"),
        ),
        (
            "another certificate behind",
            changed(
                certificate,
                &format!(
                    "{certificate}{}",
                    between(
                        &signed_by(&endorser("B", None)),
                        "<X509Certificate>",
                        "</X509Certificate>"
                    )
                ),
            ),
        ),
        ("the victim's certificate first", {
            let attacker = signed_by(&endorser("B", None));
            let own = between(&attacker, "<X509Certificate>", "</X509Certificate>");
            attacker.replacen(own, &format!("{certificate}{own}"), 1)
        }),
        (
            "no certificate inside",
            changed(certificate, "<X509Certificate>AAAA</X509Certificate>"),
        ),
        ("no Base64", changed("WpU1DwYUnbAU", "WpU1DwYUnb*U")),
        (
            "a document type",
            changed("?><rdf:RDF", "?><!DOCTYPE x><rdf:RDF"),
        ),
    ] {
        assert_ne!(text, SIGNED, "{what}");
        let error = verified(&text).unwrap_err();
        assert!(
            matches!(
                error,
                Error::SignatureShape(_)
                    | Error::Schema(_)
                    | Error::Rdf(_)
                    | Error::NoValidationKey(_)
                    | Error::NotXml(_)
            ),
            "{what}: {error}"
        );
    }
    assert_eq!(
        verified(&changed(signature, "")).unwrap_err(),
        Error::NotSigned
    );
    assert_eq!(verified(DRAFT).unwrap_err(), Error::NotSigned);
}

#[test]
fn the_endorsement_names_the_owner_of_the_certificate() {
    // Signed by somebody whose document names somebody else: the signature is right, the endorser is not.
    for (field, from, to) in [
        (
            "subject",
            "<slreq:subject>C=EU,CN=Mallory",
            "<slreq:subject>C=EU,CN=Alice",
        ),
        (
            "issuer",
            "<slreq:issuer>C=EU,CN=Mallory",
            "<slreq:issuer>CN=Authority,C=EU",
        ),
        (
            "email",
            "<slreq:email>mallory@example.org",
            "<slreq:email>alice@example.org",
        ),
    ] {
        let key = endorser("Mallory", Some("mallory@example.org"));
        let honest = signed_by(&key);
        assert!(honest.contains(from), "{honest}");
        let error = support_sign(&honest.replacen(from, to, 1), &key).unwrap_err();
        let Error::EndorserMismatch { field: found, .. } = &error else {
            panic!("{field}: {error}")
        };
        assert_eq!(*found, field);
    }
    // What only looks like an endorsement is read as what it is: something else that is said of the image.
    let key = endorser("Mallory", Some("mallory@example.org"));
    let look_alike = "<x:y xmlns:x=\"u\" rdf:parseType=\"Resource\"><slreq:endorser rdf:parseType=\"Resource\">\
         <slreq:email>alice@example.org</slreq:email><slreq:subject>CN=Alice</slreq:subject></slreq:endorser></x:y></rdf:Description>";
    let tricky = signed_by(&key).replacen("</rdf:Description>", look_alike, 1);
    let tricky = support_sign(&tricky, &key).unwrap();
    assert_eq!(tricky.endorsement().email, "mallory@example.org");
    let unnamed = entry(&signed_by(&endorser("Mallory", None)));
    assert!(!unnamed.is_email_certified());
    assert_eq!(unnamed.endorsement().email, "claimed@example.org");
}

/// Signs again what an attacker wrote, as the attacker would.
fn support_sign(document: &str, key: &marketplace::SigningKey) -> Result<Entry, Error> {
    let unsigned = document.replacen(between(document, "<Signature xmlns", "</Signature>"), "", 1);
    let signed = marketplace::signature::sign_as_is(&unsigned, key)?;
    verified(&signed)
}

#[test]
fn no_changed_byte_changes_what_is_believed() {
    let original = entry(SIGNED);
    let mut accepted = 0;
    for at in 0..SIGNED.len() {
        let mut bytes = SIGNED.as_bytes().to_vec();
        bytes[at] ^= 1 << (at % 7);
        if let Ok(entry) = Entry::verify(&bytes) {
            accepted += 1;
            assert_eq!(entry.metadata(), original.metadata(), "byte {at}");
            assert_eq!(entry.certificate(), original.certificate(), "byte {at}");
        }
    }
    // White space between Base64 lines and in tags, and one character of the declaration.
    assert!(accepted < 60, "{accepted} changes were accepted");
}

/// As long as documents may be, and as tangled as their bounds let them be: each is told from the signed one, or refused, in a time that
/// does not grow faster than its length. (Without optimization and beside other tests; otherwise it is some milliseconds.)
#[test]
fn tangled_documents_take_no_more_than_their_time() {
    const LENGTH: usize = 1_000_000;
    let many = |one: &dyn Fn(usize) -> String| -> String {
        let mut text = String::with_capacity(LENGTH);
        for number in 0.. {
            let next = one(number);
            if text.len() + next.len() > LENGTH {
                break;
            }
            text.push_str(&next);
        }
        text
    };
    let attributes = |count: usize| -> String {
        (0..count)
            .map(|one| format!(" x:a{one}=\"&#9;\""))
            .collect()
    };
    let namespaces = |from: usize, count: usize| -> String {
        (0..count)
            .map(|one| format!(" xmlns:n{}=\"u{one}\"", from + one))
            .collect()
    };
    for (what, inside) in [
        ("elements", many(&|_| "<dcterms:x/>".to_owned())),
        ("comments", many(&|_| "<!---->".to_owned())),
        (
            "references",
            format!("<dcterms:x>{}</dcterms:x>", many(&|_| "&#10;".to_owned())),
        ),
        (
            "CDATA",
            format!(
                "<dcterms:x>{}</dcterms:x>",
                many(&|_| "<![CDATA[]]>a".to_owned())
            ),
        ),
        ("line ends", many(&|_| "\r\n\r".to_owned())),
        (
            "attributes",
            many(&|_| format!("<dcterms:x xmlns:x=\"u\"{}/>", attributes(63))),
        ),
        (
            "namespaces",
            many(&|number| format!("<dcterms:x{}/>", namespaces(number, 58))),
        ),
        (
            "namespaces in depth",
            many(&|number| {
                let open: String = (0..28)
                    .map(|depth| {
                        format!(
                            "<dcterms:x rdf:parseType=\"Resource\"{}>",
                            namespaces(number * 60 + depth * 2, 2)
                        )
                    })
                    .collect();
                format!("{open}{}", "</dcterms:x>".repeat(28))
            }),
        ),
        (
            "one long attribute",
            format!("<dcterms:x xml:lang=\"{}\"/>", many(&|_| "&lt;".to_owned())),
        ),
        (
            "one long name",
            format!("<dcterms:{}/>", many(&|_| "x".to_owned())),
        ),
    ] {
        let end = "  </rdf:Description>";
        let text = SIGNED.replacen(end, &format!("{inside}{end}"), 1);
        let start = std::time::Instant::now();
        let _ = verified(&text);
        let _ = marketplace::list::documents(text.as_bytes());
        let took = start.elapsed();
        println!("{what}: {} bytes, {took:?}", text.len());
        assert!(
            took < std::time::Duration::from_secs(10),
            "{what}: {took:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_changed_stretch_changes_what_is_believed(at in 0..SIGNED.len(), removed in 0_usize..60, with in "[ -~\n]{0,20}") {
        let end = (at + removed).min(SIGNED.len());
        let text = format!("{}{with}{}", &SIGNED[..at], &SIGNED[end..]);
        if let Ok(entry) = verified(&text) {
            let original = verified(SIGNED).unwrap();
            prop_assert_eq!(entry.metadata(), original.metadata());
            prop_assert_eq!(entry.certificate(), original.certificate());
        }
    }
}
