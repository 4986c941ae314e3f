//! Images by tag: the name that an endorser gives to whatever image is the newest of its kind (`dcterms:alternative`). A tag
//! means nothing without its endorser, and is never pinned: what it leads to is asked each time.

use std::cmp::Reverse;
use std::time::Duration;

use futures::future::join_all;
use marketplace::policy::{Lists, Policy};
use marketplace::{Entry, metadata::is_email};
use reqwest::Url;

use super::marketplaces::{Found, Marketplace, is_of_somebody, now};
use super::{LookupError, Registries};

/// How long a Marketplace is waited for: somebody would start a machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest tag that is asked for.
const MAX_TAG_BYTES: usize = 200;

impl Marketplace {
    async fn tagged_in_time(&self, email: &str, tag: &str) -> Result<Option<Vec<u8>>, String> {
        let asked = tokio::time::timeout(PATIENCE, self.tagged(email, tag)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
    }
}

impl Registries {
    /// The entry that an endorser's tag leads to. All Marketplaces are asked at once, each for seconds at most; the newest
    /// endorsement counts, of equal ones that of the Marketplace that is configured first.
    ///
    /// # Errors
    /// [`LookupError::Unavailable`] if a Marketplace that didn't answer might have it, else [`LookupError::Refused`] with
    /// every reason.
    pub async fn tagged(&self, email: &str, tag: &str) -> Result<Found, LookupError> {
        let is_fit = !tag.is_empty()
            && tag.len() <= MAX_TAG_BYTES
            && !tag.chars().any(char::is_control)
            && is_email(email);
        if !is_fit {
            let shown: String = format!("{tag}@{email}").chars().take(300).collect();
            return Err(LookupError::Refused(format!(
                "`{}` is no tag and address of an endorser",
                shown.escape_debug()
            )));
        }
        let asked = self.marketplaces().iter().map(|marketplace| async move {
            (
                marketplace.name(),
                marketplace.tagged_in_time(email, tag).await,
            )
        });
        let (mut documents, mut silent) = (Vec::new(), Vec::new());
        for (place, (name, answer)) in join_all(asked).await.into_iter().enumerate() {
            match answer {
                Ok(None) => {}
                Ok(Some(document)) => documents.push((place, name.to_owned(), document)),
                Err(error) => {
                    tracing::warn!(
                        marketplace = name,
                        error,
                        "a Marketplace can't be asked for a tag"
                    );
                    silent.push(format!("Marketplace {name}: {error}"));
                }
            }
        }
        let (source, email, tag) = (self.policy().clone(), email.to_owned(), tag.to_owned());
        let names: Vec<&str> = self.marketplaces().iter().map(Marketplace::name).collect();
        let none = format!(
            "no Marketplace of this cloud ({}) has an image with the tag `{}` of {email}",
            names.join(", "),
            tag.escape_debug()
        );
        let judged = tokio::task::spawn_blocking(move || {
            let policy = source.read()?;
            Ok(newest(&policy, documents, &email, &tag))
        });
        let judged = judged
            .await
            .map_err(|error| LookupError::Unavailable(error.to_string()))?;
        match judged? {
            Ok(found) => Ok(found),
            Err(reasons) if !silent.is_empty() => {
                silent.extend(reasons);
                Err(LookupError::Unavailable(silent.join("; ")))
            }
            Err(reasons) if reasons.is_empty() => Err(LookupError::Refused(none)),
            Err(reasons) => Err(LookupError::Refused(format!(
                "{none} that may be used: {}",
                reasons.join("; ")
            ))),
        }
    }

    /// Whether an address is of an entry or a tag of one of the Marketplaces.
    #[must_use]
    pub fn have_entry_at(&self, url: &str) -> bool {
        let all = self.marketplaces();
        Url::parse(url).is_ok_and(|url| all.iter().any(|one| one.has_entry_at(&url)))
    }
}

/// The newest of these entries, if it is the endorser's, has the tag, and the site accepts it; else why not. An older one is
/// not taken instead of one that isn't accepted: the endorser replaced it.
fn newest(
    policy: &Policy,
    documents: Vec<(usize, String, Vec<u8>)>,
    email: &str,
    tag: &str,
) -> Result<Found, Vec<String>> {
    let (mut good, mut reasons) = (Vec::new(), Vec::new());
    for (place, marketplace, document) in documents {
        let of = |why: &dyn std::fmt::Display| {
            format!("an entry of Marketplace {marketplace} is refused: {why}")
        };
        let entry = match Entry::verify(&document) {
            Ok(entry) => entry,
            Err(error) => {
                reasons.push(of(&error));
                continue;
            }
        };
        let is_asked_for = entry.endorsement().email.eq_ignore_ascii_case(email)
            && entry.metadata().tag.as_deref() == Some(tag);
        if !is_asked_for {
            reasons.push(of(&"it is not of this tag and endorser"));
        } else if let Err(refusal) = is_of_somebody(policy, &entry, now()) {
            reasons.push(refusal.to_string());
        } else {
            let hosts = Lists::default();
            good.push((
                place,
                Found {
                    entry,
                    marketplace,
                    hosts,
                },
            ));
        }
    }
    good.sort_by_key(|(place, found)| (Reverse(found.entry.endorsement().created), *place));
    let Some((_, found)) = good.into_iter().next() else {
        return Err(reasons);
    };
    match policy.check(&found.entry, now()) {
        Ok(()) => Ok(Found {
            hosts: policy.hosts.clone(),
            ..found
        }),
        Err(refusal) => Err(vec![refusal.to_string()]),
    }
}
