//! A login by a password that nobody remembers, beside the hash that it takes at least.
//!
//! `cargo bench -p accounts --bench login`. Prints medians; logins and bare hashes alternate, so that both meet the
//! machine in the same state. The budget: a login costs at most twice the hash.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use accounts::{Accounts, Cost, Hashing, Settings, UserSource};
use cimi::{Acl, Common, Timestamp, UserId, resources::User};
use serde_json::Map;

const LOGINS: usize = 60;
const PASSWORD: &str = "correct horse battery";

struct Users(HashMap<String, Arc<User>>);

impl UserSource for Users {
    fn find(&self, login: &str) -> Option<Arc<User>> {
        self.0.get(login).cloned()
    }
}

fn user(name: &str, hash: &str) -> Arc<User> {
    Arc::new(User {
        id: UserId::from_local(name).expect("a valid name"),
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
        username: name.to_owned(),
        first_name: None,
        last_name: None,
        email: None,
        password: Some(hash.to_owned()),
        enabled: true,
        roles: vec!["cloud-access".to_owned()],
        altnames: std::collections::BTreeMap::new(),
        quota: cimi::resources::Quota::default(),
        generation: 0,
        origin: None,
        unknown: Map::new(),
    })
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn main() {
    let cost = Cost::default();
    let hash = cost.hash_blocking(PASSWORD);
    // Each login is somebody else's, so nothing is remembered.
    let names: Vec<_> = (0..LOGINS).map(|n| format!("user{n}")).collect();
    let users = names.iter().map(|name| (name.clone(), user(name, &hash)));
    let source = Arc::new(Users(users.collect()));
    let accounts = Accounts::new(source, Hashing::with_cost(cost), Settings::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (mut bare, mut logins, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for name in &names {
        let begun = Instant::now();
        black_box(cost.hash_blocking(PASSWORD));
        bare.push(begun.elapsed());
        let begun = Instant::now();
        let identity = runtime.block_on(accounts.verify(name, PASSWORD, None));
        logins.push(begun.elapsed());
        assert!(identity.is_ok(), "the password is right");
        let begun = Instant::now();
        assert!(accounts.recognise(name, PASSWORD).is_some());
        known.push(begun.elapsed());
    }
    let (bare, login) = (median(bare), median(logins));
    println!("bare hash (argon2id, default cost)   {bare:8.2} ms");
    println!(
        "login, not remembered                {login:8.2} ms   {:.2} x the hash",
        login / bare
    );
    println!(
        "login, remembered                    {:8.4} ms",
        median(known)
    );
}
