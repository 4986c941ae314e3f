//! Taking documents, and what endorsers do with those that wait.
//!
//! ```text
//!  upload ──▶ verified ──▶ trusted, or nobody is asked ──────────────────────▶ entry
//!                     └──▶ waiting + letter ──confirm──▶ verified again ──▶ entry
//!                              ├──abort──▶ gone
//!                              ├──abuse──▶ waiting, reported: can't be confirmed ──▶ gone
//!                              └──some days──▶ gone
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use mail::{LetterError, Outbox};
use marketplace::catalogue::{Name, Record};
use marketplace::metadata::is_email;
use marketplace::policy::CLOCK_TOLERANCE_SECONDS;
use marketplace::{Entry, UtcTime};
use serde::Serialize;
use store::{Key, KeyError, Outcome, Revision, Transaction};
use uuid::Uuid;

use crate::letters;
use crate::service::now;
use crate::stored::{
    Confirmation, StoredDocument, StoredEntry, StoredNewest, StoredUpload, Waiting, cut,
    document_key, entry_key, newest_key, upload_key,
};
use crate::{Marketplace, Refused};

/// How often a write is tried anew when somebody was faster.
pub(crate) const ATTEMPTS: usize = 8;

/// What became of an upload.
#[derive(Clone, Debug)]
pub enum Uploaded {
    /// It is an entry now.
    Created(Arc<Record>),
    /// It was one before, byte for byte.
    Known(Arc<Record>),
    /// Its endorser has to confirm; a letter is on its way.
    Waiting,
}

/// What an endorser is to know of what is published once it is confirmed.
#[derive(Clone, Debug)]
pub struct Described {
    /// What is said of the image.
    pub description: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Where it is fetched from.
    pub locations: Vec<String>,
    /// Why it is to be used no more.
    pub deprecated: Option<String>,
    /// Until when it is valid, and whether that was before now.
    pub valid: Option<UtcTime>,
    /// See `valid`.
    pub is_expired: bool,
    /// Whose certificate it was signed by.
    pub subject: String,
    /// Who made that.
    pub issuer: String,
    /// Its SHA-256.
    pub fingerprint: String,
    /// Whether all that was confirmed for this address was signed by other certificates.
    pub is_strange: bool,
}

/// What became of an entry that was to be kept.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is there now.
    New(Arc<Record>),
    /// It was there, byte for byte: somebody was faster. What was to be done with it was not.
    Known(Arc<Record>),
}

/// Where an entry comes from, as far as its age is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It must not be older than what is there.
    Newest,
    /// It may be history.
    Any,
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        Self::Invalid(error.to_string())
    }
}

pub(crate) fn encoded(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| Refused::Internal(error.to_string()))
}

/// The document of one who uploads, verified, and without what only the Marketplace may say. Takes a millisecond.
pub(crate) async fn verified(document: &[u8]) -> Result<Entry, Refused> {
    let document = document.to_vec();
    let entry = tokio::task::spawn_blocking(move || Entry::verify(&document))
        .await
        .map_err(|error| Refused::Internal(error.to_string()))?
        .map_err(|error| Refused::Invalid(error.to_string()))?;
    let metadata = entry.metadata();
    let is_internal = |extension: &marketplace::metadata::Extension| {
        extension.namespace == "http://mp.stratuslab.eu/slterms#" && extension.name == "tag"
    };
    if metadata.extensions.iter().any(is_internal) {
        return Err(Refused::Invalid(
            "slterms:tag is what a Marketplace says itself; leave it out".to_owned(),
        ));
    }
    let email = &entry.endorsement().email;
    if !is_email(email) {
        return Err(invalid_address(email));
    }
    let created = entry.endorsement().created;
    // It would be the newest of its endorser until then, and nobody can take it away.
    if is_early(created) {
        return Err(Refused::Invalid(format!(
            "endorsed in the future ({created}, and it is {}); set the clock right and sign it again",
            now()
        )));
    }
    Ok(entry)
}

pub(crate) fn invalid_address(email: &str) -> Refused {
    Refused::Invalid(format!("invalid email address: {email}"))
}

/// Whether an endorsement is of the future, beyond what clocks differ by.
pub(crate) fn is_early(created: UtcTime) -> bool {
    created.unix_seconds() > now().unix_seconds() + CLOCK_TOLERANCE_SECONDS
}

pub(crate) fn name_of(entry: &Entry) -> Name {
    let endorsement = entry.endorsement();
    (
        entry.metadata().identifier,
        endorsement.email.as_str().into(),
        endorsement.created,
    )
}

impl Marketplace {
    /// Takes a signed document that came from a network address: as an entry, or to be confirmed by its endorser.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn upload(&self, document: &[u8], source: IpAddr) -> Result<Uploaded, Refused> {
        self.take(document, Some(source)).await
    }

    /// Takes a document that the cloud of this Marketplace has signed: nobody is asked.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn publish(&self, document: &[u8]) -> Result<Uploaded, Refused> {
        self.take(document, None).await
    }

    /// `source` is where it came from; none: from the cloud itself.
    async fn take(&self, document: &[u8], source: Option<IpAddr>) -> Result<Uploaded, Refused> {
        let settings = self.settings();
        if settings.is_read_only {
            return Err(Refused::ReadOnly);
        }
        let longest = settings.document_at_most.min(crate::Settings::LONGEST);
        if document.len() > longest {
            return Err(Refused::TooLong(longest));
        }
        let entry = verified(document).await?;
        let name = name_of(&entry);
        if let Some(known) = self.known(&name, entry.document()).await? {
            return Ok(Uploaded::Known(known));
        }
        // A certificate was good when the endorser says to have signed. Whoever got hold of its key later can say so of any time.
        let certificate = entry.certificate();
        if certificate.not_after() < now() {
            return Err(Refused::Invalid(format!(
                "the certificate of {} has expired ({}); sign the description by one that is valid now",
                certificate.subject(),
                certificate.not_after()
            )));
        }
        self.check_age(&name)?;
        let confirmation = match source {
            None => Confirmation::Trusted,
            Some(_) if !settings.confirms => Confirmation::NotAsked,
            Some(_) if self.trusts(&entry).await => Confirmation::Trusted,
            Some(source) => {
                self.wait_for_confirmation(&entry, source).await?;
                return Ok(Uploaded::Waiting);
            }
        };
        let kept = self
            .keep(&entry, confirmation, Age::Newest, |transaction| transaction)
            .await?;
        Ok(match kept {
            Kept::New(record) => {
                tracing::info!(entry = record.path(), "entry published");
                Uploaded::Created(record)
            }
            Kept::Known(record) => Uploaded::Known(record),
        })
    }

    /// The entry of this name, if its document is this one.
    pub(crate) async fn known(
        &self,
        name: &Name,
        document: &[u8],
    ) -> Result<Option<Arc<Record>>, Refused> {
        let Some(record) = self.ask(|catalogue| catalogue.named(name).cloned()) else {
            return Ok(None);
        };
        match self.document(name).await? {
            Some(there) if there.as_bytes() == document => Ok(Some(record)),
            _ => Err(Refused::Taken(record.path())),
        }
    }

    fn check_age(&self, name: &Name) -> Result<(), Refused> {
        let newest = self.ask(|catalogue| catalogue.newest(name.0, &name.1).map(|it| it.created));
        check_age(name, newest)
    }

    async fn trusts(&self, entry: &Entry) -> bool {
        let Some(trusted) = self.settings().trusted.clone() else {
            return false;
        };
        match tokio::task::spawn_blocking(move || trusted.policy()).await {
            // What is deprecated or past its end is as much the endorser's.
            Ok(Ok(policy)) => policy.trusts(entry, now()).is_ok(),
            Ok(Err(error)) => {
                tracing::error!(
                    error,
                    "who is trusted can't be read: everybody has to confirm"
                );
                false
            }
            Err(_) => false,
        }
    }

    async fn wait_for_confirmation(&self, entry: &Entry, source: IpAddr) -> Result<(), Refused> {
        let settings = self.settings();
        if !settings.sends_letters {
            return Err(Refused::NobodyToAsk(entry.endorsement().email.clone()));
        }
        let (metadata, endorsement) = (entry.metadata(), entry.endorsement());
        let seconds = i64::try_from(settings.waits_for.as_secs()).unwrap_or(i64::MAX);
        let until = now().unix_seconds().saturating_add(seconds);
        let waiting = Waiting {
            identifier: metadata.identifier,
            email: endorsement.email.clone(),
            created: endorsement.created,
            is_deprecation: metadata.deprecated.is_some(),
            title: metadata.title.as_deref().map(cut),
            certificate: entry.certificate().fingerprint(),
            bytes: entry.document().len(),
            source: source.to_string(),
            until: UtcTime::from_unix_seconds(until).unwrap_or(endorsement.created),
            is_reported: false,
        };
        // 122 random bits: nobody guesses it.
        let link = Uuid::new_v4().to_string();
        let described = self.described(entry);
        let letter =
            letters::confirmation(settings, &waiting, &described, &link).map_err(|error| {
                match error {
                    // Endorsements have addresses to which no letter can go, such as `.a@b`.
                    LetterError::Address(email) => invalid_address(&email),
                    error => Refused::NoMail(error.to_string()),
                }
            })?;
        let key = upload_key(&link)?;
        let value = encoded(&StoredUpload {
            waiting: waiting.clone(),
            document: text_of(entry)?,
        })?;
        let transaction = Transaction::new().absent(&key).put(key, value);
        let transaction = Outbox::add(&letter, transaction)
            .map_err(|error| Refused::NoMail(error.to_string()))?;
        self.count_and_write(waiting, transaction).await
    }

    /// What waits under the name in a link.
    ///
    /// # Errors
    /// [`Refused::NotWaiting`], those of the store.
    pub async fn waiting_upload(&self, link: &str) -> Result<Waiting, Refused> {
        Ok(self.stored_upload(upload_key(link)?).await?.2.waiting)
    }

    /// The same with what its description says; without that of what was reported.
    ///
    /// # Errors
    /// [`Refused::NotWaiting`], those of the store.
    pub async fn waiting_described(
        &self,
        link: &str,
    ) -> Result<(Waiting, Option<Described>), Refused> {
        let stored = self.stored_upload(upload_key(link)?).await?.2;
        if stored.document.is_empty() {
            return Ok((stored.waiting, None));
        }
        let entry = verified(stored.document.as_bytes()).await?;
        let described = self.described(&entry);
        Ok((stored.waiting, Some(described)))
    }

    fn described(&self, entry: &Entry) -> Described {
        let (metadata, certificate) = (entry.metadata(), entry.certificate());
        let (email, fingerprint) = (&entry.endorsement().email, certificate.fingerprint());
        Described {
            description: metadata.description.clone(),
            version: metadata.version.clone(),
            locations: metadata.locations.clone(),
            deprecated: metadata.deprecated.clone(),
            valid: metadata.valid,
            is_expired: metadata.valid.is_some_and(|valid| valid < now()),
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer().to_owned(),
            is_strange: self.ask_uploads(|all| all.is_strange(email, &fingerprint)),
            fingerprint,
        }
    }

    pub(crate) async fn stored_upload(
        &self,
        key: Key,
    ) -> Result<(Key, Revision, StoredUpload), Refused> {
        let Some(entry) = self.0.store.get(&key).await? else {
            return Err(Refused::NotWaiting);
        };
        let stored: StoredUpload = serde_json::from_slice(&entry.value)
            .map_err(|error| Refused::Internal(format!("{key}: {error}")))?;
        if stored.waiting.until <= now() {
            return Err(Refused::NotWaiting);
        }
        Ok((key, entry.revision, stored))
    }

    /// The endorser says that it is theirs: it becomes an entry, if nothing newer came meanwhile.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn confirm(&self, link: &str) -> Result<Arc<Record>, Refused> {
        let found = self.stored_upload(upload_key(link)?).await?;
        self.confirm_found(found).await
    }

    /// The same of what was found.
    pub(crate) async fn confirm_found(
        &self,
        (key, revision, stored): (Key, Revision, StoredUpload),
    ) -> Result<Arc<Record>, Refused> {
        if stored.waiting.is_reported {
            return Err(Refused::Reported);
        }
        let entry = verified(stored.document.as_bytes()).await?;
        let name = name_of(&entry);
        // The same may have been uploaded twice and confirmed once.
        if let Some(known) = self.known(&name, entry.document()).await? {
            self.forget(key, revision).await?;
            return Ok(known);
        }
        let kept = self
            .keep(&entry, Confirmation::ByLetter, Age::Newest, |transaction| {
                transaction.revision_is(&key, revision).delete(key.clone())
            })
            .await?;
        match kept {
            Kept::New(record) => {
                tracing::info!(entry = record.path(), "entry confirmed");
                Ok(record)
            }
            Kept::Known(record) => match self.forget(key, revision).await {
                // By this very link, a moment ago.
                Ok(()) | Err(Refused::NotWaiting) => Ok(record),
                Err(error) => Err(error),
            },
        }
    }

    /// The endorser takes it back. Returns what it was.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn withdraw(&self, link: &str) -> Result<Waiting, Refused> {
        let found = self.stored_upload(upload_key(link)?).await?;
        self.withdraw_found(found).await
    }

    /// The same of what was found.
    pub(crate) async fn withdraw_found(
        &self,
        (key, revision, stored): (Key, Revision, StoredUpload),
    ) -> Result<Waiting, Refused> {
        if stored.waiting.is_reported {
            return Err(Refused::Reported);
        }
        self.forget(key, revision).await?;
        Ok(stored.waiting)
    }

    async fn forget(&self, key: Key, revision: Revision) -> Result<(), Refused> {
        let transaction = Transaction::new().revision_is(&key, revision).delete(key);
        match self.0.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                self.shows(revision).await;
                Ok(())
            }
            Outcome::Conflict(_) => Err(Refused::NotWaiting),
        }
    }

    /// The owner of the address says that it isn't theirs: it can't be confirmed any more, and the administrator is told.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn report(&self, link: &str) -> Result<(), Refused> {
        let (key, revision, mut stored) = self.stored_upload(upload_key(link)?).await?;
        if stored.waiting.is_reported {
            return Ok(());
        }
        // Nobody can confirm it: that it was there is all that is needed.
        stored.document.clear();
        let waiting = &mut stored.waiting;
        waiting.is_reported = true;
        tracing::warn!(
            email = waiting.email,
            source = waiting.source,
            image = %waiting.identifier,
            "an upload to the Marketplace is reported as abuse"
        );
        let settings = self.settings();
        let letter = settings
            .administrator
            .as_deref()
            .filter(|_| settings.sends_letters)
            .and_then(|administrator| letters::abuse(settings, administrator, waiting).ok());
        let mut transaction = Transaction::new()
            .revision_is(&key, revision)
            .put(key, encoded(&stored)?);
        if let Some(letter) = letter {
            transaction = Outbox::add(&letter, transaction)
                .map_err(|error| Refused::Internal(error.to_string()))?;
        }
        match self.0.store.commit(transaction).await? {
            Outcome::Committed(revision) => {
                self.shows(revision).await;
                Ok(())
            }
            Outcome::Conflict(_) => Err(Refused::NotWaiting),
        }
    }

    /// Writes an entry, and with it what `more` adds to the transaction. `Age` decides whether it may be older than what is there.
    pub(crate) async fn keep(
        &self,
        entry: &Entry,
        confirmation: Confirmation,
        age: Age,
        more: impl Fn(Transaction) -> Transaction,
    ) -> Result<Kept, Refused> {
        let (name, record) = (name_of(entry), Record::of(entry, now()));
        let keys = (entry_key(&name)?, document_key(&name)?, newest_key(&name)?);
        let values = (
            encoded(&StoredEntry {
                record: record.clone(),
                confirmation,
                certificate: entry.certificate().fingerprint(),
            })?,
            encoded(&StoredDocument {
                document: text_of(entry)?,
            })?,
        );
        for _ in 0..ATTEMPTS {
            let newest = self.0.store.get(&keys.2).await?;
            let there = match &newest {
                Some(entry) => Some(
                    serde_json::from_slice::<StoredNewest>(&entry.value)
                        .map_err(|error| Refused::Internal(format!("{}: {error}", keys.2)))?
                        .created,
                ),
                None => None,
            };
            if age == Age::Newest {
                check_age(&name, there)?;
            }
            let mut transaction = Transaction::new()
                .absent(&keys.0)
                .put(keys.0.clone(), values.0.clone())
                .put(keys.1.clone(), values.1.clone());
            let seen = newest.map(|entry| entry.revision).unwrap_or_default();
            transaction = transaction.revision_is(&keys.2, seen);
            if there.is_none_or(|there| name.2 > there) {
                let value = encoded(&StoredNewest { created: name.2 })?;
                transaction = transaction.put(keys.2.clone(), value);
            }
            match self.0.store.commit(more(transaction)).await? {
                Outcome::Committed(revision) => {
                    self.shows(revision).await;
                    return Ok(Kept::New(Arc::new(record)));
                }
                Outcome::Conflict(conflicts) => {
                    let lost = |key: &Key| conflicts.iter().any(|conflict| conflict.key == *key);
                    if lost(&keys.0) {
                        return self.there_already(&keys.0, entry).await;
                    }
                    if !lost(&keys.2) {
                        // What `more` stands on.
                        return Err(Refused::NotWaiting);
                    }
                }
            }
        }
        Err(Refused::Internal(format!(
            "others kept adding entries of {} by {}",
            name.0, name.1
        )))
    }
}

impl Marketplace {
    /// The entry of the same name that somebody else wrote a moment ago, if it is the same document.
    async fn there_already(&self, key: &Key, entry: &Entry) -> Result<Kept, Refused> {
        let taken = || Refused::Taken(entry.path());
        // Both were written by one transaction, and nothing changes them.
        let document = self.document(&name_of(entry)).await?;
        if document.is_none_or(|there| there.as_bytes() != entry.document()) {
            return Err(taken());
        }
        let there = self.0.store.get(key).await?.ok_or_else(taken)?;
        let stored: StoredEntry = serde_json::from_slice(&there.value)
            .map_err(|error| Refused::Internal(format!("{key}: {error}")))?;
        self.shows(there.revision).await;
        Ok(Kept::Known(Arc::new(stored.record)))
    }
}

fn check_age(name: &Name, newest: Option<UtcTime>) -> Result<(), Refused> {
    match newest {
        Some(newest) if name.2 < newest => Err(Refused::Invalid(format!(
            "older than latest entry (endorsed {}, there is one of {newest}); sign it again",
            name.2
        ))),
        _ => Ok(()),
    }
}

/// Documents are UTF-8: that was verified.
fn text_of(entry: &Entry) -> Result<String, Refused> {
    String::from_utf8(entry.document().to_vec())
        .map_err(|error| Refused::Invalid(error.to_string()))
}
