//! Documents are signed with the keys that OpenSSL writes, and other programs agree with the signatures.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::path::Path;
use std::process::Command;

use crate::support::{
    ALGORITHMS, DRAFT, SIGNED, at, between, endorser, endorser_with, entry, signed_by,
};
use marketplace::draft::{self, endorsed};
use marketplace::signature::{Hash, Method};
use marketplace::{Entry, Error, Metadata, SigningKey};

const NOW: &str = "2030-01-15T08:05:00Z";

/// Whether a program is here; says so if not.
fn has(program: &str) -> bool {
    let is_here = Command::new(program).arg("version").output().is_ok();
    if !is_here {
        println!("skipped: {program} is not installed");
    }
    is_here
}

/// Runs a program in a folder; the words are separated by blanks.
fn run(folder: &Path, program: &str, words: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

/// A folder with `key.pem` and `cert.pem` of an RSA key.
fn rsa() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "openssl", "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 20000 -subj /C=EU/O=Example/CN=Alice/emailAddress=a@b.c -addext subjectAltName=email:alice@example.org").unwrap();
    folder
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

fn pem(folder: &Path, names: &[&str]) -> String {
    names
        .iter()
        .map(|name| String::from_utf8(read(folder, name)).unwrap())
        .collect()
}

fn sign(key: &SigningKey, hash: Hash) -> String {
    endorsed(
        DRAFT.as_bytes(),
        key,
        hash,
        Some("claimed@example.org"),
        at(NOW),
    )
    .unwrap()
}

#[test]
fn pkcs12_of_openssl_1_and_3_is_read() {
    if !has("openssl") {
        return;
    }
    let folder = rsa();
    let folder = folder.path();
    for (what, options) in [
        ("OpenSSL 3", ""),
        (
            "OpenSSL 1",
            "-legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1",
        ),
        (
            "3DES for both",
            "-certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1",
        ),
        (
            "AES-128",
            "-certpbe AES-128-CBC -keypbe AES-128-CBC -macalg sha256",
        ),
        ("nothing encrypted", "-certpbe NONE -keypbe NONE"),
    ] {
        run(folder, "openssl", &format!("pkcs12 -export -inkey key.pem -in cert.pem -out key.p12 -passout pass:s3cret {options}"))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let file = read(folder, "key.p12");
        let key = SigningKey::from_pkcs12(&file, "s3cret")
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            key.certificate().subject(),
            "1.2.840.113549.1.9.1=#1605614062 2e63,CN=Alice,O=Example,C=EU".replace(' ', "")
        );
        assert_eq!(key.certificate().email(), Some("alice@example.org"));
        assert_eq!(
            SigningKey::from_pkcs12(&file, "other").unwrap_err(),
            Error::WrongPassword,
            "{what}"
        );
    }
    // An empty password, and the certificate of an authority beside the own one.
    run(
        folder,
        "openssl",
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 20000 -subj /CN=CA",
    )
    .unwrap();
    run(
        folder,
        "openssl",
        "pkcs12 -export -inkey key.pem -in cert.pem -certfile ca.pem -out key.p12 -passout pass:",
    )
    .unwrap();
    let key = SigningKey::from_pkcs12(&read(folder, "key.p12"), "").unwrap();
    assert_eq!(key.certificate().email(), Some("alice@example.org"));
    run(
        folder,
        "openssl",
        "pkcs12 -export -nokeys -in cert.pem -out key.p12 -passout pass:",
    )
    .unwrap();
    let error = SigningKey::from_pkcs12(&read(folder, "key.p12"), "").unwrap_err();
    assert!(error.to_string().contains("no private key"), "{error}");
    assert!(matches!(
        SigningKey::from_pkcs12(b"x", ""),
        Err(Error::UnusableKey(_))
    ));
}

#[test]
fn pem_in_its_forms_is_read() {
    if !has("openssl") {
        return;
    }
    let folder = rsa();
    let folder = folder.path();
    run(
        folder,
        "openssl",
        "rsa -in key.pem -traditional -out traditional.pem",
    )
    .unwrap();
    run(
        folder,
        "openssl",
        "pkcs8 -topk8 -in key.pem -out encrypted.pem -passout pass:s3cret",
    )
    .unwrap();
    run(
        folder,
        "openssl",
        "rsa -in key.pem -traditional -aes128 -passout pass:s3cret -out old.pem",
    )
    .unwrap();
    let names = |name: &str| pem(folder, &["cert.pem", name]);
    for name in ["key.pem", "traditional.pem", "encrypted.pem"] {
        let key = SigningKey::from_pem(&names(name), Some("s3cret"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(key.certificate().email(), Some("alice@example.org"));
    }
    assert_eq!(
        SigningKey::from_pem(&names("encrypted.pem"), None).unwrap_err(),
        Error::WrongPassword
    );
    let error = SigningKey::from_pem(&names("old.pem"), Some("s3cret")).unwrap_err();
    assert!(
        error.to_string().contains("openssl pkcs8 -topk8"),
        "{error}"
    );
    let error = SigningKey::from_pem(&pem(folder, &["key.pem"]), None).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
    run(
        folder,
        "openssl",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem",
    )
    .unwrap();
    run(
        folder,
        "openssl",
        "req -x509 -new -key ec.pem -out ec-cert.pem -days 20000 -subj /CN=EC",
    )
    .unwrap();
    run(folder, "openssl", "genpkey -algorithm ED25519 -out ed.pem").unwrap();
    run(
        folder,
        "openssl",
        "req -x509 -new -key ed.pem -out ed-cert.pem -days 20000 -subj /CN=Ed",
    )
    .unwrap();
    for (key, certificate, method) in [
        ("ec.pem", "ec-cert.pem", Method::EcdsaSha256),
        ("ed.pem", "ed-cert.pem", Method::Ed25519),
    ] {
        let key = SigningKey::from_pem(&pem(folder, &[key, certificate]), None).unwrap();
        assert_eq!(entry(&sign(&key, Hash::Sha256)).method(), method);
    }
    // A certificate of somebody else is none for this key.
    assert!(SigningKey::from_pem(&pem(folder, &["ec.pem", "cert.pem"]), None).is_err());
}

#[test]
fn short_keys_are_refused_by_name() {
    if !has("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "openssl", "req -x509 -newkey rsa:1024 -nodes -keyout key.pem -out cert.pem -days 20000 -subj /CN=Short").unwrap();
    let error =
        SigningKey::from_pem(&pem(folder.path(), &["cert.pem", "key.pem"]), None).unwrap_err();
    assert!(matches!(error, Error::UnusableKey(_)), "{error}");
    let der = ::pem::parse(pem(folder.path(), &["cert.pem"])).unwrap();
    let error = marketplace::Certificate::from_der(der.contents()).unwrap_err();
    assert!(error.to_string().contains("has 1024 bits"), "{error}");
}

#[test]
fn rsa_signs_with_sha256_and_only_when_told_with_sha1() {
    if !has("openssl") {
        return;
    }
    let folder = rsa();
    let key = SigningKey::from_pem(&pem(folder.path(), &["cert.pem", "key.pem"]), None).unwrap();
    for (hash, uses_sha1) in [
        (Hash::Sha256, false),
        (Hash::Sha384, false),
        (Hash::Sha512, false),
        (Hash::Sha1, true),
    ] {
        let text = sign(&key, hash);
        let entry = entry(&text);
        assert_eq!(entry.method(), Method::Rsa(hash));
        assert_eq!(entry.uses_sha1(), uses_sha1);
        assert_eq!(
            entry.endorsement().email,
            "alice@example.org",
            "the certificate wins"
        );
        // Signatures of RSA are always the same, blinded or not.
        assert_eq!(sign(&key, hash), text);
    }
}

#[test]
fn xmlsec_agrees() {
    if !has("openssl") || !has("xmlsec1") {
        return;
    }
    let folder = rsa();
    let folder = folder.path();
    let rsa_key = SigningKey::from_pem(&pem(folder, &["cert.pem", "key.pem"]), None).unwrap();
    let mut documents: Vec<(String, String)> = [Hash::Sha1, Hash::Sha256, Hash::Sha512]
        .into_iter()
        .map(|hash| (format!("RSA with {hash:?}"), sign(&rsa_key, hash)))
        .collect();
    // This xmlsec1 knows no Ed25519.
    for algorithm in [ALGORITHMS[0], ALGORITHMS[1]] {
        let key = endorser_with("EC", None, algorithm);
        documents.push((
            format!("{:?}", key.certificate().key_type()),
            sign(&key, Hash::Sha256),
        ));
    }
    let odd = DRAFT
        .replace("slreq:", "q:")
        .replace("xmlns:slreq", "xmlns:q")
        .replace("zerolinux-test", "a &amp; &#228; &lt;<![CDATA[b]]>\r\n\t&#13;<!-- c -->")
        .replace("    <dcterms:publisher>", "<x:y xmlns:x='u:x' xmlns='u:d' rdf:parseType='Resource'><z xmlns:v='u:a' x:b='1' v:a='&#9;\n2' x:a='3'/></x:y><dcterms:publisher>");
    documents.push((
        "odd".to_owned(),
        endorsed(odd.as_bytes(), &rsa_key, Hash::Sha256, None, at(NOW)).unwrap(),
    ));
    documents.push(("the reference".to_owned(), SIGNED.to_owned()));
    for (what, text) in documents {
        // Who signed is not its business here: the certificates are trusted as they come.
        std::fs::write(folder.join("x.xml"), &text).unwrap();
        let certificate = between(&text, "<X509Certificate>", "</X509Certificate>")
            .replace("<X509Certificate>", "-----BEGIN CERTIFICATE-----\n")
            .replace("</X509Certificate>", "\n-----END CERTIFICATE-----\n");
        std::fs::write(folder.join("signer.pem"), certificate).unwrap();
        let verify = "--verify --enabled-key-data x509 --pubkey-cert-pem signer.pem x.xml";
        run(folder, "xmlsec1", verify).unwrap_or_else(|error| panic!("{what}: {error}"));
        std::fs::write(folder.join("x.xml"), text.replacen(">base<", ">grid<", 1)).unwrap();
        assert!(run(folder, "xmlsec1", verify).is_err(), "{what}");
    }
}

#[test]
fn what_xmlsec_signs_is_verified() {
    if !has("openssl") || !has("xmlsec1") {
        return;
    }
    let folder = rsa();
    let folder = folder.path();
    let key = SigningKey::from_pem(&pem(folder, &["cert.pem", "key.pem"]), None).unwrap();
    let ours = sign(&key, Hash::Sha256);
    let empty = |text: &str, name: &str| {
        let part = between(text, &format!("<{name}>"), &format!("</{name}>")).to_owned();
        text.replace(&part, &format!("<{name}></{name}>"))
    };
    let template = ["DigestValue", "SignatureValue", "X509Certificate"]
        .iter()
        .fold(ours.clone(), |text, name| empty(&text, name));
    let template = template.replace("<X509Certificate></X509Certificate>", "");
    std::fs::write(folder.join("t.xml"), template).unwrap();
    run(
        folder,
        "xmlsec1",
        "--sign --output s.xml --privkey-pem key.pem,cert.pem t.xml",
    )
    .unwrap();
    let theirs = String::from_utf8(read(folder, "s.xml")).unwrap();
    let value = |text: &str| {
        between(text, "<SignatureValue>", "</SignatureValue>")
            .split_whitespace()
            .collect::<String>()
    };
    assert_eq!(value(&theirs), value(&ours));
    assert_eq!(entry(&theirs).metadata(), entry(&ours).metadata());
}

/// The expected texts are what Java 17 says of the same certificates (`getSubjectX500Principal().getName("RFC2253")`).
#[test]
fn names_are_written_as_java_writes_them() {
    if !has("openssl") {
        return;
    }
    let folder = rsa();
    for (subject, text) in [
        (
            "/C=EU/O=A, \"C\" ; = #x/OU= lead trail /CN=#Ünï, é/emailAddress=a@b.c/serialNumber=12/DC=x/UID=u1/street=s/L=l/ST=st",
            r#"ST=st,L=l,STREET=s,UID=u1,DC=x,2.5.4.5=#13023132,1.2.840.113549.1.9.1=#16056140622e63,CN=\#Ünï\, é,OU=\ lead trail\ ,O=A\, \"C\" \; \= \#x,C=EU"#,
        ),
        (
            r#"/DC=org/DC=x/CN=a\=b;c, d\+e <f>"g"/UID=z/C=FR/OU= /O=\ x  /GN=g/serialNumber=1/title=t"#,
            r#"2.5.4.12=#0c0174,2.5.4.5=#130131,2.5.4.42=#0c0167,O=\ x\ \ ,OU=\ ,C=FR,UID=z,CN=a\=b\;c\, d\+e \<f\>\"g\",DC=x,DC=org"#,
        ),
        ("/C=EU/CN=a+OU=b/title=T", "2.5.4.12=#0c0154,CN=a+OU=b,C=EU"),
    ] {
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-key",
                "key.pem",
                "-out",
                "named.pem",
                "-days",
                "20000",
            ])
            .args(["-utf8", "-multivalue-rdn", "-subj", subject])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{subject}: {output:?}");
        let key =
            SigningKey::from_pem(&pem(folder.path(), &["named.pem", "key.pem"]), None).unwrap();
        assert_eq!(key.certificate().subject(), text);
    }
}

#[test]
fn every_kind_of_key_signs() {
    for algorithm in ALGORITHMS {
        let key = endorser_with("Somebody", Some("x@example.org"), algorithm);
        let entry = entry(&signed_by(&key));
        assert_eq!(entry.certificate(), key.certificate());
        assert!(!entry.uses_sha1());
    }
}

#[test]
fn signing_changes_nothing_else() {
    let key = endorser("Somebody", Some("x@example.org"));
    let once = signed_by(&key);
    let unsigned = once.replacen(between(&once, "<Signature xmlns", "</Signature>"), "", 1);
    let endorsement = between(&unsigned, "<slreq:endorsement", "</slreq:endorsement>");
    assert_eq!(
        unsigned.replacen(
            endorsement,
            "<slreq:endorsement rdf:parseType=\"Resource\"/>",
            1
        ),
        DRAFT
    );
    // Again, and over somebody else's: only endorsement and signature are others.
    let key = endorser_with("Somebody", Some("x@example.org"), ALGORITHMS[2]);
    assert_eq!(
        endorsed(
            signed_by(&key).as_bytes(),
            &key,
            Hash::Sha256,
            None,
            at(NOW)
        )
        .unwrap(),
        signed_by(&key)
    );
    let again = endorsed(
        SIGNED.as_bytes(),
        &key,
        Hash::Sha256,
        None,
        at("2030-02-01T00:00:00Z"),
    )
    .unwrap();
    let (mut before, mut after) = (
        Metadata::parse(SIGNED.as_bytes()).unwrap(),
        entry(&again).metadata().clone(),
    );
    assert_eq!(after.endorsement.take().unwrap().email, "x@example.org");
    before.endorsement = None;
    assert_eq!(after, before);
}

#[test]
fn who_has_no_address_can_not_endorse() {
    let key = endorser("Somebody", None);
    let with = |email| endorsed(DRAFT.as_bytes(), &key, Hash::Sha256, email, at(NOW)).unwrap_err();
    assert_eq!(with(None), Error::NoEmail);
    assert_eq!(with(Some("me")), Error::InvalidEmail("me".to_owned()));
    let expired = endorsed(
        DRAFT.as_bytes(),
        &key,
        Hash::Sha256,
        Some("a@b"),
        at("1970-01-01T00:00:00Z"),
    );
    assert!(matches!(expired, Err(Error::CertificateTime { .. })));
}

#[test]
fn images_are_deprecated_and_located() {
    let key = endorser("Somebody", Some("x@example.org"));
    let draft = draft::deprecated(SIGNED.as_bytes(), "old & <slow>").unwrap();
    let text = endorsed(draft.as_bytes(), &key, Hash::Sha256, None, at(NOW)).unwrap();
    assert_eq!(
        entry(&text).metadata().deprecated.as_deref(),
        Some("old & <slow>")
    );
    let again = Metadata::parse(
        draft::deprecated(text.as_bytes(), "other")
            .unwrap()
            .as_bytes(),
    )
    .unwrap();
    assert_eq!(again.deprecated.as_deref(), Some("other"));
    assert_eq!(again.endorsement, None);
    // In the order of the schema, also from what the old client made.
    let position = |text: &str, what: &str| text.find(what).unwrap();
    assert!(position(&text, "<slreq:endorsement") < position(&text, "<dcterms:type>"));

    let located =
        draft::located(DRAFT.as_bytes(), "https://x.example.org/a?b&c", Some("bz2")).unwrap();
    let located = Metadata::parse(located.as_bytes()).unwrap();
    assert_eq!(
        located.locations.last().map(String::as_str),
        Some("https://x.example.org/a?b&c")
    );
    assert_eq!(located.compression.as_deref(), Some("bz2"));
    assert_eq!(located.locations.len(), 2);
}

#[test]
fn signed_documents_keep_their_place_in_a_list() {
    let (one, two) = (signed_by(&endorser("A", None)), SIGNED);
    let bare = |text: &str| text.split_once("?>").unwrap().1.to_owned();
    let list = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata>\n{}\n{}</metadata>",
        bare(&one),
        bare(two)
    );
    let documents = marketplace::list::documents(list.as_bytes()).unwrap();
    let entries: Vec<_> = documents
        .into_iter()
        .map(|document| Entry::verify(document).unwrap())
        .collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].endorsement().email, "alice@example.org");
}

#[test]
fn other_prefixes_get_endorsements_too() {
    let text = DRAFT
        .replace("slreq:", "")
        .replace("xmlns:slreq=", "xmlns:unused=")
        .replace(
            "<bytes>",
            "<bytes xmlns=\"http://mp.stratuslab.eu/slreq#\">",
        )
        .replace(
            "<checksum ",
            "<checksum xmlns=\"http://mp.stratuslab.eu/slreq#\" ",
        )
        .replace(
            "<endorsement ",
            "<endorsement xmlns=\"http://mp.stratuslab.eu/slreq#\" ",
        )
        .replace("xmlns:unused=\"http://mp.stratuslab.eu/slreq#\" ", "");
    let key = endorser("A", Some("a@b"));
    let text = endorsed(text.as_bytes(), &key, Hash::Sha256, None, at(NOW)).unwrap();
    assert_eq!(entry(&text).endorsement().email, "a@b");
}
