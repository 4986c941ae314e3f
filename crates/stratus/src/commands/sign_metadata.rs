//! `stratus sign-metadata`: the endorser's signature under a description of an image.

use std::path::{Path, PathBuf};

use super::metadata_file::{metadata_file, warn_of_end};
use crate::endorser::Endorser;
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;
use crate::options::{Common, Signing};
use crate::output::write_stderr;
use crate::session::Session;

/// Sign the description of an image
///
/// Puts your endorsement (time, e-mail address, names of your certificate) into the file and signs the whole. The unsigned file is
/// kept as FILE.orig, unless --output names another file for the signed one. An earlier endorsement and signature are replaced.
///
/// The e-mail address is the one in the certificate; --email counts only if there is none. Signatures are RSA with SHA-256, or of the kind
/// that belongs to the key (ECDSA, Ed25519).
///
/// JSON: {"file", "identifier", "email", "created"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus sign-metadata --p12-cert me.p12 ubuntu-24.04-x86_64-base-1.0.xml
  stratus sign-metadata --pem-cert cert.pem --pem-key key.pem --email me@example.org --output signed.xml draft.xml")]
pub struct Arguments {
    /// The description, as build-metadata writes it
    #[arg(value_name = "metadata-file")]
    file: Option<PathBuf>,
    /// Your e-mail address, if the certificate has none
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Where the signed description goes [default: the file itself; the unsigned one becomes FILE.orig]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let (file, document) =
            metadata_file(self.file.as_ref(), "Missing metadata file", |_| "Metadata file doesn't exist or is not a file".to_owned())?;
        let signed = Endorser::load(&session, &self.signing)
            .map_err(|failure| failure.to_string())
            .and_then(|endorser| {
                if let (Some(certified), Some(email)) = (endorser.certified_email(), &self.email)
                    && !certified.eq_ignore_ascii_case(email)
                {
                    session.out.warning(format_args!(
                        "the certificate is that of {certified}: the description is signed in that name, and --email {email} is not used"
                    ));
                }
                endorser.endorse(&document, self.email.as_deref()).map_err(|error| error.to_string())
            });
        let signed = match signed {
            Ok(signed) => signed,
            Err(text) => {
                write_stderr(&format!("{text}\n"));
                return Err(Failure::Check("Error signing metadata file".to_owned()));
            }
        };
        let target = match &self.output {
            Some(output) => {
                NewFile::at(output, true)?.write(&signed)?;
                output.clone()
            }
            None => {
                replace_by_signed(&file, &signed)?;
                file
            }
        };
        session.out.detail(format_args!("Metadata file successfully signed: {}", target.display()));
        let metadata = marketplace::Metadata::parse(signed.as_bytes()).map_err(|error| Failure::Work(error.to_string()))?;
        warn_of_end(&session.out, &target, &metadata);
        if session.out.is_json() {
            let endorsement = metadata.endorsement.as_ref();
            return session.out.json(&serde_json::json!({
                "file": target, "identifier": metadata.identifier,
                "email": endorsement.map(|one| &one.email), "created": endorsement.map(|one| one.created),
            }));
        }
        Ok(())
    }
}

/// Replaces a file, and keeps what was there first as `FILE.orig`: what is signed again doesn't replace the draft.
///
/// # Errors
/// [`Failure::Work`].
pub(super) fn replace_by_signed(file: &Path, text: &str) -> Result {
    let mut original = file.as_os_str().to_owned();
    original.push(".orig");
    let original = PathBuf::from(original);
    let new = NewFile::at(file, true)?;
    new.fill(text)?;
    if !original.exists() {
        std::fs::rename(file, &original).map_err(|error| Failure::file(file, &error))?;
    }
    new.finish()
}
