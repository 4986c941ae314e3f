//! Leases: etcd's own, in whole seconds.

use std::time::Duration;

use super::failure::{Failure, Refusal};
use super::keyspace::lease_number;
use super::members::Members;
use super::wire::{
    HeaderResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, LeaseResponse, path,
};
use crate::LeaseId;

/// Longest time to live.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// A new lease.
pub(super) async fn grant(members: &Members, ttl: Duration) -> Result<LeaseId, Failure> {
    let ttl = ttl.min(MAX_TTL);
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let request = LeaseGrantRequest {
        ttl: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX),
    };
    // One that was granted without our hearing of it expires.
    let granted: LeaseGrantResponse = members.ask(path::LEASE_GRANT, &request).await?;
    Ok(LeaseId(granted.id.unsigned_abs()))
}

/// Start its time anew; `None` if it has ended.
pub(super) async fn keep_alive(members: &Members, id: i64) -> Result<Option<Duration>, Failure> {
    let request = LeaseRequest { id };
    let (answer, _exchange) = members
        .listen::<_, LeaseResponse>(path::LEASE_KEEP_ALIVE, &request)
        .await?;
    Ok(u64::try_from(answer.ttl)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs))
}

/// End it; whether it was there.
pub(super) async fn revoke(members: &Members, id: i64) -> Result<bool, Failure> {
    let request = LeaseRequest { id };
    let until = tokio::time::Instant::now() + members.deadline;
    let mut in_doubt = false;
    loop {
        let ended = members.once(path::LEASE_REVOKE, &request, until).await;
        match ended.map(|_: HeaderResponse| ()) {
            Ok(()) => return Ok(true),
            // Then it was us, as far as anybody can tell.
            Err(Failure::Refused(Refusal::LeaseNotFound)) => return Ok(in_doubt),
            Err(Failure::Unknown(_)) if tokio::time::Instant::now() < until => in_doubt = true,
            Err(failure) => return Err(failure),
        }
    }
}

/// The first of these leases that doesn't exist.
pub(super) async fn missing(
    members: &Members,
    leases: impl Iterator<Item = LeaseId>,
) -> Result<Option<LeaseId>, Failure> {
    for lease in leases {
        let request = LeaseRequest {
            id: lease_number(lease),
        };
        let answer = members.ask(path::LEASE_TIME_TO_LIVE, &request).await;
        match answer {
            Ok(LeaseResponse { ttl }) if ttl > 0 => {}
            Ok(_) | Err(Failure::Refused(Refusal::LeaseNotFound)) => return Ok(Some(lease)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}
