//! The Stratus daemon: all roles of a cloud in one program.
//!
//! [`serve`] is the wiring, to be read first.

mod asking_hosts;
mod audit_log;
mod config;
mod database;
mod descriptors;
mod first_start;
mod host_services;
mod instance;
mod joined_host;
mod joining;
mod keeper;
mod logging;
mod market;
mod market_tool;
mod networks;
mod own_host;
mod registries;
mod roles;
mod saved_images;
mod serve;
mod settings;
#[cfg(test)]
mod signed_entries;
mod site_certificates;
mod store_tool;
mod teardown;
mod uplink_tool;
mod user_file;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use vmhost::launch_spec::Credentials;

use crate::{config::Config, instance::Instance, roles::Role};

/// How long work on other threads may take to end once all else has.
const BLOCKING_WORK_LIMIT: Duration = Duration::from_secs(5);

/// What `serve` ends with on a host that was removed from its cloud, so that nobody starts it again for having failed.
const REMOVED: u8 = 3;

/// The Stratus daemon: all roles of a cloud in one program.
#[derive(Debug, Parser)]
#[command(name = "stratusd", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the cloud, until SIGTERM or SIGINT. Machines run on when the daemon stops.
    Serve {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Roles to play [default: all]
        #[arg(long, value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<Role>,
        /// Write a line to this inherited file descriptor once the cloud is ready
        #[arg(long, value_name = "N")]
        ready_fd: Option<i32>,
    },
    /// Make this computer a host of a cloud, by a token of `stratus host token`. Then `stratusd serve` runs it as that.
    Join {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The token; - reads it from standard input, where other users of this computer don't see it
        token: String,
        /// Entries of the cloud, https://HOST:PORT; any of them can be lost
        #[arg(required = true, value_name = "ENTRY")]
        entries: Vec<String>,
    },
    /// End all machines of a stopped cloud, and remove its network and control groups. Disks and documents stay.
    Teardown {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Backup, restore and migration of the cloud's documents, while its daemon is stopped. Machines may run on.
    Store {
        #[command(subcommand)]
        command: store_tool::Command,
    },
    /// Move the Marketplace's signed descriptions in and out as files, while its daemon is stopped.
    Marketplace {
        #[command(subcommand)]
        command: market_tool::Command,
    },
    /// Make an interface of this computer the port of a bridge for machines, without cutting you off, and take it out again.
    Network {
        #[command(subcommand)]
        command: uplink_tool::Command,
    },
    /// Say whether a configuration file is right, and the policy, authorities and keys that it names for images.
    CheckConfig {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print a configuration file with all keys, their meaning and their defaults.
    #[command(alias = "config")]
    ReferenceConfig,
    /// End machines that go on elsewhere once this host is heard of no more. The daemon of a host starts it, and it outlives that.
    #[command(hide = true)]
    Guard {
        /// Where the daemon notes what was heard
        folder: PathBuf,
        /// The folders of machines
        machines: PathBuf,
    },
    /// Run a guest through KVM and report how far it comes. May hang for ever where KVM is broken: the daemon runs this
    /// in a process of its own and ends it.
    ProbeKvm {
        /// Do it as this user
        #[arg(long, requires = "gid")]
        uid: Option<u32>,
        /// Do it as this group
        #[arg(long, requires = "uid")]
        gid: Option<u32>,
        /// Do it with this supplementary group
        #[arg(long, requires = "uid")]
        group: Option<u32>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::ProbeKvm { uid, gid, group } => {
            let credentials = uid.zip(gid).map(|(uid, gid)| Credentials {
                uid,
                gid,
                supplementary_group: group,
            });
            return match vmhost::accel::run_as_probe_child(credentials, std::io::stdout()) {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Command::ReferenceConfig => print(config::reference::TEXT),
        Command::CheckConfig { config } => load(config.as_deref()).and_then(|config| {
            registries::check(&config)?;
            user_file::check(&config.accounts)?;
            let state = config.state_dir();
            print(&format!(
                "the configuration is right; state in {}, API on {}\n",
                state.display(),
                config.listen
            ))
        }),
        Command::Serve {
            config,
            roles,
            ready_fd,
        } => load(config.as_deref()).and_then(|config| {
            logging::start(&config.log)?;
            let files = descriptors::raise();
            let instance = Instance::take(&config.state_dir())?;
            let runtime = runtime(&config)?;
            let served = match joining::joined(&config.state_dir())? {
                Some(joined) => runtime.block_on(Box::pin(joined_host::serve(
                    config, &instance, joined, &roles, ready_fd,
                ))),
                None => runtime.block_on(serve::serve(config, &instance, files, &roles, ready_fd)),
            };
            // What still blocks then (a fetch, a tool at work) is left to the end of the process.
            runtime.shutdown_timeout(BLOCKING_WORK_LIMIT);
            drop(instance);
            served
        }),
        Command::Join {
            config,
            token,
            entries,
        } => joining::run(config.as_deref(), &token, &entries),
        Command::Store { command } => store_tool::run(command),
        Command::Marketplace { command } => market_tool::run(command),
        Command::Network { command } => uplink_tool::run(command),
        Command::Guard { folder, machines } => logging::start(&config::Log::default())
            .and_then(|()| Ok(vmhost::guard::watch(&folder, &machines)?)),
        Command::Teardown { config } => load(config.as_deref()).and_then(|config| {
            logging::start(&config.log)?;
            runtime(&config)?.block_on(teardown::teardown(&config))
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stratusd: {error:#}");
            match error.is::<joined_host::Removed>() {
                true => ExitCode::from(REMOVED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// Reads and checks a configuration file.
pub(crate) fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("standard output")
}

/// The threads that all work of the daemon is done on.
pub(crate) fn runtime(config: &Config) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.workers > 0 {
        builder.worker_threads(config.workers);
    }
    builder
        .enable_all()
        .max_blocking_threads(64)
        .thread_name("stratusd")
        .build()
        .context("starting threads")
}
