//! `stratus links`: StratusLab's command names as links to this program.

use std::path::PathBuf;

use crate::commands::linked_names;
use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::program::command_tree;

/// Make links for all commands under their own names, such as stratus-run-instance
///
/// The links point to this program, by its absolute path. Links that are there already are renewed; other files are left alone
/// and reported. Example: stratus links /usr/local/bin
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder; made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let program = std::env::current_exe().map_err(|error| Failure::Work(format!("this program does not know where it is: {error}")))?;
        std::fs::create_dir_all(&self.folder).map_err(|error| Failure::file(&self.folder, &error))?;
        let mut made = Vec::new();
        for name in linked_names(&command_tree("stratus ")) {
            let link = self.folder.join(name);
            if std::fs::symlink_metadata(&link).is_ok_and(|metadata| !metadata.file_type().is_symlink()) {
                return Err(Failure::Check(format!("'{}' is there and is no link; remove it first", link.display())));
            }
            let _ = std::fs::remove_file(&link);
            make_link(&program, &link).map_err(|error| Failure::file(&link, &error))?;
            out.detail(format_args!("{} -> {}", link.display(), program.display()));
            made.push(link);
        }
        if out.is_json() { out.json(&made) } else { Ok(()) }
    }
}

#[cfg(unix)]
fn make_link(program: &std::path::Path, link: &std::path::Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(program, link)
}

/// Links need rights that users of other systems rarely have; a copy does the same.
#[cfg(not(unix))]
fn make_link(program: &std::path::Path, link: &std::path::Path) -> std::io::Result<()> {
    std::fs::copy(program, link.with_extension("exe")).map(|_| ())
}
