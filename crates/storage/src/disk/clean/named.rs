//! What the files of a guest say of itself: where its users are at home, and what it swaps to. They may speak of another of its
//! file systems.

use std::collections::BTreeSet;

use super::lists::{SWAP_FILES, SWAP_TABLE, USERS};
use super::skeleton::Recorder;
use super::tree::Tree;

/// Longest file that is read, and most lines of it that count.
const LONGEST: u64 = 4 << 20;
const MOST_LINES: usize = 4096;
/// Where units of systemd are that a person wrote.
const UNITS: &str = "/etc/systemd/system";
/// Directories that a mount point may be below.
const DEEPEST: usize = 8;

/// Names that a guest's files gave, as the guest sees them.
#[derive(Debug, Default)]
pub(super) struct Named {
    homes: BTreeSet<String>,
    swap: BTreeSet<String>,
}

impl Named {
    /// Adds what a file system says. One that can't be read says nothing: that it isn't cleaned is told elsewhere.
    pub(super) fn add(&mut self, recorder: &Recorder) {
        let Ok(fs) = Tree::open(recorder) else {
            return;
        };
        for line in lines(&fs, USERS) {
            if let Some(home) = line.split(':').nth(5) {
                add(&mut self.homes, home);
            }
        }
        for line in lines(&fs, SWAP_TABLE) {
            let mut fields = line.split_whitespace();
            if let (Some(path), Some(_), Some("swap")) =
                (fields.next(), fields.next(), fields.next())
            {
                add(&mut self.swap, path);
            }
        }
        for entry in fs.read_dir(UNITS).into_iter().flatten().take(MOST_LINES) {
            let path = entry.map(|entry| format!("{UNITS}/{}", entry.file_name().display()));
            for line in path
                .iter()
                .filter(|path| path.ends_with(".swap"))
                .flat_map(|path| lines(&fs, path))
            {
                if let Some(path) = line.trim().strip_prefix("What=") {
                    add(&mut self.swap, path);
                }
            }
        }
    }

    /// Directories that may be homes, in any of the guest's file systems.
    pub(super) fn homes(&self) -> BTreeSet<&str> {
        self.homes
            .iter()
            .flat_map(|path| below_mounts(path))
            .collect()
    }

    /// Files that may be swapped to, in any of the guest's file systems.
    pub(super) fn swap(&self) -> BTreeSet<&str> {
        let named = self.swap.iter().map(String::as_str);
        let all = named.chain(SWAP_FILES.iter().copied());
        all.flat_map(below_mounts).collect()
    }

    /// Whether the guest itself calls this file swap.
    pub(super) fn is_named(&self, path: &str) -> bool {
        self.swap.contains(path)
    }
}

/// Takes an absolute path that `debugfs` can be told.
fn add(paths: &mut BTreeSet<String>, path: &str) {
    let path = path.trim_end_matches('/');
    let is_plain = path.starts_with('/')
        && path.len() < 4096
        && !path.contains(['"', '\\', '\n', '\r'])
        && path
            .split('/')
            .skip(1)
            .all(|name| !["", ".", ".."].contains(&name));
    if is_plain && !path.starts_with("/dev/") && paths.len() < MOST_LINES {
        paths.insert(path.to_owned());
    }
}

/// `/var/lib/app`, `/lib/app`, `/app`: as it is called if any of the directories above it is a file system of its own.
fn below_mounts(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .take(DEEPEST)
        .filter_map(|(at, _)| path.get(at..))
}

fn lines(fs: &Tree, path: &str) -> Vec<String> {
    let text = fs.text(path, LONGEST).unwrap_or_default();
    text.lines().take(MOST_LINES).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_looked_for_below_every_mount_point() {
        let all: Vec<&str> = below_mounts("/var/lib/app").collect();
        assert_eq!(all, ["/var/lib/app", "/lib/app", "/app"]);
    }

    #[test]
    fn only_plain_paths_are_taken() {
        let mut paths = BTreeSet::new();
        for path in [
            "/",
            "/home/ann/",
            "/dev/vda2",
            "UUID=1",
            "/a/../b",
            "/a\"b",
            "relative",
            "//x",
        ] {
            add(&mut paths, path);
        }
        assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["/home/ann"]);
    }
}
