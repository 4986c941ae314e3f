//! What is between partitions is gone, and what can't be cleaned is told to people.

use std::fs;

use storage::disk::{self, clean};
use storage::inspect::Format;

use super::{
    KEPT, SECRET, START, clean_partition, contains, debugfs, divided, guest_disk, made, run,
    scratch, text, told,
};

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
