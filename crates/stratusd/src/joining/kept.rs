//! What a host that has joined keeps: `STATE/host/key.pem`, which never leaves it, and `joined.json`, written whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use trust::{HostKey, Joined};

use super::Entry;
use crate::instance::{make_dir, write_atomically};

/// Below the state directory.
pub(super) const FOLDER: &str = "host";

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

/// What the entry has answered, and where entries are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub(crate) joined: Joined,
    pub(crate) entries: Vec<Entry>,
}

impl Kept {
    /// The certificate of the cloud's authority, DER.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn authority(&self) -> anyhow::Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.joined.authority.as_bytes())
            .ok()
            .context("the certificate of the cloud's authority can't be read")
    }
}

impl Folder {
    /// Makes it, if it isn't there.
    ///
    /// # Errors
    /// If it can't be made.
    pub(super) fn in_state(state: &Path) -> anyhow::Result<Self> {
        let path = state.join(FOLDER);
        make_dir(&path, 0o700)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self) -> PathBuf {
        self.0.join("joined.json")
    }

    /// What is kept, if this host has joined.
    ///
    /// # Errors
    /// If it can't be read.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Kept>> {
        let file = self.file();
        match fs::read(&file) {
            Ok(content) => {
                let kept = serde_json::from_slice(&content);
                kept.with_context(|| file.display().to_string()).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn write(&self, kept: &Kept) -> anyhow::Result<()> {
        write_atomically(&self.file(), &serde_json::to_vec_pretty(kept)?, 0o600)
    }

    /// The key of this host; made once.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub(crate) fn key(&self) -> anyhow::Result<HostKey> {
        let file = self.0.join("key.pem");
        match fs::read_to_string(&file) {
            Ok(text) => HostKey::from_pem(&text).with_context(|| file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = HostKey::generate()?;
                write_atomically(&file, key.to_pem().as_bytes(), 0o600)?;
                Ok(key)
            }
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }
}
