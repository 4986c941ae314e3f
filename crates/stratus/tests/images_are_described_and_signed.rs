//! From an image to its signed description: files, output and statuses of the contract.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Ended, ended, program};
use marketplace::{Entry, Metadata, UtcTime};

pub(crate) const ZEROS_ID: &str = "Dtx9D_zD0sVtc2F3Z6V68foTrWj";
pub(crate) const DRAFT: &str = include_str!("../../marketplace/tests/data/draft.xml");
pub(crate) const SIGNED: &str = include_str!("../../marketplace/tests/data/signed.xml");

/// The program in a home folder; the words are separated by blanks.
pub(crate) fn run(home: &Path, words: &str) -> Ended {
    let mut command = program(home);
    command.args(words.split_whitespace());
    ended(command)
}

/// `me.pem` in a folder: a key and a certificate for an address.
pub(crate) fn write_key(home: &Path, email: Option<&str>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new([]).unwrap();
    let name = email.map(|email| rcgen::SanType::Rfc822Name(email.try_into().unwrap()));
    parameters.subject_alt_names.extend(name);
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(
        home.join("me.pem"),
        format!("{}{}", certificate.pem(), key.serialize_pem()),
    )
    .unwrap();
}

pub(crate) fn read(home: &Path, name: &str) -> String {
    std::fs::read_to_string(home.join(name)).unwrap()
}

/// What has to be said of an image besides its system.
const SAID: &str = "--os-version 1 --os-arch x86_64 --image-version 1";

#[test]
fn an_image_is_not_described_without_what_it_is_found_by() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    std::fs::write(home.join("zero.img"), vec![0; 1 << 10]).unwrap();
    for (words, missing) in [
        (
            "",
            &["--os NAME", "--os-version", "--os-arch", "--image-version"][..],
        ),
        (
            "--os a --os-arch x86_64 --image-version 1",
            &["--os-version"],
        ),
        // Data has no version of a system.
        ("--os none", &["--image-version"]),
    ] {
        let result = run(home, &format!("build-metadata {words} zero.img"));
        assert_eq!(result.status, 2, "{result:?}");
        let told = result.stderr.split("what the image is: ").nth(1).unwrap();
        for option in ["--os NAME", "--os-version", "--os-arch", "--image-version"] {
            let is_missing = missing.contains(&option);
            assert_eq!(told.contains(option), is_missing, "{option}: {result:?}");
        }
    }
    let files = std::fs::read_dir(home).unwrap().flatten();
    assert_eq!(files.count(), 1, "nothing is written");
    let said = run(
        home,
        "build-metadata -q --os none --image-version 1 zero.img",
    );
    assert_eq!(said.status, 0, "{said:?}");
    assert!(home.join("data-base-1.xml").exists());
}

#[test]
fn images_are_described() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let zeros = vec![0; 1 << 20];
    std::fs::write(home.join("zero.img"), &zeros).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&zeros).unwrap();
    std::fs::write(home.join("zero.img.gz"), gz.finish().unwrap()).unwrap();
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(&zeros).unwrap();
    std::fs::write(home.join("zero.bz2"), bz2.finish().unwrap()).unwrap();

    let mut command = program(home);
    command
        .arg("build-metadata")
        .args([
            "--os",
            "zerolinux",
            "--os-version",
            "1.0",
            "--os-arch=x86_64",
            "--image-version",
            "2.1",
            "--author",
            "Alice Endorser",
        ])
        .args([
            "--location",
            "https://images.example.org/zerolinux-1.0-x86_64-base-2.1.img.gz",
            "--title",
            "zerolinux-test",
            "--tag",
            "zerolinux",
        ])
        .args([
            "--comment",
            "One mebibyte of zero bytes, used as a test vector.",
            "--disks-bus",
            "virtio",
            "zero.img.gz",
        ]);
    let before = UtcTime::from_timestamp(jiff::Timestamp::now());
    assert_eq!(
        ended(command).success(),
        "Manifest: zerolinux-1.0-x86_64-base-2.1.xml\n"
    );
    let text = read(home, "zerolinux-1.0-x86_64-base-2.1.xml");
    let metadata = Metadata::parse(text.as_bytes()).unwrap();
    let created: UtcTime = metadata.created.as_deref().unwrap().parse().unwrap();
    assert!(created >= before);
    assert_eq!(
        metadata.valid.unwrap().unix_seconds() - created.unix_seconds(),
        15_379_200
    );
    // But for times, port and publisher it is the document of the reference.
    let same = text
        .replace(&created.to_string(), "2030-01-15T08:00:00Z")
        .replace(&metadata.valid.unwrap().to_string(), "2030-07-12T08:00:00Z")
        .replace("StratusLab<", "Example Org<");
    assert_eq!(
        same,
        DRAFT.replace("    <slterms:inbound-port>22</slterms:inbound-port>\n", "")
    );

    // Sums that are known already, of another content.
    let known = |byte: u8| {
        let hex = |bytes: usize| format!("{byte:02x}").repeat(bytes);
        let (md5, sha256, sha512) = (hex(16), hex(32), hex(64));
        format!("--md5 {md5} --sha256 {sha256} --sha512 {sha512}")
    };
    // The contents count, however they are packed; what is left out is left out.
    for (words, name) in [
        ("--os a zero.img", "a-1-x86_64-base-1.xml"),
        (
            "--os b --no-md5 --no-sha256 --no-sha512 zero.bz2",
            "b-1-x86_64-base-1.xml",
        ),
        (
            "--os c --compression none zero.img.gz",
            "c-1-x86_64-base-1.xml",
        ),
        (
            "--os d --type grid --kind disk --format qcow2 --sha1 a9993e364706816aba3e25717850c26c9cd0d89d zero.img",
            "d-1-x86_64-grid-1.xml",
        ),
        (
            &format!("--os e {} --hypervisor xen zero.img", known(7)),
            "e-1-x86_64-base-1.xml",
        ),
    ] {
        let said = run(home, &format!("build-metadata {SAID} -v {words}")).success();
        assert!(
            said.contains("  [WARNING] ") && said.ends_with(&format!("Manifest: {name}\n")),
            "{said}"
        );
    }
    let of = |name: &str| Metadata::parse(read(home, name).as_bytes()).unwrap();
    let checksums = |name: &str| {
        let all = of(name).checksums;
        (
            all.md5.is_some(),
            all.sha256.is_some(),
            all.sha512.is_some(),
        )
    };
    assert_eq!(
        (
            of("a-1-x86_64-base-1.xml").identifier.to_string().as_str(),
            checksums("a-1-x86_64-base-1.xml")
        ),
        (ZEROS_ID, (true, true, true))
    );
    assert_eq!(
        (
            of("b-1-x86_64-base-1.xml").identifier.to_string().as_str(),
            checksums("b-1-x86_64-base-1.xml")
        ),
        (ZEROS_ID, (false, false, false))
    );
    assert_ne!(of("c-1-x86_64-base-1.xml").identifier.to_string(), ZEROS_ID);
    assert_eq!(
        of("d-1-x86_64-grid-1.xml").identifier.to_string(),
        "KmZPjZHBoFquj4lcXhQwmyc0Nid"
    );
    let disk = of("d-1-x86_64-grid-1.xml");
    assert_eq!(
        (disk.format.as_deref(), disk.kind.as_deref()),
        (Some("qcow2"), Some("disk"))
    );
    assert_eq!(disk.hypervisor.as_deref(), Some("kvm"));
    let stated = of("e-1-x86_64-base-1.xml");
    assert_eq!(stated.hypervisor.as_deref(), Some("xen"));
    assert_eq!(stated.kind.as_deref(), Some("machine"));
    // What is stated is taken, and what isn't is computed.
    assert_eq!(stated.identifier.to_string(), ZEROS_ID);
    let sums = &stated.checksums;
    assert_eq!(
        format!(
            "--md5 {} --sha256 {} --sha512 {}",
            sums.md5.unwrap(),
            sums.sha256.unwrap(),
            sums.sha512.unwrap()
        ),
        known(7)
    );

    for (words, message) in [
        ("", "Please specify an image"),
        ("nothing.img", "Image does not exist: nothing.img"),
        (
            "--disks-bus sata zero.img",
            "Unknown disks bus type sata. Available types: ide, scsi, virtio",
        ),
        (
            "--sha256 12 zero.img",
            "`12` is not a checksum of 64 hexadecimal digits",
        ),
        (
            "--os ../../x zero.img",
            "'../../x-1-x86_64-base-1.xml' can't be the name of a file",
        ),
    ] {
        let result = run(home, &format!("build-metadata --os a {SAID} {words}"));
        assert_eq!(result.status, 2, "{result:?}");
        assert!(
            result
                .stderr
                .contains(&format!("\n\nstratus build-metadata: error: {message}")),
            "{result:?}"
        );
    }
    let result = run(
        home,
        &format!("build-metadata --os a {SAID} --compression xz zero.img"),
    );
    assert_eq!(
        (
            result.status,
            result
                .stdout
                .contains("'zero.img' can't be decompressed as xz")
        ),
        (255, true),
        "{result:?}"
    );
}

#[test]
fn what_an_image_is_counts_and_not_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let mut disk = vec![0; 1 << 20];
    disk[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    std::fs::write(home.join("disk.img"), &disk).unwrap();
    std::fs::write(
        home.join("disk.zst"),
        zstd::encode_all(&disk[..], 1).unwrap(),
    )
    .unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&disk).unwrap();
    // Nothing in the name tells what it is.
    std::fs::write(home.join("disk"), xz.finish().unwrap()).unwrap();
    std::fs::write(home.join("disk.vmdk"), b"KDMV and so on").unwrap();
    std::fs::write(home.join("fake.gz"), b"not gzip").unwrap();
    let build = |words: &str| {
        run(
            home,
            &format!("build-metadata --os a {SAID} --location http://h/x {words}"),
        )
    };
    let of = |name: &str| Metadata::parse(read(home, name).as_bytes()).unwrap();
    let mut identifiers = Vec::new();
    for (words, os, compression, format, warned) in [
        ("disk.img", "a", None, "qcow2", ""),
        (
            "disk.zst",
            "b",
            Some("zstd"),
            "qcow2",
            "those of Stratus open zstd too",
        ),
        (
            "disk",
            "c",
            Some("xz"),
            "qcow2",
            "those of Stratus open xz too",
        ),
        (
            "--format raw disk.img",
            "d",
            None,
            "raw",
            "said to be raw (--format), but begins like qcow2",
        ),
        (
            "disk.vmdk",
            "e",
            None,
            "vmdk",
            "those of Stratus convert vmdk",
        ),
    ] {
        let said = build(&format!("--os {os} {words}"));
        assert_eq!(said.status, 0, "{said:?}");
        // Warnings are part of the output (the contract), as is the name of the file.
        let is_warned = said.stdout.lines().count() > 1;
        assert_eq!(is_warned, !warned.is_empty(), "{said:?}");
        assert!(said.stdout.contains(warned), "{said:?}");
        let described = of(&format!("{os}-1-x86_64-base-1.xml"));
        assert_eq!(described.compression.as_deref(), compression, "{words}");
        assert_eq!(described.format.as_deref(), Some(format), "{words}");
        identifiers.push(described.identifier);
    }
    assert!(identifiers[..4].iter().all(|it| *it == identifiers[0]));

    for (words, status, message) in [
        (
            "fake.gz",
            255,
            "'fake.gz' is not compressed as its name says",
        ),
        ("--format vhdx disk.img", 2, "Unknown format vhdx"),
        ("--compression zip disk.img", 2, "Unknown compression zip"),
        (
            "--location images/x disk.img",
            2,
            "'images/x' is no location",
        ),
        ("--location file:///x disk.img", 2, "not by file"),
        ("--location pdisk:h:1 disk.img", 2, "pdisk:HOST:PORT:UUID"),
    ] {
        let result = build(words);
        let told = format!("{}{}", result.stdout, result.stderr);
        assert_eq!(result.status, status, "{result:?}");
        assert!(told.contains(message), "{result:?}");
    }
    let disk = "pdisk:cloud.example.org:8445:0190a1c4-0000-7000-8000-000000000001";
    assert_eq!(
        build(&format!("--os f --location {disk} disk.img")).status,
        0
    );
    assert_eq!(of("f-1-x86_64-base-1.xml").locations, ["http://h/x", disk]);

    // A draft is made anew; what is signed is not lost by a slip.
    assert_eq!(build("--os a --title other disk.img").status, 0);
    assert_eq!(of("a-1-x86_64-base-1.xml").title.as_deref(), Some("other"));
    write_key(home, Some("me@example.org"));
    run(
        home,
        "sign-metadata --pem-cert me.pem a-1-x86_64-base-1.xml",
    )
    .success();
    let signed = read(home, "a-1-x86_64-base-1.xml");
    let result = build("--os a disk.img");
    assert_eq!(result.status, 1, "{result:?}");
    assert!(
        result
            .stderr
            .contains("'a-1-x86_64-base-1.xml' is a signed description and stays")
    );
    assert_eq!(read(home, "a-1-x86_64-base-1.xml"), signed);
    assert_eq!(build("--os a --force disk.img").status, 0);
    assert_ne!(read(home, "a-1-x86_64-base-1.xml"), signed);
}

#[test]
fn descriptions_are_signed_and_validated() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    write_key(home, Some("me@example.org"));
    std::fs::write(home.join("x.xml"), DRAFT).unwrap();
    assert_eq!(
        run(home, "sign-metadata --pem-cert me.pem x.xml").success(),
        ""
    );
    assert_eq!(read(home, "x.xml.orig"), DRAFT);
    let entry = Entry::verify(read(home, "x.xml").as_bytes()).unwrap();
    assert_eq!(entry.endorsement().email, "me@example.org");
    assert_eq!(
        run(
            home,
            "sign-metadata -v --pem-cert me.pem --output y.xml x.xml.orig"
        )
        .success()
        .lines()
        .last(),
        Some("Metadata file successfully signed: y.xml")
    );
    assert_eq!(read(home, "x.xml.orig"), DRAFT);
    assert!(!home.join("x.xml.orig.orig").exists());
    let files = std::fs::read_dir(home).unwrap().flatten();
    assert!(
        files
            .into_iter()
            .all(|file| !file.file_name().to_string_lossy().ends_with(".part"))
    );

    std::fs::write(home.join("reference.xml"), SIGNED).unwrap();
    std::fs::write(
        home.join("altered.xml"),
        SIGNED.replace("https://images", "https://imagez"),
    )
    .unwrap();
    assert_eq!(
        run(home, "validate-metadata x.xml y.xml reference.xml").success(),
        "Valid: x.xml\nValid: y.xml\nValid: reference.xml\n"
    );
    let result = run(
        home,
        "validate-metadata altered.xml x.xml x.xml.orig nothing.xml",
    );
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (3, "Valid: x.xml\n")
    );
    assert!(
        result.stderr.starts_with(
            "Invalid: altered.xml\nsignature validation: truecontent (ref='') validity: false\nInvalid: x.xml.orig\nno signature\nCannot read nothing.xml\n"
        ),
        "{result:?}"
    );
    let result = run(home, "validate-metadata");
    assert!(
        result.status == 2 && result.stderr.contains("error: Missing manifest file"),
        "{result:?}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&run(home, "validate-metadata --format json reference.xml").success())
            .unwrap();
    assert_eq!(json[0]["email"], "alice@example.org");

    for (words, message) in [
        ("", "Missing metadata file"),
        (
            "nothing.xml",
            "Metadata file doesn't exist or is not a file",
        ),
    ] {
        let result = run(home, &format!("sign-metadata {words}"));
        assert!(
            result.status == 2 && result.stderr.ends_with(&format!("error: {message}\n")),
            "{result:?}"
        );
    }
    std::fs::write(
        home.join("bad.xml"),
        DRAFT.replace("<dcterms:type>base</dcterms:type>", ""),
    )
    .unwrap();
    write_key(home, None);
    for (words, message) in [
        (
            "--pem-cert me.pem --email a@b bad.xml",
            "description must have exactly 1 dcterms:type element",
        ),
        (
            "--pem-cert me.pem x.xml",
            "cannot generate slreq:endorsement; email address not in cert or not provided",
        ),
        (
            "--pem-cert me.pem --email me x.xml",
            "invalid email address: me",
        ),
        (
            "--p12-cert nothing.p12 x.xml",
            "certificate file not found: nothing.p12",
        ),
        ("x.xml", "certificate file not found: "),
    ] {
        let before = read(home, "x.xml");
        let result = run(home, &format!("sign-metadata {words}"));
        assert_eq!(
            (result.status, result.stdout.as_str()),
            (1, ""),
            "{result:?}"
        );
        assert!(
            result.stderr.starts_with(message)
                && result
                    .stderr
                    .ends_with("  [ERROR] Error signing metadata file\n"),
            "{result:?}"
        );
        assert_eq!(read(home, "x.xml"), before);
    }
}

#[test]
fn pkcs12_comes_from_where_the_contract_says() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let openssl = |words: &str| {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(home)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 20000 -subj /CN=Me -addext subjectAltName=email:me@example.org",
    );
    std::fs::create_dir(home.join(".globus")).unwrap();
    openssl(
        "pkcs12 -export -inkey key.pem -in cert.pem -out .globus/usercert.p12 -passout pass:s3cret",
    );
    let sign = |words: &str, password: Option<&str>| {
        std::fs::write(home.join("x.xml"), DRAFT).unwrap();
        let mut command = program(home);
        command
            .arg("sign-metadata")
            .args(words.split_whitespace())
            .arg("x.xml");
        if let Some(password) = password {
            command.env("STRATUSLAB_P12_PASSWORD", password);
        }
        ended(command)
    };
    sign("", Some("s3cret")).success();
    assert!(
        !Entry::verify(read(home, "x.xml").as_bytes())
            .unwrap()
            .uses_sha1()
    );
    sign("--p12-password s3cret --sha1-signature", None).success();
    assert!(
        Entry::verify(read(home, "x.xml").as_bytes())
            .unwrap()
            .uses_sha1()
    );
    let result = sign("", Some("other"));
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (
            1,
            "error loading certificate (wrong password?)\n  [ERROR] Error signing metadata file\n"
        )
    );
    // Without a terminal nobody can be asked: what is missing is named.
    openssl("pkcs8 -topk8 -in key.pem -out closed.pem -passout pass:s3cret");
    for (words, file) in [
        ("", "usercert.p12"),
        ("--pem-cert cert.pem --pem-key closed.pem", "closed.pem"),
    ] {
        let result = sign(words, None);
        let missing = format!(
            "{file} has a password, and none was given (--p12-password, STRATUSLAB_P12_PASSWORD"
        );
        assert!(
            result.status == 1 && result.stderr.contains(&missing),
            "{result:?}"
        );
    }
    sign("--pem-cert cert.pem --pem-key closed.pem", Some("s3cret")).success();
    // Where the environment says.
    std::fs::rename(
        home.join(".globus/usercert.p12"),
        home.join("elsewhere.p12"),
    )
    .unwrap();
    std::fs::write(home.join("x.xml"), DRAFT).unwrap();
    let mut command = program(home);
    command
        .env("STRATUSLAB_P12_CERTIFICATE", home.join("elsewhere.p12"))
        .env("STRATUSLAB_P12_PASSWORD", "s3cret")
        .args(["sign-metadata", "x.xml"]);
    ended(command).success();
    Entry::verify(read(home, "x.xml").as_bytes()).unwrap();
    openssl(
        "pkcs12 -export -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1 -inkey key.pem -in cert.pem -out old.p12 -passout pass:s3cret",
    );
    std::fs::create_dir(home.join(".stratuslab")).unwrap();
    std::fs::write(
        home.join(".stratuslab/stratuslab-user.cfg"),
        "[default]\np12_certificate = old.p12\np12_password = s3cret\n",
    )
    .unwrap();
    sign("", None).success();
}

#[test]
fn a_description_past_its_end_is_signed_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    write_key(home, Some("me@example.org"));
    let (end, past) = ("2030-07-12T08:00:00Z", "2020-07-12T08:00:00Z");
    assert!(DRAFT.contains(end));
    std::fs::write(home.join("old.xml"), DRAFT.replace(end, past)).unwrap();
    for words in [
        "sign-metadata --pem-cert me.pem old.xml",
        "validate-metadata old.xml",
    ] {
        let result = run(home, words);
        let warning = format!("old.xml is past its end (dcterms:valid {past})");
        assert!(
            result.status == 0 && result.stderr.contains(&warning),
            "{result:?}"
        );
    }
    std::fs::write(
        home.join("new.xml"),
        DRAFT.replace(end, "2999-01-01T00:00:00Z"),
    )
    .unwrap();
    for words in [
        "sign-metadata --pem-cert me.pem new.xml",
        "validate-metadata new.xml",
    ] {
        let result = run(home, words);
        assert!(
            result.status == 0 && !result.stderr.contains("past its end"),
            "{result:?}"
        );
    }
}
