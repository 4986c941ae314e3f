//! Verification of user names and passwords.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cimi::{common::ADMIN_ROLE, resources::User};
use parking_lot::Mutex;
use passwords::Stored;
use tokio::task::spawn_blocking;

use crate::{
    Hashing, Identity, Methods,
    attempts::Attempts,
    certified::Trust,
    directory::{self, Confirmed, Directory, DirectoryError},
    identity::Method,
    recent::Recent,
    refusals::{Slowest, due},
    session::Lasting,
    source::UserSource,
};

/// How verified passwords are remembered.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a verified password is remembered.
    pub remembered_for: Duration,
    /// How many of them.
    pub remembered_at_most: usize,
    /// A refusal comes no sooner after the work on it began: longer than the slowest check takes, so that no answer tells
    /// by its time whether there is such a user, or how the password is kept.
    pub refused_after: Duration,
    /// How long sessions of browsers last.
    pub sessions: Lasting,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            remembered_for: Duration::from_secs(15 * 60),
            remembered_at_most: 10_000,
            refused_after: Duration::from_millis(500),
            sessions: Lasting::default(),
        }
    }
}

/// Why a login was refused. Which part of the credentials was wrong is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Unknown user, wrong password or disabled account.
    #[error("user name or password is wrong, or the account is disabled")]
    Wrong,
    /// Wrong as far as could be seen: the directory, which may know better, can't be asked.
    #[error(
        "user name or password is wrong, or known only to the directory of users, which can't be asked now"
    )]
    Unsure,
    /// A certificate that isn't believed, or is nobody's here; the reason.
    #[error("{0}")]
    Certificate(String),
    /// A token that is none, or no more.
    #[error("this token is unknown, revoked or expired, or its user can't log in")]
    Token,
    /// Too many failures of this user from this address.
    #[error("too many failed logins; try again in {} s", .0.as_secs().max(1))]
    Blocked(Duration),
    /// Too many logins at once.
    #[error("too many logins at once; try again")]
    Busy,
}

/// Verifies credentials against the accounts of a [`UserSource`].
pub struct Accounts {
    pub(crate) source: Arc<dyn UserSource>,
    recent: Recent,
    attempts: Attempts,
    hashing: Hashing,
    refused_after: Duration,
    slowest: Slowest,
    pub(crate) sessions: Lasting,
    pub(crate) directory: Option<Arc<dyn Directory>>,
    pub(crate) confirmed: Confirmed,
    pub(crate) trust: Trust,
    /// Users of the directory by the subject of their certificate: the configuration's revision, the name, and when.
    pub(crate) subjects: Mutex<HashMap<String, (u64, String, Instant)>>,
    /// Verified for users that don't exist, so that they take as long as others.
    nobody: Option<Stored>,
}

impl Accounts {
    /// Verifies against `source`; `hashing` is shared with whoever sets passwords.
    #[must_use]
    pub fn new(source: Arc<dyn UserSource>, hashing: Hashing, settings: Settings) -> Self {
        let nobody = Stored::hash(&hashing.cost().of_nobody());
        Self {
            source,
            recent: Recent::new(settings.remembered_for, settings.remembered_at_most),
            attempts: Attempts::new(),
            hashing,
            refused_after: settings.refused_after,
            slowest: Slowest::default(),
            sessions: settings.sessions,
            directory: None,
            confirmed: Confirmed::default(),
            trust: Trust::default(),
            subjects: Mutex::default(),
            nobody,
        }
    }

    /// With somebody who asks the directory, if one is configured.
    #[must_use]
    pub fn with_directory(mut self, directory: Arc<dyn Directory>) -> Self {
        self.directory = Some(directory);
        self
    }

    /// The ways to log in, as they are configured now.
    #[must_use]
    pub fn methods(&self) -> Arc<Methods> {
        self.source.methods()
    }

    /// Who these credentials belong to, if they were verified a short while ago and nothing
    /// changed since. Takes about a microsecond and waits for nothing.
    #[must_use]
    pub fn recognise(&self, login: &str, password: &str) -> Option<Arc<Identity>> {
        let user = self.usable(login)?;
        let key = self.recent.key(&user, password);
        self.recent.get(&key, &user, self.source.methods().revision)
    }

    /// Who these credentials belong to.
    ///
    /// # Errors
    /// If they are wrong, or there have been too many wrong ones from `address`.
    pub async fn verify(
        &self,
        login: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Arc<Identity>, LoginError> {
        if let Some(identity) = self.recognise(login, password) {
            return Ok(identity);
        }
        // All names of one account count as one.
        let account = self.source.find(login);
        let account = account
            .as_ref()
            .map_or(login, |user| user.username.as_ref());
        if let Some(wait) = self.attempts.wait(account, address, Instant::now()) {
            return Err(LoginError::Blocked(wait));
        }
        let turn = self
            .hashing
            .turn(
                address,
                self.attempts.is_trusted(account, address, Instant::now()),
            )
            .await
            .map_err(|_| LoginError::Busy)?;
        // Another request with the same credentials may have done the work while this one waited.
        if let Some(identity) = self.recognise(login, password) {
            return Ok(identity);
        }
        if let Some(wait) = self.attempts.wait(account, address, Instant::now()) {
            return Err(LoginError::Blocked(wait));
        }
        let begun = Instant::now();
        let methods = self.source.methods();
        let known = self.source.find(login);
        // Administrators can always log in by the password they have here.
        let local = known.clone().filter(|user| {
            user.enabled
                && !user.is_of(directory::SOURCE)
                && (methods.localdb.password_enabled
                    || user.roles.iter().any(|role| role == ADMIN_ROLE))
        });
        let kept = local.as_ref().and_then(|user| user.password.as_deref());
        let kept = kept.and_then(Stored::hash);
        let is_known = kept.is_some();
        let (stored, cost) = (kept.or_else(|| self.nobody.clone()), self.hashing.cost());
        let given = password.to_owned();
        let (right, stronger) = spawn_blocking(move || {
            let right = is_known && stored.as_ref().is_some_and(|s| s.verify_blocking(&given));
            if !is_known {
                // The same work for nobody.
                let _ = stored.as_ref().map(|s| s.verify_blocking(&given));
            }
            let is_outdated = right && stored.is_some_and(|stored| stored.is_outdated(cost));
            let stronger = is_outdated.then(|| cost.hash_blocking(&given));
            drop(turn);
            (right, stronger)
        })
        .await
        .map_err(|_| LoginError::Busy)?;
        if let Some(user) = local.filter(|_| right) {
            self.slowest.with(begun.elapsed());
            self.attempts.succeeded(account, address, Instant::now());
            let user = match stronger {
                Some(hash) => self.upgraded(user, login, hash).await,
                None => user,
            };
            let key = self.recent.key(&user, password);
            let identity = Identity::of(&user);
            return Ok(self
                .recent
                .insert(key, user, methods.revision, identity, None));
        }
        let refusal = match self
            .in_directory_by_password(&methods, known.as_deref(), login, password)
            .await
        {
            Ok(Some((user, lifetime))) => {
                self.slowest.with(begun.elapsed());
                self.attempts.succeeded(account, address, Instant::now());
                let key = self.recent.key(&user, password);
                let identity = Identity::of(&user).by(Method::Directory);
                return Ok(self.recent.insert(
                    key,
                    user,
                    methods.revision,
                    identity,
                    Some(lifetime),
                ));
            }
            Ok(None) => LoginError::Wrong,
            Err(error) => {
                tracing::warn!(%error, "logins by the directory fail");
                LoginError::Unsure
            }
        };
        self.attempts.failed(account, address, Instant::now());
        let took = begun.elapsed();
        let due = due(self.refused_after, took.max(self.slowest.with(took)));
        tokio::time::sleep(due.saturating_sub(took)).await;
        Err(refusal)
    }

    /// The account of who has this name and password in the directory, and for how long that counts.
    async fn in_directory_by_password(
        &self,
        methods: &Methods,
        known: Option<&User>,
        login: &str,
        password: &str,
    ) -> Result<Option<(Arc<User>, Duration)>, DirectoryError> {
        let (Some(ldap), Some(directory)) = (
            methods.ldap.as_ref().filter(|ldap| ldap.password_enabled),
            &self.directory,
        ) else {
            return Ok(None);
        };
        // Of two users of one name, the one who was made here counts.
        let may_be = known.is_none_or(|user| user.enabled && user.is_of(directory::SOURCE));
        if !may_be {
            // The same work for who isn't in question, so that the time doesn't tell who is.
            directory.by_login(ldap, login).await?;
            return Ok(None);
        }
        let Some(found) = directory.by_password(ldap, login, password).await? else {
            return Ok(None);
        };
        if !ldap.admits(&found.roles) {
            tracing::info!(
                login,
                role = ldap.required_role,
                "a user of the directory has no access"
            );
            return Ok(None);
        }
        let user = self.source.found_in_directory(&found).await;
        let user = user.filter(|user| user.enabled && user.is_of(directory::SOURCE));
        if let Some(user) = &user {
            self.confirmed.now(&user.username, methods.revision);
        }
        Ok(user.map(|user| (user, ldap.cached_for())))
    }

    /// Has a stronger hash kept; returns the user as it is then.
    async fn upgraded(&self, user: Arc<User>, login: &str, hash: String) -> Arc<User> {
        self.source.rehashed(&user, hash.clone()).await;
        let now = self.usable(login);
        now.filter(|now| now.password.as_ref() == Some(&hash))
            .unwrap_or(user)
    }

    /// The account, if it can be used.
    pub(crate) fn usable(&self, login: &str) -> Option<Arc<User>> {
        self.source.find(login).filter(|user| user.enabled)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use cimi::{Acl, Common, Timestamp, UserId, dn::DistinguishedName};
    use passwords::Cost;

    use crate::{directory::Found, password};

    use super::*;

    const QUICK: Settings = Settings {
        remembered_for: Duration::from_secs(60),
        remembered_at_most: 8,
        refused_after: Duration::ZERO,
        sessions: Lasting {
            idle: Duration::from_secs(60),
            most: Duration::from_secs(60),
        },
    };

    fn hashing() -> Hashing {
        Hashing::new(Cost::NONE, 2, Duration::from_secs(60))
    }

    struct One(Mutex<User>);

    #[async_trait]
    impl UserSource for One {
        fn find(&self, login: &str) -> Option<Arc<User>> {
            let user = self.0.lock();
            let other = user.altnames.values().any(|name| name == login);
            (user.username == login || other).then(|| Arc::new(user.clone()))
        }

        async fn rehashed(&self, read: &User, hash: String) {
            let mut user = self.0.lock();
            assert_eq!(user.password, read.password);
            user.password = Some(hash);
        }
    }

    fn alice(password: &str) -> User {
        User {
            id: UserId::from_local("alice").unwrap(),
            common: Common::new(Acl::owned_by_admin(), Timestamp::from_millis(0)),
            username: "alice".into(),
            first_name: None,
            last_name: None,
            email: None,
            password: Some(password::hash_blocking(password, Cost::NONE).unwrap()),
            enabled: true,
            roles: vec!["r".into()],
            altnames: [("x500dn".to_owned(), "CN=alice".to_owned())].into(),
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: None,
            unknown: serde_json::Map::new(),
        }
    }

    fn accounts() -> (Arc<One>, Accounts) {
        let source = Arc::new(One(Mutex::new(alice("correct horse"))));
        let accounts = Accounts::new(Arc::clone(&source) as Arc<dyn UserSource>, hashing(), QUICK);
        (source, accounts)
    }

    #[tokio::test]
    async fn right_credentials_are_remembered_and_wrong_ones_refused() {
        let (_, accounts) = accounts();
        assert_eq!(accounts.recognise("alice", "correct horse"), None);
        let identity = accounts
            .verify("alice", "correct horse", None)
            .await
            .unwrap();
        assert_eq!(&*identity.user, "alice");
        assert!(accounts.recognise("alice", "correct horse").is_some());
        assert!(accounts.recognise("alice", "correct horsf").is_none());
        for (login, password) in [("alice", "wrong"), ("alice", ""), ("bob", "correct horse")] {
            let refused = accounts.verify(login, password, None).await;
            assert_eq!(refused, Err(LoginError::Wrong), "{login}");
        }
        let by_other_name = accounts.verify("CN=alice", "correct horse", None).await;
        assert_eq!(&*by_other_name.unwrap().user, "alice");
    }

    #[tokio::test]
    async fn a_change_of_the_account_counts_at_once() {
        let (source, accounts) = accounts();
        accounts
            .verify("alice", "correct horse", None)
            .await
            .unwrap();
        source.0.lock().roles = vec!["::ADMIN".into()];
        assert!(
            accounts
                .recognise("alice", "correct horse")
                .unwrap()
                .is_admin()
        );
        source.0.lock().generation = 1;
        assert!(accounts.recognise("alice", "correct horse").is_none());
        accounts
            .verify("alice", "correct horse", None)
            .await
            .unwrap();
        source.0.lock().enabled = false;
        assert!(accounts.recognise("alice", "correct horse").is_none());
        let disabled = accounts.verify("alice", "correct horse", None).await;
        assert_eq!(disabled, Err(LoginError::Wrong));
        source.0.lock().enabled = true;
        source.0.lock().password =
            Some(password::hash_blocking("new password", Cost::NONE).unwrap());
        assert!(
            accounts
                .verify("alice", "correct horse", None)
                .await
                .is_err()
        );
        assert!(accounts.verify("alice", "new password", None).await.is_ok());
        source.0.lock().password = None;
        assert!(
            accounts
                .verify("alice", "new password", None)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn old_hashes_are_replaced_by_the_first_login() {
        let (source, accounts) = accounts();
        for (old, password) in [
            (bcrypt::hash("correct horse", 4).unwrap(), "correct horse"),
            ("MD5:6967a5f844587885660a976169adff2b".to_owned(), "slpass"),
            ("CRYPT:sljcMvWtoE1/A".to_owned(), "slpass"),
        ] {
            source.0.lock().password = Some(old.clone());
            let wrong = accounts.verify("alice", "wrong", None).await;
            assert_eq!(wrong, Err(LoginError::Wrong));
            assert_eq!(source.0.lock().password.as_ref(), Some(&old));
            accounts.verify("alice", password, None).await.unwrap();
            let kept = source.0.lock().password.clone().unwrap();
            assert!(kept.starts_with("$argon2id$"), "{kept}");
            // What was verified is remembered under the new hash.
            assert!(accounts.recognise("alice", password).is_some());
        }
    }

    /// A directory that takes its time, and longer for those it knows.
    struct Slow;

    #[async_trait]
    impl Directory for Slow {
        async fn by_password(
            &self,
            ldap: &crate::methods::Ldap,
            login: &str,
            _password: &str,
        ) -> Result<Option<Found>, DirectoryError> {
            if self.by_login(ldap, login).await?.is_some() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(None)
        }

        async fn by_login(
            &self,
            _ldap: &crate::methods::Ldap,
            login: &str,
        ) -> Result<Option<Found>, DirectoryError> {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok((login == "dora").then(|| Found {
                login: login.to_owned(),
                dn: "uid=dora".to_owned(),
                first_name: None,
                last_name: None,
                email: None,
                roles: Vec::new(),
            }))
        }

        async fn by_subject(
            &self,
            _ldap: &crate::methods::Ldap,
            _subject: &DistinguishedName,
        ) -> Result<Option<Found>, DirectoryError> {
            Ok(None)
        }
    }

    struct WithDirectory(Arc<One>);

    #[async_trait]
    impl UserSource for WithDirectory {
        fn find(&self, login: &str) -> Option<Arc<User>> {
            self.0.find(login)
        }

        fn methods(&self) -> Arc<Methods> {
            let configured = serde_json::json!({
                "localdb": {"password-enabled": true, "cert-enabled": false},
                "ldap": {
                    "password-enabled": true, "cert-enabled": false,
                    "connection": {"host": {"address": "ldap.example.org", "port": 636}, "ssl?": true},
                    "user-object-class": "inetOrgPerson", "user-base-dn": "ou=users,o=cloud",
                    "user-id-attr": "uid", "role-object-class": "groupOfUniqueNames",
                    "role-base-dn": "ou=groups,o=cloud", "role-member-attr": "uniqueMember",
                    "role-name-attr": "cn",
                },
            });
            Arc::new(Methods::read(configured.as_object().unwrap(), 1).unwrap())
        }
    }

    /// With a hash that costs more than the floor and a directory that takes longer than it, times of refusals differ by what
    /// the machine does beside, and by nothing that tells of users.
    #[tokio::test]
    async fn all_refusals_take_the_same_time() {
        let source = Arc::new(One(Mutex::new(alice("correct horse"))));
        let step = Duration::from_millis(250);
        let settings = Settings {
            refused_after: step,
            ..QUICK
        };
        let with_directory = Arc::new(WithDirectory(Arc::clone(&source)));
        let accounts =
            Accounts::new(with_directory, hashing(), settings).with_directory(Arc::new(Slow));
        let costly = bcrypt::hash("correct horse", 7).unwrap();
        let times = async || {
            let mut times = Vec::new();
            let mut at = 0;
            for (login, kept, enabled) in [
                ("alice", Some(costly.clone()), true),
                ("dora", None, true),
                ("bob", None, true),
                (
                    "alice",
                    Some(password::hash_blocking("another horse", Cost::NONE).unwrap()),
                    true,
                ),
                ("alice", None, true),
                ("alice", Some(costly.clone()), false),
            ] {
                {
                    let mut user = source.0.lock();
                    (user.password, user.enabled) = (kept, enabled);
                }
                // From somewhere else each time: nobody has to wait.
                at += 1;
                let address = Some(IpAddr::from([192, 0, 2, at]));
                let begun = Instant::now();
                let result = accounts.verify(login, "wrong", address).await;
                assert_eq!(result, Err(LoginError::Wrong), "{login}");
                times.push(begun.elapsed());
            }
            times
        };
        // The slowest of these is what all take from then on.
        times().await;
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let times = times().await;
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(*least >= 3 * step, "{times:?}");
            if *most - *least < Duration::from_millis(150) {
                break;
            }
            // Or it was the machine.
            seen.push(times);
        }
        assert!(seen.len() < 5, "they differ each time: {seen:?}");
    }

    #[tokio::test]
    async fn failures_block_that_user_at_that_address_only() {
        let (_, accounts) = accounts();
        let here = Some(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..5 {
            assert_eq!(
                accounts.verify("alice", "wrong", here).await,
                Err(LoginError::Wrong)
            );
        }
        let blocked = accounts.verify("alice", "correct horse", here).await;
        assert!(
            matches!(blocked, Err(LoginError::Blocked(_))),
            "{blocked:?}"
        );
        assert!(
            accounts
                .verify("alice", "correct horse", None)
                .await
                .is_ok()
        );
        // Who is known already isn't locked out by somebody else's failures behind the same proxy.
        assert!(
            accounts
                .verify("alice", "correct horse", here)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_and_expires() {
        let (source, _) = accounts();
        let accounts = Accounts::new(source as Arc<dyn UserSource>, hashing(), QUICK);
        let user = accounts.usable("alice").unwrap();
        for n in 0..100 {
            let key = accounts.recent.key(&user, &n.to_string());
            let identity = Identity::of(&user);
            accounts
                .recent
                .insert(key, Arc::clone(&user), 0, identity, None);
        }
        assert!(accounts.recent.len() <= QUICK.remembered_at_most);

        let brief = Recent::new(Duration::from_secs(60), 8);
        let key = brief.key(&user, "x");
        let identity = Identity::of(&user);
        brief.insert(key, Arc::clone(&user), 0, identity.clone(), None);
        assert!(brief.get(&key, &user, 0).is_some());
        assert!(brief.get(&key, &user, 1).is_none());
        brief.insert(key, Arc::clone(&user), 0, identity, Some(Duration::ZERO));
        assert!(brief.get(&key, &user, 0).is_none());
    }
}
