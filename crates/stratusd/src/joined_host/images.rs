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
    // Not all hosts of a cloud begin with the same one.
    let first = first_of(&kept.joined.host, kept.entries.len());
    let in_turn = kept.entries.iter().cycle().skip(first);
    let servers = in_turn.take(kept.entries.len());
    let servers = servers.map(|entry| server(entry, &believed));
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

/// Which of so many entries a host asks first.
fn first_of(host: &str, entries: usize) -> usize {
    let number = host.bytes().rev().take(8);
    let number = number.fold(0_usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    number.checked_rem(entries).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use cimi::HostId;

    use super::*;

    #[test]
    fn hosts_begin_with_different_entries_and_each_with_the_same_one() {
        let mut hosts = [0; 3];
        for _ in 0..300 {
            let host = HostId::generate().to_string();
            let first = first_of(&host, hosts.len());
            assert_eq!(first, first_of(&host, hosts.len()));
            if let Some(hosts) = hosts.get_mut(first) {
                *hosts += 1;
            }
        }
        assert!(hosts.iter().all(|hosts| *hosts > 50), "{hosts:?}");
        assert_eq!(first_of("Host/x", 1), 0);
    }
}
