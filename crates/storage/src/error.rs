//! What can go wrong in this crate, told so that a user or an operator knows what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::inspect::Refusal;

/// Every error of this crate. Cheap to clone, because imports of one image share their outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// The file system is full, or would be fuller than its reserve allows.
    #[error(
        "not enough space in {}: {needed_bytes} bytes more are needed, {available_bytes} bytes are free, and {reserve_bytes} bytes of them \
         stay in reserve (`storage.reserve_mib`); free some space or lower the reserve",
        dir.display()
    )]
    NoSpace {
        /// Bytes that the work needs.
        needed_bytes: u64,
        /// Bytes free.
        available_bytes: u64,
        /// Bytes that must stay free.
        reserve_bytes: u64,
        /// The directory that was to be written to.
        dir: PathBuf,
    },
    /// The image must not be used on this cloud.
    #[error("image refused: {0}")]
    Refused(#[from] Refusal),
    /// The contents are not what they were said to be.
    #[error(
        "{what} mismatch: {found} (found) != {expected} (expected); the contents are damaged or another image's"
    )]
    Mismatch {
        /// What was compared.
        what: &'static str,
        /// As it was given.
        expected: String,
        /// As it is.
        found: String,
    },
    /// More bytes than allowed.
    #[error("the {what} is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Which of the counted things.
        what: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// Its owner may not have so much.
    #[error("{0}")]
    Quota(String),
    /// The compressed data is damaged or not compressed that way.
    #[error("cannot decompress the image as {compression}: {reason}")]
    Decompress {
        /// How it was being read.
        compression: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A URL that images are not taken from.
    #[error("cannot import from `{url}`: {reason}")]
    Url {
        /// The URL, without user name and password.
        url: String,
        /// What is wrong with it or with the answer.
        reason: String,
    },
    /// An address that this site doesn't fetch from: only its administrator can change that.
    #[error("cannot import from `{url}`: {reason}")]
    NotAllowed {
        /// The URL, without user name and password.
        url: String,
        /// Which rule forbids it.
        reason: String,
    },
    /// A server that doesn't give its file now, and may later.
    #[error("cannot import from `{url}` now: {reason}")]
    Server {
        /// The URL, without user name and password.
        url: String,
        /// What it answers, or why it can't be reached.
        reason: String,
    },
    /// The file on a server is another one than it was.
    #[error("cannot import from `{url}` now: the file changed while it was being read")]
    Changed {
        /// The URL, without user name and password.
        url: String,
    },
    /// A download broke off of which nobody can tell whether the rest will be of the same file.
    #[error(
        "the download of `{url}` broke off after {received_bytes} bytes and can't be taken up there: {reason}"
    )]
    BrokeOff {
        /// The URL, without user name and password.
        url: String,
        /// Bytes received before.
        received_bytes: u64,
        /// Why it broke off.
        reason: String,
    },
    /// The sender broke off.
    #[error("reading the image failed after {received_bytes} bytes: {source}")]
    Source {
        /// Bytes received before.
        received_bytes: u64,
        /// Why it ended.
        source: Arc<io::Error>,
    },
    /// The sender sent nothing for too long.
    #[error("no data of the image came for {} s", waited.as_secs())]
    Stalled {
        /// How long was waited.
        waited: Duration,
    },
    /// The sender is too slow on average to hold a place that others wait for.
    #[error(
        "the image came at {bytes_per_second} bytes/s on average; at least {least_bytes_per_second} are needed (an \
         administrator can change `least_kib_per_second` in [images])"
    )]
    TooSlow {
        /// Its average.
        bytes_per_second: u64,
        /// The least.
        least_bytes_per_second: u64,
    },
    /// All of it took too long.
    #[error(
        "the image did not come within {} s (an administrator can change `longest_hours` in [images])",
        longest.as_secs()
    )]
    TooLong {
        /// The limit.
        longest: Duration,
    },
    /// The owner's quota can't be looked at.
    #[error(
        "whether there is room for it could not be said now; send the image again later, as a new one: {0}"
    )]
    RoomUnknown(Arc<documents::DocumentsError>),
    /// Others' uploads, or the same user's, are still going on.
    #[error("other uploads are still under way after {} s; send the image again later", waited.as_secs())]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
    /// The host of a machine begins to give its disk, and doesn't go on to the end.
    #[error("the disk could not be had from its host {host}: {reason}")]
    NotGiven {
        /// The host's name.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// Nobody waits for the result any more, or the service is stopping.
    #[error("the import was cancelled")]
    Cancelled,
    /// Another process works in this directory.
    #[error("{} is in use by another process; only one may work in it at a time", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no such thing.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It exists, and differs from what was asked for.
    #[error("{kind} {name} already exists{difference}")]
    Exists {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// How it differs, or empty.
        difference: String,
    },
    /// A value outside what is possible.
    #[error("{what} {value} is not possible: {reason}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Its value.
        value: String,
        /// The rule.
        reason: String,
    },
    /// A program that we run failed, or was stopped for exceeding its limits.
    #[error("{program} failed: {reason}")]
    Tool {
        /// Program and subcommand.
        program: String,
        /// Its exit status and the end of its messages.
        reason: String,
    },
    /// A document of the cloud could not be read or written.
    #[error(transparent)]
    Document(Arc<documents::DocumentsError>),
    /// This back-end cannot do it.
    #[error("the {backend} storage back-end cannot {action}")]
    Unsupported {
        /// Name of the back-end.
        backend: &'static str,
        /// What was asked for.
        action: &'static str,
    },
}

/// What is too large when the operator's limit on all images is reached.
pub(crate) const IMAGE_CACHE: &str = "image cache";

/// Whether the file system, or a share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Whether a `file` that can't be opened or read, with this error, is gone from its folder, or its medium is broken: that rarely mends
/// itself. Whatever else the system says (too many open files, no memory, a file system that isn't mounted or doesn't answer)
/// passes. Blocks.
#[must_use]
pub fn is_loss(error: &io::Error, file: &Path) -> bool {
    use rustix::io::Errno;
    let folder_is_there = || {
        let folder = file.parent().map(Path::try_exists);
        matches!(folder, Some(Ok(true)))
    };
    match Errno::from_io_error(error) {
        // The medium, or the file system on it.
        Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) => true,
        Some(Errno::NOENT) => folder_is_there(),
        _ => false,
    }
}

impl From<documents::DocumentsError> for Error {
    fn from(error: documents::DocumentsError) -> Self {
        Self::Document(Arc::new(error))
    }
}

impl Error {
    /// Whether more free space would have helped.
    #[must_use]
    pub fn is_for_want_of_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::TooLarge { what, .. } => *what == IMAGE_CACHE,
            Self::Io { source, .. } => is_full(source),
            _ => false,
        }
    }

    /// Whether this is a [loss](is_loss) of this very file. Blocks.
    pub(crate) fn is_loss_of(&self, file: &Path) -> bool {
        match self {
            Self::Io { path, source, .. } => path == file && is_loss(source, file),
            _ => false,
        }
    }

    /// For `map_err` on file system calls: `Error::io("create", path)`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }

    /// The same for the calls of `rustix`.
    pub(crate) fn errno(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io {
            action,
            path,
            source: Arc::new(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_passes_is_no_loss_of_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (there, nowhere) = (folder.path().join("disk"), folder.path().join("no/disk"));
        let lost = |errno: Errno, path: &Path, file: &Path| {
            Error::errno("open", path)(errno).is_loss_of(file)
        };
        assert!(lost(Errno::IO, &there, &there));
        assert!(lost(Errno::UCLEAN, &there, &there));
        assert!(lost(Errno::IO, &nowhere, &nowhere));
        assert!(lost(Errno::NOENT, &there, &there));
        assert!(!lost(Errno::NOENT, &nowhere, &nowhere));
        for passes in [
            Errno::MFILE,
            Errno::NOMEM,
            Errno::STALE,
            Errno::TIMEDOUT,
            Errno::ACCESS,
        ] {
            assert!(!lost(passes, &there, &there), "{passes}");
        }
        // Of another file nothing is known.
        assert!(!lost(Errno::IO, &nowhere, &there));
    }
}
