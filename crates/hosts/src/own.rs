//! What a host may say of itself: what it has and is, never what its operator wants of it.

use cimi::{
    Acl, Common,
    resources::{Host, HostPulse},
};
use store::Key;

/// Longest document of a host, in bytes; a processor's flags are about 2 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// Whether a host may make `then` of its own document `now`.
///
/// # Errors
/// Why not.
pub(crate) fn may_report(now: &Host, then: &Host) -> Result<(), String> {
    let mut common = now.common.clone();
    common.updated = then.common.updated;
    let (common, claimed) = (value(&common), value(&then.common));
    if now.id != then.id || common.is_none() || common != claimed || now.desired != then.desired {
        return Err(format!(
            "{}: its name, access and what is wanted of it are the cloud's",
            now.id
        ));
    }
    if then.tunnel != now.tunnel
        && let Some(tunnel) = then.tunnel
        && !Host::is_reached_by(tunnel)
    {
        return Err(format!("{}: no host has the address {tunnel}", now.id));
    }
    if now.unknown != then.unknown {
        return Err(format!(
            "{}: fields of another version stay as they are",
            now.id
        ));
    }
    match serde_json::to_vec(then) {
        Ok(bytes) if bytes.len() <= MAX_BYTES => Ok(()),
        _ => Err(format!(
            "{}: a host's document has up to {MAX_BYTES} bytes",
            now.id
        )),
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
