//! The connections of hosts: so many of each, cut off together.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{images, moves};

/// How often a host's refusals are told: it may ask as often as it likes.
const TELLING: Duration = Duration::from_secs(60);

/// By host.
pub(super) struct Seats {
    of_hosts: Mutex<HashMap<String, OfHost>>,
    per_host: usize,
}

/// The connections of one host.
struct OfHost {
    taken: usize,
    /// When it was told last that it gets no more.
    told: Option<Instant>,
    /// Cancelled when the host is one no more.
    cut: CancellationToken,
    /// Turns for images.
    transfers: Arc<Semaphore>,
    /// Turns for machines that come to it.
    arrivals: Arc<Semaphore>,
}

impl Default for OfHost {
    fn default() -> Self {
        Self {
            taken: 0,
            told: None,
            cut: CancellationToken::new(),
            transfers: Arc::new(Semaphore::new(images::OF_ONE_HOST)),
            arrivals: Arc::new(Semaphore::new(moves::TO_ONE_HOST)),
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
    /// So many for each host.
    pub(super) fn of(per_host: usize) -> Self {
        Self {
            of_hosts: Mutex::default(),
            per_host,
        }
    }

    /// One more for a host; none if it has all that it gets, which the log tells now and then: what it is `for_what`.
    pub(super) fn take(&self, host: &str, for_what: &str) -> Option<Seat<'_>> {
        let mut seats = self.of_hosts.lock();
        let of_host = seats.entry(host.to_owned()).or_default();
        if of_host.taken >= self.per_host {
            if of_host.told.is_none_or(|told| told.elapsed() >= TELLING) {
                of_host.told = Some(Instant::now());
                let most = self.per_host;
                tracing::warn!(
                    host,
                    "a host has {most} connections for {for_what}, and gets no more at once"
                );
            }
            return None;
        }
        of_host.taken += 1;
        Some(Seat {
            seats: self,
            host: host.to_owned(),
            cut: of_host.cut.clone(),
        })
    }

    /// The turns for images of a host that is connected.
    pub(super) fn transfers(&self, host: &str) -> Option<Arc<Semaphore>> {
        Some(self.of_hosts.lock().get(host)?.transfers.clone())
    }

    /// The turns for machines that come to a host that is connected.
    pub(super) fn arrivals(&self, host: &str) -> Option<Arc<Semaphore>> {
        Some(self.of_hosts.lock().get(host)?.arrivals.clone())
    }

    /// Ends all connections of a host.
    pub(super) fn cut_off(&self, host: &str) {
        // What was admitted before is in here, and what comes later finds no identity.
        if let Some(of_host) = self.of_hosts.lock().get(host) {
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
        let mut seats = self.seats.of_hosts.lock();
        if let Some(of_host) = seats.get_mut(&self.host) {
            of_host.taken = of_host.taken.saturating_sub(1);
            if of_host.taken > 0 {
                return;
            }
            // What was told of it is known to be for as long as it counts.
            match of_host.told.filter(|told| told.elapsed() < TELLING) {
                None => drop(seats.remove(&self.host)),
                told => {
                    *of_host = OfHost {
                        told,
                        ..OfHost::default()
                    }
                }
            }
        }
    }
}
