//! Errors of a store in the words of etcd, by which its clients know what may have happened.

use tonic::Status;

use crate::StoreError;

pub(super) const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

pub(super) fn of(error: &StoreError) -> Status {
    match error {
        StoreError::Transaction(_) => Status::invalid_argument(error.to_string()),
        StoreError::LeaseNotFound { .. } => Status::not_found(LEASE_NOT_FOUND),
        StoreError::FutureRevision { .. } => {
            Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
        }
        StoreError::Full { .. } | StoreError::Quota { .. } => {
            Status::resource_exhausted("etcdserver: mvcc: database space exceeded")
        }
        // Nothing was changed: another entry point may do it.
        StoreError::Unavailable { reason, .. } => {
            Status::unavailable(format!("etcdserver: no leader: {reason}"))
        }
        StoreError::Closed => Status::unavailable("etcdserver: no leader: this entry point stops"),
        // What is left may have happened.
        other => {
            tracing::warn!(error = %other, "a call through the gateway failed");
            Status::unknown("the store failed: see the log of the entry point")
        }
    }
}

pub(super) fn denied(reason: impl Into<String>) -> Status {
    Status::permission_denied(reason)
}

pub(super) fn unusual(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what} is not offered here: this speaks the part of etcd that Stratus needs"
    ))
}

/// By which clients know that nothing was done, and later it may be.
pub(super) fn too_many(reason: &str) -> Status {
    Status::resource_exhausted(format!("etcdserver: too many requests: {reason}"))
}
