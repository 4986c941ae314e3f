//! Fetches what another computer's storage keeps, byte for byte. Unlike an import it can be taken up at any time where it was:
//! what is here is in a file, and proven in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::flight::PIECES_IN_FLIGHT;
pub(crate) use super::pipeline::replica::Announced;
use super::pipeline::replica::Part;
use super::source::{Rest, pump_rest};
use super::{Fetcher, Limits, Progress, blocking};
use crate::error::Error;

/// Where it is fetched from, and what that may cost.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) fetcher: Fetcher,
    pub(crate) limits: Limits,
    /// Bytes of the file system that stay free.
    pub(crate) reserve_bytes: u64,
}

/// Brings the file `part` to its end: then it is what was announced, flushed, and safe to be opened. What is in it stays if that
/// fails, or the future is dropped.
///
/// # Errors
/// [`Error::Mismatch`], [`Error::Refused`], [`Error::Changed`]: what is in it is of no use. Others: it may be taken up later.
pub(crate) async fn fetch(
    part: &Path,
    announced: &Announced,
    origin: Origin,
    progress: Arc<watch::Sender<Progress>>,
) -> Result<(), Error> {
    let (part, announced) = (PathBuf::from(part), announced.clone());
    let total = announced.bytes;
    let Origin {
        url,
        fetcher,
        limits,
        reserve_bytes,
    } = origin;
    let mut opened = blocking({
        let announced = announced.clone();
        move || Part::open(part, &announced)
    })
    .await?;
    let rest = Rest {
        url,
        fetcher,
        have: opened.have(),
        total,
    };
    let (to, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
    let completing = blocking(move || opened.complete(pieces, &announced, reserve_bytes));
    let ((), completed) = tokio::join!(pump_rest(rest, limits, progress, to), completing);
    completed
}
