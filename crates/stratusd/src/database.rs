//! The store that a configuration names.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use store::{EtcdStore, SharedStore, SqliteOptions, SqliteStore, snapshot};

use crate::{
    config::{Config, StoreKind},
    instance::make_dir,
    settings,
};

/// Opens it for a daemon.
///
/// # Errors
/// If it can't be opened, or holds a part only of what was restored or migrated into it.
pub async fn open(config: &Config) -> anyhow::Result<SharedStore> {
    let store = open_any(config).await?;
    ensure!(
        !snapshot::is_unfinished(&*store)
            .await
            .context("reading the database")?,
        "the database holds only a part of what was being restored or migrated into it: run `stratusd store restore` or `migrate` again, to its end"
    );
    Ok(store)
}

/// Opens it also if it was filled in part only.
///
/// # Errors
/// If it can't be opened.
pub async fn open_any(config: &Config) -> anyhow::Result<SharedStore> {
    if config.store.kind == StoreKind::Etcd {
        let options = settings::etcd(config)?;
        let opened = EtcdStore::open(options).await;
        return Ok(Arc::new(opened.context("opening the database")?));
    }
    let folder = config.state_dir().join("db");
    make_dir(&folder, 0o700)?;
    let file = folder.join("stratus.db");
    let options = SqliteOptions {
        history_revisions: config.retention.history_revisions,
        ..SqliteOptions::default()
    };
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open_with(file, options)).await?;
    Ok(Arc::new(opened.context("opening the database")?))
}
