//! Entries of Marketplaces: looked up, verified, and judged by the site's policy.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cimi::uri::plain;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use marketplace::metadata::is_email;
use marketplace::policy::{Lists, Policy, Refusal};
use marketplace::{Entry, UtcTime, identifier::ImageIdentifier, list};
use reqwest::Url;
use tokio::sync::Semaphore;

use super::web::{Got, Web};
use super::{LookupError, Registries};

/// Entries for one image, which are all looked at; some ten of the longest, thousands of usual ones.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Endorsers of the white list who are asked for each by name where there is more.
const MAX_ASKED_FOR: usize = 64;
/// Documents of an answer that are verified whoever they are of. Of more, where the site lists the addresses of endorsers, those that
/// name one of them: verifying takes milliseconds each, and strangers may write as many as they like.
const VERIFIED_OF_ANYBODY: usize = 200;
/// Answers that are verified at once, by all who look something up.
const VERIFIED_AT_ONCE: usize = 2;
static VERIFYING: Semaphore = Semaphore::const_new(VERIFIED_AT_ONCE);
/// Reasons that are told.
const MAX_REASONS: usize = 20;
/// How long those that answered wait for those that don't: less than whoever starts a machine waits for all.
const PATIENCE: Duration = Duration::from_secs(3);
const ACCEPT: &str = "application/xml";
/// One entry.
const MAX_ONE_BYTES: usize = 512 << 10;
const ACCEPT_ONE: &str = "application/rdf+xml, application/xml;q=0.9";
/// Where the interface is on servers that have other things at their root.
const USUAL_PATH: &str = "marketplace";

/// A Marketplace that is asked.
#[derive(Debug, Clone)]
pub struct Marketplace {
    name: String,
    url: Url,
    /// Where it can be reached besides.
    others: Vec<Url>,
    way: Way,
}

/// How it is asked.
#[derive(Debug, Clone)]
enum Way {
    Web(Web),
    /// It is in this process: no connection, no certificate, and never away.
    Here(Arc<dyn OwnMarketplace>),
}

/// A Marketplace in this process. Its documents are verified and judged as those of every other.
#[async_trait]
pub trait OwnMarketplace: fmt::Debug + Send + Sync {
    /// Documents that it has for an image, of `endorser` or of all; also what is expired or deprecated.
    ///
    /// # Errors
    /// [`Unread::TooLong`] if they have more than `most` bytes.
    async fn documents_of(
        &self,
        identifier: &ImageIdentifier,
        endorser: Option<&str>,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, Unread>;

    /// When it took the last document that it has for an image.
    fn last_taken(&self, identifier: &ImageIdentifier) -> Option<UtcTime>;

    /// The newest document under an endorser's tag.
    ///
    /// # Errors
    /// Why it can't be read.
    async fn tagged(&self, email: &str, tag: &str) -> Result<Option<Vec<u8>>, String>;
}

/// Why what a Marketplace has isn't read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// There is more than is looked at.
    TooLong,
    /// It can't be had.
    Unavailable(String),
}

/// An entry that may be believed and used.
#[derive(Debug, Clone)]
pub struct Found {
    /// The entry.
    pub entry: Entry,
    /// Name of the Marketplace that had it.
    pub marketplace: String,
    /// Hosts that the site fetches from.
    pub hosts: Lists,
}

impl Marketplace {
    /// The Marketplace at an http or https URL.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(name: String, url: &str, web: Web) -> Result<Self, String> {
        Ok(Self {
            name,
            url: folder(url)?,
            others: Vec::new(),
            way: Way::Web(web),
        })
    }

    /// The one in this process, which people know at this URL; what is at one of the `others` is the same.
    ///
    /// # Errors
    /// What is wrong with a URL.
    pub fn here(
        name: String,
        url: &str,
        others: &[String],
        own: Arc<dyn OwnMarketplace>,
    ) -> Result<Self, String> {
        let others = others.iter().map(|url| folder(url));
        Ok(Self {
            name,
            url: folder(url)?,
            others: others.collect::<Result<_, _>>()?,
            way: Way::Here(own),
        })
    }

    /// What the operator calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is in this process.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }

    /// Where it is, for people.
    #[must_use]
    pub fn address(&self) -> String {
        plain(self.url.as_str())
    }

    /// Where its interface may be.
    fn bases(&self) -> impl Iterator<Item = Url> {
        bases_at(&self.url)
    }

    /// Whether an address is one of its entries, or leads to one.
    pub(super) fn has_entry_at(&self, url: &Url) -> bool {
        let known = std::iter::once(&self.url).chain(&self.others);
        known.flat_map(bases_at).any(|base| {
            let rest = url.path().strip_prefix(base.path()).unwrap_or_default();
            url.origin() == base.origin()
                && (rest.starts_with("metadata/") || rest.starts_with("tag/"))
        })
    }

    /// The documents in its answer at a place, which is said for each of where its interface may be; what they are worth is to be
    /// seen. Where it isn't there may be pages for people, whatever is asked for.
    async fn documents(
        &self,
        web: &Web,
        place: impl Fn(&mut Url),
        accept: &str,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, Unread> {
        let mut nonsense = None;
        for mut url in self.bases() {
            place(&mut url);
            let got = web.get(&url, accept, None, most).await;
            let body = match got.map_err(Unread::Unavailable)? {
                Got::Page { body, .. } => body,
                Got::TooLong => return Err(Unread::TooLong),
                Got::Absent | Got::Unchanged => continue,
            };
            match list::documents(&body) {
                Ok(documents) => return Ok(documents.into_iter().map(<[u8]>::to_vec).collect()),
                Err(error) => {
                    let told = format!("{} answered nonsense: {error}", plain(url.as_str()));
                    nonsense.get_or_insert(told);
                }
            }
        }
        nonsense.map_or(Ok(Vec::new()), |told| Err(Unread::Unavailable(told)))
    }

    /// Those that it has for an image. Whoever floods it with entries keeps none of the `listed` endorsers' back.
    async fn documents_of(
        &self,
        identifier: &ImageIdentifier,
        listed: &[&str],
    ) -> Result<Vec<Vec<u8>>, String> {
        let answers = match self.documents_by(identifier, None).await {
            Err(Unread::TooLong) if !listed.is_empty() => {
                let asked = listed.iter().take(MAX_ASKED_FOR);
                let asked = asked.map(|email| self.documents_by(identifier, Some(email)));
                join_all(asked).await
            }
            answer => vec![answer],
        };
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>();
        match answers {
            Ok(documents) => Ok(documents.concat()),
            Err(Unread::Unavailable(why)) => Err(why),
            Err(Unread::TooLong) => Err(format!(
                "{} has more than {MAX_ANSWER_BYTES} bytes of entries for {identifier}; if the policy of the site lists the \
                 addresses of endorsers (whitelistendorsers) only theirs are asked for",
                self.address()
            )),
        }
    }

    async fn documents_by(
        &self,
        identifier: &ImageIdentifier,
        endorser: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, Unread> {
        let web = match &self.way {
            Way::Web(web) => web,
            Way::Here(own) => {
                return own
                    .documents_of(identifier, endorser, MAX_ANSWER_BYTES)
                    .await;
            }
        };
        let identifier = identifier.to_string();
        let place = |url: &mut Url| {
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty()
                    .extend(["metadata", &identifier])
                    .extend(endorser);
            }
            // Also what is expired or deprecated: so that it can be told why there is nothing.
            url.set_query(Some("status=all"));
        };
        self.documents(web, place, ACCEPT, MAX_ANSWER_BYTES).await
    }

    /// The newest entry that it has under an endorser's tag; what it is worth is to be seen.
    pub(super) async fn tagged(&self, email: &str, tag: &str) -> Result<Option<Vec<u8>>, String> {
        let web = match &self.way {
            Way::Web(web) => web,
            Way::Here(own) => return own.tagged(email, tag).await,
        };
        let place = |url: &mut Url| {
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().extend(["metadata", email]);
            }
            url.query_pairs_mut().append_pair("tag", tag);
        };
        match self.documents(web, place, ACCEPT_ONE, MAX_ONE_BYTES).await {
            Ok(found) => Ok(found.into_iter().next()),
            Err(Unread::Unavailable(why)) => Err(why),
            Err(Unread::TooLong) => Err(format!(
                "{} answered with more than {MAX_ONE_BYTES} bytes",
                self.address()
            )),
        }
    }
}

/// Where the interface of a Marketplace may be that is known at this URL.
fn bases_at(url: &Url) -> impl Iterator<Item = Url> + use<> {
    let is_there = url.path().ends_with(&format!("/{USUAL_PATH}/"));
    let below = url.join(&format!("{USUAL_PATH}/")).ok();
    std::iter::once(url.clone()).chain(below.filter(|_| !is_there))
}

/// A URL that paths can be joined to.
pub(super) fn folder(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("`{text}` is no http or https URL"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

impl Registries {
    /// The entries to go by for an image, one of each endorser, and at least one: that to be tried first comes first. All
    /// Marketplaces are asked at once; those that are silent for `PATIENCE` are passed over if others have an entry that is
    /// accepted. Of each endorser only the newest entry counts, wherever it was; of several endorsers those come first whose entry
    /// is in the Marketplace that is configured first, and then who endorsed last.
    ///
    /// # Errors
    /// [`LookupError::Unavailable`] if a Marketplace that didn't answer might have it, else [`LookupError::Refused`] with
    /// every reason.
    pub async fn look_up(&self, identifier: &ImageIdentifier) -> Result<Vec<Found>, LookupError> {
        if self.marketplaces().is_empty() {
            return Err(LookupError::Refused(
                "this cloud has no Marketplace to look images up in; an administrator can configure one ([[catalogue]])"
                    .to_owned(),
            ));
        }
        let source = self.policy().clone();
        let policy = tokio::task::spawn_blocking(move || source.read())
            .await
            .map_err(|error| LookupError::Unavailable(error.to_string()))??;
        let listed = policy.endorsers.white.iter().map(String::as_str);
        let listed: Vec<_> = listed.filter(|listed| is_email(listed)).collect();
        let listed = listed.as_slice();
        let only = listed_addresses(&policy);
        let mut asked: FuturesUnordered<_> = self
            .marketplaces()
            .iter()
            .enumerate()
            .map(|(place, marketplace)| async move {
                (place, marketplace.documents_of(identifier, listed).await)
            })
            .collect();
        let (mut seen, mut silent) = (Seen::default(), Vec::new());
        let mut patience = pin!(tokio::time::sleep(PATIENCE));
        let mut is_patient = true;
        loop {
            let next = tokio::select! {
                next = asked.next() => next,
                () = &mut patience, if is_patient => {
                    is_patient = false;
                    let found = seen.accepted(&policy, now());
                    if !found.is_empty() {
                        tracing::warn!(
                            silent = asked.len(),
                            "Marketplaces didn't answer in time; those that did decide"
                        );
                        return Ok(found);
                    }
                    continue;
                }
            };
            let Some((place, answer)) = next else { break };
            let Some(Marketplace { name, .. }) = self.marketplaces().get(place) else {
                continue;
            };
            match answer {
                Ok(documents) => {
                    let documents = of_listed(documents, &only);
                    seen.take((place, name), identifier, documents).await;
                }
                Err(error) => {
                    tracing::warn!(marketplace = name, error, "a Marketplace can't be asked");
                    silent.push((place, format!("Marketplace {name}: {error}")));
                }
            }
            if !is_patient {
                let found = seen.accepted(&policy, now());
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        let found = seen.accepted(&policy, now());
        if !found.is_empty() {
            return Ok(found);
        }
        let mut reasons = seen.reasons(&policy, now());
        if !silent.is_empty() {
            silent.sort();
            reasons.splice(0..0, silent.into_iter().map(|(_, reason)| reason));
            return Err(LookupError::Unavailable(reasons.join("; ")));
        }
        if reasons.is_empty() {
            let names: Vec<&str> = self.marketplaces().iter().map(Marketplace::name).collect();
            return Err(LookupError::Refused(format!(
                "no Marketplace of this cloud ({}) has a valid entry for {identifier}",
                names.join(", ")
            )));
        }
        reasons.push("Image isn't valid according to site policy".to_owned());
        Err(LookupError::Refused(format!(
            "Policy check Failed: {}",
            reasons.join("; ")
        )))
    }

    /// Whether a Marketplace in this process took something of an image at or after a moment: it costs nothing to ask, so what it says
    /// counts at once.
    #[must_use]
    pub fn have_news_here(&self, identifier: &ImageIdentifier, since: UtcTime) -> bool {
        self.marketplaces()
            .iter()
            .any(|marketplace| match &marketplace.way {
                Way::Here(own) => own
                    .last_taken(identifier)
                    .is_some_and(|taken| taken >= since),
                Way::Web(_) => false,
            })
    }

    /// Why an entry counts no more by what its endorser said later in a Marketplace in this process; nothing if it counts, or if that
    /// can't be said. For when others don't answer: a withdrawal is not to wait for them.
    pub async fn withdrawn_here(&self, document: &str) -> Option<String> {
        let (source, document) = (self.policy().clone(), document.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            Some((
                source.read().ok()?,
                Entry::verify(document.as_bytes()).ok()?,
            ))
        });
        let (policy, entry) = read.await.ok()??;
        let identifier = entry.metadata().identifier;
        let mut seen = Seen::default();
        for (place, marketplace) in self.marketplaces().iter().enumerate() {
            if let Way::Here(own) = &marketplace.way {
                let email = &entry.endorsement().email;
                let documents = own.documents_of(&identifier, Some(email), MAX_ANSWER_BYTES);
                let documents = documents.await.ok()?;
                seen.take((place, &marketplace.name), &identifier, documents)
                    .await;
            }
        }
        let (newest, _) = seen.judged(&policy, now());
        let of_same = newest.into_iter().find(|(_, found)| {
            let (said, before) = (found.entry.endorsement(), entry.endorsement());
            said.email.eq_ignore_ascii_case(&before.email) && said.created > before.created
        });
        let refusal = policy.check(&of_same?.1.entry, now()).err()?;
        Some(refusal.to_string())
    }

    /// Whether an entry that was accepted once still is, by the policy as it is now. Its age alone doesn't count against
    /// it here: `is_due` tells whether it should be looked up anew.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub async fn judge(&self, document: &str) -> Result<Standing, LookupError> {
        let (source, document) = (self.policy().clone(), document.to_owned());
        let judged = tokio::task::spawn_blocking(move || {
            let policy = source.read()?;
            let refused = |error: &dyn std::fmt::Display| LookupError::Refused(error.to_string());
            let entry = Entry::verify(document.as_bytes()).map_err(|error| refused(&error))?;
            match policy.check(&entry, now()) {
                Ok(()) => Ok(Standing::Good),
                Err(
                    refusal @ (marketplace::policy::Refusal::Expired { .. }
                    | marketplace::policy::Refusal::NotYet { .. }),
                ) => {
                    // What else there is against it decides.
                    let endorsed = entry.endorsement().created;
                    match policy.check(&entry, endorsed) {
                        Ok(()) => Ok(Standing::Expired(refusal.to_string())),
                        Err(refusal) => Err(refused(&refusal)),
                    }
                }
                Err(refusal) => Err(refused(&refusal)),
            }
        });
        judged
            .await
            .map_err(|error| LookupError::Unavailable(error.to_string()))?
    }
}

/// How an entry that was accepted once stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it did.
    Good,
    /// Only its time is over.
    Expired(String),
}

pub(super) fn now() -> UtcTime {
    UtcTime::from_timestamp(jiff::Timestamp::now())
}

/// The addresses of endorsers, if the site goes by these alone.
fn listed_addresses(policy: &Policy) -> Vec<String> {
    let white = &policy.endorsers.white;
    match white.iter().all(|listed| is_email(listed)) {
        true => white.clone(),
        false => Vec::new(),
    }
}

/// Those of very many documents that may be of somebody listed: they name the address.
fn of_listed(mut documents: Vec<Vec<u8>>, listed: &[String]) -> Vec<Vec<u8>> {
    if documents.len() > VERIFIED_OF_ANYBODY && !listed.is_empty() {
        documents.retain(|document| {
            let text = String::from_utf8_lossy(document).to_ascii_lowercase();
            let mut listed = listed.iter();
            listed.any(|email| text.contains(&email.to_ascii_lowercase()))
        });
    }
    documents
}

/// What was found so far.
#[derive(Debug, Default)]
struct Seen {
    /// All that verify, with the place of the Marketplace in the configuration.
    all: Vec<(usize, Found)>,
    /// Why documents are not to be believed.
    unbelievable: Vec<String>,
}

impl Seen {
    async fn take(
        &mut self,
        (place, marketplace): (usize, &str),
        identifier: &ImageIdentifier,
        documents: Vec<Vec<u8>>,
    ) {
        // Never closed.
        let Ok(turn) = VERIFYING.acquire().await else {
            return;
        };
        // Whoever gives up waiting has nothing verified any more.
        let waits = Arc::new(());
        let is_waited_for = Arc::downgrade(&waits);
        let verify = move || {
            let _turn = turn;
            let documents = documents.iter();
            let wanted = documents.take_while(|_| is_waited_for.strong_count() > 0);
            wanted
                .map(|document| Entry::verify(document))
                .collect::<Vec<_>>()
        };
        let verified = tokio::task::spawn_blocking(verify).await;
        for entry in verified.unwrap_or_default() {
            match entry {
                Ok(entry) if entry.metadata().identifier != *identifier => {
                    self.unbelievable.push(format!(
                        "Marketplace {marketplace} answered with an entry for {}",
                        entry.metadata().identifier
                    ));
                }
                Ok(entry) => {
                    let marketplace = marketplace.to_owned();
                    let hosts = Lists::default();
                    self.all.push((
                        place,
                        Found {
                            entry,
                            marketplace,
                            hosts,
                        },
                    ));
                }
                Err(error) => self.unbelievable.push(format!(
                    "an entry of Marketplace {marketplace} is refused: {error}"
                )),
            }
        }
    }

    /// Newest endorsement first; of one moment, in the order of the Marketplaces.
    fn in_order(&self) -> Vec<(usize, &Found)> {
        let all = self.all.iter().map(|(place, found)| (*place, found));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(place, found)| (Reverse(found.entry.endorsement().created), *place));
        all
    }

    /// What is said by whom the site listens to, the newest of each endorser with its place, and why the rest doesn't count. Who it
    /// is comes first: neither a stranger who names somebody's address nor an endorsement of the future pushes out what counts now.
    fn judged(&self, policy: &Policy, now: UtcTime) -> (Vec<(usize, &Found)>, Vec<Refusal>) {
        let (mut newest, mut strange) = (Vec::new(), Vec::new());
        let mut endorsers = HashSet::new();
        for (place, found) in self.in_order() {
            if let Err(refusal) = is_of_somebody(policy, &found.entry, now) {
                strange.push(refusal);
            } else if endorsers.insert(found.entry.endorsement().email.to_ascii_lowercase()) {
                newest.push((place, found));
            }
        }
        (newest, strange)
    }

    /// Those that may be used, in the order to be tried.
    fn accepted(&self, policy: &Policy, now: UtcTime) -> Vec<Found> {
        let (mut newest, _) = self.judged(policy, now);
        newest.retain(|(_, found)| policy.check(&found.entry, now).is_ok());
        // Stable: within a Marketplace who endorsed last stays first.
        newest.sort_by_key(|(place, _)| *place);
        let with_hosts = |(_, found): (usize, &Found)| Found {
            hosts: policy.hosts.clone(),
            ..found.clone()
        };
        newest.into_iter().map(with_hosts).collect()
    }

    fn reasons(&self, policy: &Policy, now: UtcTime) -> Vec<String> {
        let (newest, strange) = self.judged(policy, now);
        let refused = newest
            .into_iter()
            .filter_map(|(_, found)| policy.check(&found.entry, now).err());
        let mut reasons: Vec<String> = Vec::new();
        let all = refused.chain(strange).map(|refusal| refusal.to_string());
        for reason in all.chain(self.unbelievable.iter().cloned()) {
            if reasons.len() == MAX_REASONS {
                reasons.push("and there are more that are refused".to_owned());
                break;
            }
            // Several Marketplaces have the same entries.
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }
}

/// Whether an entry counts as its endorser's at all, whatever it says of the image.
pub(super) fn is_of_somebody(policy: &Policy, entry: &Entry, now: UtcTime) -> Result<(), Refusal> {
    policy.trusts(entry, now)?;
    if entry.uses_sha1() && !policy.accepts_sha1 {
        return Err(Refusal::Sha1(entry.endorsement().email.clone()));
    }
    match policy.check(entry, now) {
        Err(refusal @ Refusal::NotYet { .. }) => Err(refusal),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_documents_those_are_verified_that_name_somebody_listed() {
        let flood = |count: usize| {
            let mut all = vec![b"<email>stranger@example.net</email>".to_vec(); count];
            all.push(b"<email>Alice@Example.org</email>".to_vec());
            all
        };
        let listed = ["alice@example.org".to_owned()];
        assert_eq!(of_listed(flood(5000), &listed).len(), 1);
        assert_eq!(of_listed(flood(5000), &[]).len(), 5001);
        // Few are all looked at: why each doesn't count is told.
        assert_eq!(of_listed(flood(100), &listed).len(), 101);
    }

    #[test]
    fn a_site_that_lists_certificates_looks_at_all() {
        let mut policy = Policy::default();
        policy.endorsers.white = vec!["a@example.org".to_owned()];
        assert_eq!(listed_addresses(&policy).len(), 1);
        policy.endorsers.white.push("CN=Alice,O=Example".to_owned());
        assert!(listed_addresses(&policy).is_empty());
    }

    #[tokio::test]
    async fn two_answers_are_verified_at_once() {
        let sha1 = "0".repeat(40).parse().expect("a digest");
        let identifier = ImageIdentifier::from_sha1(&sha1);
        let documents = vec![b"no entry".to_vec(); 3];
        let mut seen = Seen::default();
        let all = VERIFYING.acquire_many(2).await.ok();
        {
            let mut taking = pin!(seen.take((0, "m"), &identifier, documents.clone()));
            assert!(futures::poll!(taking.as_mut()).is_pending(), "two at once");
            drop(all);
            taking.await;
        }
        assert_eq!(seen.unbelievable.len(), 3);
    }
}
