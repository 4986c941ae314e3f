//! Giving up history.

use super::Shared;
use super::failure::{Failure, Refusal};
use super::keyspace::revision;
use super::wire::{CompactionRequest, HeaderResponse, RangeRequest, RangeResponse, path};
use crate::StoreError;

/// Forget what happened before `before`.
pub(super) async fn compact(shared: &Shared, before: i64) -> Result<(), StoreError> {
    let current = current(shared).await?;
    if before > current {
        return Err(StoreError::FutureRevision {
            asked: revision(before),
            current: revision(current),
        });
    }
    let at = match deletes(shared, before).await {
        Ok(true) => before - 1,
        Ok(false) => before,
        // As below.
        Err(Failure::Refused(Refusal::Compacted)) => return Ok(()),
        Err(failure) => return Err(shared.error("compacting", failure)),
    };
    if at <= 0 {
        return Ok(());
    }
    let request = CompactionRequest { revision: at };
    let compacted: Result<HeaderResponse, _> = shared.members.ask(path::COMPACT, &request).await;
    match compacted {
        // Somebody else was here, or we ourselves, and the answer was lost.
        Ok(_) | Err(Failure::Refused(Refusal::Compacted)) => Ok(()),
        Err(failure) => Err(shared.error("compacting", failure)),
    }
}

/// Keep so many revisions of history, with some slack, so that not every round has something to do.
pub(super) async fn keep(shared: &Shared, kept: u64) -> Result<(), StoreError> {
    let kept = i64::try_from(kept).unwrap_or(i64::MAX);
    let current = current(shared).await?;
    // Compacting less than was compacted does nothing: rounding makes rounds agree on where.
    let step = (kept / 8).max(1);
    let before = (current.saturating_sub(kept) / step) * step;
    if before > 0 {
        compact(shared, before).await?;
    }
    Ok(())
}

async fn current(shared: &Shared) -> Result<i64, StoreError> {
    let answer = shared.read(shared.keys.everything(), 1).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Whether documents of ours were deleted at exactly this revision: etcd forgets those that are the revision compacted at
/// (issue 18089), and a watch that begins there would miss them. As many as created and not there.
async fn deletes(shared: &Shared, at: i64) -> Result<bool, Failure> {
    let before = count(shared, at - 1, None).await?;
    let created = count(shared, at, Some(at)).await?;
    let after = count(shared, at, None).await?;
    Ok(before + created > after)
}

/// How many documents there were at a revision, or were created at it.
async fn count(shared: &Shared, at: i64, created: Option<i64>) -> Result<i64, Failure> {
    if at <= 0 {
        return Ok(0);
    }
    let (key, range_end) = shared.keys.everything();
    let request = RangeRequest {
        key,
        range_end,
        revision: at,
        // With limits on creation, etcd's `count` is still of all.
        keys_only: created.is_some(),
        count_only: created.is_none(),
        min_create_revision: created.unwrap_or(0),
        ..RangeRequest::default()
    };
    let answer: RangeResponse = shared.members.ask(path::RANGE, &request).await?;
    Ok(match created {
        Some(_) => i64::try_from(answer.kvs.len()).unwrap_or(i64::MAX),
        None => answer.count,
    })
}
