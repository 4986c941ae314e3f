//! Disks that somebody made to do harm.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use storage::confine::Debugfs;
use storage::disk::{self, FlatQcow2, clean};
use storage::inspect::Format;

use super::{
    SECRET, START, clean_partition, contains, debugfs, divided, guest_disk, made, made_of, run,
    scratch, text,
};

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
