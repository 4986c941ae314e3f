//! What must not be in an image is gone from a saved disk, also from its free blocks, and the file systems are whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::confine::Debugfs;
use storage::disk::{self, FlatQcow2, clean};
use storage::inspect::Format;

/// In everything that must go.
pub(crate) const SECRET: &str = "secret-of-the-builder";
/// In everything that must stay.
pub(crate) const KEPT: &str = "kept-by-the-builder";
pub(crate) const START: u64 = 1 << 20;

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
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

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

pub(crate) fn debugfs() -> Option<Debugfs> {
    let found = ["/usr/sbin/debugfs", "/sbin/debugfs"]
        .iter()
        .find_map(|path| Debugfs::at(Path::new(path)).ok());
    let all = found.filter(|_| {
        [
            "qemu-img", "mke2fs", "e2fsck", "mkswap", "mkfs.fat", "sfdisk",
        ]
        .iter()
        .all(|name| Command::new(name).arg("-V").output().is_ok())
    });
    if all.is_none() {
        eprintln!(
            "skipped: debugfs, mke2fs and e2fsck (Debian: e2fsprogs), mkfs.fat (dosfstools), sfdisk (fdisk) and qemu-img are needed"
        );
    }
    all
}

const SECRETS: [&str; 34] = [
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
    "home/ann/.ssh/deploy",
    "home/ann/.ssh/cloud.pem",
    "root/.ssh/identity",
    "root/.ssh/keys/work",
    "home/ann/.globus/userkey.pem",
    "home/ann/.globus/usercert.p12",
    "root/.stratuslab/logins",
    "root/.stratuslab/stratuslab-user.cfg",
    "home/ann/.gnupg/private-keys-v1.d/0.key",
    "home/ann/.netrc",
    "home/ann/.local/share/fish/fish_history",
    "home/ann/.node_repl_history",
    "var/lib/builder/.ssh/key",
    "srv/git/.ssh/authorized_keys",
];
const STAY: [&str; 9] = [
    "home/ann/.ssh/config.d/work.conf",
    "home/ann/.gnupg/pubring.kbx",
    "var/lib/builder/app",
    "etc/ssh/sshd_config",
    "root/analysis.R",
    "home/ann/.bashrc",
    "home/ann/.ssh/config",
    "var/lib/app/data",
    "opt/with \"quotes\".txt",
];

const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nbuilder:x:100:100::/var/lib/builder/:/bin/sh\n\
     git:x:101:101::/srv/git:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\nodd:x:1:1::..:\n";

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
    fs::write(root.join("etc/passwd"), USERS).expect("write");
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
    divided(&disk, &[(0, 0x83, &part)]);
    disk
}

/// A disk with these partitions, of this status and type, one behind the other, a MiB between them.
pub(crate) fn divided(disk: &Path, parts: &[(u8, u8, &Path)]) {
    let mut whole = vec![0; START as usize];
    for (number, (status, kind, part)) in parts.iter().enumerate() {
        let content = fs::read(part).expect("read");
        let (at, first) = (446 + 16 * number, whole.len() as u64 / 512);
        whole[at] = *status;
        whole[at + 4] = *kind;
        whole[at + 8..at + 12].copy_from_slice(&(first as u32).to_le_bytes());
        whole[at + 12..at + 16].copy_from_slice(&((content.len() / 512) as u32).to_le_bytes());
        whole.extend(content);
        whole.extend(vec![0; START as usize]);
    }
    whole[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(disk, whole).expect("write");
}

/// A file system of these files in a file of its own.
pub(crate) fn made(dir: &Path, name: &str, files: &[(&str, &[u8])], options: &[&str]) -> PathBuf {
    let root = dir.join(name);
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, content).expect("write");
    }
    made_of(dir, name, options)
}

/// The same, of the files that are in a folder of this name.
fn made_of(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
    let part = dir.join(format!("{name}.raw"));
    let ends = ["-q", "-d", text(&dir.join(name)), text(&part), "32M"].map(str::to_owned);
    let all: Vec<&str> = options
        .iter()
        .copied()
        .chain(ends.iter().map(String::as_str))
        .collect();
    run("mke2fs", &all);
    part
}

fn scratch(dir: &Path) -> clean::Scratch<'_> {
    clean::Scratch {
        dir,
        reserve_bytes: 0,
    }
}

/// What is told of a disk.
pub(crate) fn told(dir: &Path, disk: &Path, debugfs: Option<&Debugfs>) -> Vec<String> {
    let open = disk::open(disk, Format::Raw, None).expect("open");
    clean::cleaned(open, debugfs, scratch(dir))
        .expect("clean")
        .left
}

pub(crate) fn contains(file: &Path, what: &[u8]) -> bool {
    let what = str::from_utf8(what).expect("text");
    let found = Command::new("grep")
        .args(["-qaF", what, text(file)])
        .status()
        .expect("grep");
    found.success()
}

/// The cleaned disk's partition as a file, and what was told.
pub(crate) fn clean_partition(
    dir: &Path,
    disk: &Path,
    debugfs: &Debugfs,
) -> (PathBuf, usize, Vec<String>) {
    let open = disk::open(disk, Format::Raw, None).expect("open");
    let cleaned = clean::cleaned(open, Some(debugfs), scratch(dir)).expect("clean");
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

/// Swap as `mkswap` makes it, and as it is after a while.
fn used_swap(dir: &Path, name: &str, bytes: usize) -> Vec<u8> {
    let path = dir.join(name);
    fs::write(&path, vec![0; bytes]).expect("write");
    run("mkswap", &["-p", "4096", text(&path)]);
    let mut swap = fs::read(&path).expect("read");
    let pages = SECRET.as_bytes().repeat(bytes / SECRET.len() + 1);
    swap[4096..].copy_from_slice(&pages[..bytes - 4096]);
    fs::write(&path, &swap).expect("write");
    swap
}

#[test]
fn of_swap_only_the_header_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("swap.raw");
    let mut bytes = used_swap(dir.path(), "swap.raw", 1 << 20);
    let open = disk::open(&path, Format::Raw, None).expect("open");
    let mut cleaned = clean::cleaned(open, None, scratch(dir.path())).expect("clean");
    assert!(cleaned.left.is_empty(), "{:?}", cleaned.left);
    let mut read = vec![0; bytes.len()];
    cleaned.disk.read(0, &mut read).expect("read");
    assert_eq!(read[..4096], bytes[..4096]);
    assert!(read[4096..].iter().all(|byte| *byte == 0));
    assert!(!cleaned.disk.may_hold_data(4096, 4096).expect("ask"));
    // What the members of a RAID know each other by is behind the pages: all of it stays, and is told.
    let mut member = bytes.clone();
    let end = member.len();
    member[end - 512..end - 508].copy_from_slice(b"\xde\x11\xde\x11");
    fs::write(&path, &member).expect("write");
    let left = told(dir.path(), &path, None);
    assert!(left.join(" ").contains("part of a RAID"), "{left:?}");
    // A system that was put to sleep in it can't be woken by a copy, nor cleaned.
    for sign in [
        b"S1SUSPEND\0",
        b"S2SUSPEND\0",
        b"ULSUSPEND\0",
        b"LINHIB0001",
    ] {
        bytes[4086..4096].copy_from_slice(sign);
        fs::write(&path, &bytes).expect("write");
        let left = told(dir.path(), &path, None);
        assert!(left.join(" ").contains("hibernated"), "{left:?}");
    }
    // A header that makes no sense proves nothing.
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    bytes[1028..1032].copy_from_slice(&[0xff; 4]);
    fs::write(&path, &bytes).expect("write");
    let left = told(dir.path(), &path, None);
    assert!(left.join(" ").contains("something unknown"), "{left:?}");
}

#[test]
fn an_old_sign_of_swap_does_not_hide_a_file_system() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = guest_disk(dir.path(), &["-t", "ext4", "-b", "4096"]);
    let mut bytes = fs::read(&disk).expect("read");
    let at = START as usize + 65_536;
    bytes[at - 10..at].copy_from_slice(b"SWAPSPACE2");
    fs::write(&disk, &bytes).expect("write");
    let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert_eq!((files, left), (SECRETS.len(), Vec::new()));
    assert!(!contains(&part, SECRET.as_bytes()));
    assert!(contains(&part, KEPT.as_bytes()));
}

#[test]
fn swap_files_are_emptied_wherever_the_guest_has_them() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    for options in [
        ["-t", "ext4", "-b", "4096"],
        ["-t", "ext4", "-b", "1024"],
        ["-t", "ext3", "-b", "1024"],
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let swap = used_swap(dir.path(), "swap", 1 << 20);
        let table = "/dev/vda1 / ext4 defaults 0 1\n/var/more/extra none swap sw 0 0\n/data/odd none swap sw 0 0\n";
        let users = "builder:x:100:100::/var/lib/builder:/bin/sh\n";
        let odd = KEPT.repeat(1000);
        let root = made(
            dir.path(),
            "root",
            &[
                ("etc/fstab", table.as_bytes()),
                ("etc/passwd", users.as_bytes()),
                (
                    "etc/systemd/system/data-unit.swap",
                    b"[Swap]\nWhat=/data/unit\n",
                ),
                ("swap.img", &swap),
                ("data/unit", &swap),
                ("data/odd", odd.as_bytes()),
                ("swap", odd.as_bytes()),
            ],
            &options,
        );
        // A file system of its own for /var.
        let key = SECRET.repeat(500);
        let var = made(
            dir.path(),
            "var",
            &[
                ("more/extra", &swap),
                ("lib/builder/.ssh/key", key.as_bytes()),
                ("log/app.log", key.as_bytes()),
            ],
            &options,
        );
        let disk = dir.path().join("disk.raw");
        divided(&disk, &[(0, 0x83, &root), (0, 0x83, &var)]);
        let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
        assert_eq!(
            left,
            ["on partition 1 /data/odd is swap of an unknown kind"],
            "{options:?}"
        );
        assert_eq!(files, 2, "{options:?}: a key and a log");
        let both = fs::read(&part).expect("read");
        assert!(!contains(&part, SECRET.as_bytes()), "{options:?}");
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        let length = 32 << 20;
        fs::write(&first, &both[..length]).expect("write");
        fs::write(&second, &both[length + START as usize..][..length]).expect("write");
        for (part, name) in [
            (&first, "/swap.img"),
            (&first, "/data/unit"),
            (&second, "/more/extra"),
        ] {
            let out = dir.path().join("out");
            run(
                "debugfs",
                &["-R", &format!("dump {name} {}", text(&out)), text(part)],
            );
            let read = fs::read(&out).expect("read");
            assert_eq!(read.len(), swap.len(), "{options:?}: {name}");
            assert_eq!(read[..4096], swap[..4096], "{options:?}: {name}");
            assert!(
                read[4096..].iter().all(|byte| *byte == 0),
                "{options:?}: {name}"
            );
        }
        for part in [&first, &second] {
            run("e2fsck", &["-f", "-n", text(part)]);
        }
        assert!(contains(&first, KEPT.as_bytes()), "{options:?}");
    }
}

#[test]
fn pages_in_blocks_that_were_only_set_aside_go_too() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let swap = used_swap(dir.path(), "swap", 1 << 20);
    let root = made(
        dir.path(),
        "root",
        &[("swapfile", &swap[..4096])],
        &["-t", "ext4", "-b", "4096"],
    );
    // As `fallocate` and `mkswap` leave it: the kernel swaps to the blocks themselves.
    for command in [
        "fallocate /swapfile 1 255",
        "set_inode_field /swapfile size 1048576",
    ] {
        run("debugfs", &["-w", "-R", command, text(&root)]);
    }
    let blocks = run("debugfs", &["-R", "blocks /swapfile", text(&root)]);
    let numbers: Vec<usize> = blocks
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers.len(), 256, "{blocks}");
    let mut bytes = fs::read(&root).expect("read");
    for (page, block) in numbers.iter().enumerate().skip(1) {
        bytes[block * 4096..][..4096].copy_from_slice(&swap[page * 4096..][..4096]);
    }
    fs::write(&root, &bytes).expect("write");
    let disk = dir.path().join("disk.raw");
    divided(&disk, &[(0, 0x83, &root)]);
    let (part, _, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert!(left.is_empty(), "{left:?}");
    assert!(!contains(&part, SECRET.as_bytes()));
    let saved = fs::read(&part).expect("read");
    assert_eq!(saved[numbers[0] * 4096..][..4096], swap[..4096]);
}

#[test]
fn a_large_file_is_removed_as_any_other() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    for kind in ["ext4", "ext3"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        let piece = SECRET.repeat(300);
        // With holes, so that it takes less than it says; in many pieces, so that the map of it is a tree.
        for (name, gibibytes, pieces) in [
            ("tmp/archive.tar", 1_u64, 700_u64),
            ("var/log/lastlog", 20, 5),
            ("home/ann/.bash_history", 1, 2),
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            let file = fs::File::create(path).expect("create");
            let step = (gibibytes << 30) / pieces;
            for number in 0..pieces {
                file.write_all_at(piece.as_bytes(), number * step)
                    .expect("write");
            }
            file.set_len(gibibytes << 30).expect("length");
        }
        fs::create_dir_all(root.join("root")).expect("folder");
        fs::write(root.join("root/.bash_history"), SECRET).expect("write");
        fs::write(root.join("root/analysis.R"), KEPT).expect("write");
        let part = made_of(dir.path(), "root", &["-t", kind, "-b", "4096"]);
        let disk = dir.path().join("disk.raw");
        divided(&disk, &[(0, 0x83, &part)]);
        let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
        assert!(left.is_empty(), "{kind}: {left:?}");
        assert_eq!(files, 4, "{kind}");
        assert!(!contains(&part, SECRET.as_bytes()), "{kind}");
        assert!(contains(&part, KEPT.as_bytes()), "{kind}");
        run("e2fsck", &["-f", "-n", text(&part)]);
    }
}

#[test]
fn whatever_is_not_known_is_told() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("write");
        path
    };
    let unknown = SECRET.as_bytes().repeat((4 << 20) / SECRET.len());
    let (unknown, blank) = (
        file("unknown", &unknown[..unknown.len() / 512 * 512]),
        file("blank", &[0; 4 << 20]),
    );
    let late = {
        let mut bytes = vec![0; 4 << 20];
        bytes[(3 << 20) + 17] = 1;
        file("late", &bytes)
    };
    let fat = file("fat", &[0; 4 << 20]);
    run("mkfs.fat", &[text(&fat)]);
    let ext = made(
        dir.path(),
        "ext",
        &[("etc/hostname", b"x")],
        &["-t", "ext4"],
    );
    let disk = dir.path().join("disk.raw");
    // Nothing is told of what holds nothing, nor of what a machine starts from.
    divided(
        &disk,
        &[
            (0x80, 0xe, &fat),
            (0, 0x83, &blank),
            (0, 0x83, &ext),
            (0, 0xef, &fat),
        ],
    );
    assert!(told(dir.path(), &disk, Some(&debugfs)).is_empty());
    // Of all else it is.
    divided(
        &disk,
        &[
            (0, 0x83, &unknown),
            (0, 0x83, &ext),
            (0, 0xc, &fat),
            (0, 0x83, &late),
        ],
    );
    assert_eq!(
        told(dir.path(), &disk, Some(&debugfs)),
        [
            "partition 1 is something unknown, which can't be cleaned from outside",
            "partition 3 is a FAT file system, which can't be cleaned from outside",
            "partition 4 is something unknown, which can't be cleaned from outside",
        ]
    );
    // Also without any table.
    let left = told(dir.path(), &unknown, Some(&debugfs));
    assert_eq!(
        left,
        ["the disk is something unknown, which can't be cleaned from outside"]
    );
    assert!(told(dir.path(), &blank, Some(&debugfs)).is_empty());
    // A partition that reaches past the end of the disk is copied as far as it is there.
    divided(&disk, &[(0, 0x83, &ext), (0, 0x83, &unknown)]);
    let whole = fs::read(&disk).expect("read");
    fs::write(&disk, &whole[..whole.len() - (3 << 20)]).expect("write");
    let left = told(dir.path(), &disk, Some(&debugfs));
    assert_eq!(left, ["partition 2 reaches past the end of the disk"]);
}

#[test]
fn partitions_that_overlap_are_one_and_the_rest_is_told() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let ext = made(
        dir.path(),
        "ext",
        &[("root/.bash_history", SECRET.as_bytes())],
        &["-t", "ext4"],
    );
    let disk = dir.path().join("disk.raw");
    divided(&disk, &[(0, 0x83, &ext)]);
    let mut bytes = fs::read(&disk).expect("read");
    let first = bytes[446..462].to_vec();
    bytes[462..478].copy_from_slice(&first);
    // One that lies inside.
    bytes[478..494].copy_from_slice(&first);
    let inside = u32::from_le_bytes(first[8..12].try_into().unwrap()) + 2048;
    bytes[486..490].copy_from_slice(&inside.to_le_bytes());
    bytes[490..494].copy_from_slice(&2048_u32.to_le_bytes());
    fs::write(&disk, &bytes).expect("write");
    let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert_eq!(
        left,
        ["partition 2 and 1 more overlap others, which makes no sense"]
    );
    assert_eq!(files, 1);
    assert!(!contains(&part, SECRET.as_bytes()));
}

/// A directory as nobody's system makes one: its entries, of 12 bytes each, all name one file.
fn made_up_names(names: usize, inode: u32) -> Vec<u8> {
    let letters = |number: usize| {
        [0_u32, 1, 2, 3].map(|place| b'a' + (number / 26_usize.pow(place) % 26) as u8)
    };
    let mut bytes = Vec::new();
    for number in 0..names {
        // What is left of a block belongs to its last entry.
        let is_last = bytes.len() % 4096 + 12 + 12 > 4096;
        let length: u16 = if is_last { 16 } else { 12 };
        let mut entry = inode.to_le_bytes().to_vec();
        entry.extend(length.to_le_bytes());
        entry.extend([4, 1]);
        entry.extend(letters(number));
        entry.resize(length.into(), 0);
        bytes.extend(entry);
    }
    bytes
}

#[test]
fn a_directory_of_too_many_names_is_not_held_and_told() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    // A file that becomes a directory.
    let mut names = made_up_names(341 * 600, 12);
    let part = made(
        dir.path(),
        "ext",
        &[
            ("history", SECRET.as_bytes()),
            ("root", &vec![b'x'; names.len()]),
            ("home/ann/.bash_history", SECRET.as_bytes()),
        ],
        &[
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "^metadata_csum,^dir_index",
        ],
    );
    let stat = run("debugfs", &["-R", "stat /history", text(&part)]);
    let inode = stat.split_whitespace().nth(1).expect("Inode: NUMBER");
    let inode: u32 = inode.parse().expect("number");
    // The first two entries together are that of one name that is looked for.
    let mut first = inode.to_le_bytes().to_vec();
    first.extend(24_u16.to_le_bytes());
    first.extend([13, 1]);
    first.extend(b".bash_history\0\0\0");
    names[..24].copy_from_slice(&first);
    let blocks = run("debugfs", &["-R", "blocks /root", text(&part)]);
    let blocks: Vec<u64> = blocks
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(blocks.len(), names.len() / 4096);
    run(
        "debugfs",
        &["-w", "-R", "set_inode_field /root mode 040755", text(&part)],
    );
    let file = fs::File::options().write(true).open(&part).expect("open");
    for (block, bytes) in blocks.iter().zip(names.chunks(4096)) {
        file.write_all_at(bytes, block * 4096).expect("write");
    }
    let disk = dir.path().join("disk.raw");
    divided(&disk, &[(0, 0x83, &part)]);
    let (_, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert_eq!(
        left,
        ["on partition 1 /root/.bash_history could not be removed"]
    );
    assert_eq!(files, 1, "the other goes");
}

#[test]
fn a_link_that_claims_to_be_of_terabytes_takes_no_memory() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let home = dir.path().join("ext/root");
    fs::create_dir_all(home.join("real/fish")).expect("folder");
    fs::write(home.join("real/fish/fish_history"), SECRET).expect("write");
    std::os::unix::fs::symlink("x/".repeat(50), home.join(".config")).expect("link");
    std::os::unix::fs::symlink("x/".repeat(50), home.join("passwd")).expect("link");
    fs::create_dir_all(home.join(".local")).expect("folder");
    // One that is followed.
    std::os::unix::fs::symlink("../real", home.join(".local/share")).expect("link");
    fs::create_dir_all(dir.path().join("ext/etc")).expect("folder");
    std::os::unix::fs::symlink("/root/passwd", dir.path().join("ext/etc/passwd")).expect("link");
    let part = made_of(dir.path(), "ext", &["-t", "ext4"]);
    for link in [".config", "passwd"] {
        let command = format!("set_inode_field /root/{link} size {}", 8_u64 << 40);
        run("debugfs", &["-w", "-R", &command, text(&part)]);
    }
    let disk = dir.path().join("disk.raw");
    divided(&disk, &[(0, 0x83, &part)]);
    let (part, files, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(files, 1);
    assert!(!contains(&part, SECRET.as_bytes()));
}

#[test]
fn what_lies_between_partitions_reads_as_zeroes() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let ext = made(
        dir.path(),
        "ext",
        &[("kept", KEPT.as_bytes())],
        &["-t", "ext4"],
    );
    let content = fs::read(&ext).expect("read");
    let disk = dir.path().join("disk.raw");
    let mib = 1 << 20;
    let gpt = "label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\n\
               start=8192,size=65536,type=linux\nstart=77824,size=2048,type=linux\n";
    let old = "label: dos\nstart=2048,size=2048,type=83\nstart=6144,type=5\nstart=8192,size=65536,type=83\n\
               start=77824,size=2048,type=83\n";
    for (table, first) in [(gpt, 1), (old, 0)] {
        let noise = SECRET.as_bytes().repeat(48 * mib / SECRET.len() + 1);
        let mut bytes = noise[..48 * mib].to_vec();
        bytes[..mib].fill(0);
        bytes[4 * mib..][..content.len()].copy_from_slice(&content);
        bytes[mib..2 * mib].fill(first);
        bytes[38 * mib..39 * mib].fill(0);
        fs::write(&disk, &bytes).expect("write");
        let script = dir.path().join("script");
        fs::write(&script, table).expect("write");
        run(
            "sh",
            &[
                "-c",
                &format!(
                    "sfdisk --quiet --wipe=never {} <{}",
                    text(&disk),
                    text(&script)
                ),
            ],
        );
        let before = run("sfdisk", &["-d", text(&disk)]);
        let (part, _, left) = clean_partition(dir.path(), &disk, &debugfs);
        assert!(left.is_empty(), "{before}: {left:?}");
        assert!(!contains(&part, SECRET.as_bytes()), "{before}");
        let saved = fs::read(dir.path().join("saved.raw")).expect("read");
        assert!(
            saved[mib..2 * mib].iter().all(|byte| *byte == first),
            "{before}"
        );
        // The table is whole, its copy at the end of the disk too.
        fs::write(&disk, &saved).expect("write");
        let shown = run("sfdisk", &["--verify", text(&disk)]);
        assert!(shown.contains("No errors"), "{shown}");
        assert_eq!(run("sfdisk", &["-d", text(&disk)]), before);
        let file = dir.path().join("checked");
        fs::write(&file, &saved[4 * mib..][..content.len()]).expect("write");
        run("e2fsck", &["-f", "-n", text(&file)]);
    }
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
        clean::cleaned(open, None, scratch(dir.path()))
            .expect("clean")
            .files,
        0
    );
    // Something else.
    bytes[START as usize..START as usize + 4].copy_from_slice(b"XFSB");
    bytes[START as usize + 1024 + 0x38..START as usize + 1024 + 0x3a].fill(0);
    fs::write(&disk, &bytes).expect("write");
    let (_, _, left) = clean_partition(dir.path(), &disk, &debugfs);
    assert!(left.join(" ").contains("XFS"), "{left:?}");
}

/// Bytes of a file system are turned round, two at a time, one place after the other: nothing panics, nothing grows.
fn altered(dir: &Path, disk: &Path, debugfs: &Debugfs, places: impl Iterator<Item = usize>) {
    let good = fs::read(disk).expect("read");
    let file = fs::File::options().write(true).open(disk).expect("open");
    for at in places {
        let at = START as usize + at;
        let bad = [good[at] ^ 0xff, good[at + 1] ^ 0xff];
        file.write_all_at(&bad, at as u64).expect("write");
        let open = disk::open(disk, Format::Raw, None).expect("open");
        if let Ok(cleaned) = clean::cleaned(open, Some(debugfs), scratch(dir)) {
            let _ = FlatQcow2::new(cleaned.disk)
                .map(|mut flat| while let Ok(Some(_)) = flat.next_part() {});
        }
        file.write_all_at(&good[at..at + 2], at as u64)
            .expect("write");
    }
}

#[test]
fn altered_file_systems_end_in_words() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = guest_disk(dir.path(), &["-t", "ext4", "-O", "^metadata_csum"]);
    let superblock = (1024..1024 + 0x110).step_by(2);
    let descriptors = (4096..4096 + 64).step_by(2);
    altered(dir.path(), &disk, &debugfs, superblock.chain(descriptors));
}

#[test]
fn altered_inodes_end_in_words() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = guest_disk(dir.path(), &["-t", "ext4", "-O", "^metadata_csum"]);
    let inode = {
        let part = dir.path().join("part.raw");
        let shown = run("debugfs", &["-R", "imap /root/.bash_history", text(&part)]);
        let (block, offset) = shown
            .split_once("located at block ")
            .and_then(|(_, place)| place.trim_end().split_once(", offset 0x"))
            .expect("a place");
        let block: usize = block.parse().expect("number");
        let offset = offset.split_whitespace().next().unwrap_or_default();
        let offset = usize::from_str_radix(offset, 16);
        block * 4096 + offset.expect("number")
    };
    altered(
        dir.path(),
        &disk,
        &debugfs,
        (inode..inode + 0x70).step_by(2),
    );
}
