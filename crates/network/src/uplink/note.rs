//! What is written down of a change, so that whoever comes next can end it, one way or the other: in a folder of its own, under
//! one lock for all changes of a host.
//!
//! ```text
//!            test passed                confirmed
//!  Changing ────────────▶ Waiting ───────────────────▶ Keeping ──▶ (kept note, or none)
//!     │ died, test failed    │ nobody confirmed in time
//!     └──────────────────────┴───▶ put back ──▶ (no note)
//! ```
//!
//! Who works on it has the lock. A change of an earlier boot is gone with it: the files that the next boot reads are changed as
//! the last step only.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::boot::{self, Change};
use super::moving::{Moved, Way};
use crate::error::{NetworkError, Result};
use crate::name::InterfaceName;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Being made and tested, by somebody who has the lock.
    Changing,
    /// Made; it is put back unless somebody confirms.
    Waiting,
    /// Confirmed; the files are written.
    Keeping,
}

/// A change under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) way: Way,
    pub(super) stage: Stage,
    /// When it is over, in seconds of the clock that nobody sets.
    pub(super) until: u64,
    pub(super) boot: String,
    pub(super) moved: Moved,
    /// The bridge wasn't there before.
    pub(super) made_bridge: bool,
    pub(super) files: Vec<Change>,
}

/// An interface that is in a bridge by us, confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) bridge: InterfaceName,
    pub(super) port: InterfaceName,
    pub(super) files: Vec<Change>,
    /// The boot with which it ends; none: the next one does the same.
    pub(super) until_boot: Option<String>,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Notes(pub(super) PathBuf);

/// That nobody else changes anything meanwhile.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Notes {
    /// The lock, if nobody has it.
    ///
    /// # Errors
    /// The folder can't be made.
    pub(super) fn lock(&self) -> Result<Option<Lock>> {
        let path = self.0.join("lock");
        fs::create_dir_all(&self.0).map_err(NetworkError::file(&self.0))?;
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600);
        let file = open.open(&path).map_err(NetworkError::file(&path))?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(locked.is_ok().then_some(Lock { _file: file }))
    }

    /// The change that is under way.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn trial(&self) -> Result<Option<Trial>> {
        read(&self.trial_path())
    }

    pub(super) fn write_trial(&self, trial: &Trial) -> Result<()> {
        write(&self.trial_path(), trial)
    }

    pub(super) fn remove_trial(&self) -> Result<()> {
        remove(&self.trial_path())
    }

    /// All that is kept.
    ///
    /// # Errors
    /// A note can't be read.
    pub(super) fn kept(&self) -> Result<Vec<Kept>> {
        let mut all = Vec::new();
        let Ok(entries) = fs::read_dir(self.0.join("kept")) else {
            return Ok(all);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "json") {
                all.extend(read::<Kept>(&path)?);
            }
        }
        let boot = this_boot()?;
        all.retain(|kept| kept.until_boot.as_ref().is_none_or(|its| *its == boot));
        Ok(all)
    }

    pub(super) fn write_kept(&self, kept: &Kept) -> Result<()> {
        write(&self.kept_path(&kept.bridge), kept)
    }

    pub(super) fn remove_kept(&self, bridge: &InterfaceName) -> Result<()> {
        remove(&self.kept_path(bridge))
    }

    fn trial_path(&self) -> PathBuf {
        self.0.join("trial.json")
    }

    fn kept_path(&self, bridge: &InterfaceName) -> PathBuf {
        self.0.join("kept").join(format!("{bridge}.json"))
    }
}

impl Trial {
    /// Which has had what is moved.
    pub(super) fn from(&self) -> &InterfaceName {
        match self.way {
            Way::Join => &self.moved.port,
            Way::Leave => &self.moved.bridge,
        }
    }

    /// Which gets it.
    pub(super) fn to(&self) -> &InterfaceName {
        match self.way {
            Way::Join => &self.moved.bridge,
            Way::Leave => &self.moved.port,
        }
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self) -> bool {
        now() >= self.until
    }

    /// Whether it was begun since the computer was started.
    pub(super) fn is_of_this_boot(&self) -> bool {
        this_boot().is_ok_and(|boot| boot == self.boot)
    }
}

/// The moment, in seconds of the clock that nobody sets and that goes on while the computer sleeps.
pub(super) fn now() -> u64 {
    clock_gettime(ClockId::Boottime)
        .tv_sec
        .try_into()
        .unwrap_or_default()
}

/// A moment from now.
pub(super) fn after(time: Duration) -> u64 {
    now() + time.as_secs()
}

pub(super) fn this_boot() -> Result<String> {
    let text = fs::read_to_string(BOOT).map_err(NetworkError::file(BOOT))?;
    Ok(text.trim().to_owned())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = boot::read(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| NetworkError::file(path)(error.into()))
}

fn write(path: &Path, note: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(note)
        .map_err(|error| NetworkError::file(path)(error.into()))?;
    boot::write(path, &text)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(NetworkError::file(path)(error))
        }
        _ => Ok(()),
    }
}
