//! The names in a guest's file system, read as data of somebody who may wish harm.
//!
//! Links are followed here, not by `ext4_view`: that makes room for as many bytes as a link's inode says its target has, up
//! to some TiB, before it reads any.

use std::cell::RefCell;
use std::collections::HashMap;

use ext4_view::{Ext4, Ext4Error, Metadata, ReadDir};

use super::skeleton::Recorder;

/// Longest path and target of a link, as Linux has it.
const LONGEST: usize = 4096;
/// Most links on the way to one file, as Linux has it.
const MOST_LINKS: usize = 40;
/// Most directories whose real name is kept.
const MOST_KNOWN: usize = 10_000;

/// The names in a file system.
pub(super) struct Tree {
    fs: Ext4,
    /// Directories as they were asked for, and without links.
    known: RefCell<HashMap<String, Option<String>>>,
}

impl Tree {
    /// # Errors
    /// Why it can't be read, for people.
    pub(super) fn open(recorder: &Recorder) -> Result<Self, String> {
        let fs = Ext4::load(Box::new(recorder.clone())).map_err(|error| error.to_string())?;
        Ok(Self {
            fs,
            known: RefCell::default(),
        })
    }

    /// What is there under this name; of a link, what is known of the link. None also for what makes no sense.
    pub(super) fn look(&self, path: &str) -> Option<Metadata> {
        let path = path.trim_end_matches('/');
        let Some((dir, name)) = path.rsplit_once('/') else {
            return self.fs.symlink_metadata("/").ok();
        };
        let mut known = self.known.borrow_mut();
        let dir = if let Some(dir) = known.get(dir) {
            dir.clone()
        } else {
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
            let real = self.real(dir);
            known.insert(dir.to_owned(), real.clone());
            real
        };
        let path = format!("{}/{name}", dir?.trim_end_matches('/'));
        self.fs.symlink_metadata(path.as_str()).ok()
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        self.look(path).is_some_and(|metadata| metadata.is_dir())
    }

    /// The entries of a directory that is none by a link.
    pub(super) fn read_dir(&self, path: &str) -> Result<ReadDir, Ext4Error> {
        match self.look(path) {
            Some(metadata) if metadata.is_dir() => {}
            _ => return Err(Ext4Error::NotADirectory),
        }
        // The directories above it are without links, too.
        let real = self.real(path).ok_or(Ext4Error::NotFound)?;
        self.fs.read_dir(real.as_str())
    }

    /// The text of a file, by whatever links; none of what is longer than `longest` bytes.
    pub(super) fn text(&self, path: &str, longest: u64) -> Option<String> {
        let real = self.real(path)?;
        let metadata = self.fs.symlink_metadata(real.as_str()).ok()?;
        if !metadata.file_type().is_regular_file() || metadata.len() > longest {
            return None;
        }
        let text = self.fs.read(real.as_str()).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// The name without links of what is there.
    pub(super) fn real(&self, path: &str) -> Option<String> {
        let mut ahead: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let (mut real, mut links) = (String::new(), 0);
        while let Some(name) = ahead.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    real.truncate(real.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{real}/{name}");
            if next.len() > LONGEST {
                return None;
            }
            let metadata = self.fs.symlink_metadata(next.as_str()).ok()?;
            if !metadata.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS || metadata.len() > LONGEST as u64 {
                return None;
            }
            let target = self.fs.read_link(next.as_str()).ok()?;
            let target = target.to_str().ok()?;
            if target.starts_with('/') {
                real.clear();
            }
            ahead.extend(target.rsplit('/').map(str::to_owned));
        }
        if real.is_empty() {
            real.push('/');
        }
        Some(real)
    }
}
