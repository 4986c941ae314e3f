//! `stratus completions`: completion scripts for shells.

use clap_complete::Shell;

use crate::failure::Result;
use crate::options::Common;
use crate::program::command_tree;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bash: stratus completions bash > /etc/bash_completion.d/stratus
  zsh:  stratus completions zsh > \"${fpath[1]}/_stratus\"
  fish: stratus completions fish > ~/.config/fish/completions/stratus.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command_tree("stratus "), "stratus", &mut script);
        crate::session::output(&self.common).bytes(&script)
    }
}
