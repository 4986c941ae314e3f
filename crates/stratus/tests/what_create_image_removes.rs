//! The script that `create-image` runs as the last thing in a machine, in a root directory of its own.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SCRIPT: &str = include_str!("../src/commands/create_image/clean.sh");
const SECRET: &str = "secret-of-the-builder";
const GONE: [&str; 15] = [
    "root/.ssh/deploy",
    "root/.ssh/keys/work",
    "root/.ash_history",
    "root/.stratuslab/logins",
    "home/ann b/.ssh/id_ed25519",
    "home/ann b/.ssh/authorized_keys",
    "home/ann b/.local/share/fish/fish_history",
    "home/ann b/.globus/userkey.pem",
    "var/lib/builder/.ssh/key.pem",
    "var/lib/builder/.gnupg/private-keys-v1.d/0.key",
    "srv/git/.netrc",
    "etc/ssh/ssh_host_rsa_key",
    "tmp/notes",
    "var/log/old.1",
    "opt/excluded",
];
const KEPT: [&str; 5] = [
    "root/.ssh/config",
    "root/.ssh/config.d/work.conf",
    "root/analysis.R",
    "var/lib/builder/app",
    "swap",
];

/// Runs a script as the root of a user namespace, in a root directory that has the programs of this host; none if that
/// can't be done here.
fn inside(root: &Path, script: &str, arguments: &[&str]) -> Option<Output> {
    const ENTER: &str = "set -e; root=$1; shift; mount --rbind /usr \"$root/usr\"
        for device in zero null; do mount --bind \"/dev/$device\" \"$root/dev/$device\"; done
        exec chroot \"$root\" sh -s -- \"$@\"";
    let mut child = Command::new("unshare")
        .args(["-Urm", "sh", "-c", ENTER, "sh"])
        .arg(root)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    let _ = std::io::Write::write_all(&mut stdin, script.as_bytes());
    drop(stdin);
    child.wait_with_output().ok()
}

#[test]
fn nothing_of_the_builder_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path();
    for name in ["usr", "dev", "proc", "run"] {
        fs::create_dir(root.join(name)).expect("folder");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).expect("link");
    }
    for name in ["dev/zero", "dev/null"] {
        fs::write(root.join(name), "").expect("write");
    }
    let tried = inside(root, "exit 0", &[]);
    if !tried.is_some_and(|tried| tried.status.success()) {
        eprintln!("skipped: this test needs user namespaces, and programs in /usr");
        return;
    }
    let write = |name: &str, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, content).expect("write");
    };
    GONE.iter()
        .chain(&KEPT)
        .for_each(|name| write(name, SECRET.as_bytes()));
    write("etc/machine-id", b"1");
    write("etc/passwd", b"builder:x:1:1::/var/lib/builder:/bin/sh\ngit:x:2:2::/srv/git/:/bin/sh\nnobody:x:3:3::/nonexistent:/bin/false\n");
    write("etc/fstab", b"# swap\n/more/extra none swap sw 0 0\n/root none ext4 defaults 0 0\nUUID=1 none swap sw 0 0\n");
    let mut swap = vec![0; 1 << 20];
    swap[1024] = 1;
    swap[1028] = 255;
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    swap[4096..4096 + SECRET.len()].copy_from_slice(SECRET.as_bytes());
    swap[(1 << 20) - SECRET.len()..].copy_from_slice(SECRET.as_bytes());
    write("swap.img", &swap);
    write("more/extra", &swap);

    let done = inside(root, SCRIPT, &["/opt/excluded"]).expect("run");

    assert!(done.status.success(), "{done:?}");
    for name in GONE {
        assert!(!root.join(name).exists(), "{name} is still there: {done:?}");
    }
    for name in KEPT {
        assert_eq!(
            fs::read(root.join(name)).expect(name),
            SECRET.as_bytes(),
            "{name}"
        );
    }
    assert_eq!(fs::read(root.join("etc/machine-id")).expect("read"), b"");
    for name in ["swap.img", "more/extra"] {
        let file = fs::File::open(root.join(name)).expect("open");
        let mut read = vec![0; 1 << 20];
        assert_eq!(file.metadata().expect("metadata").len(), 1 << 20, "{name}");
        file.read_exact_at(&mut read, 0).expect("read");
        assert_eq!(read[..4096], swap[..4096], "{name}");
        assert!(read[4096..].iter().all(|byte| *byte == 0), "{name}");
    }
}
