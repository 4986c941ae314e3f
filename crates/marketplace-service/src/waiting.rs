//! How many uploads wait at once: of an address, a certificate, a network, and of all.
//!
//! Uploads are counted and written one after the other: of many at once no more come in than of many in a row. Each daemon has its
//! own turns; several before one store see each other's uploads a moment later.

use std::net::{IpAddr, Ipv6Addr};

use store::{Outcome, Transaction};

use crate::stored::Waiting;
use crate::{Marketplace, Refused, Settings};

/// What waits beside an upload.
#[derive(Debug, Default)]
struct Beside {
    of_email: usize,
    of_certificate: usize,
    of_network: usize,
    bytes: usize,
}

impl Beside {
    fn of(new: &Waiting, all: &mut dyn Iterator<Item = &Waiting>) -> Self {
        let (mut beside, network) = (Self::default(), network(&new.source));
        for one in all {
            beside.bytes = beside.bytes.saturating_add(one.bytes);
            beside.of_network += usize::from(self::network(&one.source) == network);
            // What the owner of the address reported was somebody else's.
            if one.email == new.email && !one.is_reported {
                beside.of_email += 1;
                beside.of_certificate += usize::from(one.certificate == new.certificate);
            }
        }
        beside
    }

    /// Whether one more may wait.
    fn has_place_for(&self, new: &Waiting, settings: &Settings) -> Result<(), Refused> {
        let of_email = settings
            .waiting_per_email
            .saturating_mul(Settings::CERTIFICATES);
        let whose = if self.of_certificate >= settings.waiting_per_email {
            format!("in the name of {}, signed by this certificate,", new.email)
        } else if self.of_email >= of_email {
            format!("in the name of {}", new.email)
        } else if self.of_network >= settings.waiting_per_source {
            format!("from {}", network(&new.source))
        } else if self.bytes.saturating_add(new.bytes) > settings.waiting_bytes {
            "of all endorsers".to_owned()
        } else {
            return Ok(());
        };
        Err(Refused::TooMany(whose))
    }
}

/// The network that counts as one: an IPv4 address, the /64 of an IPv6 address.
fn network(source: &str) -> String {
    match source
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
    {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => source.to_owned(),
    }
}

impl Marketplace {
    /// Writes an upload if it may wait.
    ///
    /// # Errors
    /// [`Refused::TooMany`], those of the store.
    pub(crate) async fn count_and_write(
        &self,
        waiting: Waiting,
        transaction: Transaction,
    ) -> Result<(), Refused> {
        let marketplace = self.clone();
        // Whoever goes away in between must not let the next one in before this one is counted.
        let work = tokio::spawn(async move {
            let _turn = marketplace.0.counting.lock().await;
            let beside = marketplace.ask_uploads(|all| Beside::of(&waiting, all));
            beside.has_place_for(&waiting, marketplace.settings())?;
            match marketplace.0.store.commit(transaction).await? {
                Outcome::Committed(revision) => {
                    marketplace.shows(revision).await;
                    Ok(())
                }
                Outcome::Conflict(_) => Err(Refused::Internal("a new name was taken".to_owned())),
            }
        });
        work.await
            .map_err(|error| Refused::Internal(error.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_is_one_network() {
        for (source, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network(source), counted);
        }
    }
}
