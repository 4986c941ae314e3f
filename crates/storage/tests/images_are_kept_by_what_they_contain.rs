//! Imports from files and uploads: what is accepted, how it is kept, and that nothing else stays.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::confine::QemuImg;
use storage::digest::Expected;
use storage::import::{ImageStore, Imported, Limits, Options, Progress, Source};
use storage::inspect::{Format, Refusal, SizeLimits};
use storage::{Durability, Error};
use tokio::sync::watch;

fn store(dir: &Path) -> ImageStore {
    let qemu_img = QemuImg::at(Path::new("/usr/bin/qemu-img")).ok();
    ImageStore::open(
        &dir.join("store"),
        Options {
            reserve_bytes: 0,
            qemu_img,
        },
    )
    .expect("open")
}

async fn import(
    store: &ImageStore,
    path: &Path,
    expected: Expected,
    limits: Limits,
) -> Result<Imported, Error> {
    let (progress, _) = watch::channel(Progress::default());
    store
        .import(Source::File(path.to_owned()), expected, limits, &progress)
        .await
}

async fn import_bytes(
    store: &ImageStore,
    bytes: Vec<u8>,
    expected: Expected,
) -> Result<Imported, Error> {
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Stream {
        reader: Box::new(std::io::Cursor::new(bytes)),
        length: None,
    };
    store
        .import(source, expected, Limits::default(), &progress)
        .await
}

fn nothing_is_left(dir: &Path) {
    let incoming = dir.join("store/incoming");
    assert_eq!(
        std::fs::read_dir(&incoming).expect("list").count(),
        0,
        "something is left in {}",
        incoming.display()
    );
}

const DISK_BYTES: u64 = 6 << 20;

/// A disk with data, a hole, and data again.
fn disk() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..300_000_u32)
        .flat_map(|i| (i ^ (i >> 7)).to_le_bytes())
        .collect();
    bytes.resize(DISK_BYTES as usize, 0);
    bytes.truncate(DISK_BYTES as usize);
    let end = bytes.len();
    bytes[end - 1000..].fill(3);
    bytes
}

/// Makes an image with qemu-img; `None` (and a word) if it is not installed.
fn qemu_img(arguments: &[&str]) -> Option<()> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(())
        }
        Err(error) => {
            eprintln!("skipped: cannot run qemu-img: {error}");
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn digest_of(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg(path).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

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
    assert_eq!(image.digests.md5.to_string(), digest_of("md5sum", &file));
    assert_eq!(image.digests.sha1.to_string(), digest_of("sha1sum", &file));
    assert_eq!(
        image.digests.sha256.to_string(),
        digest_of("sha256sum", &file)
    );
    assert_eq!(
        image.digests.sha512.to_string(),
        digest_of("sha512sum", &file)
    );
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

    let again = import(&store, &file, Expected::default(), Limits::default())
        .await
        .expect("again");
    assert!(again.already_present);
    assert_eq!(again.image, image);
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, in release mode, with --no-capture"]
async fn import_speed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("disk.raw");
    let bytes: Vec<u8> = (0..16_000_000_u64)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    std::fs::write(&file, &bytes).expect("write");
    let store = store(dir.path());
    let started = std::time::Instant::now();
    import(&store, &file, Expected::default(), Limits::default())
        .await
        .expect("import");
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "imported {} MB in {seconds:.2} s: {:.0} MB/s",
        bytes.len() / 1_000_000,
        bytes.len() as f64 / 1e6 / seconds
    );
}
