//! How users name volumes.

use crate::cloud::is_uuid;

/// The volume's UUID in lower case, from `UUID` or `Volume/UUID`; nothing if it is none.
#[must_use]
pub fn volume_uuid(text: &str) -> Option<String> {
    let id = text.trim().trim_start_matches("Volume/");
    is_uuid(id).then(|| id.to_lowercase())
}
