//! `stratus validate-metadata`: whether descriptions of images would be accepted.

use std::path::PathBuf;

use marketplace::Entry;

use super::metadata_file::warn_of_end;
use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::output::{printable, write_stderr};

/// Check signed descriptions of images
///
/// Looks at structure, signature, endorser and contents, as a Marketplace does; uses no network, and does not ask whether anybody
/// vouches for the certificate. Prints 'Valid: FILE', or 'Invalid: FILE' and the reason on standard error; ends with the number of files
/// that are not valid (255 at most).
///
/// JSON: [{"file", "valid", "error", "identifier", "email", "created", "algorithm", "emailCertified"}].
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  stratus validate-metadata *.xml")]
pub struct Arguments {
    /// Signed descriptions
    #[arg(value_name = "metadata-file")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        if self.files.is_empty() {
            return Err(Failure::Usage("Missing manifest file".to_owned()));
        }
        let mut failures = 0_u8;
        let mut all = Vec::new();
        for file in &self.files {
            let name = file.display();
            let result = match std::fs::read(file) {
                Ok(document) => Entry::verify(&document).map_err(|error| (format!("Invalid: {name}\n"), error.to_string())),
                Err(error) => Err((format!("Cannot read {name}\n"), error.to_string())),
            };
            match &result {
                Ok(_) if !out.is_json() => out.line(format_args!("Valid: {name}"))?,
                Ok(_) => {}
                Err((head, reason)) => {
                    failures = failures.saturating_add(1);
                    write_stderr(&format!("{head}{}\n", printable(reason)));
                }
            }
            if let Ok(entry) = &result {
                warn_of_end(&out, file, entry.metadata());
            }
            all.push(as_json(file, result.map_err(|(_, reason)| reason)));
        }
        if out.is_json() {
            out.json(&all)?;
        }
        if failures > 0 { Err(Failure::Exit(failures)) } else { Ok(()) }
    }
}

fn as_json(file: &PathBuf, result: Result<Entry, String>) -> serde_json::Value {
    match result {
        Ok(entry) => serde_json::json!({
            "file": file, "valid": true, "identifier": entry.metadata().identifier, "email": entry.endorsement().email,
            "created": entry.endorsement().created, "algorithm": entry.method().uri(), "emailCertified": entry.is_email_certified(),
        }),
        Err(reason) => serde_json::json!({ "file": file, "valid": false, "error": reason }),
    }
}
