//! The folder of replicas: files named by what they contain, and those that aren't whole yet.
//!
//! ```text
//! DIR/SHA1.disk        whole, examined and flushed; 0400
//! DIR/SHA1.file        a kernel, an initrd: QEMU opens it by name; 0444
//! DIR/SHA1.disk.part   what is here of one
//! ```

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cimi::resources::{Image, ImageState, MediumFormat};

use crate::digest::Digest;
use crate::durable;
use crate::error::Error;
use crate::import::replica::Announced;
use crate::inspect::Format;

/// Ending of what isn't whole.
const PART: &str = ".part";

/// What a replica is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name {
    sha1: Digest<20>,
    is_disk: bool,
}

impl Name {
    /// The SHA-1 of what it contains.
    pub(super) fn content(&self) -> String {
        self.sha1.to_string()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = if self.is_disk { "disk" } else { "file" };
        write!(f, "{}.{ending}", self.sha1)
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sha1, ending) = text.split_once('.').ok_or(())?;
        let is_disk = match ending {
            "disk" => true,
            "file" => false,
            _ => return Err(()),
        };
        let name = Self {
            sha1: sha1.parse().map_err(drop)?,
            is_disk,
        };
        // Digits may be read in other spellings than they are written.
        (name.to_string() == text).then_some(name).ok_or(())
    }
}

/// The file of an image, as its document announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) announced: Announced,
}

impl Wanted {
    /// That of an image which is available.
    pub(super) fn of(image: &Image) -> Option<Self> {
        let file = image
            .file
            .as_ref()
            .filter(|_| image.state == ImageState::Available)?;
        let content = file.content();
        let sha1 = content.sha1.as_ref()?.parse().ok()?;
        let format = match file.format {
            MediumFormat::Raw => Format::Raw,
            MediumFormat::Qcow2 => Format::Qcow2,
        };
        let is_disk = image.kind != "FILE";
        Some(Self {
            name: Name { sha1, is_disk },
            announced: Announced {
                bytes: content.bytes?,
                sha1,
                disk: is_disk.then_some((format, file.virtual_size.0)),
            },
        })
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Makes it if it isn't there, and removes what is none of ours. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        // Overlays name it without symbolic links.
        let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let path = entry.map_err(Error::io("list", &dir))?.path();
            if name_of(&path).is_none() {
                tracing::warn!(path = %path.display(), "removed: it is no replica of an image");
                durable::remove(&path)?;
            }
        }
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where one is, once it is whole.
    pub(super) fn path(&self, name: Name) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// Where what is here of one is until then.
    pub(super) fn part(&self, name: Name) -> PathBuf {
        self.dir.join(format!("{name}{PART}"))
    }

    /// Whether it is here, and as long as it should be.
    pub(super) fn has(&self, wanted: &Wanted) -> bool {
        let found = fs::metadata(self.path(wanted.name));
        found.is_ok_and(|found| found.is_file() && found.len() == wanted.announced.bytes)
    }

    /// Gives what is whole now its name. Blocks.
    pub(super) fn keep(&self, name: Name) -> Result<(), Error> {
        let (part, path) = (self.part(name), self.path(name));
        let mode = if name.is_disk { 0o400 } else { 0o444 };
        fs::set_permissions(&part, Permissions::from_mode(mode))
            .map_err(Error::io("protect", &part))?;
        // In the place of one that is not as long as it should be.
        fs::rename(&part, &path).map_err(Error::io("rename a file to", &path))?;
        durable::sync_directory(&self.dir)
    }

    /// What is here, whole or in part. Blocks.
    pub(super) fn names(&self) -> Result<Vec<Name>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))? {
            let path = entry.map_err(Error::io("list", &self.dir))?.path();
            names.extend(name_of(&path));
        }
        Ok(names)
    }

    /// That it is missing is fine. Blocks.
    pub(super) fn remove(&self, name: Name) -> Result<(), Error> {
        durable::remove(&self.path(name))?;
        durable::remove(&self.part(name))
    }
}

/// What a file is of, whole or not.
pub(super) fn name_of(path: &Path) -> Option<Name> {
    let text = path.file_name()?.to_str()?;
    text.strip_suffix(PART).unwrap_or(text).parse().ok()
}
