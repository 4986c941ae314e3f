//! The logins that `stratus login` keeps: `~/.stratuslab/logins`, which only its owner can read.
//!
//! One line a cloud, `HOST:PORT USER TOKEN-ID TOKEN`. Where the system has a keyring (the program `secret-tool`), the token is
//! there, and the line says `keyring` in its place.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cloud::Endpoint;
use crate::config::home;
use crate::failure::{Failure, Result};

/// What stands for a token that is in the keyring.
const IN_KEYRING: &str = "keyring";
/// How long the keyring may take; it may ask its owner to unlock it.
const KEYRING_WITHIN: Duration = Duration::from_secs(60);

/// A login that is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub username: String,
    /// The token's id at the cloud, to revoke it.
    pub id: String,
    /// The token, or [`IN_KEYRING`].
    token: String,
}

// No log shows a token.
impl std::fmt::Debug for Kept {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Kept({})", self.username)
    }
}

/// The file, and what it says.
#[derive(Debug)]
pub struct KeptLogins {
    path: PathBuf,
    all: BTreeMap<String, Kept>,
}

impl KeptLogins {
    /// Reads the user's file; without one nothing is kept.
    ///
    /// # Errors
    /// [`Failure::Work`] for a file that can't be read.
    pub fn load() -> Result<Self> {
        let path = home().join(".stratuslab/logins");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::file(&path, &error)),
        };
        let all = text.lines().filter_map(|line| {
            let mut parts = line.split_ascii_whitespace();
            let (peer, username, id, token) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let kept = Kept {
                username: username.to_owned(),
                id: id.to_owned(),
                token: token.to_owned(),
            };
            (!peer.starts_with('#')).then(|| (peer.to_owned(), kept))
        });
        Ok(Self {
            all: all.collect(),
            path,
        })
    }

    /// What is kept for a cloud.
    #[must_use]
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Kept> {
        self.all.get(&endpoint.to_string())
    }

    /// The token that is kept for a cloud.
    ///
    /// # Errors
    /// [`Failure::Work`] if the keyring has it and doesn't give it.
    pub fn token(&self, endpoint: &Endpoint) -> Result<Option<String>> {
        match self.of(endpoint) {
            None => Ok(None),
            Some(kept) if kept.token == IN_KEYRING => {
                let token = keyring(&["lookup"], endpoint, None);
                let token = token.filter(|token| !token.is_empty());
                token.map(Some).ok_or_else(|| {
                    Failure::Work(format!("the keyring doesn't give the login for {endpoint}; unlock it, or use 'stratus login' again"))
                })
            }
            Some(kept) => Ok(Some(kept.token.clone())),
        }
    }

    /// Keeps a login, in place of an older one of the same cloud. Tells whether the keyring has it.
    ///
    /// # Errors
    /// [`Failure::Work`] when the file can't be written; it is then as before.
    pub fn keep(
        &mut self,
        endpoint: &Endpoint,
        username: &str,
        id: &str,
        token: &str,
    ) -> Result<bool> {
        let label = format!("--label=Stratus {endpoint}");
        let in_keyring = keyring(&["store", &label], endpoint, Some(token)).is_some();
        let kept = Kept {
            username: username.to_owned(),
            id: id.to_owned(),
            token: if in_keyring { IN_KEYRING } else { token }.to_owned(),
        };
        self.all.insert(endpoint.to_string(), kept);
        self.save()?;
        Ok(in_keyring)
    }

    /// Forgets a cloud.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn forget(&mut self, endpoint: &Endpoint) -> Result {
        if let Some(kept) = self.all.remove(&endpoint.to_string()) {
            if kept.token == IN_KEYRING {
                keyring(&["clear"], endpoint, None);
            }
            self.save()?;
        }
        Ok(())
    }

    /// Where they are kept.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Written beside and renamed, closed to others from the beginning.
    fn save(&self) -> Result {
        let failed = |error: std::io::Error| Failure::file(&self.path, &error);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lines: String = self
            .all
            .iter()
            .map(|(peer, kept)| format!("{peer} {} {} {}\n", kept.username, kept.id, kept.token))
            .collect();
        let beside = self
            .path
            .with_extension(format!("new{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let _ = std::fs::remove_file(&beside);
        let mut file = options.open(&beside).map_err(failed)?;
        let text =
            format!("# Logins kept by 'stratus login'. Who reads this can act for you.\n{lines}");
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .map_err(|error| {
                let _ = std::fs::remove_file(&beside);
                failed(error)
            })
    }
}

/// Asks the system's keyring; `None` if there is none, or it doesn't.
fn keyring(what: &[&str], endpoint: &Endpoint, secret: Option<&str>) -> Option<String> {
    // Without a session there is no keyring, and the program would start one that nobody unlocks.
    std::env::var_os("DBUS_SESSION_BUS_ADDRESS").filter(|address| !address.is_empty())?;
    let mut child = Command::new("secret-tool")
        .args(what)
        .args(["service", "stratus", "cloud", &endpoint.to_string()])
        .stdin(if secret.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let (Some(mut stdin), Some(secret)) = (child.stdin.take(), secret) {
        stdin.write_all(secret.as_bytes()).ok()?;
    }
    let until = Instant::now() + KEYRING_WITHIN;
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        return None;
    }
    let mut answer = String::new();
    // A token is short: it is in the pipe.
    std::io::Read::read_to_string(&mut child.stdout.take()?, &mut answer).ok()?;
    Some(answer.trim().to_owned())
}
