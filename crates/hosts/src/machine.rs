//! What a host may say of a machine that is placed on it: the observed part, and that only forward.

use cimi::resources::{AttachedVolume, Machine};

/// Longest text of a host in a machine's document, in bytes; our own are a line or two.
const MAX_TEXT_BYTES: usize = 4096;

/// Whether the host `peer` may make `then` of `now`.
///
/// # Errors
/// Why not.
pub(crate) fn may_report(peer: &str, now: &Machine, then: &Machine) -> Result<(), String> {
    if now.host.as_ref().is_none_or(|host| host.local() != peer) {
        return Err(format!("{} is not placed on this host", now.id));
    }
    let (was, is) = (&now.observed, &then.observed);
    if is.since < was.since || is.run < was.run || is.restart < was.restart {
        return Err(format!("{}: what was seen doesn't go back", now.id));
    }
    // What the cloud never asked for can't have been carried out.
    if is.run > now.desired.run || is.restart > now.desired.restart {
        return Err(format!("{}: such a run was never wanted", now.id));
    }
    if is.refused != was.refused && is.refused != Some(now.desired.since) {
        return Err(format!("{}: only the present wish can be refused", now.id));
    }
    if now.first_started.is_some() && then.first_started != now.first_started {
        return Err(format!("{}: it started first only once", now.id));
    }
    if texts(then).any(|text| text.len() > MAX_TEXT_BYTES) {
        return Err(format!("{}: a text is over {MAX_TEXT_BYTES} bytes", now.id));
    }
    if !same(&expected(now, then), then) {
        return Err(format!("{}: only what was observed is a host's", now.id));
    }
    // The time used is recorded where it ends, in another document, which a host can't write: so it can't end it here
    // either, or the time would be lost.
    if now.running_since.is_some() && then.running_since != now.running_since {
        return Err(format!("{}: its use is recorded by the cloud", now.id));
    }
    Ok(())
}

/// What the document is if of `then` just the observed part counts.
fn expected(now: &Machine, then: &Machine) -> Machine {
    let mut expected = Machine {
        observed: then.observed.clone(),
        reason: then.reason.clone(),
        ssh: then.ssh.clone(),
        accelerator: then.accelerator,
        first_started: then.first_started,
        ..now.clone()
    };
    expected.common.updated = then.common.updated;
    // As many and in the same order, or they differ below.
    for (volume, seen) in expected.volumes.iter_mut().zip(&then.volumes) {
        volume.stage = seen.stage.clone();
    }
    for (nic, seen) in expected.nics.iter_mut().zip(&then.nics) {
        // The switch itself is not the host's; nor is another port.
        if let (Some(port), Some(seen)) = (&mut nic.port, &seen.port) {
            port.seen_up = seen.seen_up;
        }
    }
    expected.settle();
    expected
}

fn same(one: &Machine, other: &Machine) -> bool {
    match (serde_json::to_value(one), serde_json::to_value(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// What a host writes in its own words.
fn texts(machine: &Machine) -> impl Iterator<Item = String> {
    let stages = machine.volumes.iter().map(stage_text);
    let stage = serde_json::to_string(&machine.observed).unwrap_or_default();
    let ssh = machine.ssh.as_ref().map(|ssh| ssh.host.clone());
    stages
        .chain([stage])
        .chain(ssh)
        .chain(machine.reason.clone())
}

fn stage_text(volume: &AttachedVolume) -> String {
    serde_json::to_string(&volume.stage).unwrap_or_default()
}
