//! Work that waits for a disk, on the threads meant for it.

use crate::error::Error;

/// Runs it there.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // A join error is a panic or a runtime that ends; in both cases there is no result.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Cancelled))
}
