//! Media from our writer, read by the programs that guests, operators and other tools use: isoinfo, xorriso, blkid.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use context::MediumFile;
use context::iso9660::{VolumeLabel, write};
use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};

fn moment() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().unwrap()
}

/// The program's answer, or a printed reason why the test cannot be made here.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: cannot run {program}: {error}");
            None
        }
    }
}

fn stored(label: &VolumeLabel, files: &[MediumFile]) -> NamedTempFile {
    let medium = write(label, moment(), files).unwrap();
    assert_eq!(medium.len() % 2048, 0);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&medium).unwrap();
    file
}

fn path_of(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Every file of a folder on disk by its relative path, and every folder with a final `/`.
fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Reads a whole medium with xorriso; `joliet` makes it look at that tree instead of Rock Ridge.
fn extracted(medium: &NamedTempFile, joliet: bool) -> Option<BTreeMap<String, Vec<u8>>> {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("out");
    let target_text = target.to_str().unwrap();
    let mut arguments = vec!["-abort_on", "WARNING", "-osirrox", "on:sort_lba_on"];
    if joliet {
        arguments.extend(["-read_fs", "norock"]);
    }
    arguments.extend(["-indev", path_of(medium), "-extract", "/", target_text]);
    let output = run("xorriso", &arguments)?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{messages}");
    let found = files_below(&target);
    // Folders came out without write permission; give it back, so that they can be removed by anybody.
    run("chmod", &["-R", "u+w", target_text]);
    Some(found)
}

fn as_map(files: &[MediumFile]) -> BTreeMap<String, Vec<u8>> {
    files
        .iter()
        .map(|file| (file.path.clone(), file.content.clone()))
        .collect()
}

fn many_files() -> Vec<MediumFile> {
    let mut files: Vec<MediumFile> = (0..300)
        .map(|number| {
            MediumFile::new(
                format!("a-long.lower-case_name+{number:03}.conf"),
                vec![b'x'; number * 7],
            )
        })
        .collect();
    files.push(MediumFile::new("n".repeat(64), "longest"));
    files.push(MediumFile::new("empty", ""));
    files.push(MediumFile::new("exactly-a-sector", vec![1; 2048]));
    files.push(MediumFile::new("larger", vec![2; 300_000]));
    files.push(MediumFile::script("init.sh", "#!/bin/sh\n"));
    files.push(MediumFile::new("openstack/latest/meta_data.json", "{}"));
    files.push(MediumFile::new("openstack/2018-08-27/meta_data.json", "{}"));
    files.push(MediumFile::new("1/2/3/4/5/6/7/deep", "deep"));
    files.push(MediumFile::new("Upper Case.txt", "blank"));
    files
}

#[test]
fn xorriso_reads_both_trees() {
    let files = many_files();
    let medium = stored(&VolumeLabel::CONTEXT, &files);
    for joliet in [false, true] {
        let Some(found) = extracted(&medium, joliet) else {
            return;
        };
        assert_eq!(found, as_map(&files), "joliet: {joliet}");
    }
}

#[test]
fn isoinfo_lists_both_trees_and_gives_the_files() {
    let files = many_files();
    let medium = stored(&VolumeLabel::CIDATA, &files);
    for tree in ["-R", "-J"] {
        let Some(listed) = run("isoinfo", &[tree, "-f", "-i", path_of(&medium)]) else {
            return;
        };
        assert!(listed.status.success());
        let listing = String::from_utf8(listed.stdout).unwrap();
        let names: Vec<&str> = listing.lines().collect();
        for file in &files {
            assert!(
                names.contains(&format!("/{}", file.path).as_str()),
                "{tree} {}: {listing}",
                file.path
            );
        }
        let content = run("isoinfo", &[tree, "-i", path_of(&medium), "-x", "/larger"]).unwrap();
        assert!(content.stdout == vec![2; 300_000]);
    }
    let long = run("isoinfo", &["-R", "-l", "-i", path_of(&medium)]).unwrap();
    let long = String::from_utf8(long.stdout).unwrap();
    let line_of = |name: &str| {
        long.lines()
            .find(|line| line.trim_end().ends_with(name))
            .unwrap()
            .to_owned()
    };
    assert!(
        line_of(" init.sh").starts_with("-r-xr-xr-x   1    0    0"),
        "{}",
        line_of(" init.sh")
    );
    assert!(
        line_of(" larger").starts_with("-r--r--r--"),
        "{}",
        line_of(" larger")
    );
    assert!(
        line_of(" openstack").starts_with("dr-xr-xr-x   4"),
        "{}",
        line_of(" openstack")
    );
    assert!(
        line_of(" larger").contains("Mar  4 2026"),
        "{}",
        line_of(" larger")
    );
    let descriptor = run("isoinfo", &["-d", "-i", path_of(&medium)]).unwrap();
    let descriptor = String::from_utf8(descriptor.stdout).unwrap();
    for line in [
        "Volume id: cidata",
        "Joliet with UCS level 3 found",
        "Rock Ridge signatures version 1 found",
    ] {
        assert!(descriptor.contains(line), "{descriptor}");
    }
}

#[test]
fn blkid_shows_the_label() {
    for label in [
        "CONTEXT",
        "cidata",
        "config-2",
        "_STRATUSLAB",
        "exactly16letters",
    ] {
        let medium = stored(
            &label.parse().unwrap(),
            &[
                MediumFile::new("meta-data", ""),
                MediumFile::new("user-data", ""),
            ],
        );
        let Some(output) = run("blkid", &["-p", "-o", "export", path_of(&medium)]) else {
            return;
        };
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(
            shown.lines().any(|line| line == format!("LABEL={label}")),
            "{shown}"
        );
        assert!(shown.lines().any(|line| line == "TYPE=iso9660"), "{shown}");
    }
}

#[test]
fn a_medium_has_a_limit_and_is_always_the_same() {
    let files = many_files();
    assert_eq!(
        write(&VolumeLabel::CONTEXT, moment(), &files).unwrap(),
        write(&VolumeLabel::CONTEXT, moment(), &files).unwrap()
    );
    let fitting = [MediumFile::new(
        "large",
        vec![0; 8 * 1024 * 1024 - 64 * 1024],
    )];
    assert!(
        write(&VolumeLabel::CONTEXT, moment(), &fitting)
            .unwrap()
            .len()
            <= 8 * 1024 * 1024
    );
    let too_large = [MediumFile::new("large", vec![0; 8 * 1024 * 1024 - 2048])];
    assert!(matches!(
        write(&VolumeLabel::CONTEXT, moment(), &too_large),
        Err(context::ContextError::MediumTooLarge { .. })
    ));
    // busybox finds no label on a medium smaller than 68 KiB.
    assert_eq!(
        write(&VolumeLabel::CIDATA, moment(), &[]).unwrap().len(),
        128 * 1024
    );
    // Dates outside the format's range do not matter.
    for moment in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
        assert!(write(&VolumeLabel::CONTEXT, moment, &[]).is_ok());
    }
    for label in ["", "seventeen-letters", "a b", "a\n", "é"] {
        assert!(label.parse::<VolumeLabel>().is_err(), "{label:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(
        tree in proptest::collection::btree_map(
            "[a-z]{1,2}(/[A-Za-z0-9._+ -]{0,62}[a-zA-Z0-9]){0,3}",
            proptest::collection::vec(any::<u8>(), 0..5000),
            0..24,
        ),
    ) {
        let files: Vec<MediumFile> = tree.into_iter().map(|(path, content)| MediumFile::new(path, content)).collect();
        // A path that is a folder of another is refused; so is a name of dots.
        if write(&VolumeLabel::CONTEXT, moment(), &files).is_ok() {
            let medium = stored(&VolumeLabel::CONTEXT, &files);
            for joliet in [false, true] {
                if let Some(found) = extracted(&medium, joliet) {
                    prop_assert_eq!(found, as_map(&files));
                }
            }
        }
    }

    #[test]
    fn any_path_is_placed_or_refused(paths in proptest::collection::vec(any::<String>(), 0..6)) {
        let files: Vec<MediumFile> = paths.into_iter().map(|path| MediumFile::new(path, "x")).collect();
        let _ = write(&VolumeLabel::CONTEXT, moment(), &files);
    }
}
