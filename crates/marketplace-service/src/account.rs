//! Accounts of endorsers: who shows to be the owner of an address sees what is here in its name, and confirms or discards what waits.
//!
//! ```text
//!  asks ──▶ letter, if the address is known here ──POST, once, within the hour──▶ session
//!  certificate by which the address confirmed something ────────────POST────────▶ session, which confirms nothing
//! ```
//!
//! No answer tells whether an address is known: what is written down of a request is the same, but for the letter.
//!
//! What is published takes a key and a mailbox. A certificate is the key alone, so who comes by it may look and discard, not confirm:
//! else a stolen key would do.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mail::Outbox;
use marketplace::catalogue::Record;
use marketplace::metadata::is_email;
use marketplace::{Certificate, UtcTime};
use store::{Key, Outcome, Transaction};
use uuid::Uuid;

use crate::letters;
use crate::service::now;
use crate::stored::{
    Confirmation, SESSION, Session, StoredEntry, StoredSignIn, UPLOAD, Waiting, Way, session_key,
    sign_in_key,
};
use crate::upload::{encoded, invalid_address};
use crate::waiting::{mailbox, network};
use crate::{Marketplace, Refused};

/// How long a letter signs somebody in.
const LETTER_SECONDS: i64 = 3600;
/// How long a browser stays signed in.
const SESSION_SECONDS: i64 = 12 * 3600;
/// Letters within that hour to one mailbox; who asks for more has these.
const LETTERS_PER_MAILBOX: usize = 3;
/// Letters that one network asks for within that hour, one site with many of them, and all.
const LETTERS_PER_NETWORK: usize = 20;
const LETTERS_PER_SITE: usize = 200;
const LETTERS: usize = 10_000;
/// Browsers that one endorser is signed in with; the oldest goes for the next.
const SESSIONS: usize = 20;

/// Who is signed in, who wants to, and whose certificates are whose.
#[derive(Default)]
pub(crate) struct Accounts {
    sign_ins: HashMap<Key, StoredSignIn>,
    sessions: HashMap<Key, Arc<Session>>,
    /// Addresses whose owners confirmed something by a certificate, by its SHA-256.
    certificates: HashMap<String, BTreeSet<Arc<str>>>,
}

impl Accounts {
    pub(crate) fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), serde_json::Error> {
        if key.collection() == SESSION {
            let session = serde_json::from_slice(value)?;
            self.sessions.insert(key.clone(), Arc::new(session));
        } else {
            self.sign_ins
                .insert(key.clone(), serde_json::from_slice(value)?);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.sessions.remove(key);
        self.sign_ins.remove(key);
    }

    /// Learns from an entry whose certificate is whose.
    pub(crate) fn learn(&mut self, stored: &StoredEntry) {
        if matches!(
            stored.confirmation,
            Confirmation::ByLetter | Confirmation::Trusted
        ) && !stored.certificate.is_empty()
        {
            let of_certificate = self.certificates.entry(stored.certificate.clone());
            let email = Arc::clone(&stored.record.email);
            of_certificate.or_default().insert(email);
        }
    }

    /// What nobody needs any more.
    pub(crate) fn over(&self, now: UtcTime) -> Vec<Key> {
        let sessions = self.sessions.iter().map(|(key, it)| (key, it.until));
        let sign_ins = self.sign_ins.iter().map(|(key, it)| (key, it.until));
        let over = sessions.chain(sign_ins).filter(|(_, until)| *until <= now);
        over.map(|(key, _)| key.clone()).collect()
    }

    fn sessions_of(&self, email: &str) -> Vec<(Key, UtcTime)> {
        let own = self.sessions.iter().filter(|(_, it)| it.email == email);
        own.map(|(key, it)| (key.clone(), it.since)).collect()
    }

    /// Whether another letter goes out for an address: not if enough are under way to it.
    fn has_place_for(&self, asked: &str, source: &str, now: UtcTime) -> Result<bool, Refused> {
        let (mailbox_of, network_of, site_of) =
            (mailbox(asked), network(source, 4), network(source, 3));
        let (mut of_mailbox, mut of_network, mut of_site, mut all) = (0, 0, 0, 0);
        for one in self.sign_ins.values().filter(|one| one.until > now) {
            all += 1;
            of_mailbox += usize::from(mailbox(&one.asked) == mailbox_of);
            of_network += usize::from(network(&one.source, 4) == network_of);
            of_site += usize::from(network(&one.source, 3) == site_of);
        }
        if of_network >= LETTERS_PER_NETWORK {
            return Err(Refused::TooManyLetters(format!("from {network_of}")));
        }
        if of_site >= LETTERS_PER_SITE {
            return Err(Refused::TooManyLetters(format!("from {site_of}")));
        }
        if all >= LETTERS {
            return Err(Refused::TooManyLetters("by all".to_owned()));
        }
        Ok(of_mailbox < LETTERS_PER_MAILBOX)
    }
}

/// A browser that was just signed in.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it is known by from now on, and nobody else is.
    pub secret: String,
    /// What is known of it.
    pub session: Session,
}

/// What an endorser has here.
#[derive(Clone, Debug)]
pub struct Account {
    /// What waits for a confirmation, by the name that [`Marketplace::confirm_own`] knows it by.
    pub waiting: Vec<(String, Waiting)>,
    /// What the endorser said last of each image, the newest first.
    pub records: Vec<Arc<Record>>,
    /// Browsers that they are signed in with.
    pub sessions: usize,
    /// Whether they want to be reminded.
    pub wants_reminders: bool,
}

fn in_seconds(seconds: i64) -> Result<UtcTime, Refused> {
    UtcTime::from_unix_seconds(now().unix_seconds().saturating_add(seconds))
        .ok_or_else(|| Refused::Internal("a time".to_owned()))
}

impl Marketplace {
    /// Has a letter sent by which the owner of an address signs in, if the address is an endorser's here. Whether it is isn't told.
    ///
    /// # Errors
    /// [`Refused::Invalid`] for what is no address, [`Refused::TooManyLetters`], [`Refused::NoLetters`], those of the store.
    pub async fn ask_to_sign_in(&self, asked: &str, source: IpAddr) -> Result<(), Refused> {
        if !self.settings().sends_letters {
            return Err(Refused::NoLetters);
        }
        if !is_email(asked) {
            return Err(invalid_address(asked));
        }
        let (marketplace, asked) = (self.clone(), asked.to_owned());
        // Whoever goes away in between must not let the next one in before this one is counted.
        let work = tokio::spawn(async move {
            let _turn = marketplace.0.counting.lock().await;
            let source = source.to_string();
            let has_place = marketplace
                .ask_accounts(|accounts| accounts.has_place_for(&asked, &source, now()))?;
            if !has_place {
                return Ok(());
            }
            marketplace.write_sign_in(asked, source).await
        });
        work.await
            .map_err(|error| Refused::Internal(error.to_string()))?
    }

    async fn write_sign_in(&self, asked: String, source: String) -> Result<(), Refused> {
        let until = in_seconds(LETTER_SECONDS)?;
        // 122 random bits: nobody guesses it.
        let link = Uuid::new_v4().to_string();
        let key = sign_in_key(&link)?;
        let mut email = self.spelled(&asked);
        let letter = email.as_deref().and_then(|email| {
            letters::sign_in(self.settings(), email, &source, &link, until)
                // Entries have addresses to which no letter can go.
                .inspect_err(
                    |error| tracing::warn!(email, %error, "an endorser can't sign in by letter"),
                )
                .ok()
        });
        if letter.is_none() {
            email = None;
        }
        let value = encoded(&StoredSignIn {
            asked,
            email,
            source,
            until,
        })?;
        let mut transaction = Transaction::new().absent(&key).put(key, value);
        if let Some(letter) = letter {
            transaction = Outbox::add(&letter, transaction)
                .map_err(|error| Refused::NoMail(error.to_string()))?;
        }
        match self.0.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                self.shows(revision).await;
                Ok(())
            }
            Outcome::Conflict(_) => Err(Refused::Internal("a new name was taken".to_owned())),
        }
    }

    /// An endorser's address as entries have it, or uploads that wait, however it is written: a letter goes to no other.
    fn spelled(&self, asked: &str) -> Option<String> {
        let now = now();
        let mut found = BTreeSet::new();
        self.ask(|catalogue| {
            let same = catalogue.endorsers().map(|(email, ..)| email);
            let same = same.filter(|email| email.eq_ignore_ascii_case(asked));
            found.extend(same.map(str::to_owned));
        });
        self.ask_uploads(|uploads| {
            let same = uploads.iter().map(|(_, waiting)| waiting);
            let same = same.filter(|it| it.until > now && it.email.eq_ignore_ascii_case(asked));
            found.extend(same.map(|it| it.email.clone()));
        });
        found.take(asked).or_else(|| found.pop_first())
    }

    /// Who would be signed in by the name in a link.
    ///
    /// # Errors
    /// [`Refused::NoSignIn`], those of the store.
    pub async fn who_signs_in(&self, link: &str) -> Result<String, Refused> {
        let (_, _, email) = self.stored_sign_in(link).await?;
        Ok(email)
    }

    async fn stored_sign_in(&self, link: &str) -> Result<(Key, store::Revision, String), Refused> {
        let key = sign_in_key(link)?;
        let entry = self.0.store.get(&key).await?.ok_or(Refused::NoSignIn)?;
        let stored: StoredSignIn = serde_json::from_slice(&entry.value)
            .map_err(|error| Refused::Internal(format!("{key}: {error}")))?;
        match stored.email {
            Some(email) if stored.until > now() => Ok((key, entry.revision, email)),
            _ => Err(Refused::NoSignIn),
        }
    }

    /// Signs in whoever has the link of a letter: once.
    ///
    /// # Errors
    /// [`Refused::NoSignIn`], those of the store.
    pub async fn sign_in(&self, link: &str, source: IpAddr) -> Result<Opened, Refused> {
        let (key, revision, email) = self.stored_sign_in(link).await?;
        let used = Transaction::new().revision_is(&key, revision).delete(key);
        self.open_session(email, Way::Letter, source, used).await
    }

    /// The addresses whose owners confirmed something by a certificate (DER) that is still good.
    #[must_use]
    pub fn addresses_of(&self, certificate: &[u8]) -> Vec<String> {
        let Ok(certificate) = Certificate::from_der(certificate) else {
            return Vec::new();
        };
        let now = now();
        if certificate.not_before() > now || certificate.not_after() < now {
            return Vec::new();
        }
        let fingerprint = certificate.fingerprint();
        self.ask_accounts(|accounts| {
            let of_certificate = accounts.certificates.get(&fingerprint).into_iter();
            of_certificate
                .flatten()
                .map(|email| email.to_string())
                .collect()
        })
    }

    /// Signs in whoever has the key of a certificate (DER), which the caller has seen, as one of its [addresses](Self::addresses_of).
    ///
    /// # Errors
    /// [`Refused::NotTheirs`], those of the store.
    pub async fn sign_in_by_certificate(
        &self,
        certificate: &[u8],
        email: &str,
        source: IpAddr,
    ) -> Result<Opened, Refused> {
        let own = self.addresses_of(certificate);
        let Some(email) = own.into_iter().find(|own| own == email) else {
            return Err(Refused::NotTheirs(email.to_owned()));
        };
        self.open_session(email, Way::Certificate, source, Transaction::new())
            .await
    }

    async fn open_session(
        &self,
        email: String,
        way: Way,
        source: IpAddr,
        transaction: Transaction,
    ) -> Result<Opened, Refused> {
        let secret = Uuid::new_v4().simple().to_string();
        let key = session_key(&secret)?;
        let session = Session {
            email,
            way,
            source: source.to_string(),
            since: now(),
            until: in_seconds(SESSION_SECONDS)?,
        };
        let mut transaction = transaction.absent(&key).put(key, encoded(&session)?);
        let mut others = self.ask_accounts(|accounts| accounts.sessions_of(&session.email));
        others.sort_by_key(|(_, since)| *since);
        let too_many = (others.len() + 1).saturating_sub(SESSIONS);
        for (oldest, _) in others.into_iter().take(too_many) {
            transaction = transaction.delete(oldest);
        }
        match self.0.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                self.shows(revision).await;
                tracing::info!(email = session.email, ?way, "an endorser signed in");
                Ok(Opened { secret, session })
            }
            Outcome::Conflict(_) => Err(Refused::NoSignIn),
        }
    }

    /// Who is signed in with the browser that is known by this secret.
    #[must_use]
    pub fn session(&self, secret: &str) -> Option<Arc<Session>> {
        let key = session_key(secret).ok()?;
        let session = self.ask_accounts(|accounts| accounts.sessions.get(&key).cloned())?;
        (session.until > now()).then_some(session)
    }

    /// Ends the session of a secret.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sign_out(&self, secret: &str) -> Result<(), Refused> {
        self.delete_sessions(vec![session_key(secret)?]).await
    }

    /// Ends all sessions of an endorser, and makes letters good for nothing that are under way.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sign_out_everywhere(&self, email: &str) -> Result<(), Refused> {
        let all = self.ask_accounts(|accounts| {
            let sessions = accounts.sessions_of(email).into_iter().map(|(key, _)| key);
            let letters = accounts.sign_ins.iter();
            let letters = letters.filter(|(_, it)| it.email.as_deref() == Some(email));
            sessions
                .chain(letters.map(|(key, _)| key.clone()))
                .collect()
        });
        self.delete_sessions(all).await
    }

    async fn delete_sessions(&self, keys: Vec<Key>) -> Result<(), Refused> {
        let all = keys.into_iter();
        let transaction = all.fold(Transaction::new(), Transaction::delete);
        if let Outcome::Committed(revision) = self.0.store.commit(transaction).await? {
            self.shows(revision).await;
        }
        Ok(())
    }

    /// What an endorser has here.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn account(&self, email: &str) -> Result<Account, Refused> {
        let now = now();
        let mut waiting: Vec<_> = self.ask_uploads(|uploads| {
            let own = uploads.iter();
            let own = own.filter(|(_, it)| it.email == email && it.until > now);
            own.map(|(key, it)| (key.id().to_owned(), it.clone()))
                .collect()
        });
        waiting.sort_by_key(|(_, it)| std::cmp::Reverse(it.created));
        let ever =
            UtcTime::from_unix_seconds(0).ok_or_else(|| Refused::Internal("a time".to_owned()))?;
        let mut records = self.ask(|catalogue| catalogue.of_endorser(email, ever));
        let mut seen = BTreeSet::new();
        records.retain(|record| seen.insert(record.identifier.to_string()));
        Ok(Account {
            waiting,
            records,
            sessions: self.ask_accounts(|accounts| accounts.sessions_of(email).len()),
            wants_reminders: self.wants_reminders(email).await?,
        })
    }

    /// One who is signed in confirms what waits under this name: as by the link in the letter.
    ///
    /// # Errors
    /// See [`Refused`]; [`Refused::NotWaiting`] also for what is somebody else's.
    pub async fn confirm_own(&self, session: &Session, name: &str) -> Result<Arc<Record>, Refused> {
        if session.way != Way::Letter {
            return Err(Refused::ByLetterOnly);
        }
        let found = self.own_upload(session, name).await?;
        self.confirm_found(found).await
    }

    /// One who is signed in discards what waits under this name.
    ///
    /// # Errors
    /// The same.
    pub async fn discard_own(&self, session: &Session, name: &str) -> Result<Waiting, Refused> {
        let found = self.own_upload(session, name).await?;
        self.withdraw_found(found).await
    }

    async fn own_upload(
        &self,
        session: &Session,
        name: &str,
    ) -> Result<(Key, store::Revision, crate::stored::StoredUpload), Refused> {
        let found = self.stored_upload(Key::new(UPLOAD, name)?).await?;
        if found.2.waiting.email != session.email {
            return Err(Refused::NotWaiting);
        }
        Ok(found)
    }
}
