//! What must not be in an image is gone from a saved disk, also from its free blocks, and the file systems are whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::confine::Debugfs;
use storage::disk::{self, FlatQcow2, clean};
use storage::inspect::Format;

/// In everything that must go.
const SECRET: &str = "secret-of-the-builder";
/// In everything that must stay.
const KEPT: &str = "kept-by-the-builder";
const START: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn debugfs() -> Option<Debugfs> {
    let found = ["/usr/sbin/debugfs", "/sbin/debugfs"]
        .iter()
        .find_map(|path| Debugfs::at(Path::new(path)).ok());
    let all = found.filter(|_| {
        ["qemu-img", "mke2fs", "e2fsck"]
            .iter()
            .all(|name| Command::new(name).arg("-V").output().is_ok())
    });
    if all.is_none() {
        eprintln!(
            "skipped: debugfs, mke2fs and e2fsck (Debian: e2fsprogs) and qemu-img are needed"
        );
    }
    all
}

const SECRETS: [&str; 20] = [
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_rsa_key.pub",
    "etc/dropbear/dropbear_ed25519_host_key",
    "etc/machine-id",
    "root/.bash_history",
    "root/.ssh/authorized_keys",
    "home/ann/.ssh/authorized_keys",
    "home/ann/.ssh/id_ed25519",
    "root/.ssh/id_rsa.pub",
    "root/.ssh/environment",
    "var/lib/one-context/context.sh",
    "home/ann/.bash_history",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/lib/dhcp/dhclient.eth0.leases",
    "var/lib/NetworkManager/internal-1-eth0.lease",
    "var/lib/systemd/random-seed",
    "var/log/auth.log",
    "var/log/auth.log.1",
    "var/log/journal/abc/system.journal",
    "tmp/notes",
];
const STAY: [&str; 6] = [
    "etc/ssh/sshd_config",
    "root/analysis.R",
    "home/ann/.bashrc",
    "home/ann/.ssh/config",
    "var/lib/app/data",
    "opt/with \"quotes\".txt",
];

/// A disk with one partition that holds a guest's files.
fn guest_disk(dir: &Path, options: &[&str]) -> PathBuf {
    let root = dir.join("root");
    let write = |name: &str, content: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        // Large enough for blocks of its own, and for more than one.
        fs::write(path, format!("{content}-{name}\n").repeat(400)).expect("write");
    };
    SECRETS.iter().for_each(|name| write(name, SECRET));
    STAY.iter().for_each(|name| write(name, KEPT));
    for number in 0..300 {
        write(&format!("usr/share/many/{number}"), KEPT);
    }
    let part = dir.join("part.raw");
    let make = [
        &["-q", "-d", text(&root), "-L", "guest"],
        options,
        &[text(&part), "64M"],
    ]
    .concat();
    run("mke2fs", &make);
    // Deleted by the builder: in free blocks only.
    write("deleted", SECRET);
    run(
        "debugfs",
        &[
            "-w",
            "-R",
            &format!("write {} deleted", root.join("deleted").display()),
            text(&part),
        ],
    );
    run("debugfs", &["-w", "-R", "rm deleted", text(&part)]);
    assert!(contains(&part, SECRET.as_bytes()));
    let disk = dir.join("disk.raw");
    let mut whole = fs::File::create(&disk).expect("create");
    let mut record = vec![0; START as usize];
    record[446 + 4] = 0x83;
    record[446 + 8..446 + 12].copy_from_slice(&((START / 512) as u32).to_le_bytes());
    record[446 + 12..446 + 16].copy_from_slice(&((64_u32 << 20) / 512).to_le_bytes());
    record[510..512].copy_from_slice(&[0x55, 0xaa]);
    whole.write_all(&record).expect("write");
    whole
        .write_all(&fs::read(&part).expect("read"))
        .expect("write");
    disk
}

fn contains(file: &Path, what: &[u8]) -> bool {
    let bytes = fs::read(file).expect("read");
    bytes.windows(what.len()).any(|window| window == what)
}

/// The cleaned disk's partition as a file, and what was told.
fn clean_partition(dir: &Path, disk: &Path, debugfs: &Debugfs) -> (PathBuf, usize, Vec<String>) {
    let open = disk::open(disk, Format::Raw, None).expect("open");
    let cleaned = clean::cleaned(open, Some(debugfs), dir).expect("clean");
    let mut flat = FlatQcow2::new(cleaned.disk).expect("flat");
    let qcow2 = dir.join("saved.qcow2");
    let mut file = fs::File::create(&qcow2).expect("create");
    while let Some(part) = flat.next_part().expect("part") {
        file.write_all(&part).expect("write");
    }
    let raw = dir.join("saved.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(&qcow2),
            text(&raw),
        ],
    );
    let part = dir.join("saved-part.raw");
    fs::write(&part, &fs::read(&raw).expect("read")[START as usize..]).expect("write");
    (part, cleaned.files, cleaned.left)
}

#[test]
fn nothing_of_the_builder_stays_and_the_file_system_is_whole() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let ways: [&[&str]; 5] = [
        &["-t", "ext4"],
        &["-t", "ext4", "-O", "^metadata_csum,^64bit", "-b", "1024"],
        &["-t", "ext4", "-O", "^has_journal"],
        &["-t", "ext3"],
        &["-t", "ext2", "-b", "4096"],
    ];
    for options in ways {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = guest_disk(dir.path(), options);
        let before = fs::read(&disk).expect("read");
        let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
        assert!(left.is_empty(), "{options:?}: {left:?}");
        assert_eq!(files, SECRETS.len(), "{options:?}");
        assert_eq!(
            fs::read(&disk).expect("read"),
            before,
            "the disk itself is only read"
        );
        assert!(
            !contains(&part, SECRET.as_bytes()),
            "{options:?}: a secret is left"
        );
        run("e2fsck", &["-f", "-n", text(&part)]);
        for name in STAY {
            let shown = run(
                "debugfs",
                &[
                    "-R",
                    &format!("cat \"/{}\"", name.replace('"', "\"\"")),
                    text(&part),
                ],
            );
            assert!(shown.contains(KEPT), "{options:?}: {name}");
        }
        let stat = run("debugfs", &["-R", "stat /etc/machine-id", text(&part)]);
        assert!(
            stat.contains("Size: 0"),
            "empty, so that the next boot fills it: {stat}"
        );
        assert_eq!(
            fs::read_dir(dir.path())
                .expect("list")
                .filter(|entry| {
                    entry
                        .as_ref()
                        .expect("entry")
                        .file_name()
                        .to_string_lossy()
                        .starts_with(".unfinished")
                })
                .count(),
            0
        );
    }
}

#[test]
fn what_debugfs_can_not_be_told_is_told_to_people() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let odd = dir.path().join("root/tmp/a \"quoted\" name");
    fs::create_dir_all(odd.parent().expect("a folder")).expect("folder");
    fs::write(&odd, "kept").expect("write");
    let disk = guest_disk(dir.path(), &["-t", "ext4"]);
    let (_, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert_eq!(files, SECRETS.len(), "all others go");
    assert_eq!(
        left,
        ["on partition 1 /tmp/a \"quoted\" name could not be removed"]
    );
}

#[test]
fn of_swap_only_the_header_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("swap.raw");
    let mut bytes = SECRET.as_bytes().repeat((1 << 20) / SECRET.len());
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    fs::write(&path, &bytes).expect("write");
    let open = disk::open(&path, Format::Raw, None).expect("open");
    let mut cleaned = clean::cleaned(open, None, dir.path()).expect("clean");
    assert!(cleaned.left.is_empty(), "{:?}", cleaned.left);
    let mut read = vec![0; bytes.len()];
    cleaned.disk.read(0, &mut read).expect("read");
    assert_eq!(read[..4096], bytes[..4096]);
    assert!(read[4096..].iter().all(|byte| *byte == 0));
    assert!(!cleaned.disk.may_hold_data(4096, 4096).expect("ask"));
    // A system that was put to sleep in it can't be woken by a copy, nor cleaned.
    bytes[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    fs::write(&path, &bytes).expect("write");
    let open = disk::open(&path, Format::Raw, None).expect("open");
    let left = clean::cleaned(open, None, dir.path()).expect("clean").left;
    assert!(left.join(" ").contains("hibernated"), "{left:?}");
}

#[test]
fn what_can_not_be_cleaned_is_left_as_it_is_and_told() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = guest_disk(dir.path(), &["-t", "ext4"]);
    let mut bytes = fs::read(&disk).expect("read");
    // Not unmounted: the state of the superblock.
    bytes[START as usize + 1024 + 0x3a] = 0;
    fs::write(&disk, &bytes).expect("write");
    let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert_eq!(files, 0);
    assert!(
        left.join(" ")
            .contains("partition 1 was not cleaned: it was not unmounted cleanly"),
        "{left:?}"
    );
    assert!(contains(&part, SECRET.as_bytes()), "as it was");
    // Without the program.
    let open = disk::open(&disk, Format::Raw, None).expect("open");
    assert_eq!(
        clean::cleaned(open, None, dir.path()).expect("clean").files,
        0
    );
    // Something else.
    bytes[START as usize..START as usize + 4].copy_from_slice(b"XFSB");
    bytes[START as usize + 1024 + 0x38..START as usize + 1024 + 0x3a].fill(0);
    fs::write(&disk, &bytes).expect("write");
    let (_, _, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert!(left.join(" ").contains("XFS"), "{left:?}");
}

#[test]
fn altered_file_systems_end_in_words() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = guest_disk(dir.path(), &["-t", "ext4", "-O", "^metadata_csum"]);
    let good = fs::read(&disk).expect("read");
    // Fields of superblock and descriptors, one after the other: nothing panics, nothing grows.
    for at in (1024..1024 + 0x110)
        .step_by(2)
        .chain((4096..4096 + 64).step_by(2))
    {
        let mut bad = good.clone();
        for byte in &mut bad[START as usize + at..START as usize + at + 2] {
            *byte ^= 0xff;
        }
        fs::write(&disk, &bad).expect("write");
        let open = disk::open(&disk, Format::Raw, None).expect("open");
        if let Ok(cleaned) = clean::cleaned(open, Some(&debugfs), dir.path()) {
            let _ = FlatQcow2::new(cleaned.disk)
                .map(|mut flat| while let Ok(Some(_)) = flat.next_part() {});
        }
    }
}
