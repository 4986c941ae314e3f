//! Of the builder nothing stays, in whatever file system, and the rest is whole.

use std::fs;
use std::os::unix::fs::FileExt as _;

use super::{
    KEPT, SECRET, SECRETS, STAY, clean_partition, contains, debugfs, divided, guest_disk, made_of,
    run, text,
};

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
