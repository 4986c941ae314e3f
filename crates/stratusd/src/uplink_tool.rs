//! `stratusd network`: the operator's interfaces into bridges for machines, and out of them. See [`network::uplink`].

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use network::{
    InterfaceName, Uplinks,
    uplink::{Ended, Wish},
};

use crate::config::Config;

/// Where a peer is asked that is named without a port.
const SSH: u16 = 22;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make an interface the port of a new bridge, which gets all that it has: addresses, routes, MAC. It is tested, and put back
    /// unless `stratusd network confirm` says within a time that you are still there.
    Attach {
        /// The interface, such as eth1
        interface: InterfaceName,
        /// The bridge's name [default: br-INTERFACE]
        #[arg(long, value_name = "NAME")]
        bridge: Option<InterfaceName>,
        #[command(flatten)]
        how: How,
        /// Don't have the next boot do the same
        #[arg(long)]
        until_boot: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Take the interface out again, with all that the bridge has, and remove the bridge. Tested, confirmed and put back likewise.
    Detach {
        /// The bridge, or its interface
        bridge: InterfaceName,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        place: Place,
    },
    /// Keep the change that waits for it. By a new connection it says most.
    Confirm {
        #[command(flatten)]
        place: Place,
    },
    /// Say which interfaces are in which bridges by `attach`, and what waits for being confirmed.
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// Put a change back if the process that makes it dies, or nobody confirms. That process starts it.
    #[command(hide = true)]
    Guard {
        #[command(flatten)]
        place: Place,
        /// The process
        worker: i32,
    },
}

/// How a change is made.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Who must answer by TCP afterwards, be it with a refusal; port 22 if none is given. Gateways that answer now must anyway,
    /// and so must the other end of the connection by which you are here
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = peer)]
    reach: Vec<SocketAddr>,
    /// Put all back unless it is confirmed within so many seconds; 0: the test alone decides
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(..=86_400))]
    confirm: u64,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Where it is noted, and where files for the next boot are.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The root of the file system
    #[arg(long, value_name = "FOLDER", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Place {
    fn open(&self) -> anyhow::Result<(Config, Uplinks)> {
        let config = crate::load(self.config.as_deref())?;
        let uplinks = Uplinks::new(config.state_dir().join("uplinks"), self.root.clone());
        Ok((config, uplinks))
    }

    /// Ourselves as the guard of a change.
    fn guard(&self) -> anyhow::Result<std::process::Command> {
        let program = std::env::current_exe().context("where this program is")?;
        let mut guard = std::process::Command::new(program);
        guard.args(["network", "guard", "--root"]).arg(&self.root);
        if let Some(config) = &self.config {
            guard.arg("--config").arg(absolute(config)?);
        }
        Ok(guard)
    }
}

/// # Errors
/// What kept it from being done.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Attach {
            interface,
            bridge,
            how,
            until_boot,
            place,
        } => {
            let wish = Wish {
                bridge,
                until_boot,
                ..how.wish(interface)
            };
            change(&place, &how, &wish, true)
        }
        Command::Detach { bridge, how, place } => {
            let wish = how.wish(bridge);
            change(&place, &how, &wish, false)
        }
        Command::Confirm { place } => {
            let (config, uplinks) = place.open()?;
            say(&crate::runtime(&config)?.block_on(uplinks.confirm())?);
            Ok(())
        }
        Command::Status { place } => {
            place.open()?.1.status()?.iter().for_each(|line| say(line));
            Ok(())
        }
        Command::Guard { place, worker } => {
            let (config, uplinks) = place.open()?;
            let ready = || say("watching");
            Ok(crate::runtime(&config)?.block_on(uplinks.guard(worker, ready))?)
        }
    }
}

fn change(place: &Place, how: &How, wish: &Wish, attach: bool) -> anyhow::Result<()> {
    let (config, uplinks) = place.open()?;
    let runtime = crate::runtime(&config)?;
    let mut tell = say;
    if how.dry_run {
        runtime.block_on(async {
            match attach {
                true => uplinks.plan_attach(wish, &mut tell).await,
                false => uplinks.plan_detach(wish, &mut tell).await,
            }
        })?;
        return Ok(());
    }
    let guard = place.guard()?;
    let ended = runtime.block_on(Box::pin(async {
        match attach {
            true => uplinks.attach(wish, guard, &mut tell).await,
            false => uplinks.detach(wish, guard, &mut tell).await,
        }
    }))?;
    match ended {
        Ended::Kept => {
            say("kept");
            Ok(())
        }
        Ended::PutBack(why) => bail!("{why}: all is as it was before"),
    }
}

impl How {
    fn wish(&self, interface: InterfaceName) -> Wish {
        Wish {
            interface,
            bridge: None,
            reach: self.reach.clone(),
            confirm: Duration::from_secs(self.confirm),
            until_boot: false,
        }
    }
}

/// A line. Whether somebody reads it is no matter: who has lost the connection is to have it back.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn peer(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().ok();
    let alone = || Some(SocketAddr::from((text.parse::<IpAddr>().ok()?, SSH)));
    with_port.or_else(alone).ok_or_else(|| {
        "write an address, such as 192.0.2.7, 192.0.2.7:443 or [2001:db8::7]:22".to_owned()
    })
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;

    #[test]
    fn peers_are_addresses_with_or_without_a_port() {
        for (text, peer_of) in [
            ("192.0.2.7", "192.0.2.7:22"),
            ("192.0.2.7:443", "192.0.2.7:443"),
            ("2001:db8::7", "[2001:db8::7]:22"),
            ("[2001:db8::7]:80", "[2001:db8::7]:80"),
        ] {
            assert_eq!(peer(text).unwrap().to_string(), peer_of);
        }
        assert!(peer("gateway").is_err());
    }
}
