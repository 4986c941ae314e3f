//! The tree of files of StratusLab's Marketplace: out, in, again, and what is in it that can't be an entry.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that panics has failed"
)]

use std::fs;
use std::path::PathBuf;

use marketplace::Metadata;
use marketplace::catalogue::{Order, Query};
use marketplace_service::{Marketplace, Moved, Settings};

use crate::support::{World, after, endorser, image, signed};

fn asks_nobody() -> Settings {
    Settings {
        confirms: false,
        ..Settings::default()
    }
}

const SOURCE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

async fn import(marketplace: &Marketplace, folder: &std::path::Path) -> (Moved, Vec<String>) {
    let mut told = Vec::new();
    let moved = marketplace
        .import(
            folder,
            |path, why| told.push(format!("{}: {why}", path.display())),
            |_| {},
        )
        .await
        .unwrap();
    (moved, told)
}

#[tokio::test]
async fn what_goes_out_comes_in_byte_for_byte_and_nothing_else_does() {
    let (from, to) = (
        World::start(asks_nobody()).await,
        World::start(Settings::default()).await,
    );
    let alice = endorser("Alice", Some("alice@example.org"));
    let mut documents = Vec::new();
    for number in 1..=3 {
        documents.push(signed(
            &image(number),
            &alice,
            "alice@example.org",
            after(-100),
        ));
    }
    // History, and a deprecation.
    let gone = Metadata {
        deprecated: Some("a hole".to_owned()),
        ..image(1)
    };
    documents.push(signed(&gone, &alice, "alice@example.org", after(-50)));
    for document in &documents {
        from.marketplace.upload(document, SOURCE).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let out = from.marketplace.export(folder.path()).await.unwrap();
    assert_eq!(
        out,
        Moved {
            new: 4,
            ..Moved::default()
        }
    );
    let again = from.marketplace.export(folder.path()).await.unwrap();
    assert_eq!(
        again,
        Moved {
            known: 4,
            ..Moved::default()
        }
    );

    // Files that can't be entries: altered, misplaced, too long, no document, a link, rests of a copy.
    let of = |number: u8| {
        let image = folder
            .path()
            .join("metadata")
            .join(image(number).identifier.to_string());
        let folder = image.join("alice@example.org");
        let file = fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        (folder, file)
    };
    let (place, file) = of(2);
    let text = fs::read_to_string(&file).unwrap();
    let bad = [
        (
            "2030-01-01T00:00:01Z.xml",
            text.replace("2.qcow2", "9.qcow2"),
        ),
        ("2030-01-01T00:00:02Z.xml", text.clone()),
        ("2030-01-01T00:00:03Z.xml", "x".repeat(500 << 10)),
        ("2030-01-01T00:00:04Z.xml", String::new()),
        ("README", text.clone()),
        (".2030-01-01T00:00:05Z.xml.part", text),
    ];
    for (name, content) in &bad {
        fs::write(place.join(name), content).unwrap();
    }
    std::os::unix::fs::symlink(&file, place.join("2030-01-01T00:00:06Z.xml")).unwrap();
    fs::write(folder.path().join("metadata/.git"), "x").unwrap();
    fs::copy(&file, place.join("../2030-01-01T00:00:07Z.xml")).unwrap();
    fs::create_dir(place.join("deeper")).unwrap();

    let (moved, told) = import(&to.marketplace, folder.path()).await;
    assert_eq!(
        moved,
        Moved {
            new: 4,
            known: 0,
            refused: 8
        },
        "{told:?}"
    );
    for reason in [
        "signature validation",
        "another entry",
        "longer than",
        "unable to parse",
        "its place",
        "it is no file",
    ] {
        assert!(
            told.iter().any(|line| line.contains(reason)),
            "{reason}: {told:?}"
        );
    }
    // Once more, by the folder inside: nothing is new.
    let (moved, _) = import(&to.marketplace, &folder.path().join("metadata")).await;
    assert_eq!(
        moved,
        Moved {
            new: 0,
            known: 4,
            refused: 8
        }
    );
    for document in &documents {
        let entry = marketplace::Entry::verify(document).unwrap();
        let name = (
            entry.metadata().identifier,
            entry.endorsement().email.as_str().into(),
            entry.endorsement().created,
        );
        let kept = to.marketplace.document(&name).await.unwrap().unwrap();
        assert_eq!(kept.as_bytes(), document);
    }
    // Valid is what was valid there.
    let valid = |world: &World| {
        let found = world
            .marketplace
            .search(&Query::default(), Order::default(), 0, 10)
            .unwrap();
        let mut paths: Vec<_> = found.page.iter().map(|record| record.path()).collect();
        paths.sort();
        paths
    };
    assert_eq!(valid(&to), valid(&from));

    // What is there with another content is not written over.
    let (_, file): (PathBuf, PathBuf) = of(3);
    fs::write(&file, "mine").unwrap();
    let error = to
        .marketplace
        .export(folder.path())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("another content"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}
