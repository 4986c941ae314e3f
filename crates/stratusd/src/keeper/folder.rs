//! The folder with the data of a cloud, and by what it is told from others and from copies of itself: a file in it, `storage-id`.
//!
//! ```text
//!  `a`  ── another daemon takes it over ──▶ `a`,`b` in the file ──▶ StorageKeeper/own: b ──▶ `b` in the file
//! ```
//!
//! So a copy that stayed behind is still `a`, whatever was written to the other one since; and the folder itself, wherever it is
//! mounted, is `b`. Killed anywhere, one of the names in the file is the one in the document.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use cimi::resources::StorageKeeper;

use crate::instance::write_atomically;

/// In the folder with the data: what it is known by.
const FOLDER_FILE: &str = "storage-id";

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn of(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn file(&self) -> PathBuf {
        self.0.join(FOLDER_FILE)
    }

    /// By what the cloud knows it; none: it knows none, and takes this one.
    ///
    /// # Errors
    /// If it knows another one.
    pub(super) fn known(&self, kept: Option<&StorageKeeper>) -> anyhow::Result<Option<String>> {
        let Some(kept) = kept else { return Ok(None) };
        ensure!(
            self.names()?.contains(&kept.folder),
            "the images and volumes of this cloud are kept by another daemon, on {name} ({address}), or were in \
             another folder than {folder}, or went on in a copy of it: leave the role `storage` out here (`--roles \
             entry,scheduler`). If they were moved here without their file {FOLDER_FILE}, or are lost and this folder is \
             to be used in their place, however old it is: echo {id} >{folder}/{FOLDER_FILE}",
            name = kept.common.name.as_deref().unwrap_or_default(),
            address = kept.address,
            folder = self.0.display(),
            id = kept.folder,
        );
        Ok(Some(kept.folder.clone()))
    }

    /// Another name, which the cloud is to know it by: it has both until that is [settled](Self::settle).
    pub(super) fn renamed(&self, from: Option<&str>) -> anyhow::Result<String> {
        let names = self.names()?;
        // What was begun is gone on with.
        let begun = names.into_iter().find(|name| Some(&**name) != from);
        let name = begun.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        match from {
            Some(from) => self.write(&[from, &name])?,
            None => self.write(&[&name])?,
        }
        Ok(name)
    }

    /// It has this name alone, as the cloud knows it.
    pub(super) fn settle(&self, name: &str) -> anyhow::Result<()> {
        match *self.names()? {
            [ref only] if only == name => Ok(()),
            _ => self.write(&[name]),
        }
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let file = self.file();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        ensure!(!names.is_empty(), "{} is empty", file.display());
        Ok(names)
    }

    fn write(&self, names: &[&str]) -> anyhow::Result<()> {
        crate::instance::make_dir(&self.0, 0o711)?;
        let text = names.iter().map(|name| format!("{name}\n"));
        write_atomically(&self.file(), text.collect::<String>().as_bytes(), 0o644)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use cimi::{Acl, Common, StorageKeeperId, Timestamp};

    use super::*;

    fn keeper(folder: &str) -> StorageKeeper {
        StorageKeeper {
            id: StorageKeeperId::from_local(StorageKeeper::OWN).unwrap(),
            common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
            folder: folder.to_owned(),
            instance: String::new(),
            address: String::new(),
            unknown: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_folder_that_went_on_elsewhere_is_known_by_another_name_and_killed_on_the_way_by_one_of_both()
     {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::of(&place.path().join("data"));
        assert_eq!(folder.known(None).unwrap(), None);
        let first = folder.renamed(None).unwrap();
        // Killed before the cloud knew it: the same name again.
        assert_eq!(folder.renamed(None).unwrap(), first);
        folder.settle(&first).unwrap();
        let known = folder.known(Some(&keeper(&first))).unwrap();
        assert_eq!(known.as_deref(), Some(&*first));

        let copy = Folder::of(&place.path().join("copy"));
        copy.write(&[&first]).unwrap();
        let second = copy.renamed(Some(&first)).unwrap();
        assert_ne!(second, first);
        // Killed before the cloud knew it, and after.
        copy.known(Some(&keeper(&first))).unwrap();
        assert_eq!(copy.renamed(Some(&first)).unwrap(), second);
        copy.known(Some(&keeper(&second))).unwrap();
        copy.settle(&second).unwrap();
        copy.known(Some(&keeper(&second))).unwrap();

        let refused = folder.known(Some(&keeper(&second))).unwrap_err();
        assert!(refused.to_string().contains(&second), "{refused}");
        folder.known(Some(&keeper("lost"))).unwrap_err();
        // As the operator is told.
        folder.write(&["lost"]).unwrap();
        folder.known(Some(&keeper("lost"))).unwrap();
    }
}
