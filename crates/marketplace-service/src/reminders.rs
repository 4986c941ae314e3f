//! Reminding endorsers: every 30 days of what they have here, every day of what ends within three.
//!
//! When somebody was reminded last is a document of its own, written in the transaction that queues the letter: killed anywhere, a letter
//! is queued once. Whether somebody wants to be reminded stands beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::Outbox;
use marketplace::UtcTime;
use marketplace::catalogue::{Order, Query, Record};
use serde::{Deserialize, Serialize};
use store::{Key, Outcome, Revision, Transaction};

use crate::service::now;
use crate::stored::reminder_key;
use crate::upload::{ATTEMPTS, encoded};
use crate::{Marketplace, Refused, letters};

const DAY: i64 = 86_400;
/// Between two lists of everything.
const LIST: i64 = 30 * DAY;
/// Between two warnings. A little less than a day, so that they come at about the same time each day.
const WARNING: i64 = DAY - 3600;
/// What ends this soon is warned of.
const SOON: i64 = 3 * DAY;

/// When an endorser was reminded last.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Reminded {
    /// Of everything. At first: when the endorser was seen.
    listed: UtcTime,
    /// Of what ends soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warned: Option<UtcTime>,
    /// The endorser doesn't want to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_off: bool,
}

impl Reminded {
    /// Nobody is reminded because this Marketplace has begun to.
    const fn beginning(now: UtcTime) -> Self {
        Self {
            listed: now,
            warned: None,
            is_off: false,
        }
    }
}

impl Marketplace {
    /// When an endorser was reminded, and the revision of that; of nothing, if never.
    async fn reminded(&self, email: &str) -> Result<(Key, Revision, Option<Reminded>), Refused> {
        let key = reminder_key(email)?;
        let Some(there) = self.0.store.get(&key).await? else {
            return Ok((key, Revision::default(), None));
        };
        let reminded = serde_json::from_slice(&there.value)
            .map_err(|error| Refused::Internal(format!("{key}: {error}")))?;
        Ok((key, there.revision, Some(reminded)))
    }

    /// Whether an endorser wants to be reminded.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn wants_reminders(&self, email: &str) -> Result<bool, Refused> {
        let (_, _, reminded) = self.reminded(email).await?;
        Ok(!reminded.is_some_and(|reminded| reminded.is_off))
    }

    /// Has an endorser be reminded, or not.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_reminders(&self, email: &str, wants: bool) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            let (key, revision, before) = self.reminded(email).await?;
            let reminded = Reminded {
                is_off: !wants,
                ..before.unwrap_or(Reminded::beginning(now()))
            };
            let transaction = Transaction::new()
                .revision_is(&key, revision)
                .put(key, encoded(&reminded)?);
            if let Outcome::Committed(_) = self.0.store.commit(transaction).await? {
                return Ok(());
            }
        }
        Err(Refused::Internal(format!("others kept reminding {email}")))
    }

    /// Queues the letters that are due at `now`; returns how many. Does nothing unless the settings want reminders and letters can be sent.
    ///
    /// # Errors
    /// Those of the store. Endorsers before that have their letters.
    pub async fn remind(&self, now: UtcTime) -> Result<usize, Refused> {
        let settings = self.settings();
        if !settings.reminds || !settings.sends_letters {
            return Ok(0);
        }
        let valid = self.ask(|catalogue| {
            catalogue.search(&Query::default(), Order::default(), 0, usize::MAX, now)
        })?;
        let mut of_endorser: BTreeMap<Arc<str>, Vec<Arc<Record>>> = BTreeMap::new();
        for record in valid.page {
            let records = of_endorser.entry(Arc::clone(&record.email)).or_default();
            records.push(record);
        }
        let mut sent = 0;
        for (email, records) in of_endorser {
            sent += self.remind_one(&email, &records, now).await?;
        }
        Ok(sent)
    }

    /// `records` are those that are valid, and at least one.
    async fn remind_one(
        &self,
        email: &str,
        records: &[Arc<Record>],
        now: UtcTime,
    ) -> Result<usize, Refused> {
        let settings = self.settings();
        let (key, revision, before) = self.reminded(email).await?;
        let mut reminded = before.unwrap_or(Reminded::beginning(now));
        if reminded.is_off {
            return Ok(0);
        }
        let since = |then: UtcTime| now.unix_seconds().saturating_sub(then.unix_seconds());
        let mut due = Vec::new();
        let ending: Vec<_> = records
            .iter()
            .filter(|record| record.valid.is_some_and(|valid| -since(valid) <= SOON))
            .cloned()
            .collect();
        if !ending.is_empty()
            && reminded
                .warned
                .is_none_or(|warned| since(warned) >= WARNING)
        {
            due.push(letters::ending(settings, email, &ending));
            reminded.warned = Some(now);
        }
        if since(reminded.listed) >= LIST {
            due.push(letters::current(settings, email, records));
            reminded.listed = now;
        }
        if due.is_empty() && before.is_some() {
            return Ok(0);
        }
        let mut transaction = Transaction::new()
            .revision_is(&key, revision)
            .put(key, encoded(&reminded)?);
        let mut count = 0;
        for letter in due {
            match letter.and_then(|letter| Outbox::add(&letter, transaction.clone())) {
                Ok(with) => {
                    transaction = with;
                    count += 1;
                }
                // Written down all the same, so that it isn't tried every hour.
                Err(error) => tracing::warn!(email, %error, "an endorser can't be reminded"),
            }
        }
        match self.0.store.commit(transaction).await? {
            Outcome::Committed(_) => Ok(count),
            // Another daemon has done it.
            Outcome::Conflict(_) => Ok(0),
        }
    }
}
