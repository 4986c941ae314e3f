//! Which files of a guest tell of its builder, or are what two machines must not share.

use std::collections::BTreeSet;

use ext4_view::{Ext4, FileType};

use super::skeleton::Recorder;

/// Most files that are looked at, and most that are removed: a guest has some hundreds.
const MOST_ENTRIES: usize = 200_000;
/// Directories below the given ones that are looked into.
const DEPTH: usize = 32;
/// What is removed must be read (its extents are metadata): larger ones are left.
const LARGEST: u64 = 256 << 20;

/// In every home directory.
const IN_HOMES: &[&str] = &[
    ".bash_history",
    ".ash_history",
    ".sh_history",
    ".zsh_history",
    ".history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/known_hosts",
    ".ssh/known_hosts.old",
    ".ssh/environment",
];
/// Beginnings of names of keys, in `.ssh` of every home directory.
const KEYS: &str = "id_";
/// Directories of which all files are removed.
const EMPTIED: &[&str] = &[
    "/var/lib/cloud/instances",
    "/var/lib/cloud/data",
    "/var/lib/cloud/sem",
    "/var/lib/cloud/seed",
    "/var/lib/one-context",
    "/var/lib/systemd/network",
    "/var/lib/dhcp",
    "/var/lib/dhclient",
    "/var/log/journal",
    "/var/log/installer",
    "/var/crash",
    "/var/lib/systemd/coredump",
    "/tmp",
    "/var/tmp",
];
/// Directories of which the files with this in their names are removed.
const PARTLY_EMPTIED: &[(&str, &str)] = &[
    ("/etc/ssh", "ssh_host_"),
    ("/etc/dropbear", "host_key"),
    ("/var/lib/NetworkManager", "lease"),
    ("/var/lib/dhcpcd", "lease"),
    ("/var/lib/stratus", "instance"),
];
/// Single files that are removed.
const REMOVED: &[&str] = &[
    "/var/lib/cloud/instance",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/NetworkManager/secret_key",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/dropbear/public",
];
/// Single files that are emptied: what reads them counts on their being there.
const EMPTIED_FILES: &[&str] = &["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// The directory of logs: files are emptied, since some programs don't make them anew; old ones are removed.
const LOGS: &str = "/var/log";

/// What is to be done to the files of a file system.
#[derive(Debug, Default)]
pub(super) struct Traces {
    removed: BTreeSet<String>,
    emptied: BTreeSet<String>,
    /// Those that can't be removed from outside.
    skipped: BTreeSet<String>,
}

impl Traces {
    /// What stays and shouldn't, for people; `name` is that of the file system.
    pub(super) fn skipped(&self, name: &str) -> Option<String> {
        let first = self.skipped.first()?.replace(char::is_control, "?");
        Some(match self.skipped.len() - 1 {
            0 => format!("on {name} {first} could not be removed"),
            more => format!("on {name} {first} and {more} more could not be removed"),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.emptied.len()
    }

    /// For `debugfs`. Names that its parser could not read were never taken.
    pub(super) fn commands(&self) -> String {
        let mut commands = String::new();
        for path in &self.removed {
            commands.push_str(&format!("rm \"{path}\"\n"));
        }
        for path in &self.emptied {
            commands.push_str(&format!(
                "punch \"{path}\" 0\nset_inode_field \"{path}\" size 0\n"
            ));
        }
        commands
    }
}

fn open(recorder: &Recorder) -> Result<Ext4, String> {
    Ext4::load(Box::new(recorder.clone())).map_err(|error| error.to_string())
}

/// Looks for traces.
pub(super) fn find(recorder: &Recorder) -> Result<Traces, String> {
    let mut search = Search {
        fs: open(recorder)?,
        traces: Traces::default(),
        seen: 0,
    };
    search.all()?;
    Ok(search.traces)
}

/// Looks again: a trace that is still there.
pub(super) fn remaining(recorder: &Recorder, traces: &Traces) -> Result<Option<String>, String> {
    let fs = open(recorder)?;
    for path in &traces.removed {
        if fs.symlink_metadata(path.as_str()).is_ok() {
            return Ok(Some(path.clone()));
        }
    }
    for path in &traces.emptied {
        match fs.symlink_metadata(path.as_str()) {
            Ok(metadata) if metadata.len() == 0 => {}
            _ => return Ok(Some(path.clone())),
        }
    }
    Ok(None)
}

struct Search {
    fs: Ext4,
    traces: Traces,
    seen: usize,
}

/// An entry of a directory.
struct Entry {
    path: String,
    name: String,
    is_dir: bool,
    is_file: bool,
    /// `debugfs` can be told its name.
    is_nameable: bool,
}

impl Search {
    fn all(&mut self) -> Result<(), String> {
        // A file system of its own for /var or /home has the same things nearer to its root.
        for root in ["", "/var"] {
            let below = |path: &str| -> Option<String> {
                if root.is_empty() {
                    Some(path.to_owned())
                } else {
                    path.strip_prefix(root).map(str::to_owned)
                }
            };
            let is_there = root.is_empty() || (self.is_dir("/log") && self.is_dir("/lib"));
            if !is_there {
                continue;
            }
            for dir in EMPTIED.iter().filter_map(|dir| below(dir)) {
                self.every_file(&dir, DEPTH, &mut |_| Action::Remove)?;
            }
            for path in REMOVED.iter().filter_map(|path| below(path)) {
                self.note(&path, Action::Remove)?;
            }
            for path in EMPTIED_FILES.iter().filter_map(|path| below(path)) {
                self.note(&path, Action::Empty)?;
            }
            if let Some(logs) = below(LOGS) {
                self.every_file(&logs, DEPTH, &mut |name| {
                    if is_old_log(name) {
                        Action::Remove
                    } else {
                        Action::Empty
                    }
                })?;
            }
            for (dir, part) in PARTLY_EMPTIED {
                if let Some(dir) = below(dir) {
                    self.every_file(&dir, DEPTH, &mut |name| remove_if(name.contains(part)))?;
                }
            }
        }
        let mut homes = vec!["/root".to_owned()];
        for parent in ["/home", "/"] {
            for entry in self
                .entries(parent)?
                .into_iter()
                .filter(|entry| entry.is_dir)
            {
                if entry.is_nameable {
                    homes.push(entry.path);
                } else {
                    self.traces.skipped.insert(entry.path);
                }
            }
        }
        for home in homes {
            for name in IN_HOMES {
                self.note(&format!("{home}/{name}"), Action::Remove)?;
            }
            self.every_file(&format!("{home}/.ssh"), 0, &mut |name| {
                remove_if(name.starts_with(KEYS))
            })?;
        }
        Ok(())
    }

    fn is_dir(&self, path: &str) -> bool {
        self.fs
            .symlink_metadata(path)
            .is_ok_and(|metadata| metadata.is_dir())
    }

    /// What a directory holds; nothing if it isn't one. Symbolic links are not followed.
    fn entries(&mut self, dir: &str) -> Result<Vec<Entry>, String> {
        if !self.is_dir(dir) {
            return Ok(Vec::new());
        }
        let failed = |error: ext4_view::Ext4Error| format!("{dir}: {error}");
        let mut found = Vec::new();
        for entry in self.fs.read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            self.seen += 1;
            if self.seen > MOST_ENTRIES {
                return Err(format!("{dir}: there are too many files"));
            }
            let file_name = entry.file_name();
            let name = String::from_utf8_lossy(file_name.as_ref());
            if name == "." || name == ".." {
                continue;
            }
            // The parser of debugfs has no way to quote these.
            let is_nameable = file_name.as_str().is_ok() && !name.contains(['"', '\\', '\n', '\r']);
            let kind = entry.file_type().map_err(failed)?;
            found.push(Entry {
                path: format!("{}/{name}", dir.trim_end_matches('/')),
                name: name.into_owned(),
                is_dir: kind == FileType::Directory,
                is_file: kind == FileType::Regular,
                is_nameable,
            });
        }
        Ok(found)
    }

    /// What is done to the files of a directory and, with a `depth`, of those below it; what is deeper is told.
    fn every_file(
        &mut self,
        dir: &str,
        depth: usize,
        action: &mut dyn FnMut(&str) -> Action,
    ) -> Result<(), String> {
        for entry in self.entries(dir)? {
            let is_meant = match (entry.is_dir, entry.is_file) {
                (true, _) => depth > 0,
                (_, true) => !matches!(action(&entry.name), Action::Keep),
                _ => false,
            };
            if !is_meant {
                continue;
            }
            if !entry.is_nameable || (entry.is_dir && depth == 1) {
                self.traces.skipped.insert(entry.path);
            } else if entry.is_dir {
                self.every_file(&entry.path, depth - 1, action)?;
            } else {
                let action = action(&entry.name);
                self.note(&entry.path, action)?;
            }
        }
        Ok(())
    }

    /// Notes what is to be done to a file, if it is there.
    fn note(&mut self, path: &str, action: Action) -> Result<(), String> {
        if matches!(action, Action::Keep) {
            return Ok(());
        }
        let Ok(metadata) = self.fs.symlink_metadata(path) else {
            return Ok(());
        };
        let is_file = metadata.file_type() == FileType::Regular;
        if metadata.is_dir() || (!is_file && !metadata.is_symlink()) {
            return Ok(());
        }
        match action {
            Action::Empty
                if !is_file || metadata.len() == 0 || self.traces.removed.contains(path) =>
            {
                return Ok(());
            }
            Action::Empty => self.traces.emptied.insert(path.to_owned()),
            Action::Remove | Action::Keep => {
                self.traces.emptied.remove(path);
                self.traces.removed.insert(path.to_owned())
            }
        };
        if is_file && metadata.len() > 0 {
            self.read_through(path, metadata.len())?;
        }
        Ok(())
    }

    /// Reads a file, so that what describes its place is read, too.
    fn read_through(&self, path: &str, length: u64) -> Result<(), String> {
        if length > LARGEST {
            return Err(format!("{path} is too large to be removed from outside"));
        }
        let mut file = self
            .fs
            .open(path)
            .map_err(|error| format!("{path}: {error}"))?;
        let mut buffer = vec![0; 64 * 1024];
        while file
            .read_bytes(&mut buffer)
            .map_err(|error| format!("{path}: {error}"))?
            > 0
        {}
        Ok(())
    }
}

const fn remove_if(is_trace: bool) -> Action {
    if is_trace {
        Action::Remove
    } else {
        Action::Keep
    }
}

enum Action {
    Keep,
    Remove,
    Empty,
}

/// `syslog.1`, `messages-20261128`, `dpkg.log.2.gz`, and journals wherever they are.
fn is_old_log(name: &str) -> bool {
    let last = name.rsplit(['.', '-']).next().unwrap_or_default();
    let is_number = !last.is_empty()
        && name.len() > last.len()
        && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number || ["gz", "xz", "bz2", "zst", "old", "journal", "journal~"].contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `create-image` runs inside the guest, whose file system may be one that can't be cleaned from outside.
    const INSIDE: &str = include_str!("../../../../stratus/src/commands/create_image/clean.sh");

    #[test]
    fn the_same_is_removed_from_inside() {
        let files = [EMPTIED, REMOVED, EMPTIED_FILES].concat();
        let parts = PARTLY_EMPTIED.iter().map(|(dir, _)| *dir);
        for path in files.into_iter().chain(parts).chain([LOGS]) {
            assert!(INSIDE.contains(path), "{path} is not in clean.sh");
        }
        for name in IN_HOMES {
            assert!(INSIDE.contains(name), "{name} is not in clean.sh");
        }
        assert!(INSIDE.contains(&format!("/.ssh/{KEYS}*")));
        let listed = INSIDE
            .split_once("for name in ")
            .and_then(|(_, rest)| rest.split_once(';'))
            .map(|(names, _)| names.split_whitespace())
            .expect("a list of names");
        let below_homes = INSIDE
            .split("\"$home/")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(name, _)| name)
            .filter(|name| *name != "$name");
        for name in listed.chain(below_homes) {
            // What programs could fetch again tells little, and may be large.
            assert!(
                IN_HOMES.contains(&name) || name == ".cache",
                "{name} is in clean.sh only"
            );
        }
    }

    #[test]
    fn old_logs_are_known_by_their_names() {
        for name in [
            "syslog.1",
            "messages-20261128",
            "dpkg.log.2.gz",
            "system.journal",
            "a.journal~",
        ] {
            assert!(is_old_log(name), "{name}");
        }
        for name in ["syslog", "wtmp", "dpkg.log", "2026", "kern"] {
            assert!(!is_old_log(name), "{name}");
        }
    }
}
