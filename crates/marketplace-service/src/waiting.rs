//! How many uploads wait at once: of an address, a certificate, a network, and of all.
//!
//! Anybody can upload in anybody's name, with a certificate made a moment ago. So the strangers of an address share what they may
//! have, and those of one network a part of that; a certificate by which its owner confirmed something before doesn't share it with them.
//! What the owner reports makes place for others, and counts on as what came from its network.
//!
//! Uploads are counted and written one after the other: of many at once no more come in than of many in a row. Each daemon has its
//! own turns; several before one store see each other's uploads a moment later.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use store::{Key, Outcome, Transaction};

use crate::service::now;
use crate::stored::{Confirmation, StoredEntry, Waiting};
use crate::{Marketplace, Refused, Settings};

/// An upload that waits, with what it is counted by.
pub(crate) struct Held {
    pub(crate) waiting: Waiting,
    mailbox: String,
    network: String,
    site: String,
}

impl Held {
    fn of(waiting: Waiting) -> Self {
        Self {
            mailbox: mailbox(&waiting.email),
            network: network(&waiting.source, 4),
            site: network(&waiting.source, 3),
            waiting,
        }
    }
}

/// All that wait.
#[derive(Default)]
pub(crate) struct Uploads {
    held: HashMap<Key, Held>,
    /// Addresses with certificates that their owners confirmed to be theirs.
    confirmed: HashSet<(String, String)>,
}

impl Uploads {
    pub(crate) fn put(&mut self, key: Key, waiting: Waiting) {
        self.held.insert(key, Held::of(waiting));
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.held.remove(key);
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Waiting)> {
        self.held.iter().map(|(key, held)| (key, &held.waiting))
    }

    /// Learns from an entry whose certificate is whose.
    pub(crate) fn learn(&mut self, stored: &StoredEntry) {
        let is_told = match stored.confirmation {
            Confirmation::ByLetter | Confirmation::Trusted | Confirmation::Imported => true,
            // Whoever asks nobody knows nobody.
            Confirmation::NotAsked | Confirmation::From(_) => false,
        };
        if is_told && !stored.certificate.is_empty() {
            let pair = (mailbox(&stored.record.email), stored.certificate.clone());
            self.confirmed.insert(pair);
        }
    }

    /// Whether an address has confirmed certificates, and this is none of them.
    pub(crate) fn is_strange(&self, email: &str, certificate: &str) -> bool {
        let mailbox = mailbox(email);
        let mut own = self.confirmed.iter().filter(|(of, _)| *of == mailbox);
        let mut is_other = false;
        own.all(|(_, known)| {
            is_other = true;
            known != certificate
        }) && is_other
    }

    fn is_confirmed(&self, held: &Held) -> bool {
        let pair = (held.mailbox.clone(), held.waiting.certificate.clone());
        self.confirmed.contains(&pair)
    }

    fn beside(&self, new: &Held, is_waiting: impl Fn(&Waiting) -> bool) -> Beside {
        let mut beside = Beside {
            is_confirmed: self.is_confirmed(new),
            ..Beside::default()
        };
        for one in self.held.values().filter(|one| is_waiting(&one.waiting)) {
            let is_near = one.network == new.network;
            beside.of_network += usize::from(is_near);
            if one.waiting.is_reported {
                continue;
            }
            beside.bytes = beside.bytes.saturating_add(one.waiting.bytes);
            if one.site == new.site {
                beside.bytes_of_site = beside.bytes_of_site.saturating_add(one.waiting.bytes);
            }
            if one.mailbox != new.mailbox {
                continue;
            }
            beside.of_certificate +=
                usize::from(one.waiting.certificate == new.waiting.certificate);
            if !self.is_confirmed(one) {
                beside.of_strangers += 1;
                beside.of_strangers_near += usize::from(is_near);
            }
        }
        beside
    }
}

/// What waits beside an upload.
#[derive(Debug, Default)]
struct Beside {
    /// Whether the owner of the address confirmed something by this certificate before.
    is_confirmed: bool,
    /// In the name of the address, by the same certificate.
    of_certificate: usize,
    /// In the name of the address, by certificates that aren't confirmed; and of these from the same network.
    of_strangers: usize,
    of_strangers_near: usize,
    of_network: usize,
    bytes_of_site: usize,
    bytes: usize,
}

impl Beside {
    /// Whether one more may wait.
    fn has_place_for(&self, new: &Held, settings: &Settings) -> Result<(), Refused> {
        let share = settings.waiting_per_email;
        let of_strangers = share.saturating_mul(Settings::STRANGERS);
        let of_site = (settings.waiting_bytes / Settings::SITES).max(Settings::LONGEST);
        let (email, bytes) = (&new.waiting.email, new.waiting.bytes);
        let whose = if self.of_certificate >= share {
            format!("in the name of {email}, signed by this certificate,")
        } else if !self.is_confirmed && self.of_strangers_near >= share {
            format!("in the name of {email} from {}", new.network)
        } else if !self.is_confirmed && self.of_strangers >= of_strangers {
            format!("in the name of {email}")
        } else if self.of_network >= settings.waiting_per_source {
            format!("from {}", new.network)
        } else if self.bytes_of_site.saturating_add(bytes) > of_site {
            format!("from {}, by their lengths,", new.site)
        } else if self.bytes.saturating_add(bytes) > settings.waiting_bytes {
            "of all endorsers".to_owned()
        } else {
            return Ok(());
        };
        Err(Refused::TooMany(whose))
    }
}

/// The mailbox of an address, however it is spelled: letters of either case, `+` and what follows, and the dot behind a host's name
/// lead to the same one.
pub(crate) fn mailbox(email: &str) -> String {
    let email = email.to_ascii_lowercase();
    let Some((user, host)) = email.split_once('@') else {
        return email;
    };
    // One that begins with `+` has no other name.
    let user = match user.split_once('+') {
        Some((before, _)) if !before.is_empty() => before,
        _ => user,
    };
    format!("{user}@{}", host.trim_end_matches('.'))
}

/// The network that counts as one: an IPv4 address, or so many groups of an IPv6 address. Four are a customer, three a site.
pub(crate) fn network(source: &str, groups: usize) -> String {
    match source
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
    {
        Ok(IpAddr::V6(address)) => {
            let mut segments = address.segments();
            for segment in segments.iter_mut().skip(groups) {
                *segment = 0;
            }
            format!("{}/{}", Ipv6Addr::from(segments), groups * 16)
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
            let (held, now) = (Held::of(waiting), now());
            let beside = marketplace.ask_uploads(|all| all.beside(&held, |one| one.until > now));
            beside.has_place_for(&held, marketplace.settings())?;
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
    fn a_customer_is_one_network_and_a_site_one_of_customers() {
        for (source, customer, site) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
            (
                "2001:db8:1:2:3:4:5:6",
                "2001:db8:1:2::/64",
                "2001:db8:1::/48",
            ),
            ("2001:db8:1:2::", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ] {
            assert_eq!(network(source, 4), customer);
            assert_eq!(network(source, 3), site);
        }
    }

    #[test]
    fn a_mailbox_is_one_however_it_is_spelled() {
        for email in [
            "Ann@Example.org",
            "ann+x+y@example.org",
            "ANN+@example.org.",
        ] {
            assert_eq!(mailbox(email), "ann@example.org");
        }
        assert_eq!(mailbox("+x@b"), "+x@b");
        assert_ne!(mailbox("a.nn@example.org"), mailbox("ann@example.org"));
    }
}
