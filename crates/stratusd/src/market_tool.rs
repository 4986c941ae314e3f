//! `stratusd marketplace`: a catalogue as the tree of files that StratusLab's Marketplace keeps, in and out.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use marketplace_service::{Marketplace, Moved, Settings};
use tokio_util::sync::CancellationToken;

use crate::store_tool::Place;

/// Files that aren't taken are named up to so many; of the others the number.
const NAMED: usize = 1000;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take the signed descriptions of a folder, as StratusLab's Marketplace keeps them: metadata/ID/EMAIL/CREATED.xml. Each is
    /// verified. What is there already stays; so this can be done again.
    Import {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The folder: that of `data.dir`, or `metadata` in it
        folder: PathBuf,
    },
    /// Write all signed descriptions, byte for byte, as such a folder.
    Export {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The folder, which is made if it isn't there
        folder: PathBuf,
    },
}

/// Does it, and says what was done.
///
/// # Errors
/// If a daemon runs with the database, if a file is not taken, or what went wrong.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Import { config, folder } => {
            ensure!(
                folder.is_dir(),
                "{}: there is no such folder",
                folder.display()
            );
            let place = Place::of(config.as_deref())?;
            place.with(async |store| {
                let marketplace = Marketplace::open(store.clone(), Settings::default()).await?;
                let stop = CancellationToken::new();
                let running = tokio::spawn(marketplace.clone().run(stop.clone()));
                let mut told = 0;
                let imported = marketplace.import(
                    &folder,
                    |path, why| {
                        told += 1;
                        if told <= NAMED {
                            eprintln!("{}: {why}", path.display());
                        }
                    },
                    |count| eprintln!("{count} files looked at"),
                );
                let imported = imported.await;
                stop.cancel();
                running.await.context("following the database")?;
                let Moved {
                    new,
                    known,
                    refused,
                } = imported?;
                println!("imported: {new} new, {known} there already, {refused} not taken");
                ensure!(
                    refused == 0,
                    "{refused} files can't be entries of a Marketplace: see above"
                );
                Ok(())
            })
        }
        Command::Export { config, folder } => {
            let place = Place::of(config.as_deref())?;
            place.with(async |store| {
                let marketplace = Marketplace::open(store.clone(), Settings::default()).await?;
                let Moved { new, known, .. } = marketplace.export(&folder).await?;
                println!("exported: {new} new, {known} there already");
                Ok(())
            })
        }
    }
}
