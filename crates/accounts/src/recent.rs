//! Credentials that were right a short while ago, so that a request costs no hash.
//!
//! The key is an HMAC of all that the verdict rests on, under a key that only this process knows:
//! a change of password, roles or account makes another key, and neither passwords nor anything
//! they could be guessed from is kept.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cimi::resources::User;
use parking_lot::Mutex;
use ring::hmac;

use crate::Identity;

/// Names one verified pair of user and password.
pub(crate) type Key = [u8; 32];

struct Entry {
    user: Arc<User>,
    identity: Arc<Identity>,
    expires: Instant,
}

/// Two generations, so that it is bounded without bookkeeping: when the young one is full it
/// becomes the old one, and the old one is dropped.
#[derive(Default)]
struct Generations {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

pub(crate) struct Recent {
    secret: hmac::Key,
    lifetime: Duration,
    generation_size: usize,
    entries: Mutex<Generations>,
}

impl Recent {
    /// Remembers at most `size` credentials, each for `lifetime`.
    pub(crate) fn new(lifetime: Duration, size: usize) -> Self {
        let secret: [u8; 32] = rand::random();
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            lifetime,
            generation_size: (size / 2).max(1),
            entries: Mutex::default(),
        }
    }

    /// The key of a password for a user, and the ways to log in, as they are now.
    pub(crate) fn key(&self, user: &User, password: &str, configuration: u64) -> Key {
        let mut context = hmac::Context::with_key(&self.secret);
        let hash = user.password.as_deref().unwrap_or_default();
        // The lengths keep the parts apart.
        for part in [user.username.as_str(), password, hash] {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        context.update(&user.generation.to_le_bytes());
        context.update(&configuration.to_le_bytes());
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    /// Who it is, if this was right a short while ago.
    pub(crate) fn get(&self, key: &Key, user: &Arc<User>) -> Option<Arc<Identity>> {
        let mut entries = self.entries.lock();
        if !entries.young.contains_key(key) {
            let entry = entries.old.remove(key)?;
            self.put(&mut entries, *key, entry);
        }
        let entry = entries.young.get_mut(key)?;
        if Instant::now() >= entry.expires {
            entries.young.remove(key);
            return None;
        }
        // Another version of the document may have other roles.
        if !Arc::ptr_eq(&entry.user, user) {
            entry.identity = Arc::new(Identity::of(user).by(entry.identity.method));
            entry.user = Arc::clone(user);
        }
        Some(Arc::clone(&entry.identity))
    }

    /// Remembers that it was right, for at most `lifetime`.
    pub(crate) fn insert(
        &self,
        key: Key,
        user: Arc<User>,
        identity: Identity,
        lifetime: Option<Duration>,
    ) -> Arc<Identity> {
        let identity = Arc::new(identity);
        let lifetime = lifetime.map_or(self.lifetime, |most| most.min(self.lifetime));
        let entry = Entry {
            user,
            identity: Arc::clone(&identity),
            expires: Instant::now() + lifetime,
        };
        self.put(&mut self.entries.lock(), key, entry);
        identity
    }

    fn put(&self, entries: &mut Generations, key: Key, entry: Entry) {
        if entries.young.len() >= self.generation_size {
            entries.old = std::mem::take(&mut entries.young);
        }
        entries.young.insert(key, entry);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let entries = self.entries.lock();
        entries.young.len() + entries.old.len()
    }
}
