//! Images from Marketplaces that are in the cache: whether they may still be used.
//!
//! The policy of the site is asked whenever the document is looked at, by the entry that is kept in it. Once in a while, when
//! the entry's time is over, and when a machine is to be started from the image, the Marketplaces are asked anew. If none
//! answers an image stays as it is, unless the one in this process has its entry withdrawn.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cimi::Timestamp;
use cimi::resources::{EventOutcome, Image, ImageOrigin, ImageSource, ImageState};
use documents::Cached;
use parking_lot::Mutex;

use super::StorageController;
use super::by_name::stated_by;
use super::follow::Next;
use super::image_content::Kind;
use super::image_document::expected;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::registry::{Found, LookupError, Standing};

/// After a Marketplace did not answer.
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// The same for those who would start a machine: the first of the pauses, which grow.
const SILENCE: Duration = Duration::from_secs(60);

/// The images whose entries are being looked up for somebody, so that all who start machines at once ask once.
#[derive(Debug, Default)]
pub(super) struct Looking(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Looking {
    fn at(&self, local: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock();
        if let Some(running) = all.get(local).and_then(Weak::upgrade) {
            return running;
        }
        all.retain(|_, running| running.strong_count() > 0);
        let turn = Arc::default();
        all.insert(local.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl StorageController {
    /// Asks the Marketplaces whether a cached image may still be used, unless that was done a moment ago and the one in this process has
    /// taken nothing since, and writes down what they say; whether that is something else than before. Answers within seconds; where no
    /// Marketplace does, the image stays as it is.
    pub async fn look_again(&self, local: &str) -> bool {
        let turn = self.0.looking.at(local);
        let _turn = turn.lock().await;
        let Some(read) = self.0.documents.images.get(local) else {
            return false;
        };
        let is_fetched = read.desired.source == ImageSource::Marketplace
            && read.state == ImageState::Available
            && !read.desired.deleted;
        let identifier = expected(&read.desired.expected).ok();
        let identifier = identifier.and_then(|expected| expected.known_identifier());
        let Some(identifier) = identifier.filter(|_| is_fetched) else {
            return false;
        };
        let is_news = self.has_news_here(&read, &identifier);
        if !is_news && !self.is_older(&read, self.0.settings.entries_fresh) {
            return false;
        }
        if self.0.rests.left(local, read.desired.attempt).is_some() {
            return is_news && self.refuse_withdrawn_here(&read).await;
        }
        let told = match self.registries().look_up_in_time(&identifier).await {
            Ok(found) => {
                self.0.rests.forget(local);
                self.go_by(&read, found, false).await
            }
            Err(LookupError::Refused(reason)) => self.refuse(&read, reason, true).await,
            Err(error @ LookupError::Unavailable(_)) => {
                tracing::warn!(image = local, %error, "the entry of a cached image can't be looked up; it is used as it is");
                self.0.rests.failed(local, read.desired.attempt, SILENCE);
                return is_news && self.refuse_withdrawn_here(&read).await;
            }
        };
        note(local, told);
        true
    }

    /// Whether the Marketplace in this process took something of an image since all were asked.
    fn has_news_here(&self, read: &Image, identifier: &ImageIdentifier) -> bool {
        let checked = read.provenance.as_ref().map(|origin| origin.checked);
        let seconds = checked.unwrap_or_default().as_millis().div_euclid(1000);
        // Times of Marketplaces are whole seconds: what came in the same one may be news.
        marketplace::UtcTime::from_unix_seconds(seconds)
            .is_some_and(|since| self.0.settings.registries.have_news_here(identifier, since))
    }

    /// Refuses an image whose entry is withdrawn in the Marketplace in this process, whatever becomes of the others; whether it was.
    async fn refuse_withdrawn_here(&self, read: &Cached<Image>) -> bool {
        let entry = read
            .provenance
            .as_ref()
            .and_then(|origin| origin.entry.clone());
        let Some(entry) = entry else { return false };
        let Some(reason) = self.0.settings.registries.withdrawn_here(&entry).await else {
            return false;
        };
        note(read.id.local(), self.refuse(read, reason, true).await);
        true
    }

    /// Sees to it that a cached image can be used as long as its entry is accepted, and only so long.
    pub(super) async fn keep_fetched(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let Some(entry) = read
            .provenance
            .as_ref()
            .and_then(|origin| origin.entry.clone())
        else {
            return self.keep_image(read).await;
        };
        match self.0.settings.registries.judge(&entry).await {
            Err(LookupError::Refused(reason)) => return self.refused_by_site(read, reason).await,
            // Nobody can say now: it stays as it is.
            Err(LookupError::Unavailable(_)) => return self.keep_as_it_is(read).await,
            Ok(Standing::Good) if is_refused(read) && !is_withdrawn(read) => {
                return self.accept(read).await;
            }
            Ok(Standing::Good) if !self.is_due(read) && is_withdrawn(read) => {
                return Ok(Next::Settled);
            }
            Ok(Standing::Good) if !self.is_due(read) => return self.accept(read).await,
            Ok(Standing::Good | Standing::Expired(_)) => {}
        }
        if let Some(left) = self.0.rests.left(read.id.local(), read.desired.attempt) {
            self.keep_as_it_is(read).await?;
            return Ok(Next::Again(left));
        }
        let Some(identifier) = expected(&read.desired.expected)?.known_identifier() else {
            return self.keep_image(read).await;
        };
        match self.0.settings.registries.look_up(&identifier).await {
            Ok(found) => {
                self.0.rests.forget(read.id.local());
                self.go_by(read, found, true).await
            }
            Err(LookupError::Refused(reason)) => {
                self.0.rests.forget(read.id.local());
                self.refuse(read, reason, true).await
            }
            Err(error @ LookupError::Unavailable(_)) => {
                tracing::warn!(image = %read.id, %error, "the entry of a cached image can't be looked up; it can be used meanwhile");
                let local = read.id.local();
                self.0.rests.failed(local, read.desired.attempt, AGAIN);
                self.keep_as_it_is(read).await?;
                Ok(Next::Again(AGAIN))
            }
        }
    }

    /// The site refuses the entry by which an image is there: it can't be used from now on, until an entry of somebody else is found
    /// that the site accepts.
    async fn refused_by_site(&self, read: &Cached<Image>, reason: String) -> Result<Next, Error> {
        let origin = read.provenance.as_ref();
        let is_told = origin.is_some_and(|it| it.withdrawn || it.refused.as_ref() == Some(&reason));
        if !is_told {
            return self.refuse(read, reason, false).await;
        }
        let identifier = expected(&read.desired.expected)?.known_identifier();
        let Some(identifier) = identifier.filter(|_| self.is_due(read)) else {
            return Ok(Next::Settled);
        };
        let local = read.id.local();
        if let Some(left) = self.0.rests.left(local, read.desired.attempt) {
            return Ok(Next::Again(left));
        }
        self.0.rests.asks(local);
        match self.0.settings.registries.look_up(&identifier).await {
            Ok(found) => {
                self.0.rests.forget(local);
                self.go_by(read, found, true).await
            }
            Err(LookupError::Refused(_)) => {
                let edit = |image: &mut Image| {
                    if let Some(origin) = &mut image.provenance {
                        origin.checked = Timestamp::now();
                    }
                };
                self.write_image(read, edit, None).await?;
                Ok(Next::Settled)
            }
            Err(LookupError::Unavailable(_)) => {
                self.0.rests.failed(local, read.desired.attempt, AGAIN);
                Ok(Next::Again(AGAIN))
            }
        }
    }

    /// What was accepted stays so, and what was refused.
    async fn keep_as_it_is(&self, read: &Cached<Image>) -> Result<Next, Error> {
        if is_refused(read) {
            return Ok(Next::Settled);
        }
        self.keep_image(read).await
    }

    /// Whether the Marketplaces are to be asked for the entry of a cached image.
    pub(super) fn is_to_be_looked_up_anew(&self, image: &Image) -> bool {
        image.desired.source == ImageSource::Marketplace
            && image.file.is_some()
            && !image.desired.deleted
            && self.is_due(image)
    }

    /// Once in a while; of one that is refused often, since nobody starts it meanwhile, and its endorser may have said something
    /// better, or somebody else; and when the rules that refuse it have changed.
    fn is_due(&self, read: &Image) -> bool {
        let settings = &self.0.settings;
        if is_refused(read) && !is_withdrawn(read) && !self.0.rests.has_asked(read.id.local()) {
            return true;
        }
        let age = match is_refused(read) {
            true => settings.entries_fresh.min(settings.entries_recheck),
            false => settings.entries_recheck,
        };
        self.is_older(read, age)
    }

    /// Whether the Marketplaces were last asked for its entry so long ago.
    fn is_older(&self, read: &Image, age: Duration) -> bool {
        read.provenance
            .as_ref()
            .is_none_or(|origin| Timestamp::now().since(origin.checked) >= age)
    }

    /// The image may be used, by the entry that it has.
    async fn accept(&self, read: &Cached<Image>) -> Result<Next, Error> {
        if !is_refused(read) {
            return self.keep_image(read).await;
        }
        self.judged_good(read, |_| {}).await
    }

    /// The image may be used, by what the Marketplaces say now.
    async fn take_over(&self, read: &Cached<Image>, found: Found) -> Result<Next, Error> {
        let entry = String::from_utf8(found.entry.document().to_vec()).ok();
        self.judged_good(read, |origin| {
            origin.endorser = Some(found.entry.endorsement().email.clone());
            origin.found_in = found.marketplace;
            origin.entry = entry;
            origin.checked = Timestamp::now();
        })
        .await
    }

    async fn judged_good(
        &self,
        read: &Cached<Image>,
        edit: impl FnOnce(&mut ImageOrigin),
    ) -> Result<Next, Error> {
        let edit = |image: &mut Image| {
            if let Some(origin) = &mut image.provenance {
                origin.refused = None;
                origin.withdrawn = false;
                edit(origin);
            }
        };
        // The state follows when the document is looked at again, by what lies on the disk.
        self.write_image(read, edit, None).await?;
        Ok(Next::Again(Duration::ZERO))
    }

    /// Goes by the first of these entries that says of the content in the cache what it is. If none does it can't be used any more:
    /// why the first one doesn't is told. Where that can't be said without reading all of it, which takes longer than anybody waits
    /// for, the worker does (`may_read`).
    async fn go_by(
        &self,
        read: &Cached<Image>,
        found: Vec<Found>,
        may_read: bool,
    ) -> Result<Next, Error> {
        let mut differs = None;
        for found in found {
            match self.compared(read, &found, may_read).await? {
                Compared::Same => return self.take_over(read, found).await,
                Compared::Unread => return self.have_it_looked_up(read).await,
                Compared::Differs(why) => {
                    let email = &found.entry.endorsement().email;
                    let why = format!("its content is not what the entry of {email} says: {why}");
                    tracing::info!(image = %read.id, why, "an entry is not gone by");
                    differs.get_or_insert(why);
                }
            }
        }
        match differs {
            Some(why) => self.refuse(read, why, true).await,
            None => self.keep_image(read).await,
        }
    }

    /// Compares what is in the cache with an entry that is to vouch for it from now on.
    async fn compared(
        &self,
        read: &Cached<Image>,
        found: &Found,
        may_read: bool,
    ) -> Result<Compared, Error> {
        let known = read
            .provenance
            .as_ref()
            .and_then(|origin| origin.entry.as_ref());
        let is_same = known.is_some_and(|known| known.as_bytes() == found.entry.document());
        if is_same && !is_withdrawn(read) {
            return Ok(Compared::Same);
        }
        let stated = match stated_by(found) {
            Ok(stated) => stated,
            Err(error) => return Ok(Compared::Differs(error.to_string())),
        };
        let store = self.store(Kind::of(read));
        match store
            .compare(&found.entry.metadata().identifier, &stated, may_read)
            .await
        {
            Ok(Some(())) => Ok(Compared::Same),
            Ok(None) => Ok(Compared::Unread),
            Err(error @ (Error::Mismatch { .. } | Error::Refused(_))) => {
                Ok(Compared::Differs(error.to_string()))
            }
            // A file that is gone is told when the document is looked at.
            Err(Error::NotFound { .. }) if may_read => Ok(Compared::Same),
            Err(Error::NotFound { .. }) => Ok(Compared::Unread),
            Err(error) => Err(error),
        }
    }

    /// Has the worker of an image look its entry up, who has the time to read all of the content.
    async fn have_it_looked_up(&self, read: &Cached<Image>) -> Result<Next, Error> {
        if self
            .0
            .documents
            .images
            .get(read.id.local())
            .is_some_and(|now| is_refused(&now))
        {
            return Ok(Next::Settled);
        }
        let edit = |image: &mut Image| {
            if let Some(origin) = &mut image.provenance {
                origin.checked = Timestamp::default();
            }
        };
        self.write_image(read, edit, None).await?;
        Ok(Next::Settled)
    }

    /// The image may not be used any more: `withdrawn`, because of what the Marketplaces say now; else by the rules of the site, and the
    /// Marketplaces are asked for another entry next.
    async fn refuse(
        &self,
        read: &Cached<Image>,
        reason: String,
        withdrawn: bool,
    ) -> Result<Next, Error> {
        let origin = read.provenance.as_ref();
        let is_told = origin.is_some_and(|it| match withdrawn {
            true => it.withdrawn,
            false => it.refused.as_ref() == Some(&reason),
        });
        if read.state == ImageState::Error && is_told {
            return Ok(Next::Settled);
        }
        tracing::warn!(image = %read.id, reason, "a cached image may not be used any more");
        let edit = |image: &mut Image| {
            image.state = ImageState::Error;
            image.reason = Some(format!("it may not be used any more: {reason}"));
            if let Some(origin) = &mut image.provenance {
                origin.refused = Some(reason.clone());
                origin.withdrawn |= withdrawn;
                origin.checked = match withdrawn {
                    true => Timestamp::now(),
                    false => Timestamp::default(),
                };
            }
        };
        self.write_image(read, edit, Some(EventOutcome::Failure))
            .await?;
        Ok(match withdrawn {
            true => Next::Settled,
            false => Next::Again(Duration::ZERO),
        })
    }
}

fn note(local: &str, told: Result<Next, Error>) {
    if let Err(error) = told {
        // Somebody wrote it at the same moment, who knows no less.
        tracing::debug!(image = local, %error, "what the Marketplaces say is not written down");
    }
}

/// What is in the cache, and what an entry says of it.
enum Compared {
    Same,
    /// Not to be said without reading all of it.
    Unread,
    Differs(String),
}

fn is_refused(image: &Image) -> bool {
    let origin = image.provenance.as_ref();
    origin.is_some_and(|origin| origin.refused.is_some())
}

fn is_withdrawn(image: &Image) -> bool {
    let origin = image.provenance.as_ref();
    origin.is_some_and(|origin| origin.withdrawn)
}
