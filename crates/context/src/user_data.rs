//! Plain user data.

use std::fmt;
use std::ops::Deref;

/// User data as the guest gets it: a script, cloud-config, multipart … of any bytes, not compressed. Made by
/// [`decoding`](crate::decoding), which keeps its limits; shown to logs by its size only, since it may hold passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserData(pub(crate) Vec<u8>);

impl UserData {
    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for UserData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of user data", self.0.len())
    }
}
