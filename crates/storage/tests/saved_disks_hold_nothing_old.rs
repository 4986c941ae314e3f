//! What nobody looks for any more is gone from a saved disk as well: in the journal, behind a file system that was made smaller,
//! in groups that were never written. The file systems are whole after that.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::Error;
use storage::disk;
use storage::disk::clean::{self, Scratch};
use storage::inspect::Format;

use crate::saved_disks_are_clean::{
    KEPT, SECRET, clean_partition, contains, debugfs, divided, made, run, text,
};

/// So many bytes of secrets.
fn secrets(bytes: usize) -> Vec<u8> {
    let mut secrets = SECRET.as_bytes().repeat(bytes / SECRET.len() + 1);
    secrets.truncate(bytes);
    secrets
}

/// A disk with one partition of this content.
fn disk_of(dir: &Path, part: &Path) -> PathBuf {
    let disk = dir.join("disk.raw");
    divided(&disk, &[(0, 0x83, part)]);
    disk
}

/// The file system of a cleaned partition is whole, and has its file.
fn is_whole(part: &Path, name: &str) {
    run("e2fsck", &["-f", "-n", text(part)]);
    let shown = run("debugfs", &["-R", &format!("cat {name}"), text(part)]);
    assert!(shown.contains(KEPT), "{shown}");
}

#[test]
fn what_lies_behind_a_file_system_that_was_made_smaller_reads_as_zeroes() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    if Command::new("resize2fs").output().is_err() {
        eprintln!("skipped: resize2fs is not here (Debian: e2fsprogs)");
        return;
    }
    for block in ["1024", "4096"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        let files: &[(&str, &[u8])] = &[("kept", KEPT.as_bytes())];
        let part = made(dir, "ext", files, &["-t", "ext4", "-b", block]);
        let whole = fs::metadata(&part).expect("metadata").len();
        // Not at the border of a cluster of the image.
        let smaller = (20 << 20) + 12 * 1024;
        run(
            "resize2fs",
            &["-f", text(&part), &format!("{}K", smaller >> 10)],
        );
        let file = fs::File::options().write(true).open(&part).expect("open");
        file.set_len(whole).expect("length");
        let behind = secrets(usize::try_from(whole).expect("length") - smaller);
        file.write_all_at(&behind, smaller as u64).expect("write");
        let (saved, _, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
        assert!(left.is_empty(), "{left:?}");
        assert!(!contains(&saved, SECRET.as_bytes()), "{block}");
        is_whole(&saved, "/kept");
        let qcow2 = fs::metadata(dir.join("saved.qcow2")).expect("metadata");
        assert!(
            qcow2.len() < smaller as u64,
            "zeroes take no room: {qcow2:?}"
        );

        // What the members of a RAID or the like know each other by is left, and told.
        let signs: [(usize, &[u8], &str); 5] = [
            (8 << 10, b"\xfc\x4e\x2b\xa9", "a RAID"),
            (64 << 10, b"\xfc\x4e\x2b\xa9", "a RAID"),
            ((4 << 10) - 60, b"\x83\x74\x02\x6d", "a DRBD device"),
            (1024, b"Intel Raid ISM Cfg Sig. 1.1.00", "a RAID"),
            (512, b"\xde\x11\xde\x11", "a RAID"),
        ];
        for (at, sign, group) in signs {
            let mut bytes = fs::read(&part).expect("read");
            let place = bytes.len() - at;
            bytes[place..place + sign.len()].copy_from_slice(sign);
            let member = dir.join("member.raw");
            fs::write(&member, &bytes).expect("write");
            let (saved, _, left) = clean_partition(dir, &disk_of(dir, &member), &debugfs);
            let told =
                format!("partition 1 is part of {group}: what is behind its file system was left");
            assert_eq!(left, [told]);
            let saved = fs::read(saved).expect("read");
            assert!(saved[smaller..bytes.len()] == bytes[smaller..], "{at}");
        }
    }
}

/// Where the blocks of a journal are, by their numbers in it.
fn journal(dir: &Path, part: &Path, blocks: usize) -> BTreeMap<usize, usize> {
    let script = dir.join("script");
    let commands = (0..blocks).map(|number| format!("bmap <8> {number}\n"));
    fs::write(&script, commands.collect::<String>()).expect("write");
    let shown = run("debugfs", &["-f", text(&script), text(part)]);
    let places = shown.lines().filter(|line| !line.starts_with("debugfs"));
    let places = places.filter_map(|line| line.trim().parse().ok());
    let found: BTreeMap<usize, usize> = (0..).zip(places).collect();
    assert_eq!(found.len(), blocks, "{shown}");
    found
}

#[test]
fn of_a_journal_only_the_header_stays() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let ways: [(&str, &[&str]); 4] = [
        ("4096", &["-t", "ext4"]),
        ("1024", &["-t", "ext4", "-O", "^metadata_csum,^64bit"]),
        ("4096", &["-t", "ext4", "-O", "fast_commit"]),
        ("1024", &["-t", "ext3"]),
    ];
    for (block, options) in ways {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        let files: &[(&str, &[u8])] = &[("kept", KEPT.as_bytes())];
        let options = [&["-b", block], options].concat();
        let part = made(dir, "ext", files, &options);
        let size: usize = block.parse().expect("number");
        let stat = run("debugfs", &["-R", "stat <8>", text(&part)]);
        let bytes = stat.split_once("Size: ").expect("a size").1;
        let bytes: usize = bytes
            .split_whitespace()
            .next()
            .and_then(|bytes| bytes.parse().ok())
            .expect("number");
        let places = journal(dir, &part, bytes / size);
        let file = fs::File::options().write(true).open(&part).expect("open");
        for place in places.iter().skip(1).map(|(_, place)| place * size) {
            file.write_all_at(&secrets(size), place as u64)
                .expect("write");
        }
        let header = places[&0] * size;
        let before = fs::read(&part).expect("read");
        run("e2fsck", &["-f", "-n", text(&part)]);
        let (saved, _, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
        assert!(left.is_empty(), "{options:?}: {left:?}");
        assert!(!contains(&saved, SECRET.as_bytes()), "{options:?}");
        is_whole(&saved, "/kept");
        let after = fs::read(&saved).expect("read");
        assert!(
            after[header..][..1024] == before[header..][..1024],
            "{options:?}"
        );
        let shown = run("debugfs", &["-R", "logdump", text(&saved)]);
        assert!(shown.contains("Journal starts at block 0"), "{shown}");

        // A journal that holds what isn't in place would bring back what was removed: nothing is changed, and that is told.
        file.write_all_at(&1_u32.to_be_bytes(), header as u64 + 28)
            .expect("write");
        let (saved, _, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
        assert_eq!(
            left,
            ["partition 1 was not cleaned: its journal holds what isn't in place"]
        );
        assert!(contains(&saved, SECRET.as_bytes()), "as it was");
    }
}

#[test]
fn what_a_journal_did_in_its_time_is_gone_with_it() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let dir = dir.path();
    let old = secrets(4096);
    let files: &[(&str, &[u8])] = &[
        ("kept", KEPT.as_bytes()),
        ("root/.bash_history", &old),
        ("tmp/other", &[1; 4096]),
    ];
    let part = made(dir, "ext", files, &["-t", "ext4", "-b", "4096"]);
    // The block of a file by way of the journal, as `data=journal` does it.
    let place = run("debugfs", &["-R", "bmap /tmp/other 0", text(&part)]);
    let place = place
        .lines()
        .find(|line| line.trim().parse::<u64>().is_ok());
    let place = place.expect("a place").trim();
    let (content, script) = (dir.join("content"), dir.join("script"));
    fs::write(&content, &old).expect("write");
    let commands = format!("jo\njw -b {place} {}\njc\n", text(&content));
    fs::write(&script, commands).expect("write");
    run("debugfs", &["-w", "-f", text(&script), text(&part)]);
    let (_, files, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
    assert_eq!(
        (files, left),
        (
            0,
            vec!["partition 1 was not cleaned: it was not unmounted cleanly".to_owned()]
        )
    );
    // As at the next mount.
    let mut replayed = Command::new("e2fsck");
    let replayed = replayed
        .args(["-f", "-y", text(&part)])
        .output()
        .expect("e2fsck");
    assert!(
        matches!(replayed.status.code(), Some(0 | 1)),
        "{replayed:?}"
    );
    let before = fs::read(&part).expect("read");
    let whole = before
        .windows(SECRET.len() + 1)
        .filter(|bytes| bytes.starts_with(SECRET.as_bytes()))
        .count();
    assert!(whole > 2 * (4096 / SECRET.len()), "in the journal, too");
    let (saved, files, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
    assert_eq!((files, left), (2, Vec::new()));
    assert!(!contains(&saved, SECRET.as_bytes()));
    is_whole(&saved, "/kept");
}

#[test]
fn what_was_there_before_the_file_system_is_gone() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let ways: [&[&str]; 8] = [
        &["-b", "1024"],
        &["-b", "1024", "-O", "^flex_bg"],
        &["-b", "1024", "-O", "^flex_bg,sparse_super2"],
        &["-b", "1024", "-O", "^sparse_super,^resize_inode"],
        &["-b", "1024", "-O", "^metadata_csum,uninit_bg,^64bit"],
        &["-b", "1024", "-O", "^metadata_csum,^uninit_bg"],
        &["-b", "1024", "-g", "2048", "-I", "128"],
        &["-b", "4096", "-g", "1024"],
    ];
    for options in ways {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        let part = dir.join("ext.raw");
        // The first KiB is the boot loader's, whatever follows.
        let mut old = secrets(32 << 20);
        old[..1024].fill(0);
        fs::write(&part, old).expect("write");
        let root = dir.join("root");
        fs::create_dir(&root).expect("folder");
        fs::write(root.join("kept"), KEPT).expect("write");
        let lazy = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
        let ends = ["-q", "-E", lazy, "-d", text(&root), text(&part)];
        run("mke2fs", &[&["-t", "ext4"], options, &ends].concat());
        assert!(contains(&part, SECRET.as_bytes()));
        let groups = run("dumpe2fs", &[text(&part)]);
        let has_sums = !options.concat().contains("^uninit_bg");
        assert_eq!(groups.contains("BLOCK_UNINIT"), has_sums, "{options:?}");
        let (saved, _, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
        assert!(left.is_empty(), "{options:?}: {left:?}");
        assert!(
            !contains(&saved, &SECRET.as_bytes()[..16]),
            "{options:?}: {groups}"
        );
        is_whole(&saved, "/kept");
    }
}

#[test]
fn an_inode_keeps_nothing_of_its_file() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    for options in [&["-I", "256"][..], &["-I", "512", "-O", "^metadata_csum"]] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        let files: &[(&str, &[u8])] = &[("kept", KEPT.as_bytes())];
        let part = made(dir, "ext", files, &[&["-t", "ext4"], options].concat());
        // The target of a short link is in its inode; one of two goes with the traces.
        for command in [
            format!("symlink /link {SECRET}"),
            "rm /link".to_owned(),
            "mkdir /root".to_owned(),
            format!("symlink /root/.bash_history {SECRET}"),
        ] {
            run("debugfs", &["-w", "-R", &command, text(&part)]);
        }
        assert!(contains(&part, SECRET.as_bytes()));
        run("e2fsck", &["-f", "-n", text(&part)]);
        let (saved, files, left) = clean_partition(dir, &disk_of(dir, &part), &debugfs);
        assert_eq!((files, left), (1, Vec::new()));
        assert!(!contains(&saved, SECRET.as_bytes()), "{options:?}");
        is_whole(&saved, "/kept");
    }
}

/// A disk with these entries in its GPT, each by its first sector and how many.
fn gpt(disk: &Path, entries: impl Iterator<Item = (u64, u64)>) {
    let file = fs::File::options().write(true).open(disk).expect("open");
    let mut protective = [0; 66];
    protective[4] = 0xee;
    protective[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&protective, 446).expect("write");
    let mut count = 0;
    for (first, sectors) in entries {
        let mut entry = [0; 128];
        entry[..16].fill(1);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(first + sectors - 1).to_le_bytes());
        file.write_all_at(&entry, 1024 + 128 * count)
            .expect("write");
        count += 1;
    }
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&(count as u32).to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    file.write_all_at(&header, 512).expect("write");
}

#[test]
fn a_file_system_that_many_partitions_name_is_cleaned_once() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let dir = dir.path();
    let old = secrets(4096);
    let files: &[(&str, &[u8])] = &[("kept", KEPT.as_bytes()), ("root/.bash_history", &old)];
    let part = made(dir, "ext", files, &["-t", "ext4"]);
    let disk = disk_of(dir, &part);
    let sectors = fs::metadata(&part).expect("metadata").len() / 512;
    gpt(&disk, (0..1024).map(|_| (2048, sectors)));
    let (saved, files, left) = clean_partition(dir, &disk, &debugfs);
    assert_eq!(files, 1);
    assert_eq!(
        left,
        ["partition 2 and 1022 more overlap others, which makes no sense"]
    );
    assert!(!contains(&saved, SECRET.as_bytes()));
    let (_, _, left) = {
        gpt(&disk, [(2048, sectors), (4096, 8)].into_iter());
        clean_partition(dir, &disk, &debugfs)
    };
    assert_eq!(left, ["partition 2 overlaps others, which makes no sense"]);
    // Those that only touch are none the worse for it; of too many the rest is told.
    gpt(&disk, (0..200).map(|number| (66_000 + number, 1)));
    fs::File::options()
        .write(true)
        .open(&disk)
        .expect("open")
        .write_all_at(&secrets(400), 66_199 * 512)
        .expect("write");
    let (_, files, left) = clean_partition(dir, &disk, &debugfs);
    assert_eq!(files, 0);
    assert_eq!(left, ["partition 129 and 71 more are beyond the first 128"]);
    let saved = dir.join("saved.qcow2");
    assert!(contains(&saved, SECRET.as_bytes()), "it is somebody's data");
}

#[test]
fn what_a_host_keeps_free_stays_free() {
    let Some(debugfs) = debugfs() else {
        return;
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let dir = dir.path();
    let part = made(dir, "ext", &[("kept", KEPT.as_bytes())], &["-t", "ext4"]);
    let disk = disk_of(dir, &part);
    let open = disk::open(&disk, Format::Raw, None).expect("open");
    let scratch = Scratch {
        dir,
        reserve_bytes: u64::MAX,
    };
    let refused = clean::cleaned(open, Some(&debugfs), scratch).map(|cleaned| cleaned.left);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
}
