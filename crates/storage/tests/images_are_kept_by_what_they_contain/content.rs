//! What an image contains: it is kept once under that name, whole, and as was stated.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use storage::digest::Expected;
use storage::import::{ImageStore, Limits, Options};
use storage::inspect::{Format, Refusal};
use storage::{Durability, Error};

use super::{
    DISK_BYTES, digest_of, disk, import, import_bytes, nothing_is_left, qemu_img, store, text,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_disk_is_kept_with_its_digests_and_holes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("disk.raw");
    std::fs::write(&file, disk()).expect("write");
    let store = store(dir.path());
    let imported = import(&store, &file, Expected::default(), Limits::default())
        .await
        .expect("import");
    let image = imported.image;
    assert!(!imported.already_present);
    assert_eq!(
        (image.format, image.bytes, image.virtual_bytes),
        (Format::Raw, DISK_BYTES, DISK_BYTES)
    );
    assert_eq!(image.digests.sha1.to_string(), digest_of("sha1sum", &file));
    assert_eq!(
        image.digests.sha256.expect("SHA-256").to_string(),
        digest_of("sha256sum", &file)
    );
    // What nobody stated isn't computed.
    assert_eq!((image.digests.md5, image.digests.sha512), (None, None));
    assert_eq!(
        image.path,
        dir.path()
            .canonicalize()
            .expect("path")
            .join(format!("store/images/{}/disk", image.identifier))
    );
    assert_eq!(std::fs::read(&image.path).expect("read"), disk());
    let kept = std::fs::metadata(&image.path).expect("metadata");
    assert!(
        kept.blocks() * 512 < 2 << 20,
        "{} bytes allocated: holes were written",
        kept.blocks() * 512
    );
    assert_eq!(kept.mode() & 0o777, 0o400);
    nothing_is_left(dir.path());
    store.verify(&image.identifier).await.expect("undamaged");

    // It is when somebody does later, of what is there already too.
    let stated = |md5: &str, sha512: &str| Expected {
        sha1: Some(image.digests.sha1),
        md5: Some(md5.parse().expect("MD5")),
        sha512: Some(sha512.parse().expect("SHA-512")),
        ..Expected::default()
    };
    let (md5, sha512) = (digest_of("md5sum", &file), digest_of("sha512sum", &file));
    for store_of_its_own in [false, true] {
        let other = tempfile::tempdir().expect("folder");
        let anew = store_of_its_own.then(|| self::store(other.path()));
        let store = anew.as_ref().unwrap_or(&store);
        let limits = Limits::default();
        let right = import(store, &file, stated(&md5, &sha512), limits).await;
        let right = right.expect("as stated");
        assert_eq!(right.already_present, !store_of_its_own);
        if store_of_its_own {
            let known = &right.image.digests;
            assert_eq!(known.md5.map(|it| it.to_string()), Some(md5.clone()));
            assert_eq!(known.sha512.map(|it| it.to_string()), Some(sha512.clone()));
            store.delete(&image.identifier).await.expect("deleted");
        }
        for (md5, sha512, what) in [
            (&"0".repeat(32), &sha512, "MD5"),
            (&md5, &"0".repeat(128), "SHA-512"),
        ] {
            let wrong = import(store, &file, stated(md5, sha512), limits).await;
            let told = wrong.expect_err("not as stated").to_string();
            assert!(told.contains(what), "{told}");
        }
    }

    let again = import(&store, &file, Expected::default(), Limits::default())
        .await
        .expect("again");
    assert!(again.already_present);
    // What was computed meanwhile is known from then on.
    let known = &again.image.digests;
    assert_eq!(known.md5.map(|it| it.to_string()), Some(md5));
    assert_eq!(known.sha512.map(|it| it.to_string()), Some(sha512));
    assert_eq!(
        (known.sha1, known.sha256),
        (image.digests.sha1, image.digests.sha256)
    );
    assert_eq!(again.image.path, image.path);
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_proven_later_is_proven_before_it_stands_for_another_and_when_asked_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("disk.raw");
    std::fs::write(&file, disk()).expect("write");
    let sha256 = Some(digest_of("sha256sum", &file));
    let store = store(dir.path());
    let later = || Expected {
        proven_later: true,
        ..Expected::default()
    };
    let known = |store: &ImageStore, identifier: &_| {
        let image = store.find(identifier).expect("there");
        image.digests.sha256.map(|digest| digest.to_string())
    };
    for one_more in [later(), Expected::default()] {
        let first = import(&store, &file, later(), Limits::default()).await;
        let identifier = first.expect("import").image.identifier;
        assert_eq!(known(&store, &identifier), None);
        let same = import(&store, &file, one_more, Limits::default()).await;
        assert!(same.expect("import").already_present);
        assert_eq!(known(&store, &identifier), sha256, "they were compared");
        store.delete(&identifier).await.expect("deleted");
    }
    let first = import(&store, &file, later(), Limits::default()).await;
    let image = first.expect("import").image;
    store.prove(&image.identifier).await.expect("proven");
    assert_eq!(known(&store, &image.identifier), sha256);
    drop(store);
    let store = self::store(dir.path());
    assert_eq!(known(&store, &image.identifier), sha256, "it is kept");
    store.delete(&image.identifier).await.expect("deleted");

    let anew = import(&store, &file, later(), Limits::default()).await;
    let image = anew.expect("import").image;
    std::fs::set_permissions(&image.path, Permissions::from_mode(0o600)).expect("writable");
    std::fs::write(&image.path, vec![1; disk().len()]).expect("altered");
    let damaged = store.prove(&image.identifier).await;
    assert!(
        matches!(damaged, Err(Error::Mismatch { .. })),
        "{damaged:?}"
    );
    assert_eq!(known(&store, &image.identifier), None);
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_gives_the_same_image() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let plain = disk();
    let sha1 = import_bytes(&store, plain.clone(), Expected::default())
        .await
        .expect("plain")
        .image
        .digests
        .sha1;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).expect("gz");
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(&plain).expect("bz2");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&plain).expect("xz");
    let packed = [
        gz.finish().expect("gz"),
        bz2.finish().expect("bz2"),
        xz.finish().expect("xz"),
        zstd::encode_all(&plain[..], 1).expect("zstd"),
    ];
    for bytes in packed {
        // Without a stated identifier, so that the work is really done.
        let imported = import_bytes(
            &store,
            bytes,
            Expected {
                bytes: Some(DISK_BYTES),
                ..Expected::default()
            },
        )
        .await;
        let imported = imported.expect("compressed");
        assert!(imported.already_present);
        assert_eq!(imported.image.digests.sha1, sha1);
    }
    assert_eq!(store.list().len(), 1);
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_stated_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let bad = |change: fn(&mut Expected)| {
        let mut expected = Expected::default();
        change(&mut expected);
        expected
    };
    let ff = |n: usize| "f".repeat(n);
    let mut cases = vec![
        bad(|e| e.bytes = Some((DISK_BYTES) - 1)),
        bad(|e| e.bytes = Some((DISK_BYTES) + 1)),
        bad(|e| e.identifier = "AAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().ok()),
    ];
    cases.push(Expected {
        md5: ff(32).parse().ok(),
        ..Expected::default()
    });
    cases.push(Expected {
        sha1: ff(40).parse().ok(),
        ..Expected::default()
    });
    cases.push(Expected {
        sha256: ff(64).parse().ok(),
        ..Expected::default()
    });
    cases.push(Expected {
        sha512: ff(128).parse().ok(),
        ..Expected::default()
    });
    for expected in cases {
        let error = import_bytes(&store, disk(), expected.clone())
            .await
            .expect_err("mismatch");
        assert!(
            matches!(error, Error::Mismatch { .. }),
            "{expected:?}: {error}"
        );
    }
    let error = import_bytes(&store, Vec::new(), Expected::default())
        .await
        .expect_err("empty");
    assert!(matches!(error, Error::Refused(Refusal::Empty)), "{error}");
    assert!(store.list().is_empty());
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_found_again_swept_and_kept_to_one_process() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = store(dir.path());
    let image = import_bytes(&first, disk(), Expected::default())
        .await
        .expect("import")
        .image;
    let error =
        ImageStore::open(&dir.path().join("store"), Options::default()).expect_err("locked");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(first);
    // What a killed import leaves behind.
    let half = dir.path().join("store/incoming/half");
    std::fs::create_dir(&half).expect("directory");
    std::fs::write(half.join("disk"), "half").expect("write");

    let second = store(dir.path());
    nothing_is_left(dir.path());
    assert_eq!(second.list(), std::slice::from_ref(&image));
    second.delete(&image.identifier).await.expect("delete");
    second
        .delete(&image.identifier)
        .await
        .expect("delete what is gone");
    assert!(second.find(&image.identifier).is_none() && !image.path.exists());
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_image_is_found_and_replaced() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = store(dir.path());
    let image = import_bytes(&first, disk(), Expected::default())
        .await
        .expect("import")
        .image;
    let file = std::fs::File::options()
        .write(true)
        .open(&image.path)
        .expect("open as root, or as owner");
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 12345).expect("damage");
    let error = first.verify(&image.identifier).await.expect_err("damaged");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    file.set_len(5).expect("cut");
    drop(first);
    let second = store(dir.path());
    assert!(second.list().is_empty());
    let expected = Expected {
        identifier: Some(image.identifier),
        ..Expected::default()
    };
    let replaced = import_bytes(&second, disk(), expected)
        .await
        .expect("again");
    assert!(!replaced.already_present);
    second.verify(&image.identifier).await.expect("whole again");
    nothing_is_left(dir.path());
}

/// Nobody has the same content read again and again by stating something else of it.
#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_are_asked_for_later_are_computed_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = store(dir.path());
    let image = import_bytes(&first, disk(), Expected::default())
        .await
        .expect("import")
        .image;
    assert_eq!(image.digests.sha512, None);
    let stating = |sha512| Expected {
        sha1: Some(image.digests.sha1),
        sha512: Some(sha512),
        ..Expected::default()
    };
    let wrong = stating(storage::digest::Digest::from_bytes([7; 64]));
    let by_name = &image.identifier;
    let unread = first.compare(by_name, &wrong, false).await;
    assert!(matches!(unread, Ok(None)), "{unread:?}");
    let read = first.compare(by_name, &wrong, true).await;
    assert!(matches!(read, Err(Error::Mismatch { .. })), "{read:?}");
    let known = first.find(by_name).expect("there").digests.clone();
    let right = stating(known.sha512.expect("computed"));
    drop(first);
    // What is known is not read for any more, after the next start either: else it would be noticed what happens to the file.
    let file = std::fs::File::options().write(true).open(&image.path);
    let file = file.expect("open as root, or as owner");
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 12345).expect("damage");
    let second = store(dir.path());
    assert_eq!(second.find(by_name).expect("there").digests, known);
    let told = second.compare(by_name, &wrong, false).await;
    assert!(matches!(told, Err(Error::Mismatch { .. })), "{told:?}");
    let told = second.compare(by_name, &right, false).await;
    assert!(matches!(told, Ok(Some(()))), "{told:?}");
    // From what is damaged nothing is learnt.
    let more = Expected {
        md5: Some(storage::digest::Digest::from_bytes([7; 16])),
        ..right
    };
    let told = second.compare(by_name, &more, true).await;
    assert!(matches!(told, Err(Error::Mismatch { .. })), "{told:?}");
    assert_eq!(second.find(by_name).expect("there").digests, known);
    nothing_is_left(dir.path());
}

/// As if somebody had made two contents of one SHA-1.
#[tokio::test(flavor = "multi_thread")]
async fn another_content_of_the_same_sha1_is_not_handed_out() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = store(dir.path());
    let image = import_bytes(&first, disk(), Expected::default())
        .await
        .expect("import")
        .image;
    drop(first);
    let path = image.path.with_file_name("image.json");
    let mut known: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("image.json")).expect("JSON");
    let sums = known["digests"].as_object_mut().expect("digests");
    let mut strong = sums
        .iter_mut()
        .filter(|(name, _)| ["sha256", "sha512"].contains(&name.as_str()));
    let (_, sum) = strong.next().expect("a strong checksum is always kept");
    *sum = "0".repeat(sum.as_str().expect("text").len()).into();
    std::fs::write(&path, known.to_string()).expect("write");
    let second = store(dir.path());
    let error = import_bytes(&second, disk(), Expected::default())
        .await
        .expect_err("another content");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_on_a_cached_image_works() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let image = import_bytes(&store, disk(), Expected::default())
        .await
        .expect("import")
        .image;
    let overlay = dir.path().join("overlay");
    let backing = storage::qcow2::Backing {
        path: &image.path,
        format: image.format,
    };
    storage::qcow2::create(&overlay, 32 << 20, Some(backing), Durability::Cached).expect("overlay");
    let _ = qemu_img(&["check", "-q", "-f", "qcow2", text(&overlay)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn special_files_are_not_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    for path in ["/dev/zero", "/", "/does/not/exist"] {
        let error = import(
            &store,
            Path::new(path),
            Expected::default(),
            Limits::default(),
        )
        .await
        .expect_err(path);
        assert!(
            matches!(error, Error::Invalid { .. } | Error::Io { .. }),
            "{path}: {error}"
        );
    }
    nothing_is_left(dir.path());
}
