//! Catalogues that exist today: indexes as Ubuntu and Debian publish them, signed by a real `gpg`, are browsed, and what is in them
//! starts by its name, fetched when it is needed first.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use sha2::{Digest, Sha256, Sha512};
use testkit::{Appliance, FileServer, Need, Options, TestCloud, skip_unless};

/// The image, where each of the catalogues says that it is.
const IMAGES: [&str; 2] = ["/releases/20300110/tiny.img", "/debian/tiny-amd64.qcow2"];

/// Signs what is in the folder `$1`, by a key of its own.
const SIGN: &str = r#"set -eu
cd "$1"
export GNUPGHOME="$1/gnupg"
mkdir -m 700 gnupg
trap 'gpgconf --kill all' EXIT
by_key() { gpg --batch --quiet --no-tty --pinentry-mode loopback --passphrase '' "$@"; }
by_key --quick-generate-key 'Index <index@example.org>' ed25519 sign 1d
by_key --output keys --export
by_key --output index.sjson --clear-sign index.json
by_key --output products.sjson --clear-sign products.json
by_key --output SHA512SUMS.sign --detach-sign SHA512SUMS
"#;

fn sum<D: Digest>(content: &[u8]) -> String {
    D::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes and signs the indexes of both kinds, of one image.
fn published(folder: &Path, image: &Path) {
    let content = fs::read(image).unwrap();
    let index = serde_json::json!({"format": "index:1.0", "index": {"com.example:download": {
        "datatype": "image-downloads", "format": "products:1.0", "path": "streams/v1/products.sjson",
    }}});
    let disk = serde_json::json!({
        "ftype": "disk1.img", "path": "20300110/tiny.img", "size": content.len(), "sha256": sum::<Sha256>(&content),
    });
    let products = serde_json::json!({
        "format": "products:1.0", "datatype": "image-downloads",
        "products": {"com.example:24.04:amd64": {
            "aliases": "24.04,noble", "arch": "amd64", "os": "example", "release_title": "24.04 LTS",
            "versions": {"20300110": {"items": {"disk1.img": disk}}},
        }},
    });
    for (name, text) in [
        ("index.json", index.to_string()),
        ("products.json", products.to_string()),
        (
            "SHA512SUMS",
            format!("{}  tiny-amd64.qcow2\n", sum::<Sha512>(&content)),
        ),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let signed = Command::new("sh")
        .args(["-c", SIGN, "sh"])
        .arg(folder)
        .output();
    assert!(signed.as_ref().unwrap().status.success(), "{signed:?}");
}

#[test]
fn what_catalogues_have_is_browsed_and_starts_by_its_name() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Ssh,
        Need::Program("setpriv"),
        Need::Program("gpg"),
        Need::Program("gpgv"),
    ]) {
        return;
    }
    let (site, work) = (FileServer::serve(), tempfile::tempdir().unwrap());
    let disk = Appliance::tiny().disk;
    published(work.path(), &disk);
    for (path, name) in [
        ("/releases/streams/v1/index.sjson", "index.sjson"),
        ("/releases/streams/v1/products.sjson", "products.sjson"),
        ("/debian/SHA512SUMS", "SHA512SUMS"),
        ("/debian/SHA512SUMS.sign", "SHA512SUMS.sign"),
    ] {
        site.put(path, &work.path().join(name));
    }
    for path in IMAGES {
        site.put(path, &disk);
    }
    // The daemon is another user.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tables = [("ubuntu", "simplestreams", "releases"), ("debian", "checksums", "debian")].map(|(name, kind, folder)| {
        let (url, keys) = (site.url(), work.path().join("keys"));
        let keys = keys.display();
        format!("[[catalogue]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{url}/{folder}/\"\nkeyring = \"{keys}\"\n")
    });
    let cloud = TestCloud::start_user_mode_with(&Options {
        tables: tables.concat(),
        ..Options::default()
    });

    let places = cloud.cli(&["image", "catalogue"]);
    for place in ["ubuntu", "simplestreams", "debian", "checksums"] {
        assert!(places.contains(place), "{places}");
    }
    let products = cloud.cli(&["image", "catalogue", "ubuntu"]);
    for part in [
        "com.example:24.04:amd64",
        "24.04 noble",
        "20300110",
        "24.04 LTS",
    ] {
        assert!(products.contains(part), "{part} in {products}");
    }
    let found = cloud.cli_json(&["image", "search", "noble"]);
    assert_eq!(found[0]["source"], "ubuntu", "{found}");
    let found = cloud.cli(&["image", "search", "tiny"]);
    assert!(found.contains("debian:tiny-amd64"), "{found}");
    assert_eq!(
        IMAGES.map(|path| site.asked(path)),
        [0, 0],
        "they were looked at only"
    );

    // A machine waits for the image that it is the first to need.
    let machines = ["ubuntu:noble", "debian:tiny-amd64"].map(|name| {
        let started = cloud.cli_json(&["run-instance", "--ram", "96", "--swap", "0", name]);
        cloud.machine_by_number(started[0]["id"].as_u64().unwrap())
    });
    for machine in &machines {
        machine.wait_for_ssh();
        assert_eq!(machine.ssh("echo inside"), "inside");
        machine.kill();
    }
    // Whoever comes later has it, by another of its names too.
    let fetch = ["image", "fetch", "--timeout", "60", "ubuntu:24.04@20300110"];
    cloud.cli(&fetch);
    for path in IMAGES {
        assert_eq!(site.asked(path), 1, "{path}");
    }
    let refused = cloud.try_cli(&["run-instance", "ubuntu:26.04"]);
    let told = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && told.contains("26.04"),
        "{refused:?}"
    );
    cloud.assert_clean();
}
