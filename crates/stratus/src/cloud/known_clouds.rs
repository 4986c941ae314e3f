//! The certificates that the user decided to trust: `~/.stratuslab/known_clouds`.
//!
//! One line a cloud, `HOST:PORT SHA256:…`; empty lines and those starting with `#` mean nothing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use super::{Endpoint, Fingerprint};
use crate::config::home;
use crate::failure::{Failure, Result};

/// The file, and what it says.
#[derive(Debug)]
pub struct KnownClouds {
    path: PathBuf,
    pins: BTreeMap<String, Fingerprint>,
}

impl KnownClouds {
    /// Reads the user's file; without one nothing is known.
    ///
    /// # Errors
    /// [`Failure::Work`] for a file that cannot be read or has a line that is not understood: a pin must never be lost silently.
    pub fn load() -> Result<Self> {
        let path = home().join(".stratuslab/known_clouds");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        let mut pins = BTreeMap::new();
        for (index, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let pin = line
                .split_once(char::is_whitespace)
                .and_then(|(peer, fingerprint)| Some((peer.to_owned(), fingerprint.parse().ok()?)));
            let (peer, fingerprint) = pin.ok_or_else(|| {
                Failure::Work(format!(
                    "{} line {}: '{line}' is not HOST:PORT SHA256:…; correct or remove it",
                    path.display(),
                    index + 1
                ))
            })?;
            pins.insert(peer, fingerprint);
        }
        Ok(Self { path, pins })
    }

    /// The pinned certificate of a cloud.
    #[must_use]
    pub fn pin(&self, endpoint: &Endpoint) -> Option<Fingerprint> {
        self.pins.get(&endpoint.to_string()).copied()
    }

    /// Remembers a certificate, replacing an older one of the same host and port.
    ///
    /// # Errors
    /// [`Failure::Work`] when the file cannot be written; it is then as before.
    pub fn remember(&mut self, endpoint: &Endpoint, fingerprint: Fingerprint) -> Result {
        self.pins.insert(endpoint.to_string(), fingerprint);
        self.save()
    }

    /// Forgets a cloud; tells whether it was known.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub fn forget(&mut self, endpoint: &Endpoint) -> Result<bool> {
        let was_known = self.pins.remove(&endpoint.to_string()).is_some();
        if was_known {
            self.save()?;
        }
        Ok(was_known)
    }

    /// Where they are kept.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Written beside and renamed, so that a full disk or a second command at the same time leaves a whole file.
    fn save(&self) -> Result {
        let failed = |error: std::io::Error| Failure::file(&self.path, &error);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lines: String = self
            .pins
            .iter()
            .map(|(peer, fingerprint)| format!("{peer} {fingerprint}\n"))
            .collect();
        let beside = self
            .path
            .with_extension(format!("new{}", std::process::id()));
        let mut file = std::fs::File::create(&beside).map_err(failed)?;
        let written = file
            .write_all(format!("# Certificates trusted by 'stratus trust'.\n{lines}").as_bytes())
            .and_then(|()| file.sync_all());
        written
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .map_err(|error| {
                let _ = std::fs::remove_file(&beside);
                failed(error)
            })
    }
}
