//! Leases: whose one is, is written beside it, so that every entry point knows, and nobody keeps or ends another's.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tonic::Status;

use super::{Audience, Peer, Shared, status};
use crate::etcd::wire::{
    Header, HeaderResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, LeaseResponse,
};
use crate::{Entry, Key, LeaseId, Outcome, StoreError, Transaction};

/// Where it is written whose a lease is.
pub(super) const OWNERS: &str = "GatewayLease";
/// Leases of a named peer at once: some, so that one that was killed and comes back again and again isn't kept out by those
/// it has left behind.
pub(super) const LEASES_AT_MOST: usize = 16;
/// Longest time to live that a named peer gets: what it leaves behind is gone within it.
const MAX_TTL: Duration = Duration::from_secs(600);

/// Whose lease it is, of the document that says so.
pub(super) fn owner(entry: &Entry) -> Option<Audience> {
    let name = std::str::from_utf8(&entry.value).ok();
    name.filter(|_| entry.key.collection() == OWNERS)
        .map(Audience::peer)
}

fn owner_key(lease: LeaseId) -> Result<Key, Status> {
    Key::new(OWNERS, &lease.to_string()).map_err(|error| Status::internal(error.to_string()))
}

pub(super) fn lease(number: i64) -> Result<LeaseId, Status> {
    match u64::try_from(number) {
        Ok(id) if id > 0 => Ok(LeaseId(id)),
        _ => Err(Status::not_found(status::LEASE_NOT_FOUND)),
    }
}

/// That `peer` may use `lease`. Of another's it is said that it isn't there.
pub(super) async fn require(shared: &Shared, peer: &Peer, lease: LeaseId) -> Result<(), Status> {
    let Peer::Named(name) = peer else {
        return Ok(());
    };
    let owner = shared.store.get(&owner_key(lease)?).await;
    match owner.map_err(|error| status::of(&error))? {
        Some(owner) if *owner.value == *name.as_bytes() => Ok(()),
        _ => Err(Status::not_found(status::LEASE_NOT_FOUND)),
    }
}

pub(super) async fn grant(
    shared: &Shared,
    peer: &Peer,
    asked: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Status> {
    let asked = Duration::from_secs(u64::try_from(asked.ttl).unwrap_or(0).max(1));
    let Peer::Named(name) = peer else {
        let granted = shared.store.grant(asked).await;
        return answer(granted.map_err(|error| status::of(&error))?);
    };
    let allowance = shared.allowances.of(name);
    allowance.spend(0)?;
    // One after another: none sees fewer than there are.
    let _granting = allowance.granting.lock().await;
    let leases = shared.hub.leases_of(name);
    if leases >= LEASES_AT_MOST {
        return Err(Status::resource_exhausted(format!(
            "{name} has {leases} leases, and gets no more before some of them have ended"
        )));
    }
    let granted = shared.store.grant(asked.min(MAX_TTL)).await;
    let granted = granted.map_err(|error| status::of(&error))?;
    let owner =
        Transaction::new().put_with_lease(owner_key(granted)?, name.as_bytes().to_vec(), granted);
    match shared.store.commit(owner).await {
        Ok(Outcome::Committed(at)) => {
            shared.hub.reach(at).await;
            answer(granted)
        }
        Ok(Outcome::Conflict(_)) => Err(Status::internal("a lease's name was taken")),
        // The lease ends by itself.
        Err(error) => Err(status::of(&error)),
    }
}

fn answer(granted: LeaseId) -> Result<LeaseGrantResponse, Status> {
    let id = i64::try_from(granted.0)
        .map_err(|_large| Status::internal("the lease has too large a name"))?;
    Ok(LeaseGrantResponse { id })
}

pub(super) async fn revoke(
    shared: &Shared,
    peer: &Peer,
    asked: LeaseRequest,
) -> Result<HeaderResponse, Status> {
    let lease = lease(asked.id)?;
    shared.allowances.spend(peer, 0)?;
    require(shared, peer, lease).await?;
    let ended = shared.store.revoke(lease).await;
    ended.map_err(|error| status::of(&error))?;
    Ok(HeaderResponse {
        header: Some(Header::default()),
    })
}

/// How long it lives from now on; zero if it has ended.
async fn renewed(shared: &Shared, peer: &Peer, number: i64) -> Result<LeaseResponse, Status> {
    let ended = Ok(LeaseResponse { ttl: 0 });
    let Ok(lease) = lease(number) else {
        return ended;
    };
    if let Err(refused) = require(shared, peer, lease).await {
        return match refused.code() {
            tonic::Code::NotFound => ended,
            _ => Err(refused),
        };
    }
    match shared.store.keep_alive(lease).await {
        Ok(ttl) => Ok(LeaseResponse {
            ttl: i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX),
        }),
        Err(StoreError::LeaseNotFound { .. }) => ended,
        Err(error) => Err(status::of(&error)),
    }
}

pub(super) async fn keep_alive(
    shared: &Shared,
    peer: &Peer,
    asked: LeaseRequest,
) -> Result<BoxStream<'static, Result<LeaseResponse, Status>>, Status> {
    let kept = renewed(shared, peer, asked.id).await?;
    Ok(stream::iter([Ok(kept)]).boxed())
}

/// Asked for to learn whether a lease exists. A store can't tell without renewing it, which harms nobody.
pub(super) async fn time_to_live(
    shared: &Shared,
    peer: &Peer,
    asked: LeaseRequest,
) -> Result<LeaseResponse, Status> {
    renewed(shared, peer, asked.id).await
}
