//! IPv4 forwarding of the host: switched on for the guests, and put back when the last network goes.
//!
//! That it was us is written down in a file, for a later process to know, together with the boot in which it happened:
//! after another boot the system's own setting is in force, whatever we did before.

use std::path::{Path, PathBuf};

use crate::error::{NetworkError, Result};
use crate::links::Links;

/// Answered for the network namespace of the thread that opens it.
const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Beside the folders of the networks, whose it is together.
const MARK: &str = "forwarding-was-off";

/// What is known about forwarding by the networks that have their folders beside this one.
pub(crate) struct Forwarding {
    mark: PathBuf,
}

impl Forwarding {
    /// For a network with this folder.
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            mark: directory.with_file_name(MARK),
        }
    }

    /// Switches it on if it is off.
    pub(crate) async fn switch_on(&self) -> Result<()> {
        if read(SWITCH).await? == "1" {
            return Ok(());
        }
        // The note first: a crash after it costs nothing.
        tokio::fs::write(&self.mark, read(BOOT).await?)
            .await
            .map_err(NetworkError::file(&self.mark))?;
        write("1").await?;
        tracing::info!(
            "IPv4 forwarding was off and is now on (net.ipv4.ip_forward), until the last network is taken down"
        );
        Ok(())
    }

    /// Switches it off if that is how we found it, unless another network on this host still needs it.
    pub(crate) async fn put_back(&self, links: &Links) -> Result<()> {
        let Ok(boot) = tokio::fs::read_to_string(&self.mark).await else {
            return Ok(());
        };
        if links.bridges_of_stratus().await?.is_empty() {
            if boot == read(BOOT).await? && read(SWITCH).await? == "1" {
                write("0").await?;
                tracing::info!("IPv4 forwarding is off again, as it was (net.ipv4.ip_forward)");
            }
            tokio::fs::remove_file(&self.mark)
                .await
                .map_err(NetworkError::file(&self.mark))?;
        }
        Ok(())
    }
}

async fn read(path: &str) -> Result<String> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(NetworkError::file(path))?;
    Ok(text.trim().to_owned())
}

async fn write(value: &str) -> Result<()> {
    tokio::fs::write(SWITCH, value)
        .await
        .map_err(NetworkError::file(SWITCH))
}
