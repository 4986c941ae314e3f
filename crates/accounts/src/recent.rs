//! Credentials that were right a short while ago, so that a request costs no hash.
//!
//! The key is an HMAC of name and password, under a key that only this process knows: no password is kept. What else the verdict
//! rests on stands beside it, and a change of the account, its password or the ways to log in ends it.

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
    /// The ways to log in as they were.
    methods: u64,
    identity: Arc<Identity>,
    expires: Instant,
}

impl Entry {
    fn holds(&self, user: &Arc<User>, methods: u64) -> bool {
        let is_same_account = || {
            self.user.generation == user.generation
                && self.user.common.created == user.common.created
                && self.user.password == user.password
        };
        self.methods == methods
            && (Arc::ptr_eq(&self.user, user) || is_same_account())
            && Instant::now() < self.expires
    }
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

    /// The key of a password for a user.
    pub(crate) fn key(&self, user: &User, password: &str) -> Key {
        let mut context = hmac::Context::with_key(&self.secret);
        // The length keeps the parts apart.
        context.update(&user.username.len().to_le_bytes());
        context.update(user.username.as_bytes());
        context.update(password.as_bytes());
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    /// Who it is, if this was right a short while ago, and neither the user nor the `methods` to log in changed since.
    pub(crate) fn get(&self, key: &Key, user: &Arc<User>, methods: u64) -> Option<Arc<Identity>> {
        let mut entries = self.entries.lock();
        if !entries.young.contains_key(key) {
            let entry = entries.old.remove(key)?;
            self.put(&mut entries, *key, entry);
        }
        let entry = entries.young.get_mut(key)?;
        if !entry.holds(user, methods) {
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
        methods: u64,
        identity: Identity,
        lifetime: Option<Duration>,
    ) -> Arc<Identity> {
        let identity = Arc::new(identity);
        let lifetime = lifetime.map_or(self.lifetime, |most| most.min(self.lifetime));
        let entry = Entry {
            user,
            methods,
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
