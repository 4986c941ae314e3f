//! Which files of a guest tell of its builder, or are what two machines must not share.

use std::collections::{BTreeMap, BTreeSet};

use ext4_view::FileType;

use super::super::ext4::{Files, Layout};
use super::super::partitions::Part;
use super::blank::MOST;
use super::lists::{
    EMPTIED, EMPTIED_FILES, EMPTIED_IN_HOMES, IN_HOMES, LOGS, PARTLY_EMPTIED, REMOVED, SSH,
    is_old_log, is_setting_of_ssh,
};
use super::named::Named;
use super::skeleton::Recorder;
use super::swap::{Swap, swap};
use super::tree::Tree;
use crate::error::Error;

/// Most files that are looked at for keys, and again for the rest, and most that are removed: a guest has some hundreds.
const MOST_ENTRIES: usize = 200_000;
/// Most homes that are looked into, of those on the list and of what could be some.
const MOST_HOMES: usize = 10_000;
/// Directories below the given ones that are looked into.
const DEPTH: usize = 32;

/// What is to be done to the files of a file system.
#[derive(Debug, Default)]
pub(super) struct Traces {
    removed: BTreeSet<String>,
    emptied: BTreeSet<String>,
    /// Those that can't be removed from outside.
    skipped: BTreeSet<String>,
    /// What else is to be said of files.
    told: Vec<String>,
    /// What was in memory, in files: bytes of the file system that are to read as zeroes.
    pub(super) pages: Vec<Part>,
}

impl Traces {
    /// What stays and shouldn't, for people; `name` is that of the file system.
    pub(super) fn left(&self, name: &str) -> Vec<String> {
        let mut left: Vec<String> = self
            .told
            .iter()
            .map(|what| format!("on {name} {}", what.replace(char::is_control, "?")))
            .collect();
        if let Some(first) = self.skipped.first() {
            let first = first.replace(char::is_control, "?");
            left.push(match self.skipped.len() - 1 {
                0 => format!("on {name} {first} could not be removed"),
                more => format!("on {name} {first} and {more} more could not be removed"),
            });
        }
        left
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

/// Looks for traces, with what the guest's file systems say of it.
pub(super) fn find(recorder: &Recorder, layout: &Layout, named: &Named) -> Result<Traces, String> {
    let reader = recorder.clone();
    let read: Read = Box::new(move |offset, buffer| reader.read_at(offset, buffer));
    let mut search = Search {
        fs: Tree::open(recorder)?,
        files: Files::new(layout.clone(), read),
        recorder: recorder.clone(),
        block_bytes: layout.block_bytes,
        traces: Traces::default(),
        seen: 0,
    };
    // Each with a count of its own, so that many files in /tmp don't hide a key.
    search.homes(named);
    search.seen = 0;
    search.system();
    search.swap_files(named);
    Ok(search.traces)
}

/// Looks again: a trace that is still there.
pub(super) fn remaining(recorder: &Recorder, traces: &Traces) -> Result<Option<String>, String> {
    let fs = Tree::open(recorder)?;
    for path in &traces.removed {
        if fs.look(path).is_some() {
            return Ok(Some(path.clone()));
        }
    }
    for path in &traces.emptied {
        match fs.look(path) {
            Some(metadata) if metadata.len() == 0 => {}
            _ => return Ok(Some(path.clone())),
        }
    }
    Ok(None)
}

type Read = Box<dyn Fn(u64, &mut [u8]) -> Result<(), Error>>;

struct Search {
    fs: Tree,
    /// Where files are.
    files: Files<Read>,
    recorder: Recorder,
    block_bytes: u64,
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
    fn system(&mut self) {
        // A file system of its own for /var or /home has the same things nearer to its root.
        for root in ["", "/var"] {
            let below = |path: &str| -> Option<String> {
                if root.is_empty() {
                    Some(path.to_owned())
                } else {
                    path.strip_prefix(root).map(str::to_owned)
                }
            };
            let is_there = root.is_empty() || (self.fs.is_dir("/log") && self.fs.is_dir("/lib"));
            if !is_there {
                continue;
            }
            for path in REMOVED.iter().filter_map(|path| below(path)) {
                self.note(&path, Action::Remove);
            }
            for path in EMPTIED_FILES.iter().filter_map(|path| below(path)) {
                self.note(&path, Action::Empty);
            }
            for (dir, part) in PARTLY_EMPTIED {
                if let Some(dir) = below(dir) {
                    self.every_file(&dir, DEPTH, &mut |name| remove_if(name.contains(part)));
                }
            }
            if let Some(logs) = below(LOGS) {
                self.every_file(&logs, DEPTH, &mut |name| {
                    if is_old_log(name) {
                        Action::Remove
                    } else {
                        Action::Empty
                    }
                });
            }
            for dir in EMPTIED.iter().filter_map(|dir| below(dir)) {
                self.every_file(&dir, DEPTH, &mut |_| Action::Remove);
            }
        }
    }

    fn homes(&mut self, named: &Named) {
        for home in self.all_homes(named) {
            for name in IN_HOMES {
                let path = format!("{home}/{name}");
                // `.config` and the like may be links.
                let path = match (name.contains('/'), path.rsplit_once('/')) {
                    (true, Some((dir, name))) => self.real(dir).map(|dir| format!("{dir}/{name}")),
                    _ => Some(path),
                };
                if let Some(path) = path {
                    self.note(&path, Action::Remove);
                }
            }
            for name in EMPTIED_IN_HOMES {
                let Some(dir) = self.real(&format!("{home}/{name}")) else {
                    continue;
                };
                self.every_file(&dir, DEPTH, &mut |file| {
                    remove_if(*name != SSH || !is_setting_of_ssh(file))
                });
            }
        }
    }

    /// Of the root directory itself, for a user who is at home there, those the guest names, and all that could be homes on a
    /// file system of their own.
    fn all_homes(&mut self, named: &Named) -> Vec<String> {
        let mut homes = vec![String::new(), "/root".to_owned()];
        homes.extend(named.homes().into_iter().filter_map(|home| self.real(home)));
        for parent in ["/home", "/"] {
            for entry in self.entries(parent) {
                if entry.is_dir && entry.is_nameable {
                    homes.push(entry.path);
                } else if entry.is_dir {
                    self.traces.skipped.insert(entry.path);
                }
            }
        }
        let (homes, more) = first_of(homes, MOST_HOMES);
        if more > 0 {
            self.traces.told.push(format!(
                "{more} directories that may be homes were not looked into, beyond the first {MOST_HOMES}"
            ));
        }
        homes
    }

    /// The directory of this name, without links.
    fn real(&self, path: &str) -> Option<String> {
        let real = self.fs.real(path)?;
        let is_plain = !real.contains(['"', '\\', '\n', '\r']);
        (is_plain && self.fs.is_dir(&real)).then_some(real)
    }

    /// Finds out where the pages of files are that are swapped to.
    fn swap_files(&mut self, named: &Named) {
        let mut paths = BTreeMap::new();
        for name in named.swap() {
            if let Some(real) = self.fs.real(name) {
                *paths.entry(real).or_default() |= named.is_named(name);
            }
        }
        for (path, is_named) in paths {
            let metadata = self.fs.look(&path);
            let is_file = metadata.is_some_and(|metadata| metadata.file_type().is_regular_file());
            if !is_file || self.traces.removed.contains(&path) {
                continue;
            }
            match self.pages(&path) {
                Ok(Some(Swap::Behind(_))) => {}
                Ok(Some(Swap::Hibernated)) => self
                    .traces
                    .told
                    .push(format!("{path} holds the memory of a hibernated system")),
                Ok(None) if is_named => self
                    .traces
                    .told
                    .push(format!("{path} is swap of an unknown kind")),
                Ok(None) => {}
                Err(error) => self
                    .traces
                    .told
                    .push(format!("{path} could not be cleaned of swap: {error}")),
            }
        }
    }

    fn pages(&mut self, path: &str) -> Result<Option<Swap>, Error> {
        let place = self.files.place(path)?;
        let found = swap(place.bytes, |offset, buffer| {
            buffer.fill(0);
            match place.of(offset, self.block_bytes) {
                Some(at) => self.recorder.read_at(at, buffer),
                None => Ok(()),
            }
        })?;
        if let Some(Swap::Behind(header)) = found {
            let behind = place.behind(header, self.block_bytes);
            if self.traces.pages.len() + place.stretches.len() > MOST {
                return Err(Error::TooLarge {
                    what: "map of what was swapped to",
                    limit_bytes: MOST as u64 * self.block_bytes,
                });
            }
            self.traces.pages.extend(behind);
        }
        Ok(found)
    }

    /// What a directory holds; nothing if it isn't one. Symbolic links are not followed. What can't be read is told.
    fn entries(&mut self, dir: &str) -> Vec<Entry> {
        let mut found = Vec::new();
        if self.fs.is_dir(dir) && self.list(dir, &mut found).is_err() {
            self.traces.skipped.insert(dir.to_owned());
        }
        found
    }

    fn list(&mut self, dir: &str, found: &mut Vec<Entry>) -> Result<(), ext4_view::Ext4Error> {
        for entry in self.fs.read_dir(dir)? {
            let entry = entry?;
            self.seen += 1;
            if self.seen > MOST_ENTRIES {
                self.traces.skipped.insert(dir.to_owned());
                return Ok(());
            }
            let file_name = entry.file_name();
            let name = String::from_utf8_lossy(file_name.as_ref());
            if name == "." || name == ".." {
                continue;
            }
            // The parser of debugfs has no way to quote these.
            let is_nameable = file_name.as_str().is_ok() && !name.contains(['"', '\\', '\n', '\r']);
            let kind = entry.file_type()?;
            found.push(Entry {
                path: format!("{}/{name}", dir.trim_end_matches('/')),
                name: name.into_owned(),
                is_dir: kind == FileType::Directory,
                is_file: kind == FileType::Regular,
                is_nameable,
            });
        }
        Ok(())
    }

    /// What is done to the files of a directory and, with a `depth`, of those below it; what is deeper is told.
    fn every_file(&mut self, dir: &str, depth: usize, action: &mut dyn FnMut(&str) -> Action) {
        for entry in self.entries(dir) {
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
                self.every_file(&entry.path, depth - 1, action);
            } else {
                let action = action(&entry.name);
                self.note(&entry.path, action);
            }
        }
    }

    /// Notes what is to be done to a file, if it is there. One that can't be removed from outside keeps no other from it.
    fn note(&mut self, path: &str, action: Action) {
        if matches!(action, Action::Keep) {
            return;
        }
        let Some(metadata) = self.fs.look(path) else {
            return;
        };
        let is_file = metadata.file_type() == FileType::Regular;
        if metadata.is_dir() || (!is_file && !metadata.is_symlink()) {
            return;
        }
        let is_removed = matches!(action, Action::Remove);
        if self.traces.removed.contains(path) || (!is_removed && (!is_file || metadata.len() == 0))
        {
            return;
        }
        // Where it is must be known to whoever removes it.
        if self.files.place(path).is_err() {
            self.traces.skipped.insert(path.to_owned());
        } else if is_removed {
            self.traces.emptied.remove(path);
            self.traces.removed.insert(path.to_owned());
        } else {
            self.traces.emptied.insert(path.to_owned());
        }
    }
}

/// The first so many, each once, and how many more there are.
fn first_of(homes: Vec<String>, most: usize) -> (Vec<String>, usize) {
    let mut seen = BTreeSet::new();
    let mut first: Vec<String> = homes
        .into_iter()
        .filter(|home| seen.insert(home.clone()))
        .collect();
    let more = first.len().saturating_sub(most);
    first.truncate(most);
    (first, more)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_bounded_and_the_first_count() {
        let homes = ["", "/root", "/srv/git", "/root", "/home/ann", "/home/bob"];
        let homes: Vec<String> = homes.into_iter().map(str::to_owned).collect();
        let (first, more) = first_of(homes.clone(), 3);
        assert_eq!((first, more), (homes[..3].to_vec(), 2));
        assert_eq!(first_of(homes, 5).1, 0, "one that is named twice is one");
    }
}
