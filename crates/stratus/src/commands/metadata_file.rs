//! The file of a description, as an argument of several commands.

use std::path::{Path, PathBuf};

use marketplace::{Metadata, UtcTime};

use crate::failure::{Failure, Result};
use crate::output::{Output, write_stderr};

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

/// Warns of a description that is past its end: it can be signed and is well-formed, and no cloud starts its image. On standard error,
/// since scripts read what these commands print.
pub(super) fn warn_of_end(out: &Output, file: &Path, metadata: &Metadata) {
    let now = UtcTime::from_timestamp(jiff::Timestamp::now());
    if let Some(valid) = metadata
        .valid
        .filter(|valid| *valid <= now && out.quiet <= 1)
    {
        write_stderr(&format!(
            "  [WARNING] {} is past its end (dcterms:valid {valid}): no cloud starts its image\n",
            file.display()
        ));
    }
}
