//! An image to a cloud and its signed description to a Marketplace, by one command: what is said, sent, signed and refused.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::Read as _;
use std::path::Path;

use crate::images_are_described_and_signed::{read, run, write_key};
use crate::support::{Cloud, Ended, Reply, Seen, ended, program};
use marketplace::{Entry, Metadata};
use serde_json::json;

/// Some bytes that are worth compressing.
fn content() -> Vec<u8> {
    (0..1_u32 << 16)
        .flat_map(|n| (n / 9).to_le_bytes())
        .collect()
}

/// `disk.img` and the draft beside it, in a folder.
fn write_image(home: &Path, more: &str) -> Metadata {
    std::fs::write(home.join("disk.img"), content()).unwrap();
    let words = "--os x --os-version 1 --os-arch x86_64 --image-version 1.0 --author A";
    run(home, &format!("build-metadata {words} {more} disk.img")).success();
    std::fs::rename(home.join("x-1-x86_64-base-1.0.xml"), home.join("disk.xml")).unwrap();
    Metadata::parse(read(home, "disk.xml").as_bytes()).unwrap()
}

/// A cloud that has its Marketplace at the same address.
fn cloud(identifier: String) -> Cloud {
    let image = move |state: &str, name: &str| json!({ "id": "MachineImage/i", "name": name, "identifier": identifier, "state": state });
    let named = std::sync::Mutex::new(String::new());
    let kept = std::sync::Mutex::new(Vec::new());
    let cloud = Cloud::start(move |seen| {
        let mut named = named.lock().unwrap();
        match seen.line.as_str() {
            "POST /cimi/MachineImage" => {
                seen.json()["name"].as_str().unwrap().clone_into(&mut named);
                Reply::json(201, &image("CREATING", &named))
            }
            "PUT /cimi/MachineImage/i/data" | "GET /cimi/MachineImage/i" => {
                Reply::json(200, &image("AVAILABLE", &named))
            }
            "POST /metadata" => {
                (*kept.lock().unwrap()).clone_from(&seen.body);
                Reply(201, Vec::new(), b"metadata entry created".to_vec())
            }
            line if line.starts_with("GET /metadata/") => {
                let document = kept.lock().unwrap().clone();
                let path = Entry::verify(&document).unwrap().path();
                match line.ends_with(&path) {
                    true => Reply(200, Vec::new(), document),
                    false => Reply(404, Vec::new(), b"<error>not found</error>".to_vec()),
                }
            }
            _ => Reply::refusal(404, &seen.line),
        }
    });
    write_key(cloud.home.path(), Some("me@example.org"));
    cloud
}

fn upload(cloud: &Cloud, words: &str) -> Ended {
    let mut command = cloud.command();
    command
        .env("STRATUS_CA", cloud.home.path().join("ca.pem"))
        .env(
            "STRATUSLAB_MARKETPLACE_ENDPOINT",
            format!("https://localhost:{}", cloud.port),
        )
        .arg("upload-image")
        .args(words.split_whitespace())
        .arg("disk.img");
    ended(command)
}

fn last(cloud: &Cloud, line: &str) -> Seen {
    cloud
        .requests()
        .into_iter()
        .rfind(|seen| seen.line == line)
        .unwrap_or_else(|| panic!("no {line}"))
}

/// The entry that was published last.
fn published(cloud: &Cloud) -> Entry {
    Entry::verify(&last(cloud, "POST /metadata").body).unwrap()
}

#[test]
fn each_step_is_said_and_what_is_published_is_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let described = write_image(folder.path(), "");
    let cloud = cloud(described.identifier.to_string());
    let home = cloud.home.path();
    write_image(home, "");
    let draft = read(home, "disk.xml");
    let said = upload(&cloud, "--pem-cert me.pem --public --tag mine").success();
    let location = format!("https://localhost:{}/cimi/MachineImage/i/data", cloud.port);
    let mut rest = said.as_str();
    for step in [
        " :: Starting image upload ::",
        " :: Compressing image",
        " :: Uploading image",
        &format!(" :: Image uploaded: {location}\n"),
        " :: Image metadata updated: {\"tag\":\"mine\",\"visibility\":\"public\"}\n",
        " :: Starting manifest upload ::",
        " :: Parsing manifest",
        &format!("  [WARNING] {location} wants a login of this cloud"),
        " :: Updating manifest",
        " :: Signing manifest",
        " :: Uploading manifest",
        &format!(
            " :: Manifest uploaded: https://localhost:{}/metadata/{}/me@example.org/",
            cloud.port, described.identifier
        ),
    ] {
        let (_, after) = rest
            .split_once(step)
            .unwrap_or_else(|| panic!("`{step}` is missing or too early in {said}"));
        rest = after;
    }
    let asked = last(&cloud, "POST /cimi/MachineImage").json();
    assert_eq!(
        (&asked["name"], &asked["visibility"]),
        (&json!("mine"), &json!("PUBLIC"))
    );
    assert_eq!(
        asked["expected"]["identifier"],
        described.identifier.to_string()
    );
    let sent = last(&cloud, "PUT /cimi/MachineImage/i/data").body;
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&sent[..])
        .read_to_end(&mut plain)
        .unwrap();
    assert!(plain == content());
    let entry = published(&cloud);
    assert_eq!(entry.metadata().locations, [location]);
    let text = String::from_utf8_lossy(entry.document()).into_owned();
    assert!(
        text.contains("<dcterms:compression>none</dcterms:compression>")
            || !text.contains("dcterms:compression"),
        "{text}"
    );
    assert_eq!(entry.endorsement().email, "me@example.org");
    assert!(!entry.uses_sha1());
    assert_eq!(read(home, "disk.xml.orig"), draft);
    assert_eq!(read(home, "disk.xml").as_bytes(), entry.document());

    // Again, and nothing is new.
    let before = cloud.requests().len();
    let said = upload(&cloud, "--pem-cert me.pem --public --tag mine").success();
    assert!(
        said.contains("Manifest is published already, and has not changed: https://localhost:"),
        "{said}"
    );
    assert!(!said.contains("Signing manifest"), "{said}");
    let after = cloud.requests();
    assert!(
        after[before..]
            .iter()
            .all(|seen| seen.line != "POST /metadata"),
        "{after:?}"
    );
    assert_eq!(read(home, "disk.xml").as_bytes(), entry.document());
}

#[test]
fn it_is_packed_signed_and_named_as_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = "--location https://images.example.org/disk.img";
    let described = write_image(folder.path(), elsewhere);
    let cloud = cloud(described.identifier.to_string());
    let home = cloud.home.path();
    write_image(home, elsewhere);

    // Key and certificate in files of their own, without an address, and RSA, since only that signs as old Marketplaces want it.
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 20000 -subj /CN=Me".split(' '))
        .current_dir(home)
        .output();
    let Ok(made) = made else {
        println!("skipped: openssl is not installed");
        return;
    };
    assert!(made.status.success(), "{made:?}");
    let by_pem = "--pem-cert cert.pem --pem-key key.pem";
    let refused = upload(&cloud, &format!("-C bz2 {by_pem}"));
    assert!(
        refused.status == 255 && refused.stdout.contains("email address not in cert"),
        "{refused:?}"
    );
    assert!(cloud.requests().is_empty(), "nothing was sent");
    let words = format!("-C bz2 {by_pem} --email you@example.org --sha1-signature");
    let said = upload(&cloud, &words).success();
    // Others find it where it is said to be, too; and there is nothing to be told of it.
    assert!(!said.contains("[WARNING]"), "{said}");
    assert!(!said.contains("Image metadata updated"), "{said}");
    let asked = last(&cloud, "POST /cimi/MachineImage").json();
    assert_eq!(
        (&asked["name"], &asked["visibility"]),
        (&json!("disk"), &json!("PRIVATE"))
    );
    let sent = last(&cloud, "PUT /cimi/MachineImage/i/data").body;
    let mut plain = Vec::new();
    bzip2::read::BzDecoder::new(&sent[..])
        .read_to_end(&mut plain)
        .unwrap();
    assert!(plain == content() && home.join("disk.img.bz2").exists());
    let entry = published(&cloud);
    assert_eq!(entry.endorsement().email, "you@example.org");
    assert!(entry.uses_sha1());
    assert_eq!(
        entry.metadata().locations,
        [
            "https://images.example.org/disk.img".to_owned(),
            format!("https://localhost:{}/cimi/MachineImage/i/data", cloud.port)
        ]
    );

    // Only the image: no key, no description, no Marketplace.
    for name in ["disk.xml", "disk.xml.orig", "cert.pem", "key.pem", "me.pem"] {
        std::fs::remove_file(home.join(name)).unwrap();
    }
    let before = cloud.requests().len();
    let said = upload(&cloud, "--image-only --private -C none").success();
    assert!(
        said.contains(" :: Image uploaded: ") && !said.contains("manifest"),
        "{said}"
    );
    assert!(
        said.contains("Image metadata updated: {\"visibility\":\"private\"}"),
        "{said}"
    );
    assert!(last(&cloud, "PUT /cimi/MachineImage/i/data").body == content());
    let after = cloud.requests();
    assert!(
        after[before..]
            .iter()
            .all(|seen| seen.line != "POST /metadata")
    );
}

/// Where keys and Marketplaces are named besides on the command line.
#[test]
fn the_marketplace_and_the_key_are_those_of_environment_and_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let described = write_image(folder.path(), "");
    let cloud = cloud(described.identifier.to_string());
    let home = cloud.home.path();
    write_image(home, "");
    run(home, "sign-metadata --pem-cert me.pem disk.xml").success();
    std::fs::create_dir(home.join(".stratuslab")).unwrap();
    std::fs::write(
        home.join(".stratuslab/stratuslab-user.cfg"),
        format!(
            "[default]\nmarketplace_endpoint = https://localhost:{}\nca_file = {}\n",
            cloud.port,
            home.join("ca.pem").display()
        ),
    )
    .unwrap();
    let said = run(home, "upload-metadata disk.xml").success();
    let place = format!("https://localhost:{}/metadata/", cloud.port);
    assert!(said.starts_with(&place), "{said}");
    assert_eq!(
        published(&cloud).metadata().identifier,
        described.identifier
    );
    // What the environment says goes before it.
    let mut command = program(home);
    command
        .env("STRATUSLAB_MARKETPLACE_ENDPOINT", "https://localhost:1")
        .args(["upload-metadata", "disk.xml"]);
    let refused = ended(command);
    assert!(
        refused.status == 255 && refused.stderr.contains("https://localhost:1"),
        "{refused:?}"
    );
    // As for the key.
    let mut command = program(home);
    command
        .env("STRATUSLAB_P12_CERTIFICATE", "other.p12")
        .args(["sign-metadata", "disk.xml.orig"]);
    let refused = ended(command);
    assert!(
        refused.status == 1
            && refused
                .stderr
                .starts_with("certificate file not found: other.p12"),
        "{refused:?}"
    );
}

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "small"])
            .arg(at)
            .output();
        if mount.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        println!("skipped: cannot mount a tmpfs: {mount:?}");
        None
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[7; 4096]).is_ok() {}
    }

    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).unwrap();
        let name = |file: std::io::Result<std::fs::DirEntry>| file.unwrap().file_name();
        let mut names: Vec<_> = files
            .map(|file| name(file).into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_leaves_nothing_and_the_next_try_works() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(folder.path()) else {
        return;
    };
    let described = write_image(&small.0, "");
    let cloud = cloud(described.identifier.to_string());
    std::fs::copy(cloud.home.path().join("me.pem"), small.0.join("me.pem")).unwrap();
    small.fill();
    let (draft, files) = (read(&small.0, "disk.xml"), small.files());
    let upload = || {
        let mut command = cloud.command();
        command
            .current_dir(&small.0)
            .env("STRATUS_CA", cloud.home.path().join("ca.pem"))
            .env(
                "STRATUSLAB_MARKETPLACE_ENDPOINT",
                format!("https://localhost:{}", cloud.port),
            )
            .args(["upload-image", "--pem-cert", "me.pem", "disk.img"]);
        ended(command)
    };
    let build = "build-metadata --os y --os-version 1 --os-arch x86_64 --image-version 1 disk.img";
    let sign = "sign-metadata --pem-cert me.pem disk.xml";
    for failed in [run(&small.0, build), run(&small.0, sign), upload()] {
        let told = format!("{}{}", failed.stdout, failed.stderr);
        assert!(
            failed.status == 255 && told.contains("No space left"),
            "{failed:?}"
        );
        assert_eq!(small.files(), files, "{failed:?}");
        assert_eq!(read(&small.0, "disk.xml"), draft);
    }
    assert!(cloud.requests().is_empty(), "nothing was sent");
    std::fs::remove_file(small.0.join("filler")).unwrap();
    upload().success();
    assert_eq!(
        published(&cloud).metadata().identifier,
        described.identifier
    );
}
