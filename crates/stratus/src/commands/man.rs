//! `stratus man`: manual pages.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::program::command_tree;

/// Write the manual pages of all commands into a folder
///
/// One page a command, stratus.1, stratus-run-instance.1 and so on. Example: stratus man /usr/local/share/man/man1
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
        std::fs::create_dir_all(&self.folder).map_err(|error| Failure::file(&self.folder, &error))?;
        let mut root = command_tree("stratus-");
        root.build();
        let mut files = vec![page(&self.folder, "stratus", &root)?];
        for command in root.get_subcommands() {
            let name = format!("stratus-{}", command.get_name());
            files.push(page(&self.folder, &name, command)?);
            for inner in command.get_subcommands() {
                files.push(page(&self.folder, &format!("{name}-{}", inner.get_name()), inner)?);
            }
        }
        out.detail(format_args!("wrote {} pages to {}", files.len(), self.folder.display()));
        if out.is_json() { out.json(&files) } else { Ok(()) }
    }
}

fn page(folder: &Path, name: &str, command: &clap::Command) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    let failed = |error: std::io::Error| Failure::file(&path, &error);
    clap_mangen::Man::new(command.clone().display_name(name.to_owned())).render(&mut text).map_err(failed)?;
    std::fs::write(&path, text).map_err(failed)?;
    Ok(path)
}
