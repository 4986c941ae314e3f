//! Names of addresses, for as long as one is willing to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How many questions are asked at once.
const ASKERS: usize = 16;

/// The names of `addresses`, as many as answer within `limit` together. Addresses without a name are left out.
///
/// The system's resolver cannot be interrupted: threads that still wait for it are left behind and end with the program,
/// which is about to end anyway.
#[must_use]
pub fn reverse_names(addresses: BTreeSet<IpAddr>, limit: Duration) -> BTreeMap<IpAddr, String> {
    let deadline = Instant::now() + limit;
    let wanted = addresses.len();
    let queue = Arc::new(Mutex::new(addresses.into_iter()));
    let (tell, told) = mpsc::sync_channel(wanted.max(1));
    for _ in 0..ASKERS.min(wanted) {
        let (queue, tell) = (queue.clone(), tell.clone());
        std::thread::spawn(move || {
            loop {
                let Some(address) = queue.lock().ok().and_then(|mut queue| queue.next()) else {
                    return;
                };
                let name = dns_lookup::lookup_addr(&address)
                    .ok()
                    .filter(|name| name.parse::<IpAddr>().is_err() && !name.is_empty());
                if tell.send((address, name)).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut names = BTreeMap::new();
    while let Ok((address, name)) =
        told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        names.extend(name.map(|name| (address, name)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_takes_longer_than_allowed() {
        let addresses = (1..=200)
            .map(|last| IpAddr::from([192, 0, 2, last]))
            .collect();
        let started = Instant::now();
        let _ = reverse_names(addresses, Duration::from_millis(100));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
