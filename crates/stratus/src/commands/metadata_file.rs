//! The file of a description, as an argument of several commands.

use std::path::PathBuf;

use crate::failure::{Failure, Result};

/// A file named on the command line, and its contents; `missing` and `absent` are the usage errors of the contract.
///
/// # Errors
/// [`Failure::Usage`]; [`Failure::Work`] when it can't be read.
pub(super) fn metadata_file(
    file: Option<&PathBuf>,
    missing: &str,
    absent: impl FnOnce(&PathBuf) -> String,
) -> Result<(PathBuf, Vec<u8>)> {
    let path = file.ok_or_else(|| Failure::Usage(missing.to_owned()))?;
    if !path.is_file() {
        return Err(Failure::Usage(absent(path)));
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    Ok((path.clone(), bytes))
}
