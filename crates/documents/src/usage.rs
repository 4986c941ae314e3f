//! Uses that are over: one document each, written in the transaction that ends the use.
//!
//! They are kept for years, so they are in no cache. Their keys are `Usage/<user>/<UUIDv7>`: those of one user are
//! neighbours, in the order in which they ended, so that a period of one user is read without the rest. What can't be in a
//! key is written otherwise: members of virtual organisations are called by the subject of their certificate.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use cimi::{
    JobId, Timestamp,
    resources::{UsageRecord, Use},
};
use store::{Key, Prefix, Range};

use crate::{Documents, DocumentsError};

const COLLECTION: &str = "Usage";
/// Most reads of the store for one page: a period in which most users used nothing is passed over in several pages.
const READS_AT_MOST: usize = 64;
/// Records that are removed in one transaction.
const FORGOTTEN_AT_ONCE: usize = 100;

/// The document of a use that ends now.
pub(crate) fn record(used: Use, now: Timestamp) -> Result<(Key, Vec<u8>), DocumentsError> {
    // Any identifier that rises with time.
    let id = format!("{}/{}", in_key(&used.user), JobId::generate().local());
    let record = UsageRecord {
        end: now.max(used.start),
        used,
        unknown: cimi::resources::Unknown::new(),
    };
    Ok((Key::new(COLLECTION, &id)?, serde_json::to_vec(&record)?))
}

/// Some records, and where to go on.
#[derive(Debug, Default)]
pub struct Page {
    /// By user, then by their end.
    pub records: Vec<UsageRecord>,
    /// What the next page begins after; none: there is none.
    pub next: Option<String>,
}

/// How a user is named in keys: by the name, or, of what can't be in a key or would be two parts of one, `%` and its bytes
/// in base 64. No two users are named alike, and of the longest name (255 bytes) there is room.
fn in_key(user: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if !user.starts_with('%') && user.bytes().all(is_plain) {
        return Cow::Borrowed(user);
    }
    Cow::Owned(format!("%{}", BASE64_URL_SAFE_NO_PAD.encode(user)))
}

/// Whose record has a key, as [`in_key`].
fn whose(key: &Key) -> &str {
    let parts = key.id().rsplit_once('/');
    parts.map_or(key.id(), |(user, _)| user)
}

/// The key before everything that ended for a user, as [`in_key`], at `time` or later.
fn seek(user: &str, time: Timestamp) -> Result<Key, DocumentsError> {
    let millis = u64::try_from(time.as_millis()).unwrap_or(0);
    let id = format!("{user}/{:08x}-{:04x}", millis >> 16, millis & 0xffff);
    Ok(Key::new(COLLECTION, &id)?)
}

/// The key after everything that ever ended for a user, as [`in_key`].
fn beyond(user: &str) -> Result<Key, DocumentsError> {
    // What comes after the slash of all keys of the user.
    Ok(Key::new(COLLECTION, &format!("{user}0"))?)
}

/// What a walk over old records did.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// Records removed.
    pub records: usize,
    /// Where the next walk goes on; none: all users were looked at.
    pub next: Option<String>,
}

impl Documents {
    /// Removes records of uses that ended before `until`: at most as many as `reads` pages of a hundred have, and looks at no
    /// more users than that. `after` is the `next` of the walk before. What somebody else removes meanwhile is gone as well.
    ///
    /// # Errors
    /// Those of the store, and of an `after` that is none.
    pub async fn forget_usage(
        &self,
        until: Timestamp,
        after: Option<&str>,
        reads: usize,
    ) -> Result<Forgotten, DocumentsError> {
        let prefix = Prefix::collection(COLLECTION)?;
        let mut at = after.map(|at| Key::new(COLLECTION, at)).transpose()?;
        let mut forgotten = Forgotten::default();
        for _ in 0..reads {
            let mut range = Range::prefix(&prefix).limit(FORGOTTEN_AT_ONCE);
            if let Some(at) = &at {
                range = range.after(at);
            }
            let read = self.store().range(range).await?;
            let Some(first) = read.entries.first() else {
                return Ok(forgotten);
            };
            let user = whose(&first.key).to_owned();
            let end = seek(&user, until)?;
            let old = read.entries.iter().take_while(|entry| entry.key < end);
            let old: Vec<_> = old.collect();
            if !old.is_empty() {
                let changes = old.iter().fold(self.changes(), |changes, entry| {
                    changes.remove_raw(&entry.key, entry.revision)
                });
                match changes.commit().await {
                    Ok(_) => forgotten.records += old.len(),
                    // Another daemon forgets, too.
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error),
                }
            }
            // More old ones of this user may follow; else on to the next user.
            at = match old.last() {
                Some(last) if old.len() == read.entries.len() => Some(last.key.clone()),
                _ => Some(beyond(&user)?),
            };
        }
        forgotten.next = at.map(|at| at.id().to_owned());
        Ok(forgotten)
    }

    /// At most `limit` uses that ended at `from` or later, by user and end; with `user`, those of one. `after` is the `next`
    /// of the page before.
    ///
    /// # Errors
    /// Those of the store, and of an `after` that is none.
    pub async fn usage(
        &self,
        user: Option<&str>,
        from: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, DocumentsError> {
        let user = user.map(in_key);
        let user = user.as_deref();
        let prefix = match user {
            None => Prefix::collection(COLLECTION)?,
            Some(user) => Prefix::new(&format!("{COLLECTION}/{user}/"))?,
        };
        let mut at = match (after, user) {
            (Some(after), _) => Some(Key::new(COLLECTION, after)?),
            (None, Some(user)) => Some(seek(user, from)?),
            (None, None) => None,
        };
        let mut page = Page::default();
        for _ in 0..READS_AT_MOST {
            let wanted = limit.saturating_sub(page.records.len());
            let mut range = Range::prefix(&prefix).limit(wanted.max(1));
            if let Some(at) = &at {
                range = range.after(at);
            }
            let read = self.store().range(range).await?;
            let mut skipped = false;
            for entry in &read.entries {
                let begin = seek(whose(&entry.key), from)?;
                if entry.key < begin {
                    // Of before: on to what this user has since.
                    at = Some(begin);
                    skipped = true;
                    break;
                }
                at = Some(entry.key.clone());
                match serde_json::from_slice(&entry.value) {
                    Ok(record) => page.records.push(record),
                    Err(error) => {
                        tracing::warn!(key = %entry.key, %error, "a record of use can't be read: left out");
                    }
                }
            }
            if !skipped && !read.more {
                return Ok(page);
            }
            if page.records.len() >= limit {
                break;
            }
        }
        page.next = at.map(|at| at.id().to_owned());
        Ok(page)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]
mod tests {
    use std::sync::Arc;

    use cimi::{
        Acl, Common, VolumeId,
        resources::{Resource as _, Unknown, Volume, VolumeState},
        size::ByteSize,
    };
    use store::SqliteStore;

    use super::*;

    /// A time after all that has ended until `moment`: what was made and removed at once ends a millisecond after the clock.
    async fn clock_has_passed(moment: Timestamp) -> Timestamp {
        loop {
            let now = Timestamp::now();
            if now.as_millis() > moment.as_millis() + 2 {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    fn volume(owner: &str, created: Timestamp) -> Volume {
        Volume {
            id: VolumeId::generate(),
            common: Common::new(Acl::owned_by_user(owner), created),
            state: VolumeState::Available,
            reason: None,
            kind: cimi::resources::MAPPED.into(),
            size_bytes: ByteSize::from_gib(1),
            bootable: false,
            attachment: None,
            deleted: false,
            origin: None,
            base: None,
            capture: None,
            location: None,
            size_since: None,
            unknown: Unknown::new(),
        }
    }

    async fn documents() -> (Documents, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        (Documents::open(store).await.unwrap(), folder)
    }

    #[tokio::test]
    async fn each_size_and_each_owner_has_an_interval_and_they_meet() {
        let (documents, _folder) = documents().await;
        let created = Timestamp::from_millis(Timestamp::now().as_millis() - 5_000);
        let volume = volume("alice", created);
        let id = volume.local_id().to_owned();
        documents.changes().create(&volume).commit().await.unwrap();
        let change = async |edit: fn(&mut Volume)| {
            let read = documents.volumes.get(&id).unwrap();
            let mut next = read.document.0.clone();
            edit(&mut next);
            documents
                .changes()
                .replace(&read, next)
                .commit()
                .await
                .unwrap();
        };
        change(|volume| volume.common.name = Some("renamed".into())).await;
        change(|volume| volume.size_bytes = ByteSize::from_gib(2)).await;
        change(|volume| volume.common.acl = Acl::owned_by_user("bob")).await;
        let read = documents.volumes.get(&id).unwrap();
        documents.changes().remove(&read).commit().await.unwrap();

        let page = documents.usage(None, Timestamp::from_millis(0), None, 100);
        let page = page.await.unwrap();
        let seen = page.records.iter().map(|record| {
            let gib = record.used.bytes.unwrap() >> 30;
            (
                record.used.user.as_str(),
                gib,
                record.used.start,
                record.end,
            )
        });
        let seen: Vec<_> = seen.collect();
        assert_eq!(
            seen.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(),
            [("alice", 1), ("alice", 2), ("bob", 2)]
        );
        assert_eq!(seen[0].2, created);
        assert_eq!(seen[0].3, seen[1].2);
        assert_eq!(seen[1].3, seen[2].2);
        assert_eq!(page.next, None);
    }

    #[tokio::test]
    async fn old_records_are_forgotten_in_steps_and_no_others() {
        let (documents, _folder) = documents().await;
        let use_once = async |user: &str| {
            let volume = volume(user, Timestamp::now());
            documents.changes().create(&volume).commit().await.unwrap();
            let read = documents.volumes.get(volume.local_id()).unwrap();
            documents.changes().remove(&read).commit().await.unwrap();
        };
        // More of one user than go at once, and names that stand beside each other.
        for (user, uses) in [("a", 3), ("a-b", 120), ("a0", 2), ("b", 1)] {
            for _ in 0..uses {
                use_once(user).await;
            }
        }
        // Keys have milliseconds; what ends in the one of `until` stays.
        let until = clock_has_passed(Timestamp::now()).await;
        for user in ["a", "a0", "c"] {
            use_once(user).await;
        }
        let (mut records, mut walks, mut after) = (0, 0, None::<String>);
        loop {
            let step = documents.forget_usage(until, after.as_deref(), 1);
            let step = step.await.unwrap();
            assert!(step.records <= FORGOTTEN_AT_ONCE);
            records += step.records;
            walks += 1;
            match step.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(records, 126);
        assert!(walks > 5, "a step is one read: {walks}");
        let left = documents.usage(None, Timestamp::from_millis(0), None, 1000);
        let left = left.await.unwrap().records;
        let left: Vec<_> = left.iter().map(|left| left.used.user.as_str()).collect();
        assert_eq!(left, ["a", "a0", "c"]);
        let again = documents.forget_usage(until, None, 100).await.unwrap();
        assert_eq!((again.records, again.next), (0, None));
    }

    /// A clock that was set back since a volume was made, changed: its uses follow one another all the same.
    #[tokio::test]
    async fn uses_meet_whatever_becomes_of_the_clock() {
        let (documents, _folder) = documents().await;
        let later = Timestamp::from_millis(Timestamp::now().as_millis() + 3_600_000);
        let volume = volume("alice", later);
        let id = volume.local_id().to_owned();
        documents.changes().create(&volume).commit().await.unwrap();
        let read = documents.volumes.get(&id).unwrap();
        let mut next = read.document.0.clone();
        next.size_bytes = ByteSize::from_gib(2);
        let grow = documents.changes().replace(&read, next);
        grow.commit().await.unwrap();
        let read = documents.volumes.get(&id).unwrap();
        documents.changes().remove(&read).commit().await.unwrap();
        let page = documents.usage(None, Timestamp::from_millis(0), None, 9);
        let records = page.await.unwrap().records;
        let [first, second] = &records[..] else {
            panic!("{records:?}");
        };
        assert_eq!(first.used.start, later);
        assert!(first.end > later);
        assert_eq!(second.used.start, first.end);
        assert!(second.end > first.end);
    }

    /// What a member of a virtual organisation had could not be removed: no key has a space.
    #[tokio::test]
    async fn whoever_has_a_name_is_accounted_for() {
        let (documents, _folder) = documents().await;
        let longest = "ü".repeat(127);
        let names = [
            "CN=Bob,O=Example Org,C=EU",
            "CN=host",
            "CN=host/a.example.org",
            "%Q049",
            "CN=",
            &longest,
        ];
        for name in names {
            let volume = volume(name, Timestamp::now());
            documents.changes().create(&volume).commit().await.unwrap();
            let read = documents.volumes.get(volume.local_id()).unwrap();
            documents.changes().remove(&read).commit().await.unwrap();
        }
        let begin = Timestamp::from_millis(0);
        for name in names {
            let page = documents.usage(Some(name), begin, None, 100).await.unwrap();
            let whose: Vec<_> = page.records.iter().map(|r| r.used.user.as_str()).collect();
            assert_eq!(whose, [name]);
        }
        let end = clock_has_passed(Timestamp::now()).await;
        let forgotten = documents.forget_usage(end, None, 100).await.unwrap();
        assert_eq!((forgotten.records, forgotten.next), (names.len(), None));
    }

    #[tokio::test]
    async fn what_lost_the_race_ends_nothing() {
        let (documents, _folder) = documents().await;
        let volume = volume("alice", Timestamp::now());
        documents.changes().create(&volume).commit().await.unwrap();
        let read = documents.volumes.get(volume.local_id()).unwrap();
        let (first, second) = (
            documents.changes().remove(&read),
            documents.changes().remove(&read),
        );
        first.commit().await.unwrap();
        assert!(second.commit().await.unwrap_err().is_conflict());
        let page = documents.usage(Some("alice"), Timestamp::from_millis(0), None, 100);
        assert_eq!(page.await.unwrap().records.len(), 1);
    }

    #[tokio::test]
    async fn pages_together_are_the_whole_and_a_period_leaves_out_what_ended_before() {
        let (documents, _folder) = documents().await;
        let mut middle = None;
        for round in 0..2 {
            for user in ["alice", "alice2", "bob", "~x"] {
                for _ in 0..7 {
                    let volume = volume(user, Timestamp::now());
                    documents.changes().create(&volume).commit().await.unwrap();
                    let read = documents.volumes.get(volume.local_id()).unwrap();
                    documents.changes().remove(&read).commit().await.unwrap();
                }
            }
            if round == 0 {
                middle = Some(clock_has_passed(Timestamp::now()).await);
            }
        }
        let all = async |user: Option<&str>, from: Timestamp, limit: usize| {
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let page = documents.usage(user, from, after.as_deref(), limit);
                let page = page.await.unwrap();
                assert!(page.records.len() <= limit);
                found.extend(page.records);
                match page.next {
                    Some(next) => after = Some(next),
                    None => return found,
                }
            }
        };
        let begin = Timestamp::from_millis(0);
        for limit in [1, 3, 1000] {
            assert_eq!(all(None, begin, limit).await.len(), 56, "{limit}");
            assert_eq!(all(None, middle.unwrap(), limit).await.len(), 28, "{limit}");
            assert_eq!(all(Some("alice"), begin, limit).await.len(), 14);
            let since = all(Some("alice"), middle.unwrap(), limit).await;
            assert_eq!(since.len(), 7);
            assert!(since.iter().all(|record| record.used.user == "alice"));
        }
        assert!(all(Some("nobody"), begin, 10).await.is_empty());
    }
}
