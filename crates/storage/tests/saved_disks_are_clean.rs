//! What must not be in an image is gone from a saved disk, also from its free blocks, and the file systems are whole.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod hostile;
mod other_contents;
mod swap;
mod traces;

use std::fs;
use std::io::Write as _;
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
