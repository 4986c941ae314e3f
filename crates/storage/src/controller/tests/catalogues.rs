//! Catalogues: indexes signed by a real `gpg`, files that are held to them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cimi::resources::{Image, ImageSource, ImageState};
use sha2::{Digest as _, Sha256, Sha512};

use super::site::{Site, base, whole};
use super::world::{World, image, names};
use crate::import::{Fetcher, Reach};
use crate::registry::{
    Catalogue, CatalogueKind, CatalogueSettings, Keyring, LookupError, PolicySource, Registries,
    Web,
};

/// Somebody with a key of their own.
struct Signer {
    home: tempfile::TempDir,
}

impl Signer {
    fn new(name: &str, expires: &str) -> Option<Self> {
        for program in ["gpg", "gpgv"] {
            if Command::new(program).arg("--version").output().is_err() {
                eprintln!("skipped: no {program}");
                return None;
            }
        }
        let home = tempfile::tempdir().expect("a folder");
        let signer = Self { home };
        signer.gpg(&["--quick-generate-key", name, "ed25519", "sign", expires]);
        Some(signer)
    }

    fn gpg(&self, arguments: &[&str]) {
        let output = Command::new("gpg")
            .args([
                "--batch",
                "--no-tty",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
                "--homedir",
            ])
            .arg(self.home.path())
            .args(arguments)
            .output()
            .expect("gpg");
        assert!(output.status.success(), "{output:?}");
    }

    fn keys(&self, armour: bool) -> PathBuf {
        let path = self
            .home
            .path()
            .join(if armour { "keys.asc" } else { "keys.gpg" });
        let shown = path.display().to_string();
        let mut arguments = vec!["--yes", "--output", &shown, "--export"];
        if armour {
            arguments.insert(0, "--armor");
        }
        self.gpg(&arguments);
        path
    }

    /// The text in a clear-signed message.
    fn clear(&self, text: &[u8]) -> Vec<u8> {
        self.made(text, &["--clear-sign"])
    }

    fn detached(&self, text: &[u8]) -> Vec<u8> {
        self.made(text, &["--detach-sign"])
    }

    fn made(&self, text: &[u8], how: &[&str]) -> Vec<u8> {
        let (from, to) = (
            self.home.path().join("text"),
            self.home.path().join("signed"),
        );
        std::fs::write(&from, text).expect("written");
        let (from, shown) = (from.display().to_string(), to.display().to_string());
        let mut arguments = vec!["--yes", "--output", &shown];
        arguments.extend(how);
        arguments.push(&from);
        self.gpg(&arguments);
        std::fs::read(to).expect("signed")
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // The agent that gpg started for this home ends.
        let _ = Command::new("gpgconf")
            .args(["--kill", "all"])
            .env("GNUPGHOME", self.home.path())
            .output();
    }
}

fn gpgv() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("gpgv"))
        .find(|file| file.is_file())
        .expect("gpgv")
}

fn catalogue(address: &str, kind: CatalogueKind, keys: &Path) -> Catalogue {
    remembering(address, kind, keys, None)
}

fn remembering(
    address: &str,
    kind: CatalogueKind,
    keys: &Path,
    remembered: Option<PathBuf>,
) -> Catalogue {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = CatalogueSettings {
        name: "cat".to_owned(),
        url: address.to_owned(),
        kind,
        architecture: "amd64".to_owned(),
        refresh: Duration::ZERO,
        remembered,
    };
    let reach = Reach {
        allowed: vec!["127.0.0.0/8".parse().expect("a block")],
        ..Reach::default()
    };
    let fetcher = Fetcher::new(reqwest::Client::builder(), reach).expect("fetcher");
    let keyring = Keyring::read(keys, &gpgv()).expect("keys");
    let web = Web::new(None).expect("a client");
    Catalogue::new(settings, web, fetcher, Some(keyring)).expect("a catalogue")
}

fn index() -> Vec<u8> {
    br#"{"format":"index:1.0","index":{"com.example:download":{"datatype":"image-downloads","format":"products:1.0","path":"streams/v1/p.sjson"}}}"#.to_vec()
}

fn products(bytes: &[u8]) -> Vec<u8> {
    let sum = format!("{:x}", Sha256Hex(bytes));
    format!(
        r#"{{"format":"products:1.0","datatype":"image-downloads","products":{{"com.example:24.04:amd64":{{"aliases":"24.04,noble","arch":"amd64","os":"example","release_title":"24.04",
        "versions":{{"20300110":{{"items":{{"disk1.img":{{"ftype":"disk1.img","path":"images/disk1.img","size":{},"sha256":"{sum}"}}}}}}}}}}}}}}"#,
        bytes.len()
    )
    .into_bytes()
}

/// The SHA-256 of bytes, in hexadecimal.
struct Sha256Hex<'a>(&'a [u8]);

impl std::fmt::LowerHex for Sha256Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Sha256::digest(self.0)
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_catalogue(product: &str) -> Image {
    let source = ImageSource::Catalogue {
        catalogue: "cat".to_owned(),
        product: product.to_owned(),
        version: None,
    };
    image(source, "IMAGE")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_simplestreams_comes_as_its_signed_index_says() {
    let Some(signer) = Signer::new("Index <index@example.org>", "1d") else {
        return;
    };
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let bytes: Vec<u8> = (0..1_u32 << 16).flat_map(u32::to_le_bytes).collect();
    site.put(
        "/root/streams/v1/index.sjson",
        whole(signer.clear(&index())),
    );
    site.put(
        "/root/streams/v1/p.sjson",
        whole(signer.clear(&products(&bytes))),
    );
    site.put("/root/images/disk1.img", whole(bytes.clone()));
    let address = format!("{}/root", base(&server));
    let known = catalogue(&address, CatalogueKind::SimpleStreams, &signer.keys(true));
    let (product, version) = known.find("noble", None).await.expect("found");
    assert_eq!(
        (product.name.as_str(), version.version.as_str()),
        ("com.example:24.04:amd64", "20300110")
    );
    let mut settings = world.settings();
    settings.fetch_tries = 1;
    settings.registries = Registries::new(Vec::new(), vec![known.clone()], PolicySource::default());
    world.start_with(settings, None).await;
    let one = from_catalogue("24.04");
    world.create(&one).await;
    let read = world
        .until::<Image>(one.id.local(), |image| image.state == ImageState::Available)
        .await;
    assert_eq!(
        read.file.as_ref().expect("file").digests.bytes,
        Some(bytes.len() as u64)
    );
    assert_eq!(
        read.provenance.as_ref().expect("origin").version.as_deref(),
        Some("20300110")
    );
    world.delete_image(one.id.local()).await;
    world.until_gone::<Image>(one.id.local()).await;

    let mut altered = bytes.clone();
    altered[99] ^= 1;
    for (wrong, why) in [
        (altered, "SHA-256 of the file mismatch"),
        (
            bytes[..bytes.len() - 1].to_vec(),
            "size of the file in bytes mismatch",
        ),
        (
            [bytes.clone(), vec![0]].concat(),
            "size of the file in bytes mismatch",
        ),
    ] {
        site.put("/root/images/disk1.img", whole(wrong));
        let one = from_catalogue("24.04");
        world.create(&one).await;
        let read = world
            .until::<Image>(one.id.local(), |image| image.state == ImageState::Error)
            .await;
        let reason = read.reason.clone().unwrap_or_default();
        assert!(reason.contains(why), "{reason}");
    }
    let unknown = from_catalogue("26.04");
    world.create(&unknown).await;
    let read = world
        .until::<Image>(unknown.id.local(), |image| image.state == ImageState::Error)
        .await;
    assert!(
        read.reason
            .as_deref()
            .unwrap_or_default()
            .contains("no product `26.04`")
    );
    for folder in ["images", "incoming"] {
        assert_eq!(
            names(&world.storage_dir().join("cache/disks").join(folder)),
            Vec::<String>::new()
        );
    }
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_altered_or_signed_by_another_is_not_believed() {
    let (Some(signer), Some(other)) = (
        Signer::new("Index <index@example.org>", "1d"),
        Signer::new("Mallory <mallory@example.org>", "1d"),
    ) else {
        return;
    };
    let site = Site::default();
    let server = site.serve().await;
    let address = format!("{}/root", base(&server));
    let refused = async |expected: &str| {
        let known = catalogue(&address, CatalogueKind::SimpleStreams, &signer.keys(false));
        match known.products().await {
            Err(LookupError::Unavailable(text)) => {
                assert!(text.contains(expected), "`{expected}` in {text}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    };
    refused("does not exist").await;
    let good = signer.clear(&index());
    let altered = String::from_utf8(good.clone())
        .expect("text")
        .replace("com.example", "com.exampel");
    site.put("/root/streams/v1/index.sjson", whole(altered.into_bytes()));
    refused("it was altered").await;
    site.put("/root/streams/v1/index.sjson", whole(other.clear(&index())));
    refused("not in the keyring").await;
    site.put("/root/streams/v1/index.sjson", whole(index()));
    refused("no signature that counts").await;
    // What stands outside of the signed part is not read.
    site.put(
        "/root/streams/v1/index.sjson",
        whole([b"{}\n".to_vec(), good, b"{}".to_vec()].concat()),
    );
    refused("p.json does not exist").await;
    // The other form: a text beside its signature.
    site.remove("/root/streams/v1/index.sjson");
    site.put("/root/streams/v1/index.json", whole(index()));
    refused("index.json.gpg does not exist").await;
    site.put(
        "/root/streams/v1/index.json.gpg",
        whole(other.detached(&index())),
    );
    refused("not in the keyring").await;
    site.put(
        "/root/streams/v1/index.json.gpg",
        whole(signer.detached(b"{}")),
    );
    refused("it was altered").await;
    site.put(
        "/root/streams/v1/index.json.gpg",
        whole(signer.detached(&index())),
    );
    site.put("/root/streams/v1/p.json", whole(products(b"x")));
    site.put(
        "/root/streams/v1/p.json.gpg",
        whole(signer.detached(&products(b"x"))),
    );
    let known = catalogue(&address, CatalogueKind::SimpleStreams, &signer.keys(true));
    assert_eq!(known.products().await.expect("products").len(), 1);
}

/// Rightly signed, and yesterday's: whoever serves it hides what was mended since.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_older_than_the_one_seen_last_is_not_believed() {
    let Some(signer) = Signer::new("Index <index@example.org>", "1d") else {
        return;
    };
    let site = Site::default();
    let server = site.serve().await;
    let (keys, folder) = (signer.keys(false), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("catalogues/cat");
    let open = |kind| remembering(base(&server), kind, &keys, Some(file.clone()));
    let sums = format!("{}  a-amd64.qcow2\n", "ab".repeat(32)).into_bytes();
    let signed = || {
        let parts = [signer.clear(&index()), signer.clear(&products(b"x"))];
        (parts, signer.detached(&sums))
    };
    let seconds = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a time").as_secs()
    };
    let (old, old_sums) = signed();
    let signed_at = seconds();
    while seconds() <= signed_at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (new, new_sums) = signed();
    let serve = |[index, products]: [Vec<u8>; 2], signature: Vec<u8>| {
        site.put("/streams/v1/index.sjson", whole(index));
        site.put("/streams/v1/p.sjson", whole(products));
        site.put("/SHA256SUMS", whole(sums.clone()));
        site.put("/SHA256SUMS.sign", whole(signature));
    };
    for kind in [CatalogueKind::SimpleStreams, CatalogueKind::Checksums] {
        serve(old.clone(), old_sums.clone());
        open(kind).products().await.expect("the first is believed");
        serve(new.clone(), new_sums.clone());
        let known = open(kind);
        known.products().await.expect("a newer one, too");
        serve(old.clone(), old_sums.clone());
        // What is known goes on; after a restart nothing is.
        assert!(known.products().await.is_ok());
        let refused = open(kind).products().await.expect_err("an older one");
        assert!(
            refused.to_string().contains("older than the one seen last"),
            "{refused}"
        );
        serve(new.clone(), new_sums.clone());
        open(kind).products().await.expect("the newer one again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_of_an_expired_key_does_not_count() {
    // Two seconds: long enough to sign.
    let Some(signer) = Signer::new("Old <old@example.org>", "seconds=3") else {
        return;
    };
    let site = Site::default();
    let server = site.serve().await;
    site.put("/streams/v1/index.sjson", whole(signer.clear(&index())));
    let keys = signer.keys(false);
    let known = catalogue(base(&server), CatalogueKind::SimpleStreams, &keys);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let known = catalogue(base(&server), CatalogueKind::SimpleStreams, &keys);
        match known.products().await {
            Err(error) if error.to_string().contains("expired") => break,
            _ => assert!(
                std::time::Instant::now() < deadline,
                "the key never expires"
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(known.products().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_checksums_gives_images_that_are_checked_as_they_come() {
    let Some(signer) = Signer::new("Sums <sums@example.org>", "1d") else {
        return;
    };
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let disk: Vec<u8> = (0..1_u32 << 16).flat_map(u32::to_be_bytes).collect();
    let packed = zstd::encode_all(disk.as_slice(), 1).expect("packed");
    let sum: String = Sha512::digest(&packed)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let sums = format!("{sum}  tiny-amd64.img.zst\n").into_bytes();
    site.put("/SHA512SUMS", whole(sums.clone()));
    site.put("/SHA512SUMS.sign", whole(signer.detached(&sums)));
    site.put("/tiny-amd64.img.zst", whole(packed.clone()));
    let known = catalogue(base(&server), CatalogueKind::Checksums, &signer.keys(false));
    let mut settings = world.settings();
    settings.fetch_tries = 1;
    settings.registries = Registries::new(Vec::new(), vec![known.clone()], PolicySource::default());
    world.start_with(settings, None).await;
    let one = from_catalogue("tiny-amd64");
    world.create(&one).await;
    let read = world
        .until::<Image>(one.id.local(), |image| image.state == ImageState::Available)
        .await;
    assert_eq!(
        read.file.as_ref().expect("file").digests.bytes,
        Some(disk.len() as u64)
    );
    // Bytes behind the compressed stream are part of the file, too.
    world.delete_image(one.id.local()).await;
    world.until_gone::<Image>(one.id.local()).await;
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
    site.put(
        "/tiny-amd64.img.zst",
        whole([packed, skippable.to_vec()].concat()),
    );
    let one = from_catalogue("tiny-amd64");
    world.create(&one).await;
    let read = world
        .until::<Image>(one.id.local(), |image| image.state == ImageState::Error)
        .await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("SHA-512 of the file mismatch"), "{reason}");
    world.kill().await;
}
