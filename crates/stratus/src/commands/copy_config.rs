//! `stratus copy-config`: a configuration file to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};

use crate::config::{DEFAULT_CONFIG_FILE, REFERENCE_FILE, home};
use crate::failure::{Failure, Result};
use crate::options::Common;

/// Write a configuration file to begin with
///
/// Copies the commented reference file to ~/.stratuslab/stratuslab-user.cfg, or to the file named with -c.
/// The copy can be read by nobody else, since a password goes into it. Then set endpoint, username and password in it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let path = self.common.config.unwrap_or_else(|| home().join(DEFAULT_CONFIG_FILE));
        let failed = |error: std::io::Error| Failure::file(&path, &error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(!self.force).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let mut file = options.open(&path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::Check(format!("won't overwrite file ({}); use --force to overwrite", path.display())),
            _ => failed(error),
        })?;
        // Also of a file that was there and that others could read.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        }
        file.write_all(REFERENCE_FILE.as_bytes()).map_err(failed)?;
        out.detail(format_args!("wrote configuration file: {}", path.display()));
        if out.is_json() { out.json(&serde_json::json!({ "file": path })) } else { Ok(()) }
    }
}
