//! What a host may say of itself: what it has and is, never what its operator wants of it.

use cimi::resources::Host;

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

fn value(common: &cimi::Common) -> Option<serde_json::Value> {
    serde_json::to_value(common).ok()
}
