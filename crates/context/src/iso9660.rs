//! A writer of small ISO 9660 media that every reader likes: primary tree with Rock Ridge, and Joliet.
//!
//! Sources: ECMA-119 (ISO 9660), the Joliet specification, SUSP 1.10 and RRIP 1.10 (`RRIP_1991A`). In sectors of 2048 bytes:
//!
//! | sector | content |
//! |---|---|
//! | 0–15 | zero |
//! | 16, 17, 18 | primary descriptor, Joliet descriptor, terminator |
//! | next | primary path tables (little, then big endian) and folders |
//! | next | Joliet path tables and folders |
//! | one | the Rock Ridge continuation area, naming the extension |
//! | rest | the files, each from a sector boundary; zeros up to 128 KiB in all |
//!
//! The primary tree has safe 8.3 names (`F0000001.;1`), real names are in Rock Ridge and Joliet. Both descriptors carry the same
//! label, because `blkid` shows the Joliet one. The same input always gives the same bytes.

mod descriptors;
mod layout;
mod records;
mod rock_ridge;
mod tree;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::error::{ContextError, Result, excerpt};
use crate::medium::MediumFile;

const SECTOR_BYTES: usize = 2048;

/// The label by which guests find a medium: 1 to 16 letters, digits, `_`, `-` or `.` (16 is Joliet's limit).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeLabel(std::borrow::Cow<'static, str>);

impl VolumeLabel {
    /// OpenNebula's guests, and StratusLab's, which take any label.
    pub const CONTEXT: Self = Self(std::borrow::Cow::Borrowed("CONTEXT"));
    /// cloud-init's NoCloud.
    pub const CIDATA: Self = Self(std::borrow::Cow::Borrowed("cidata"));

    /// The label's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeLabel {
    type Err = ContextError;

    fn from_str(label: &str) -> Result<Self> {
        let is_valid = (1..=16).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if is_valid {
            Ok(Self(label.to_owned().into()))
        } else {
            Err(ContextError::InvalidLabel {
                label: excerpt(label),
            })
        }
    }
}

impl fmt::Display for VolumeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Builds a medium with `files`; `written` becomes every date in it (years 1900 to 2155, others are moved to the nearest).
///
/// ```
/// use context::{MediumFile, iso9660::{VolumeLabel, write}};
/// let medium = write(&VolumeLabel::CIDATA, jiff::Timestamp::UNIX_EPOCH, &[MediumFile::new("meta-data", ""), MediumFile::new("user-data", "")])?;
/// assert_eq!(&medium[16 * 2048 + 40..][..6], b"cidata");
/// # Ok::<(), context::ContextError>(())
/// ```
///
/// # Errors
/// [`ContextError::InvalidPath`] for a path that cannot stand on a medium or stands there twice,
/// [`ContextError::MediumTooLarge`] above [`limits::MEDIUM_MAX_BYTES`](crate::limits::MEDIUM_MAX_BYTES).
pub fn write(label: &VolumeLabel, written: Timestamp, files: &[MediumFile]) -> Result<Vec<u8>> {
    layout::write(label, &records::Dates::of(written), files)
}
