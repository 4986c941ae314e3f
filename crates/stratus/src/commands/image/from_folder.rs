//! `stratus image from-folder`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::import;
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;
use crate::options::{Cloud, Common};
use crate::output::printable;
use crate::session::Session;
use crate::unfinished;

/// Programs that make ISO images, with what comes before the options of mkisofs that all of them understand.
const PROGRAMS: [(&str, &[&str]); 3] = [("xorriso", &["-as", "mkisofs"]), ("genisoimage", &[]), ("mkisofs", &[])];
/// Longest label: what Joliet has room for.
const LABEL_LENGTH: usize = 16;

/// Make a data image from a folder
///
/// Makes an ISO image with the names, rights and links of the files (Rock Ridge), readable on Windows, too (Joliet). Guests find it
/// by its label. With --import it is imported at once; machines get it with run-instance --readonly-disk. Needs xorriso, genisoimage
/// or mkisofs on this computer.
///
/// Prints the file, or with --import 'IMAGE IDENTIFIER'. JSON: {"file", "label", "bytes"}, or as for image import.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image from-folder genomes --label GENOMES
  stratus image from-folder genomes --label GENOMES --import --public
  stratus run-instance --readonly-disk IDENTIFIER IMAGE       (in the machine: mount LABEL=GENOMES /mnt)")]
pub struct Arguments {
    /// The folder; what is in it comes to the top of the image
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Label: 1 to 16 letters, digits, _ or -
    #[arg(short, long, value_name = "LABEL")]
    label: String,
    /// File to write [default: LABEL.iso]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Import it into the cloud; without --output the file is removed then
    #[arg(long)]
    import: bool,
    /// Everybody may use the imported image
    #[arg(long, requires = "import")]
    public: bool,
    /// Name of the imported image [default: the label]
    #[arg(short, long, value_name = "NAME", requires = "import")]
    name: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if self.label.is_empty() || self.label.len() > LABEL_LENGTH || !self.label.bytes().all(fits) {
            return Err(Failure::Usage(format!("'{}' is no label: 1 to {LABEL_LENGTH} letters, digits, _ or -", self.label)));
        }
        if !self.folder.is_dir() {
            return Err(Failure::Usage(format!("'{}' is not a folder", self.folder.display())));
        }
        let file = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.iso", self.label)));
        let new = NewFile::at(&file, self.force)?;
        session.out.step(format_args!("Making {} from {}", file.display(), self.folder.display()));
        make(&self.folder, &self.label, new)?;
        let bytes = std::fs::metadata(&file).map_err(|error| Failure::file(&file, &error))?.len();
        if !self.import {
            if session.out.is_json() {
                return session.out.json(&serde_json::json!({ "file": file, "label": self.label, "bytes": bytes }));
            }
            return session.out.line(file.display());
        }
        // Only made to be imported: it goes also when that is interrupted.
        let goes = self.output.is_none();
        if goes {
            unfinished::note_file(&file);
        }
        let name = self.name.clone().unwrap_or_else(|| self.label.clone());
        let imported = Box::pin(import::Arguments::of_file(&file, name, self.public, self.cloud, self.common).run()).await;
        if goes {
            let _ = std::fs::remove_file(&file);
            unfinished::forget_file(&file);
        }
        imported
    }
}

/// Makes the image.
fn make(folder: &Path, label: &str, file: NewFile) -> Result {
    for (program, first) in PROGRAMS {
        let mut command = Command::new(program);
        command.args(first).args(["-quiet", "-R", "-J", "-joliet-long", "-V", label, "-o"]).arg(file.part());
        // A folder that looks like an option is none.
        command.arg(Path::new(".").join(folder).canonicalize().map_err(|error| Failure::file(folder, &error))?);
        let output = match command.stdin(Stdio::null()).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::Work(format!("{program} cannot be run: {error}"))),
            Ok(output) => output,
        };
        if !output.status.success() {
            let said = printable(String::from_utf8_lossy(&output.stderr).trim());
            return Err(Failure::Work(format!("{program} could not make the image: {said}")));
        }
        return file.finish();
    }
    Err(Failure::Work("no program that makes ISO images is installed".to_owned())
        .with_hint("Install xorriso (Debian: xorriso) or genisoimage."))
}
