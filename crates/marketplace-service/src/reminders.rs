//! Reminding endorsers: every 30 days of what they have here, every day of what ends within three.
//!
//! When somebody was reminded last is a document of its own, written in the transaction that queues the letter: killed anywhere, a letter
//! is queued once.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::Outbox;
use marketplace::UtcTime;
use marketplace::catalogue::{Order, Query, Record};
use serde::{Deserialize, Serialize};
use store::{Outcome, Transaction};

use crate::stored::reminder_key;
use crate::upload::encoded;
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
}

impl Marketplace {
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
        let key = reminder_key(email)?;
        let there = self.0.store.get(&key).await?;
        let before = match &there {
            Some(entry) => Some(
                serde_json::from_slice::<Reminded>(&entry.value)
                    .map_err(|error| Refused::Internal(format!("{key}: {error}")))?,
            ),
            None => None,
        };
        let mut reminded = before.unwrap_or(Reminded {
            listed: now,
            warned: None,
        });
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
            .revision_is(&key, there.map(|entry| entry.revision).unwrap_or_default())
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
