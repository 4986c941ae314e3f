//! The controller: announces every image that was saved for somebody, and takes back at the cloud's own Marketplace what it said of
//! images that are gone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cimi::{
    Timestamp,
    resources::{Announcement, Capture, Image, ImageState, Save},
};
use documents::{Cached, Documents, DocumentsError};
use mail::{Letter, LetterError};
use marketplace::{SigningKey, UtcTime, catalogue::Record, draft as endorse, signature::Hash};
use store::Revision;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    draft, letter,
    upload::{self, OwnMarketplace, Uploaded},
};

/// First and longest pause before what failed is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How saved images are announced, as the operator decided.
pub struct Settings {
    /// Where the cloud is reached, without a slash at the end.
    pub base_url: String,
    /// The Marketplace that takes temporary entries; none: there is none.
    pub marketplace: Option<String>,
    /// The same, if it is in this process: nothing is sent to it then.
    pub own: Option<Arc<dyn OwnMarketplace>>,
    /// What temporary entries are signed with.
    pub key: Option<SigningKey>,
    /// The endorser's address, if the key's certificate has none.
    pub endorser: String,
    /// How long temporary entries are valid, in days.
    pub valid_days: u32,
    /// How long an upload is tried.
    pub patience: Duration,
    /// Whether letters can be sent.
    pub has_mail: bool,
    /// Speaks to the Marketplace.
    pub client: reqwest::Client,
}

impl Settings {
    /// Who vouches for temporary entries.
    #[must_use]
    pub fn endorser(&self) -> &str {
        let certified = self.key.as_ref().and_then(|key| key.certificate().email());
        certified.unwrap_or(&self.endorser)
    }

    /// What the locations of temporary entries begin with.
    #[must_use]
    pub fn images(&self) -> String {
        images_of(&self.base_url)
    }
}

/// What the locations of images begin with in the cloud that is reached at this URL, without a slash at its end.
#[must_use]
pub fn images_of(base_url: &str) -> String {
    format!("{base_url}/cimi/MachineImage/")
}

/// What they end with.
const DATA: &str = "/data";
/// Why an entry is withdrawn.
const GONE: &str =
    "The image was deleted. This was the temporary entry that its cloud made when it was saved.";

/// See the module.
pub struct Announcer {
    documents: Documents,
    settings: Settings,
    /// Those that are tried again: when, and how often they failed.
    again: HashMap<String, (Instant, u32)>,
}

/// Why an image was not announced this time.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    #[error("{0}")]
    Later(String),
}

impl Announcer {
    /// A controller over these documents.
    #[must_use]
    pub fn new(documents: Documents, settings: Settings) -> Self {
        Self {
            documents,
            settings,
            again: HashMap::new(),
        }
    }

    /// Works until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut images = self.documents.images.changes();
        // Whatever went while nobody looked.
        self.again.insert(String::new(), (Instant::now(), 0));
        loop {
            let next = self.again.values().map(|(at, _)| *at).min();
            let due = tokio::time::sleep_until(next.unwrap_or_else(Instant::now));
            let local = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due, if next.is_some() => {
                    let now = Instant::now();
                    let due = self.again.iter().find(|(_, (at, _))| *at <= now);
                    match due.map(|(local, _)| local.clone()) {
                        Some(local) => local,
                        None => continue,
                    }
                }
                changed = images.next() => {
                    // One that waits for its time waits on.
                    if self.again.contains_key(changed.id()) {
                        continue;
                    }
                    changed.id().to_owned()
                }
            };
            let announced = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                announced = self.look(&local) => announced,
            };
            self.note(local, announced);
        }
    }

    fn note(&mut self, local: String, announced: Result<(), Failure>) {
        match announced {
            Ok(()) => {
                self.again.remove(&local);
            }
            Err(error) => {
                let failures = self.again.get(&local).map_or(0, |(_, failures)| *failures);
                let pause = PAUSES.0.saturating_mul(1 << failures.min(10)).min(PAUSES.1);
                tracing::warn!(image = local, %error, retry_in = ?pause, "a saved image is not announced yet");
                self.again
                    .insert(local, (Instant::now() + pause, failures + 1));
            }
        }
    }

    /// Announces an image if that is due.
    async fn look(&self, local: &str) -> Result<(), Failure> {
        let read = self.documents.images.get(local);
        let Some(read) = read.filter(|read| !read.desired.deleted) else {
            return self.withdraw_gone().await;
        };
        if let Some(told) = read.announced.as_ref().filter(|told| !told.pending) {
            // Its owner says since that it is clean.
            let is_outdated = read.warning().is_none()
                && told
                    .problem
                    .as_ref()
                    .is_some_and(|problem| problem.starts_with(Image::WARNING));
            return if is_outdated {
                self.begin(&read).await
            } else {
                Ok(())
            };
        }
        let Some(capture) = read.capture() else {
            return Ok(());
        };
        let Some(save) = &capture.save else {
            return Ok(());
        };
        match read.state {
            // Who goes by the description is to have a proof of the content.
            ImageState::Available if read.file.as_ref().is_some_and(|it| !it.is_proven()) => Ok(()),
            ImageState::Available => self.announce(&read, capture, save).await,
            ImageState::Error => {
                let reason = read.reason.clone().unwrap_or_default();
                let letter = letter::failed(save, capture.vmid.0, &reason, Timestamp::now());
                let announced = Announcement {
                    at: Timestamp::now(),
                    marketplace: None,
                    valid_until: None,
                    problem: Some(format!("it was not saved: {reason}")),
                    pending: false,
                };
                self.tell(&read, announced, Some(letter)).await
            }
            ImageState::Creating | ImageState::Deleting => Ok(()),
        }
    }

    /// Deprecates the temporary entries at the own Marketplace whose images are gone. It goes by what the Marketplace has: whatever was
    /// written down of it, or not, before the daemon died.
    async fn withdraw_gone(&self) -> Result<(), Failure> {
        let settings = &self.settings;
        let (Some(own), Some(key)) = (&settings.own, &settings.key) else {
            return Ok(());
        };
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let lasting = i64::from(settings.valid_days).saturating_add(1) * 86_400;
        let since = UtcTime::from_unix_seconds(now.unix_seconds().saturating_sub(lasting));
        let endorser = settings.endorser();
        let valid = own.valid_of(endorser, since.unwrap_or(now));
        for record in valid.iter().filter(|record| self.is_gone(record)) {
            let later = |error: &dyn std::fmt::Display| Failure::Later(error.to_string());
            let document = own
                .document(&record.name())
                .await
                .map_err(|error| later(&error))?;
            let Some(document) = document else { continue };
            // An entry is told from its predecessor by the second.
            let after = UtcTime::from_unix_seconds(record.created.unix_seconds() + 1);
            let created = after.map_or(now, |after| after.max(now));
            let signed = endorse::deprecated(document.as_bytes(), GONE).and_then(|draft| {
                endorse::endorsed(draft.as_bytes(), key, Hash::Sha256, Some(endorser), created)
            });
            let published = match &signed {
                Ok(signed) => own.publish(signed).await,
                Err(error) => {
                    tracing::warn!(entry = record.path(), %error, "the temporary entry of an image that is gone can't be withdrawn");
                    continue;
                }
            };
            match published {
                Ok(()) => tracing::info!(entry = record.path(), "temporary entry withdrawn"),
                Err(error) if error.is_passing() => return Err(later(&error)),
                Err(error) => {
                    tracing::warn!(entry = record.path(), %error, "the temporary entry of an image that is gone stays");
                }
            }
        }
        Ok(())
    }

    /// Whether an entry is of an image of this cloud that isn't there any more.
    fn is_gone(&self, record: &Record) -> bool {
        let folder = self.settings.images();
        let is_gone = |location: &String| {
            let local = location.strip_prefix(&folder);
            local
                .and_then(|rest| rest.strip_suffix(DATA))
                .is_some_and(|local| {
                    let image = self.documents.images.get(local);
                    image.is_none_or(|image| image.desired.deleted)
                })
        };
        !record.locations.is_empty() && record.locations.iter().all(is_gone)
    }

    async fn announce(
        &self,
        read: &Arc<Cached<Image>>,
        capture: &Capture,
        save: &Save,
    ) -> Result<(), Failure> {
        // Decided once and kept: whoever uploads again uploads the same entry, whatever became of the image meanwhile.
        let Some(made) = read.announced.as_ref().map(|begun| begun.at) else {
            return self.begin(read).await;
        };
        let second = made.as_millis() / 1000;
        let created = UtcTime::from_unix_seconds(second)
            .ok_or_else(|| Failure::Later(format!("{second} s is no time")))?;
        let valid = created.plus_days(self.settings.valid_days);
        let mut announced = Announcement {
            at: Timestamp::now(),
            marketplace: None,
            valid_until: None,
            problem: None,
            pending: false,
        };
        let locations = vec![format!(
            "{}{}{DATA}",
            self.settings.images(),
            read.id.local()
        )];
        let text = draft::draft(read, capture, save, locations, created, valid).and_then(|draft| {
            draft
                .to_draft()
                .map_err(|error| draft::DraftError::Unwritable(error.to_string()))
        });
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                announced.problem = Some(format!("its description can't be written: {error}"));
                return self.tell(read, announced, None).await;
            }
        };
        let registered = match read.warning() {
            None => self.register(save, &text, created).await,
            // Who made it is to look first.
            Some(warning) => Err(Registration::Final(warning)),
        };
        match registered {
            Ok(None) => {}
            Ok(Some(marketplace)) => {
                announced.marketplace = Some(marketplace);
                announced.valid_until = Some(Timestamp::from_millis(valid.unix_seconds() * 1000));
            }
            Err(Registration::Passing(problem))
                if Timestamp::now().since(made) < self.settings.patience =>
            {
                let problem = format!("{problem}; it is tried again");
                self.wait(read, made, Some(&problem)).await?;
                return Err(Failure::Later(problem));
            }
            Err(Registration::Passing(problem) | Registration::Final(problem)) => {
                announced.problem = Some(problem);
            }
        }
        let identifier = read.identifier().unwrap_or_default();
        let letter = letter::saved(
            save,
            read,
            identifier,
            &self.settings.base_url,
            &announced,
            &text,
        );
        self.tell(read, announced, Some(letter)).await
    }

    /// Puts the temporary entry into the Marketplace; which, if there is one.
    async fn register(
        &self,
        save: &Save,
        draft: &str,
        now: UtcTime,
    ) -> Result<Option<String>, Registration> {
        let known = self.settings.marketplace.as_deref();
        let endpoint = match (save.marketplace.as_deref(), known) {
            (None, None) => return Ok(None),
            (None, Some(known)) => known,
            (Some(wanted), Some(known))
                if wanted.trim_end_matches('/') == known.trim_end_matches('/') =>
            {
                known
            }
            // Requests to wherever users say are not this cloud's business.
            // Nor is what they write for letters.
            (Some(_), _) => {
                return Err(Registration::Final(
                    "what was asked for is not the Marketplace that this cloud uploads to; upload the description yourself".to_owned(),
                ));
            }
        };
        let Some(key) = &self.settings.key else {
            return Err(Registration::Final(
                "this cloud has no key to sign with".to_owned(),
            ));
        };
        let signed = endorse::endorsed(
            draft.as_bytes(),
            key,
            Hash::Sha256,
            Some(&self.settings.endorser),
            now,
        )
        .map_err(|error| Registration::Final(format!("the entry can't be signed: {error}")))?;
        let uploaded = match &self.settings.own {
            Some(own) => own.publish(&signed).await.map(|()| Uploaded::Registered),
            None => upload::upload(&self.settings.client, endpoint, &signed).await,
        };
        match uploaded {
            Ok(Uploaded::Registered) => Ok(Some(endpoint.to_owned())),
            Ok(Uploaded::Waiting) => Err(Registration::Final(format!(
                "{endpoint} waits for a confirmation by {}, who is asked by letter; a Marketplace that trusts the key of this cloud does not ask",
                self.settings.endorser
            ))),
            Err(error) if error.is_passing() => Err(Registration::Passing(error.to_string())),
            Err(error) => Err(Registration::Final(error.to_string())),
        }
    }

    /// Writes down the time of the entry; what follows, follows from that.
    async fn begin(&self, read: &Cached<Image>) -> Result<(), Failure> {
        self.wait(read, Timestamp::now(), None).await
    }

    /// Says in the document that its announcement waits, and why.
    async fn wait(
        &self,
        read: &Cached<Image>,
        at: Timestamp,
        problem: Option<&str>,
    ) -> Result<(), Failure> {
        let waiting = Announcement {
            at,
            marketplace: None,
            valid_until: None,
            problem: problem.map(str::to_owned),
            pending: true,
        };
        if read.announced.as_ref() == Some(&waiting) {
            return Ok(());
        }
        let mut image = read.document.0.clone();
        image.announced = Some(waiting);
        let changes = self.documents.changes().replace(read, image);
        changes.commit().await?;
        Ok(())
    }

    /// One transaction: the document says that it is announced, and the letter is queued. One that can't be is told of in the document.
    async fn tell(
        &self,
        read: &Cached<Image>,
        mut announced: Announcement,
        letter: Option<Result<Letter, LetterError>>,
    ) -> Result<(), Failure> {
        let mut image = read.document.0.clone();
        let queued = letter
            .filter(|_| self.settings.has_mail)
            .map(|letter| letter.and_then(|letter| letter.stored()))
            .transpose();
        let queued = queued.unwrap_or_else(|error| {
            let untold = format!("its author can't be told: {error}");
            tracing::warn!(image = %image.id, %error, "the author of a saved image can't be told");
            announced.problem = Some(match announced.problem.take() {
                Some(problem) => format!("{problem}; {untold}"),
                None => untold,
            });
            None
        });
        tracing::info!(
            image = %image.id, marketplace = announced.marketplace, problem = announced.problem, "saved image announced"
        );
        image.announced = Some(announced);
        let mut changes = self.documents.changes().replace(read, image);
        if let Some((key, value)) = queued {
            changes = changes.put_raw(&key, Revision::ZERO, value);
        }
        changes.commit().await?;
        Ok(())
    }
}

/// Why an entry was not registered.
enum Registration {
    /// It may be later.
    Passing(String),
    Final(String),
}
