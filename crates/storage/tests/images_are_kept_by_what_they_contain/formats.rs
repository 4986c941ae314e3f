//! Formats of images: which are taken, which refused, and what becomes of those of other hypervisors.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use storage::Error;
use storage::digest::Expected;
use storage::import::{ImageStore, Limits, Options, Progress, Source};
use storage::inspect::{Format, Refusal, SizeLimits};
use tokio::sync::watch;

use super::{DISK_BYTES, digest_of, disk, import, nothing_is_left, qemu_img, store, text};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_made_by_qemu_itself_are_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let raw = at("raw");
    std::fs::write(&raw, disk()).expect("write");
    for arguments in [
        "create -q -f qcow2 -F raw -b DIR/raw DIR/backing",
        "create -q -f qcow2 -o data_file=DIR/data DIR/external 1M",
        "create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 DIR/luks 1M",
        "convert -q -O vmdk DIR/raw DIR/vmdk-base",
        "create -q -f qcow2 DIR/huge 8T",
        "create -q -f qcow2 DIR/absurd 1T",
        "create -q -f qcow2 DIR/snapshot 1M",
        "snapshot -c one DIR/snapshot",
        "create -q -f vmdk -o subformat=monolithicFlat DIR/flat 1M",
        "create -q -f vmdk -b DIR/vmdk-base -F vmdk DIR/vmdk-child",
        "convert -q -O vhdx DIR/raw DIR/vhdx",
        "convert -q -O qed DIR/raw DIR/qed",
        "convert -q -O qcow DIR/raw DIR/qcow1",
        "convert -q -O qcow2 DIR/raw DIR/cut",
    ] {
        let arguments: Vec<String> = arguments
            .split(' ')
            .map(|argument| argument.replace("DIR", text(dir.path())))
            .collect();
        if qemu_img(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).is_none() {
            return;
        }
    }
    let cut = std::fs::File::options()
        .write(true)
        .open(at("cut"))
        .expect("open");
    cut.set_len(1 << 20).expect("cut");
    let store = store(dir.path());
    for (name, word) in [
        ("backing", "backing file"),
        ("external", "external file"),
        ("luks", "encrypted"),
        ("huge", "virtual size"),
        ("absurd", "absurd"),
        ("snapshot", "internal snapshots"),
        ("flat", "VMDK"),
        ("vmdk-child", "backing file"),
        ("vhdx", "VHDX"),
        ("qed", "QED"),
        ("qcow1", "version 1"),
        ("cut", "cut off"),
    ] {
        let size = SizeLimits {
            max_virtual_bytes: 4 << 40,
            max_virtual_per_byte: 1000,
        };
        let limits = Limits {
            size,
            ..Limits::default()
        };
        let error = import(&store, &at(name), Expected::default(), limits)
            .await
            .expect_err(name);
        assert!(matches!(error, Error::Refused(_)), "{name}: {error}");
        assert!(error.to_string().contains(word), "{name}: {error}");
        nothing_is_left(dir.path());
    }
    assert!(store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_other_hypervisors_are_converted_and_named_by_what_came() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let raw = dir.path().join("raw");
    std::fs::write(&raw, disk()).expect("write");
    let kinds: [(&str, &str, &[&str]); 5] = [
        ("vmdk", "sparse", &["-O", "vmdk"]),
        (
            "vmdk",
            "stream",
            &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        ),
        ("vdi", "vdi", &["-O", "vdi"]),
        ("vpc", "dynamic", &["-O", "vpc", "-o", "force_size"]),
        (
            "vpc",
            "fixed",
            &["-O", "vpc", "-o", "subformat=fixed,force_size"],
        ),
    ];
    for (format, name, options) in kinds {
        let path = dir.path().join(name);
        let arguments = [&["convert", "-q"], options, &[text(&raw), text(&path)]].concat();
        if qemu_img(&arguments).is_none() {
            return;
        }
        let stated = Expected {
            sha256: Some(digest_of("sha256sum", &path).parse().expect("a digest")),
            ..Expected::default()
        };
        let identifier = {
            let store = store(dir.path());
            let imported = import(&store, &path, stated.clone(), Limits::default()).await;
            let image = imported
                .unwrap_or_else(|error| unreachable!("{name}: {error}"))
                .image;
            assert_eq!(image.format, Format::Qcow2, "{name}");
            assert_eq!(image.virtual_bytes, DISK_BYTES, "{name}");
            assert_eq!(
                image.digests.sha1.to_string(),
                digest_of("sha1sum", &path),
                "{name} is named by what came"
            );
            let converted = image.converted.as_ref().expect("converted");
            assert_eq!(converted.from, format, "{name}");
            assert_eq!(
                converted.digests.sha1.to_string(),
                digest_of("sha1sum", &image.path)
            );
            qemu_img(&[
                "compare",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                text(&image.path),
                text(&raw),
            ]);
            assert_eq!(
                image.path.metadata().expect("metadata").mode() & 0o777,
                0o400
            );
            nothing_is_left(dir.path());
            let again = import(&store, &path, stated, Limits::default()).await;
            assert!(again.expect("again").already_present, "{name}");
            image.identifier
        };
        let store = store(dir.path());
        assert!(store.find(&identifier).is_some(), "{name} is found again");
        store.verify(&identifier).await.expect("undamaged");
        store.delete(&identifier).await.expect("delete");
        // Without the program, and when stated to be something else.
        drop(store);
        let options = Options {
            reserve_bytes: 0,
            qemu_img: None,
        };
        let store = ImageStore::open(&dir.path().join("store"), options).expect("open");
        let error = import(&store, &path, Expected::default(), Limits::default())
            .await
            .expect_err("no program");
        assert!(
            matches!(error, Error::Refused(Refusal::Foreign(_))),
            "{name}: {error}"
        );
        nothing_is_left(dir.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_harmless_kind_of_qcow2_is_accepted_and_judged_by_qemu_img() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let raw = dir.path().join("raw");
    std::fs::write(&raw, disk()).expect("write");
    let store = store(dir.path());
    let kinds: [&[&str]; 8] = [
        &[],
        &["-o", "compat=0.10"],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-o", "preallocation=metadata,refcount_bits=1"],
    ];
    for (n, options) in kinds.iter().enumerate() {
        let path = dir.path().join(format!("kind-{n}"));
        let arguments = [
            &["convert", "-q", "-O", "qcow2"],
            *options,
            &[text(&raw), text(&path)],
        ]
        .concat();
        if qemu_img(&arguments).is_none() {
            return;
        }
        let imported = import(&store, &path, Expected::default(), Limits::default()).await;
        let image = imported
            .unwrap_or_else(|error| unreachable!("{options:?}: {error}"))
            .image;
        assert_eq!(
            (image.format, image.virtual_bytes),
            (Format::Qcow2, DISK_BYTES),
            "{options:?}"
        );
        assert!(
            qemu_img(&[
                "compare",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                text(&image.path),
                text(&raw)
            ])
            .is_some()
        );
    }
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn corruption_that_only_the_real_program_sees_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (raw, path) = (dir.path().join("raw"), dir.path().join("qcow2"));
    std::fs::write(&raw, disk()).expect("write");
    if qemu_img(&["convert", "-q", "-O", "qcow2", text(&raw), text(&path)]).is_none() {
        return;
    }
    // All reference counts zero, although clusters are in use.
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let mut offset = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut offset, 48).expect("header");
    let table = u64::from_be_bytes(offset);
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 8], table).expect("spoil");
    let store = store(dir.path());
    let error = import(&store, &path, Expected::default(), Limits::default())
        .await
        .expect_err("corrupt");
    assert!(matches!(error, Error::Refused(Refusal::Corrupt)), "{error}");
    nothing_is_left(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_stops_at_the_limit() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let bomb =
        zstd::encode_all(std::io::Read::take(std::io::repeat(0), 256 << 20), 1).expect("zstd");
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Stream {
        reader: Box::new(std::io::Cursor::new(bomb)),
        length: None,
    };
    let limits = Limits {
        max_image_bytes: 32 << 20,
        ..Limits::default()
    };
    let error = store
        .import(source, Expected::default(), limits, &progress)
        .await
        .expect_err("bomb");
    assert!(
        matches!(
            error,
            Error::TooLarge {
                what: "image",
                limit_bytes: 33_554_432
            }
        ),
        "{error}"
    );
    assert!(progress.borrow().bytes_written <= 32 << 20);
    nothing_is_left(dir.path());
}
