//! An image goes to a cloud and its description to a Marketplace by one command, and is found again where that cloud looks.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use sha2::{Digest as _, Sha256};
use testkit::{Need, Options, TestCloud, TestEndorser, TestMarketplace, skip_unless, wait_until};

#[test]
fn an_image_is_uploaded_described_and_found() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Program("setpriv"),
        Need::Program("openssl"),
    ]) {
        return;
    }
    let market = TestMarketplace::start("confirm = false", "");
    let alice = TestEndorser::new("Alice", "alice@example.org");
    // The daemon of the cloud is somebody else, and must pass.
    let readable = tempfile::tempdir().unwrap();
    fs::set_permissions(readable.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let ca = readable.path().join("ca.pem");
    fs::copy(market.ca(), &ca).unwrap();
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o644)).unwrap();
    let cloud = TestCloud::start_user_mode_with(&Options {
        tables: format!(
            "[images]\npublic_data = true\n[[catalogue]]\nname = \"central\"\nkind = \"marketplace\"\nurl = \"{}\"\nca = \"{}\"\n",
            market.url(),
            ca.display()
        ),
        ..Options::default()
    });
    // One file of authorities for the cloud and the Marketplace.
    let both = alice.folder().join("both.pem");
    let texts = [cloud.state_dir().join("tls/ca.pem"), ca].map(|file| fs::read(file).unwrap());
    fs::write(&both, texts.concat()).unwrap();
    let (both, folder) = (both.display().to_string(), alice.folder());

    let content: Vec<u8> = (0..2_u32 << 20).map(|at| (at / 997) as u8).collect();
    let entry = alice.describe(&market, "mine", &content);
    fs::rename(&entry, folder.join("mine.xml")).unwrap();
    // Its own location is all that it shall have.
    let text = fs::read_to_string(folder.join("mine.xml")).unwrap();
    let (before, rest) = text.split_once("<slterms:location>").unwrap();
    let (_, after) = rest.split_once("</slterms:location>").unwrap();
    fs::write(folder.join("mine.xml"), format!("{before}{after}")).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let (image, p12) = (file("mine.img"), file("me.p12"));
    let arguments = [
        "upload-image",
        "--marketplace-endpoint",
        market.url(),
        "--ca",
        &both,
        "--p12-cert",
        &p12,
        "--p12-password",
        "XYZXYZ",
        "--public",
        "--tag",
        "mine",
        &image,
    ];

    // An image that isn't what its description says is not published.
    fs::write(&image, &content[1..]).unwrap();
    let refused = cloud.try_cli(&[&arguments[..], &["-C", "none"]].concat());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("is not what it should be"),
        "{refused:?}"
    );
    wait_until("nothing half-made stays", Duration::from_secs(30), || {
        cloud.api().list("MachineImage").is_empty().then_some(())
    });
    fs::write(&image, &content).unwrap();

    let done = cloud.try_cli(&[&arguments[..], &["--format", "json"]].concat());
    // Other sites can fetch it: there is nothing to warn of.
    let warned = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success() && !warned.contains("wants a login"),
        "{done:?}"
    );
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let identifier = done["identifier"].as_str().unwrap().to_owned();
    assert_eq!(done["metadata"]["state"], "created", "{done}");
    assert!(
        fs::read(file("mine.img.gz"))
            .unwrap()
            .starts_with(b"\x1f\x8b")
    );
    assert!(folder.join("mine.xml.orig").exists());
    let location = done["location"].as_str().unwrap();
    let entry = market
        .api()
        .get(&format!("/metadata/{identifier}/{}", alice.email()))
        .text();
    assert!(entry.contains(location), "{entry}");
    assert!(
        entry.contains("<dcterms:compression>none</dcterms:compression>"),
        "{entry}"
    );
    let path = location.strip_prefix(&cloud.url()).unwrap();
    let data = cloud.api().get(path);
    assert_eq!(data.status, 200);
    assert_eq!(
        Sha256::digest(&data.bytes),
        Sha256::digest(&content),
        "what is there is what was sent"
    );

    for_everybody_while_it_is_public(&cloud, path, &content);
    let image_document = cloud
        .api()
        .get(&format!("/cimi/{}", done["uri"].as_str().unwrap()));
    assert_eq!(image_document.expect(200)["properties"]["os"], "mine");

    // Again: nothing is sent or published twice, and there is one image.
    let again = cloud.cli_json(&arguments);
    assert_eq!(again["uri"], done["uri"]);
    assert_eq!(again["metadata"]["state"], "unchanged", "{again}");
    assert_eq!(again["metadata"]["url"], done["metadata"]["url"]);
    assert_eq!(cloud.api().list("MachineImage").len(), 1);

    // Found through the cloud, which knows where to look.
    let found = cloud.cli_json(&["image", "search", "--ca", &both, "MINE", "test"]);
    let names: Vec<_> = found.as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 1, "{found}");
    assert_eq!(names[0]["name"], identifier.as_str());
    assert_eq!(names[0]["source"], "central");
    let search = |words: &[&str]| {
        let found = cloud.cli_json(&[&["image", "search", "--ca", &both][..], words].concat());
        let found = found.as_array().unwrap().iter();
        let names = found.map(|one| one["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert!(search(&["--os", "debian"]).is_empty());
    // By what it is for, and no more of each than is asked for: the newest.
    assert_eq!(search(&["--arch", "X86"]), [identifier.as_str()]);
    assert!(search(&["--arch", "aarch64"]).is_empty());
    let newer = alice.describe(&market, "newer", &content[7..]);
    let newer_identifier = testkit::identifier_of(&newer);
    market.run(
        "stratus-upload-metadata",
        folder,
        &[newer.to_str().unwrap()],
    );
    assert_eq!(search(&["--arch", "x86_64"]).len(), 2);
    assert_eq!(search(&["--limit", "1"]), [newer_identifier]);
    for wrong in ["0", "1001", "many"] {
        let refused = cloud.try_cli(&["image", "search", "--limit", wrong]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }

    // A Marketplace that is down is named; that is a failure, and says so.
    market.stop();
    let failed = cloud.try_cli(&["image", "search", "--ca", &both, "mine"]);
    assert!(!failed.status.success());
    let told = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(
        told.contains("central") && told.contains(market.url()),
        "{told}"
    );
    cloud
        .api()
        .delete(&format!("/cimi/{}", done["uri"].as_str().unwrap()))
        .ok();
    cloud.assert_clean();
}

/// Whole or in part, without a login; nobody learns anything of a private one.
fn for_everybody_while_it_is_public(cloud: &TestCloud, path: &str, content: &[u8]) {
    let stranger = cloud.api().anonymous();
    let whole = stranger.get(path);
    assert_eq!((whole.status, whole.bytes.len()), (200, content.len()));
    assert!(whole.bytes == content);
    let part = stranger
        .send("GET", path, &[("Range", "bytes=10-19")], None)
        .unwrap();
    assert_eq!((part.status, &part.bytes[..]), (206, &content[10..20]));
    assert_eq!(stranger.send("HEAD", path, &[], None).unwrap().status, 200);
    let missing = "/cimi/MachineImage/00000000-0000-4000-8000-000000000000/data";
    for closed in [
        missing,
        &format!("{path}?format=vdi"),
        path.trim_end_matches("/data"),
    ] {
        assert_eq!(stranger.get(closed).status, 401, "{closed}");
    }
    let image = path.trim_start_matches("/cimi/").trim_end_matches("/data");
    cloud.cli(&["image", "update", "--private", image]);
    let refused = stranger.get(path);
    assert_eq!(refused.status, 401);
    assert!(
        refused.text().contains("only the content of public images"),
        "{}",
        refused.text()
    );
    cloud.cli(&["image", "update", "--public", image]);
    assert_eq!(stranger.get(path).status, 200);
}
