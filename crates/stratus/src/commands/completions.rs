//! `stratus completions`: completion scripts for shells.

use clap_complete::Shell;

use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::program::command_tree;

/// Print a completion script for a shell
///
/// For 'stratus', or with COMMAND for its link ('stratus completions bash run-instance' completes stratus-run-instance).
/// 'make install' puts all of them where shells look.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bash: stratus completions bash > /etc/bash_completion.d/stratus
  zsh:  stratus completions zsh > \"${fpath[1]}/_stratus\"
  fish: stratus completions fish > ~/.config/fish/completions/stratus.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// The command whose link is completed
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let mut script = Vec::new();
        match &self.command {
            None => clap_complete::generate(self.shell, &mut command_tree("stratus "), "stratus", &mut script),
            Some(name) => {
                let tree = command_tree("stratus-");
                let command = tree.find_subcommand(name).ok_or_else(|| Failure::Usage(format!("there is no command '{name}'")))?;
                // clap wants names that live as long as the program, which is about to end.
                let link: &'static str = format!("stratus-{name}").leak();
                let mut command = command.clone().name(link).bin_name(link);
                clap_complete::generate(self.shell, &mut command, link, &mut script);
            }
        }
        crate::session::output(&self.common).bytes(&script)
    }
}
