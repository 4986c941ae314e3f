//! Logs: what happens, on standard error, as text for people or as JSON for programs.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Begins to log; `RUST_LOG` wins over the configured level.
///
/// # Errors
/// If `RUST_LOG` isn't right, or logging has begun already.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let level = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(level.as_deref().unwrap_or(&log.level)).context("RUST_LOG")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("logging can't begin: {error}"))
}
