//! The connections of hosts: so many of each, cut off together.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::images;

/// Connections of one host at once: its daemon has one to each entry, and another while it changes certificates.
const SEATS_PER_HOST: usize = 8;

/// By host.
#[derive(Default)]
pub(super) struct Seats(Mutex<HashMap<String, OfHost>>);

/// The connections of one host.
struct OfHost {
    taken: usize,
    /// Cancelled when the host is one no more.
    cut: CancellationToken,
    /// Turns for images.
    transfers: Arc<Semaphore>,
}

impl Default for OfHost {
    fn default() -> Self {
        Self {
            taken: 0,
            cut: CancellationToken::new(),
            transfers: Arc::new(Semaphore::new(images::OF_ONE_HOST)),
        }
    }
}

/// One of them; given back when dropped.
pub(super) struct Seat<'s> {
    seats: &'s Seats,
    host: String,
    cut: CancellationToken,
}

impl Seats {
    /// One more for a host; none if it has all that it gets.
    pub(super) fn take(&self, host: &str) -> Option<Seat<'_>> {
        let mut seats = self.0.lock();
        let of_host = seats.entry(host.to_owned()).or_default();
        if of_host.taken >= SEATS_PER_HOST {
            return None;
        }
        of_host.taken += 1;
        Some(Seat {
            seats: self,
            host: host.to_owned(),
            cut: of_host.cut.clone(),
        })
    }

    /// The turns of a host that is connected.
    pub(super) fn transfers(&self, host: &str) -> Option<Arc<Semaphore>> {
        Some(self.0.lock().get(host)?.transfers.clone())
    }

    /// Ends all connections of a host.
    pub(super) fn cut_off(&self, host: &str) {
        // What was admitted before is in here, and what comes later finds no identity.
        if let Some(of_host) = self.0.lock().get(host) {
            of_host.cut.cancel();
        }
    }
}

impl Seat<'_> {
    /// Waits until the host is cut off.
    pub(super) async fn cut_off(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut seats = self.seats.0.lock();
        if let Some(of_host) = seats.get_mut(&self.host) {
            of_host.taken = of_host.taken.saturating_sub(1);
            if of_host.taken == 0 {
                seats.remove(&self.host);
            }
        }
    }
}
