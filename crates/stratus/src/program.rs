//! The command line: from arguments to a command, and from its end to an exit status.

use std::ffi::{OsStr, OsString};
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::commands::{Command, GROUPS};
use crate::failure::{Failure, Result};
use crate::output::{Output, printable, write_stderr, write_stdout};

/// The version, as `--version` prints it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long an interrupted command may take to remove what it left unfinished.
const CLEARING_LIMIT: Duration = Duration::from_secs(15);

/// Everything that the cloud can do for you
#[derive(Debug, Parser)]
#[command(name = "stratus", version = VERSION, propagate_version = true)]
struct Program {
    #[command(subcommand)]
    command: Option<Command>,
}

/// The whole command tree, as shown to users, generators and the parser. `prefix` is what stands before the commands' names:
/// `stratus ` or, for links, `stratus-`.
#[must_use]
pub fn command_tree(prefix: &str) -> clap::Command {
    let root = Program::command().disable_help_subcommand(true);
    let names: Vec<String> = root
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    names.into_iter().fold(root, |root, name| {
        root.mut_subcommand(&name, |command| {
            with_rules(command, &format!("{prefix}{name}"))
        })
    })
}

/// The rules of every command: abbreviations, the last of several values counts, the shape of the help.
fn with_rules(command: clap::Command, shown_name: &str) -> clap::Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let positionals: Vec<String> = command
        .get_positionals()
        .map(|argument| {
            let name = argument
                .get_value_names()
                .and_then(|names| names.first())
                .map_or_else(|| argument.get_id().to_string(), ToString::to_string);
            let is_many = argument
                .get_num_args()
                .is_some_and(|count| count.max_values() > 1)
                || matches!(argument.get_action(), clap::ArgAction::Append);
            let dots = if is_many { " …" } else { "" };
            let dashes = if argument.is_last_set() { "-- " } else { "" };
            if argument.is_required_set() {
                format!("{dashes}{name}{dots}")
            } else {
                format!("[{dashes}{name}{dots}]")
            }
        })
        .collect();
    let usage = if names.is_empty() {
        format!("{shown_name} [options] {}", positionals.join(" "))
    } else {
        format!("{shown_name} COMMAND [options]")
    };
    let command = command
        // What begins with a minus and a digit is a value, and told to be a wrong one.
        .mut_args(|argument| {
            let takes_values = argument.get_action().takes_values();
            argument.allow_negative_numbers(takes_values)
        })
        .infer_long_args(true)
        .args_override_self(true)
        .disable_help_subcommand(true)
        .bin_name(shown_name)
        .display_name(shown_name)
        .override_usage(usage.trim_end().to_owned())
        .help_template("{usage-heading} {usage}\n\n{about-with-newline}\n{all-args}{after-help}");
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(&name, |inner| {
            with_rules(inner, &format!("{shown_name} {name}"))
        })
    })
}

/// How the program was called.
struct Invocation {
    /// Arguments as for `stratus`, program name first.
    arguments: Vec<OsString>,
    /// What stands before a command's name.
    prefix: &'static str,
}

impl Invocation {
    /// `stratus-run-instance x` is `stratus run-instance x`.
    fn of(mut arguments: Vec<OsString>) -> Self {
        let name = arguments
            .first()
            .and_then(|path| Path::new(path).file_name())
            .and_then(OsStr::to_str)
            .unwrap_or("stratus");
        let name = name.strip_suffix(".exe").unwrap_or(name);
        match name.strip_prefix("stratus-").map(OsString::from) {
            Some(command) => {
                arguments.splice(..1, [OsString::from("stratus"), command]);
                Self {
                    arguments,
                    prefix: "stratus-",
                }
            }
            None => {
                arguments.splice(..arguments.len().min(1), [OsString::from("stratus")]);
                Self {
                    arguments,
                    prefix: "stratus ",
                }
            }
        }
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let invocation = Invocation::of(std::env::args_os().collect());
    let root = command_tree(invocation.prefix);
    let (name, usage) = name_and_usage(&root, &invocation);
    let likely_slip = likely_slip(&invocation.arguments);
    if invocation
        .arguments
        .get(1)
        .is_none_or(|first| first == "--help" || first == "-h" || first == "help")
    {
        return finished(
            write_stdout(overview(&root).as_bytes()),
            &name,
            &usage,
            None,
        );
    }
    let command = root
        .try_get_matches_from(invocation.arguments)
        .and_then(|matches| Program::from_arg_matches(&matches));
    match command {
        Ok(Program {
            command: Some(command),
        }) => {
            let out = crate::session::output(command.common());
            let result = command.check_format().and_then(|()| in_runtime(command));
            finished(result, &name, &usage, Some(out))
        }
        Ok(Program { command: None }) => finished(
            Err(Failure::Usage("no command given".to_owned())),
            &name,
            &usage,
            None,
        ),
        Err(error) => finished(
            parse_failure(&error, likely_slip.as_deref()),
            &name,
            &usage,
            None,
        ),
    }
}

/// The name and the usage line of the command that was called, for messages about its options.
fn name_and_usage(root: &clap::Command, invocation: &Invocation) -> (String, String) {
    let mut current = root;
    for argument in invocation.arguments.iter().skip(1) {
        let Some(inner) = argument
            .to_str()
            .and_then(|argument| current.find_subcommand(argument))
        else {
            break;
        };
        current = inner;
    }
    if current.get_name() == root.get_name() {
        return (
            "stratus".to_owned(),
            "Usage: stratus COMMAND [options] …".to_owned(),
        );
    }
    let name = current
        .get_display_name()
        .unwrap_or(current.get_name())
        .to_owned();
    (name, current.clone().render_usage().to_string())
}

/// `--wait ssh` for `--wait=ssh`: the option may stand alone, so its value is never the next word.
fn likely_slip(arguments: &[OsString]) -> Option<String> {
    arguments.windows(2).find_map(|words| match words {
        [option, value] if option == "--wait" && (value == "ssh" || value == "running") => {
            Some(format!("write --wait={} with '='", value.to_string_lossy()))
        }
        _ => None,
    })
}

/// What the parser says: help and version are successes, the rest are wrong options or arguments.
fn parse_failure(error: &clap::Error, likely_slip: Option<&str>) -> Result {
    match error.kind() {
        ErrorKind::DisplayVersion => write_stdout(format!("{VERSION}\n").as_bytes()),
        ErrorKind::DisplayHelp => write_stdout(error.render().to_string().as_bytes()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            write_stderr(&error.render().to_string());
            Err(Failure::Exit(2))
        }
        ErrorKind::ValueValidation => Err(Failure::Usage(wrong_value(error))),
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let end = ["\n\nUsage:", "\n\nFor more information"]
                .iter()
                .filter_map(|mark| text.find(mark))
                .min()
                .unwrap_or(text.len());
            let message = text.get(..end).unwrap_or(text).trim_end();
            Err(Failure::Usage(match likely_slip {
                Some(slip) => format!("{message}; {slip}"),
                None => message.to_owned(),
            }))
        }
    }
}

/// What is wrong with the value of an option, in the words of who wrote it and not of the library that read it.
fn wrong_value(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (option, value) = (
        context(ContextKind::InvalidArg),
        context(ContextKind::InvalidValue),
    );
    let source = std::error::Error::source(error);
    let told = source.map(ToString::to_string).unwrap_or_default();
    let whole = source.and_then(|source| source.downcast_ref::<ParseIntError>());
    let is_number = source.is_some_and(|source| source.is::<ParseFloatError>());
    let bounds = told.split_once(" is not in ").map(|(_, bounds)| bounds);
    let expected = match (whole.map(ParseIntError::kind), bounds) {
        (Some(IntErrorKind::PosOverflow), _) => "is too large".to_owned(),
        (Some(_), _) => "must be a whole number, 0 or more".to_owned(),
        (None, Some(bounds)) => match bounds.split_once("..") {
            Some((least, most)) if most.trim_start_matches('=') == u32::MAX.to_string() => {
                format!("must be a whole number, {least} or more")
            }
            Some((least, most)) => {
                format!(
                    "must be a whole number from {least} to {}",
                    most.trim_start_matches('=')
                )
            }
            None => told,
        },
        (None, None) if is_number => "must be a number, such as 0.5".to_owned(),
        (None, None) => told,
    };
    format!("{option}: '{value}' {expected}")
}

/// Runs the command until it ends or the user interrupts it.
fn in_runtime(command: Command) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Work(format!("the program cannot start: {error}")))?;
    let status = command.interrupted_status();
    let result = runtime.block_on(async {
        tokio::select! {
            result = command.run() => result,
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => interrupted_by_user().await.and(match status {
                    0 => Ok(()),
                    status => Err(Failure::Exit(status)),
                }),
                Err(error) => Err(Failure::Work(format!("signals cannot be received: {error}"))),
            },
        }
    });
    // Blocking pieces (a file being read for its digest) must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Leaves nothing half-made at the cloud, and says goodbye. A second interruption ends that, too.
async fn interrupted_by_user() -> Result {
    crate::unfinished::remove_files();
    let farewell = if crate::unfinished::is_left_by_interruption() {
        let mut removal = Removal::Unknown;
        let removing = async {
            let asked = tokio::time::timeout(CLEARING_LIMIT, crate::unfinished::remove()).await;
            removal = match asked {
                Err(_) => Removal::Unknown,
                Ok(troubles) => match troubles.into_iter().next() {
                    Some((path, error)) => Removal::Failed(path, error.to_string()),
                    None => Removal::Accepted,
                },
            };
            if removal == Removal::Accepted && crate::unfinished::is_gone(CLEARING_LIMIT).await {
                removal = Removal::Done;
            }
        };
        tokio::select! {
            () = removing => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        removal.to_string()
    } else {
        match (crate::unfinished::farewell(), crate::unfinished::name()) {
            (Some(farewell), _) => farewell,
            (None, Some(name)) => format!("What was begun goes on at the cloud: {name}."),
            (None, None) if crate::unfinished::has_asked_for_change() => {
                "What was begun at the cloud goes on there.".to_owned()
            }
            (None, None) => "Nothing was changed.".to_owned(),
        }
    };
    write_stdout(format!("\n\nInterrupted. {farewell} Goodbye.\n").as_bytes())
}

/// What became of what an interrupted command had begun.
#[derive(Debug, PartialEq, Eq)]
enum Removal {
    Done,
    /// The cloud will do it.
    Accepted,
    /// What stays, and why.
    Failed(String, String),
    Unknown,
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("What was unfinished is removed."),
            Self::Accepted => f.write_str("What was unfinished is being removed by the cloud."),
            Self::Failed(path, error) => {
                write!(f, "{path} is unfinished and could not be removed: {error}.")
            }
            Self::Unknown => f.write_str("What was unfinished may still be there."),
        }
    }
}

/// Says why the command ended and gives its exit status.
fn finished(result: Result, name: &str, usage: &str, out: Option<Output>) -> ExitCode {
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    let is_shown = out.is_none_or(|out| out.quiet <= 2);
    if out.is_some_and(|out| out.verbose >= 3) && failure.is_of_the_work() {
        write_stderr(&format!("{failure}\n{failure:#?}\n"));
        return ExitCode::from(1);
    }
    // Much of it is the words of servers.
    let tell = |text: String| write_stderr(&printable(&text));
    let say = |text: String| {
        if is_shown {
            // The end is near either way; a closed output changes nothing.
            let _ = write_stdout(printable(&text).as_bytes());
        }
    };
    let (shown, hint) = match &failure {
        Failure::Hinted { failure, hint } => (failure.as_ref(), Some(hint)),
        failure => (failure, None),
    };
    match shown {
        Failure::Usage(message) => tell(format!("{usage}\n\n{name}: error: {message}\n")),
        Failure::Check(message) => tell(format!("  [ERROR] {message}\n")),
        Failure::Work(message) | Failure::NoAccess(message) => say(format!("Error: {message}\n")),
        Failure::Value(message) => say(format!("Error: {message}\n\n")),
        Failure::Configuration(message) => say(format!("{message}\n")),
        Failure::Network(message) => say(format!("Network error: {message}\n")),
        Failure::Exit(_) | Failure::ClosedOutput | Failure::Hinted { .. } => {}
    }
    if let Some(hint) = hint.filter(|_| is_shown) {
        tell(format!("{hint}\n"));
    }
    ExitCode::from(failure.exit_status())
}

/// All commands by what they are for.
fn overview(root: &clap::Command) -> String {
    let mut text = String::from(
        "Usage: stratus COMMAND [options] …\n\nMachines, volumes and images of a Stratus cloud.\nEvery command also has a name of its own, such as stratus-run-instance (see: stratus links).\n",
    );
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{title}\n"));
        for command in names.iter().filter_map(|name| root.find_subcommand(name)) {
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            text.push_str(&format!("  {:<19} {about}\n", command.get_name()));
        }
    }
    text.push_str(
        "\nFirst steps\n  stratus copy-config && editor ~/.stratuslab/stratuslab-user.cfg   (or export STRATUSLAB_ENDPOINT, _USERNAME, _PASSWORD)\n  stratus trust                       once, for a cloud with a self-signed certificate\n  stratus image list\n  stratus run-instance --wait=ssh IMAGE && stratus connect-instance ID\n\nstratus COMMAND --help tells more.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        command_tree("stratus ").debug_assert();
        command_tree("stratus-").debug_assert();
    }

    #[test]
    fn the_overview_shows_every_command_once() {
        let root = command_tree("stratus ");
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let mut all: Vec<&str> = root
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
        for command in root.get_subcommands() {
            assert!(
                command
                    .get_about()
                    .is_some_and(|about| !about.to_string().is_empty()),
                "{} has no description",
                command.get_name()
            );
        }
    }

    #[test]
    fn a_link_names_its_command() {
        let invocation = Invocation::of(vec!["/usr/bin/stratus-run-instance".into(), "x".into()]);
        assert_eq!(invocation.arguments, ["stratus", "run-instance", "x"]);
        assert_eq!(Invocation::of(vec![]).arguments, ["stratus"]);
    }
}
