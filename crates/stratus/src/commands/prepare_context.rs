//! `stratus prepare-context`: files for cloud-init, packed for `--context-file`.

use std::path::Path;

use context::encoding::{encode_cloud_init, parse_cloud_init_arguments};

use crate::failure::{Failure, Result};
use crate::options::Common;

/// The file that is written, in the current folder.
const FILE: &str = "cloud-init.txt";

/// Pack files for cloud-init into a context file
///
/// Writes cloud-init.txt in the current folder, to be given to run-instance with --context-file. Each argument is TYPE,FILE:
/// 'ssh' for a public key file (may be repeated), 'none' for a file that is the whole user data as it is, and for parts of it
/// 'x-shellscript', 'cloud-config', 'cloud-boothook', 'include-url' and whatever text/TYPE cloud-init knows. Without an ssh pair no key
/// is put in. Prints nothing.
///
/// JSON: {"file", "variables": {NAME: VALUE}}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus prepare-context ssh,$HOME/.ssh/id_ed25519.pub x-shellscript,setup.sh cloud-config,packages.yaml
  stratus run-instance --context-file cloud-init.txt IMAGE")]
pub struct Arguments {
    /// Pairs of type and file
    #[arg(value_name = "type,file")]
    pairs: Vec<String>,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        if self.pairs.is_empty() {
            return Err(Failure::Usage("Please give at least one pair type,file".to_owned()));
        }
        let work = |error: context::ContextError| Failure::Work(error.to_string());
        let pairs = parse_cloud_init_arguments(&self.pairs).map_err(work)?;
        let cloud_init = encode_cloud_init(&pairs, None, |path| std::fs::read(path)).map_err(work)?;
        std::fs::write(FILE, cloud_init.file_text()).map_err(|error| Failure::file(Path::new(FILE), &error))?;
        if out.is_json() {
            let variables = cloud_init.variables().map_err(work)?;
            let variables: serde_json::Map<_, _> = variables.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            return out.json(&serde_json::json!({ "file": FILE, "variables": variables }));
        }
        Ok(())
    }
}
