//! Small files that another program reads while we write them.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{NetworkError, Result};

/// Replaces the file whole: a reader sees the old text or the new. Not synced: these files are made anew from
/// documents after a power cut.
pub(crate) async fn write_atomically(path: &Path, text: String) -> Result<()> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let new = path.with_extension("new");
        std::fs::write(&new, text).map_err(NetworkError::file(&new))?;
        // The reader is another user's.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))
            .map_err(NetworkError::file(&new))?;
        std::fs::rename(&new, &path).map_err(NetworkError::file(&path))
    })
    .await
    .map_err(|_| NetworkError::Closed {
        part: "the runtime",
    })?
}

/// The text of a file; empty when there is none.
pub(crate) async fn read_or_empty(path: &Path) -> Result<String> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(NetworkError::file(path)(error)),
    }
}
