//! The tree of files that StratusLab's Marketplace keeps: how catalogues move from one to the other, and out again.
//!
//! `metadata/<identifier>/<email>/<created>.xml`, each the document as it was uploaded. What is read is believed no more than what is
//! uploaded; that it is in the tree stands for the endorser's confirmation. Both ways can be cut off and begun again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use marketplace::UtcTime;
use marketplace::catalogue::Name;
use marketplace::metadata::is_email;
use tokio::task::JoinSet;

use crate::stored::Confirmation;
use crate::upload::{Age, Kept, name_of, verified};
use crate::{Marketplace, Refused, Settings};

/// The folder that holds all others.
const FOLDER: &str = "metadata";
/// Folders that an entry lies in, below that: the image's and the endorser's.
const FOLDERS: usize = 2;
/// Documents verified and written at once: the store takes several as fast as one.
const AT_ONCE: usize = 32;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Documents that are there now and weren't before.
    pub new: usize,
    /// Documents that were there, byte for byte.
    pub known: usize,
    /// Files that can't be entries.
    pub refused: usize,
}

/// Why a tree can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file system.
    #[error("{path}: {error}")]
    Files {
        /// Where.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// There is another document at this place already.
    #[error("{0} is there with another content; export into an empty folder")]
    Taken(String),
    /// The Marketplace.
    #[error(transparent)]
    Refused(#[from] Refused),
}

fn of(path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.display().to_string();
    move |error| TreeError::Files { path, error }
}

impl Marketplace {
    /// Takes the documents of a tree whose root is `folder`, or whose `metadata` it is. `refused` is told of files that aren't taken, and
    /// why; `progress` now and then how many were looked at. The service has to run meanwhile.
    ///
    /// # Errors
    /// [`TreeError`]; what was taken stays.
    pub async fn import(
        &self,
        folder: &Path,
        mut refused: impl FnMut(&Path, &str),
        mut progress: impl FnMut(usize),
    ) -> Result<Moved, TreeError> {
        let inner = folder.join(FOLDER);
        let root = if inner.is_dir() {
            inner
        } else {
            folder.to_owned()
        };
        let mut moved = Moved::default();
        let mut at_work = JoinSet::new();
        let mut looked_at = 0;
        let mut note = |(path, taken): (PathBuf, Result<bool, Refused>)| {
            match taken {
                Ok(true) => moved.new += 1,
                Ok(false) => moved.known += 1,
                Err(error @ (Refused::Store(_) | Refused::Internal(_))) => return Err(error),
                Err(error) => {
                    moved.refused += 1;
                    refused(&path, &error.to_string());
                }
            }
            looked_at += 1;
            if looked_at % 1000 == 0 {
                progress(looked_at);
            }
            Ok(())
        };
        for image in sorted(&root)? {
            for path in below(image, FOLDERS)? {
                if at_work.len() >= AT_ONCE
                    && let Some(done) = at_work.join_next().await
                {
                    note(done.map_err(|error| Refused::Internal(error.to_string()))?)?;
                }
                let marketplace = self.clone();
                at_work.spawn(async move {
                    let taken = marketplace.take_file(&path).await;
                    (path, taken)
                });
            }
        }
        while let Some(done) = at_work.join_next().await {
            note(done.map_err(|error| Refused::Internal(error.to_string()))?)?;
        }
        Ok(moved)
    }

    /// Takes one file; whether it is new.
    async fn take_file(&self, path: &Path) -> Result<bool, Refused> {
        let named = named(path).ok_or_else(|| {
            Refused::Invalid("its place isn't <identifier>/<email>/<created>.xml".to_owned())
        })?;
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || bounded(&file)).await;
        let document = read
            .map_err(|error| Refused::Internal(error.to_string()))?
            .map_err(|error| Refused::Invalid(error.to_string()))?;
        if document.len() > Settings::LONGEST {
            return Err(Refused::TooLong(Settings::LONGEST));
        }
        let entry = verified(&document).await?;
        if name_of(&entry) != named {
            let text = format!("it is another entry than its place says: {}", entry.path());
            return Err(Refused::Invalid(text));
        }
        if self.known(&named, entry.document()).await?.is_some() {
            return Ok(false);
        }
        let kept = self
            .keep(&entry, Confirmation::Imported, Age::Any, |transaction| {
                transaction
            })
            .await?;
        Ok(matches!(kept, Kept::New(_)))
    }

    /// Writes all documents, history included, as such a tree below `folder`.
    ///
    /// # Errors
    /// [`TreeError`]; what was written stays.
    pub async fn export(&self, folder: &Path) -> Result<Moved, TreeError> {
        let names: Vec<Name> = self.ask(|catalogue| {
            let all = catalogue.all();
            all.map(|(record, _)| record.name()).collect()
        });
        let mut moved = Moved::default();
        for name in names {
            let Some(document) = self.document(&name).await? else {
                continue;
            };
            let (identifier, email, created) = &name;
            let place = folder
                .join(FOLDER)
                .join(identifier.to_string())
                .join(&**email);
            let file = format!("{created}.xml");
            let written = tokio::task::spawn_blocking(move || write(&place, &file, &document));
            let written = written
                .await
                .map_err(|error| Refused::Internal(error.to_string()))?;
            if written? {
                moved.new += 1;
            } else {
                moved.known += 1;
            }
        }
        Ok(moved)
    }
}

/// The entry that a file is, by its place.
fn named(path: &Path) -> Option<Name> {
    let mut parts = path
        .components()
        .rev()
        .map(|part| part.as_os_str().to_str());
    let created: UtcTime = parts.next()??.strip_suffix(".xml")?.parse().ok()?;
    let email = parts.next()?.filter(|email| is_email(email))?;
    let identifier = parts.next()??.parse().ok()?;
    Some((identifier, email.into(), created))
}

/// What lies in it, so many folders deep, in order: also what is at another depth than entries are, to be told of.
fn below(path: PathBuf, depth: usize) -> Result<Vec<PathBuf>, TreeError> {
    let is_folder = fs::symlink_metadata(&path).map_err(of(&path))?.is_dir();
    if !is_folder || depth == 0 {
        return Ok(vec![path]);
    }
    let mut all = Vec::new();
    for inner in sorted(&path)? {
        all.extend(below(inner, depth - 1)?);
    }
    Ok(all)
}

/// What is in a folder, in order; nothing if it is no folder. Links are not followed.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, TreeError> {
    if !fs::symlink_metadata(folder).map_err(of(folder))?.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(of(folder))? {
        let path = entry.map_err(of(folder))?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// A file, but no more of it than shows that it is too long.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut document = Vec::new();
    let most = u64::try_from(Settings::LONGEST)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut document)?;
    Ok(document)
}

/// Writes a file that is there wholly or not at all; whether it wasn't there before.
fn write(folder: &Path, name: &str, document: &str) -> Result<bool, TreeError> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(there) if there == document.as_bytes() => return Ok(false),
        Ok(_) => return Err(TreeError::Taken(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(of(&path)(error)),
    }
    fs::create_dir_all(folder).map_err(of(folder))?;
    let part = folder.join(format!(".{name}.part"));
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(document.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.map_err(of(&path))?;
    Ok(true)
}
