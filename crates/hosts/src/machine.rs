//! What a host may say of a machine that is placed on it: the observed part, and that only forward; and that it is gone, when
//! it is to go.

use cimi::{
    Timestamp,
    resources::{AttachedVolume, Machine, Resource as _},
};
use store::Key;

use crate::said::Said;

/// Longest text of a host in a machine's document, in bytes; our own are a line or two.
const MAX_TEXT_BYTES: usize = 4096;
/// How far a host's clock may be ahead of that of the entry: joining allows no more.
const MAX_AHEAD_MILLIS: i64 = 60_000;

/// What of a machine follows from the rest: hosts of another version may make it by other rules.
const DERIVED: &[&str] = &[
    "state",
    "phase",
    "runningSince",
    "trafficBefore",
    "disksSince",
];

/// What is written when the host `peer` says `said` of `now`, if it may.
///
/// # Errors
/// Why not.
pub(crate) fn may_report(
    peer: &str,
    now: &Machine,
    said: &Said<Machine>,
) -> Result<Vec<u8>, String> {
    let then = &said.document;
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
    let way = now.desired.moving.as_ref().map(|moving| moving.since);
    let of_ways = [
        (was.at_rest, is.at_rest),
        (was.stays, is.stays),
        (was.left_for, is.left_for),
        (
            was.passage.map(|one| one.way),
            is.passage.map(|one| one.way),
        ),
    ];
    if of_ways.iter().any(|(was, is)| was != is && *is != way) {
        return Err(format!("{}: it is not on that way", now.id));
    }
    if now.first_started.is_some() && then.first_started != now.first_started {
        return Err(format!("{}: it started first only once", now.id));
    }
    if texts(then).any(|text| text.len() > MAX_TEXT_BYTES) {
        return Err(format!("{}: a text is over {MAX_TEXT_BYTES} bytes", now.id));
    }
    if then.common.updated <= now.common.updated {
        return Err(format!("{}: what is said of it comes later", now.id));
    }
    // Else what is seen next, by a right clock, would go back.
    let is_ahead = |time: Option<Timestamp>| time.is_some_and(|time| time > then.common.updated);
    if (is.since != was.since && is_ahead(Some(is.since)))
        || (then.first_started != now.first_started && is_ahead(then.first_started))
    {
        return Err(format!("{}: it was seen before it is told", now.id));
    }
    let written = said.written(&expected(now, then), DERIVED);
    written.ok_or_else(|| format!("{}: only what was observed is a host's", now.id))
}

/// What is written when the host `peer`, which had the machine before, says by `said` that nothing of it is left there, if it may: it
/// takes itself out, and nothing else.
///
/// # Errors
/// Why not.
pub(crate) fn may_leave(
    peer: &str,
    now: &Machine,
    said: &Said<Machine>,
) -> Result<Vec<u8>, String> {
    let then = &said.document;
    let mut expected = now.clone();
    expected.left_on.retain(|host| host.local() != peer);
    expected.common.updated = then.common.updated;
    if then.common.updated <= now.common.updated {
        return Err(format!("{}: what is said of it comes later", now.id));
    }
    let written = said.written(&expected, DERIVED);
    written.ok_or_else(|| {
        format!(
            "{}: a host that had it before says that nothing is left, and no more",
            now.id
        )
    })
}

/// Whether the host `peer` is one that had the machine before, and is to clear away what it has of it.
pub(crate) fn is_left_on(peer: &str, now: &Machine) -> bool {
    now.left_on.iter().any(|host| host.local() == peer)
}

/// Whether the host `peer` is to have the machine, and hasn't yet.
pub(crate) fn is_on_its_way_to(peer: &str, now: &Machine) -> bool {
    let is_there = now.host.as_ref().is_some_and(|host| host.local() == peer);
    !is_there && now.moving_to().is_some_and(|to| to.local() == peer)
}

/// What is written when the host `peer`, which is to have the machine, says by `said` that it is ready for it, or has its files, if it
/// may; and nothing else.
///
/// # Errors
/// Why not.
pub(crate) fn may_await(
    peer: &str,
    now: &Machine,
    said: &Said<Machine>,
) -> Result<Vec<u8>, String> {
    let (mut expected, then) = (now.clone(), &said.document);
    if let (Some(moving), Some(said)) = (&mut expected.desired.moving, &then.desired.moving) {
        moving.ready |= said.ready;
        // Of one whose guest runs all may be there before its host has said that it is.
        moving.arrived |= said.arrived && (now.has_left() || now.crossing().is_some());
        let is_short = |text: &String| text.len() <= MAX_TEXT_BYTES;
        moving.problem = said
            .problem
            .clone()
            .filter(is_short)
            .or(moving.problem.take());
    }
    expected.common.updated = then.common.updated;
    expected.settle();
    let is_later = then.common.updated > now.common.updated;
    let written = said.written(&expected, DERIVED).filter(|_| is_later);
    written.ok_or_else(|| {
        format!(
            "{}: {peer} says that it is ready for it, or has its files once it is at rest, and no more",
            now.id
        )
    })
}

/// Whether the host `peer` may say that nothing of `now` is left on it.
///
/// # Errors
/// Why not.
pub(crate) fn may_end(peer: &str, now: &Machine) -> Result<(), String> {
    if now.host.as_ref().is_none_or(|host| host.local() != peer) {
        return Err(format!("{} is not placed on this host", now.id));
    }
    if !now.desired.deleted {
        return Err(format!("{} is to stay", now.id));
    }
    if !now.left_on.is_empty() {
        return Err(format!(
            "{}: something of it is left on other hosts",
            now.id
        ));
    }
    Ok(())
}

/// Whether a host's clock is so far ahead of `now` that what it says would be of a time that hasn't come. What was said `before`
/// of such a time, when an entry's own clock was ahead, is followed by the next moment.
///
/// # Errors
/// That it is.
pub(crate) fn is_of_now(before: &Machine, then: &Machine, now: Timestamp) -> Result<(), String> {
    let (said, now) = (then.common.updated.as_millis(), now.as_millis());
    if said <= now + MAX_AHEAD_MILLIS || said == before.common.updated.as_millis() + 1 {
        return Ok(());
    }
    let ahead = (said - now) / 1000;
    Err(format!(
        "{}: the clock of its host is {ahead} s ahead: set it right",
        then.id
    ))
}

/// The documents by which a host makes what a machine wants: its images, networks, ports, security groups and
/// volumes.
pub(crate) fn needs(machine: &Machine) -> Vec<Key> {
    let mut names: Vec<String> = Vec::new();
    machine.images(&mut |image| names.push(image.to_string()));
    names.extend(machine.saved_as.iter().map(|saved| saved.href.to_string()));
    for nic in &machine.nics {
        names.push(nic.network.to_string());
        names.extend(nic.port.iter().map(|port| port.id.to_string()));
    }
    let groups = machine.security_groups.iter();
    names.extend(groups.map(|group| group.href.to_string()));
    names.extend(machine.volumes.iter().map(|one| one.volume.to_string()));
    names.sort_unstable();
    names.dedup();
    // Ids are names of documents.
    names.iter().filter_map(|name| name.parse().ok()).collect()
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
    // Detached as it was asked.
    let stays = |one: &AttachedVolume| {
        one.wanted || then.volumes.iter().any(|other| other.volume == one.volume)
    };
    expected.volumes.retain(stays);
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
    expected.common.updated = then.common.updated;
    expected.use_anew(now, then.common.updated);
    expected
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
