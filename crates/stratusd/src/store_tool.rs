//! `stratusd store`: the cloud's documents in a file, or moved to another database.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use store::{
    SharedStore,
    snapshot::{self, SnapshotError, Summary},
};

use crate::{config::Config, database, instance::Instance, load, runtime};

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write all documents into a file. It holds password hashes and user data: keep it safe.
    Backup {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// File to write, readable by its owner alone; - for standard output. One that is there stays until the new one is whole
        file: PathBuf,
    },
    /// Fill an empty database from a backup.
    Restore {
        /// Configuration file [default: /etc/stratus/stratusd.toml, if there is one]
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The backup; - for standard input
        file: PathBuf,
    },
    /// Copy all documents into another, empty database, and compare. The old one stays as it is.
    Migrate {
        /// Configuration of the daemon as it was
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Configuration of the daemon as it will be: with another `[store]`, or another `state_dir`
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
}

/// Does it, and says what was done.
///
/// # Errors
/// If a daemon runs with one of the databases, or what went wrong.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Backup { config, file } => {
            let place = Place::of(config.as_deref())?;
            place.with(async |store| backup(store, &file).await)
        }
        Command::Restore { config, file } => {
            let place = Place::of(config.as_deref())?;
            place.with(async |store| restore(store, &file).await)
        }
        Command::Migrate { from, to } => migrate(&from, &to),
    }
}

/// A configuration, and the hold on its state directory, so that no daemon starts meanwhile.
pub(crate) struct Place {
    config: Config,
    _instance: Instance,
}

impl Place {
    /// Takes the state directory of a configuration.
    ///
    /// # Errors
    /// If it can't be read, or a daemon runs with it.
    pub(crate) fn of(config: Option<&Path>) -> anyhow::Result<Self> {
        let config = load(config)?;
        let instance = Instance::take(&config.state_dir())?;
        Ok(Self {
            config,
            _instance: instance,
        })
    }

    /// Does something with the database.
    ///
    /// # Errors
    /// If it can't be opened; those of the work.
    pub(crate) fn with(
        &self,
        work: impl AsyncFnOnce(&SharedStore) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        runtime(&self.config)?.block_on(async {
            let store = database::open_any(&self.config).await?;
            let done = work(&store).await;
            store.close().await;
            done
        })
    }
}

async fn backup(store: &SharedStore, path: &Path) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let summary = snapshot::write(&**store, &mut BufWriter::new(io::stdout().lock())).await?;
        eprintln!("{summary}");
        return Ok(());
    }
    let shown = || path.display().to_string();
    let mut name = path.file_name().with_context(shown)?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = write_whole(store, &part).await;
    let renamed = written.and_then(|summary| {
        fs::rename(&part, path).with_context(shown)?;
        Ok(summary)
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    println!("{}: {}", path.display(), renamed?);
    Ok(())
}

async fn write_whole(store: &SharedStore, path: &Path) -> anyhow::Result<Summary> {
    let shown = || path.display().to_string();
    let _ = fs::remove_file(path);
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(shown)?;
    let mut file = BufWriter::new(file);
    let summary = snapshot::write(&**store, &mut file)
        .await
        .with_context(shown)?;
    file.flush().with_context(shown)?;
    file.get_ref().sync_all().with_context(shown)?;
    Ok(summary)
}

async fn restore(store: &SharedStore, path: &Path) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    let restored = if path == Path::new("-") {
        snapshot::read(&mut io::stdin().lock(), &**store).await
    } else {
        let file = File::open(path).with_context(shown)?;
        snapshot::read(&mut BufReader::new(file), &**store).await
    };
    let summary = restored.with_context(shown)?;
    println!("restored: {summary}");
    Ok(())
}

fn migrate(from: &Path, to: &Path) -> anyhow::Result<()> {
    let old = Place::of(Some(from))?;
    let new = load(Some(to))?;
    // Usually the same: a daemon that changes its database keeps its state directory.
    let is_same = fs::canonicalize(new.state_dir()).ok()
        == Some(fs::canonicalize(old.config.state_dir()).context("state_dir")?);
    let _other = if is_same {
        None
    } else {
        Some(Instance::take(&new.state_dir())?)
    };
    old.with(async |store| {
        ensure!(
            !is_same || new.store != old.config.store,
            "both configurations name the same database: change `[store]` in {}",
            to.display()
        );
        let target = database::open_any(&new).await?;
        let copied = snapshot::copy(&**store, &*target).await;
        target.close().await;
        let summary = copied.map_err(|error: SnapshotError| error)?;
        println!("copied and compared: {summary}");
        println!("start the daemon with {} from now on", to.display());
        Ok(())
    })
}
