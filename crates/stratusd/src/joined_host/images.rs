//! Where a host that has joined has its images from: [other hosts](super::neighbours) that have them, and any entry, which gives it
//! those that its machines need.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use documents::Documents;
use storage::{
    import::Fetcher,
    replicas::{ImageServer, Replicas, Settings},
};
use trust::{HostKey, IMAGES_PATH};

use super::neighbours::Asked;
use crate::joining::{Believed, Entry, Kept};

/// How often a connection on which nothing comes is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Replicas beside the folder of machines, as good as this certificate is.
///
/// # Errors
/// If the folder can't be made, or what this host keeps of its cloud can't be used.
pub(super) async fn open(
    host: &vmhost::controller::Settings,
    kept: &Kept,
    key: &HostKey,
    documents: Documents,
) -> anyhow::Result<Replicas> {
    let believed = Believed::of_host(kept, key)?;
    let servers = kept.entries.iter().map(|entry| server(entry, &believed));
    let state = host.machines_dir.parent().unwrap_or(&host.machines_dir);
    let mut settings = Settings::new(
        state.join("cache").join("replicas"),
        servers.collect::<anyhow::Result<_>>()?,
    );
    settings.overlay_dirs = vec![host.machines_dir.clone(), host.quarantine_dir.clone()];
    settings.reserve_bytes = host.reserve_bytes;
    settings.neighbours = Some(Arc::new(Asked::open(kept, key)?));
    Replicas::open(settings, documents)
        .await
        .context("the folder of this host's images")
}

fn server(entry: &Entry, believed: &Believed) -> anyhow::Result<ImageServer> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(believed.config()?)
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1);
    let fetcher = Fetcher::of_server(builder, entry.host());
    Ok(ImageServer {
        name: entry.to_string(),
        url: entry.at_door(IMAGES_PATH),
        fetcher: fetcher.with_context(|| format!("preparing to fetch images from {entry}"))?,
    })
}
