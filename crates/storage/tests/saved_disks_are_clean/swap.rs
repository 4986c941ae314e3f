//! What was in memory is not in swap any more, wherever a guest has that.

use std::fs;
use std::path::Path;

use storage::disk::{self, clean};
use storage::inspect::Format;

use super::{
    KEPT, SECRET, SECRETS, START, clean_partition, contains, debugfs, divided, guest_disk, made,
    run, scratch, text, told,
};

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
