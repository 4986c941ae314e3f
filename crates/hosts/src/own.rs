//! What a host may say of itself: what it has and is, never what its operator wants of it.

use cimi::{
    Acl, Common,
    resources::{Host, HostPulse},
};
use store::Key;

use crate::said::Said;

/// Longest document of a host, in bytes; a processor's flags are about 2 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// What is written when a host says `said` of its own document `now`, if it may.
///
/// # Errors
/// Why not.
pub(crate) fn may_report(now: &Host, said: &Said<Host>) -> Result<Vec<u8>, String> {
    let mut expected = Host {
        id: now.id.clone(),
        common: now.common.clone(),
        desired: now.desired,
        unknown: now.unknown.clone(),
        ..said.document.clone()
    };
    expected.common.updated = said.document.common.updated;
    if expected.tunnel != now.tunnel
        && let Some(tunnel) = expected.tunnel
        && !Host::is_reached_by(tunnel)
    {
        return Err(format!("{}: no host has the address {tunnel}", now.id));
    }
    match said.written(&expected, &[]) {
        None => Err(format!(
            "{}: its name, access, what is wanted of it and fields of another version are the cloud's",
            now.id
        )),
        Some(bytes) if bytes.len() > MAX_BYTES => Err(format!(
            "{}: a host's document has up to {MAX_BYTES} bytes",
            now.id
        )),
        Some(bytes) => Ok(bytes),
    }
}

/// Whether a host may say so that it is there: nothing but when.
///
/// # Errors
/// Why not.
pub(crate) fn may_beat(key: &Key, then: &HostPulse) -> Result<(), String> {
    let bare = Common {
        updated: then.common.updated,
        ..Common::new(Acl::owned_by_admin(), then.common.created)
    };
    if *key.as_str() == *then.id.to_string() && value(&bare) == value(&then.common) {
        return Ok(());
    }
    Err(format!("{key} says more than that a host is there"))
}

fn value(common: &cimi::Common) -> Option<serde_json::Value> {
    serde_json::to_value(common).ok()
}
