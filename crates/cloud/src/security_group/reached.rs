//! The addresses behind the groups that rules name, kept in the groups that have these rules: a host sees the groups of its
//! machines and no others. Each change costs what the group it is about has of machines, whatever else there is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use cimi::resources::{Machine, Network, SecurityGroup};
use documents::{Documents, DocumentsError};
use store::cache::Changed;
use tokio::time::{Instant, sleep_until};

use crate::network;

/// How long a group rests that could not be written (a full disk, a lost store).
const REST: Duration = Duration::from_secs(1);

/// How many addresses a group may let in by the groups that its rules name: with the longest ones nearly what one document can hold.
const MOST_REACHED: usize = 20_000;

/// What a machine gives to the groups it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    groups: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

/// Keeps them until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(documents: Documents) {
    let mut machines = documents.machines.changes();
    let mut groups = documents.security_groups.changes();
    let mut networks = documents.networks.changes();
    let mut known: HashMap<Arc<str>, Member> = HashMap::new();
    let mut due: BTreeSet<String> = BTreeSet::new();
    // Those that could not be written, and when it is tried again: no other waits for that.
    let mut resting: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let next_try = resting.values().min().copied();
        tokio::select! {
            biased;
            changed = machines.next() => {
                let id: Arc<str> = changed.id().into();
                let before = known.remove(&id);
                let now = changed.present().and_then(|machine| member(&documents, &machine));
                if before != now {
                    for group in before.iter().chain(&now).flat_map(|member| &member.groups) {
                        due.extend(naming(&documents, group));
                    }
                }
                if let Some(now) = now {
                    known.insert(id, now);
                }
            }
            changed = groups.next() => {
                if let Changed::Present(group) = changed {
                    due.insert(group.id().to_owned());
                }
            }
            _ = networks.next() => {
                // It may have been given a prefix, or another one.
                for (id, member_then) in &mut known {
                    let machine = documents.machines.get(id);
                    let Some(now) = machine.and_then(|machine| member(&documents, &machine)) else {
                        continue;
                    };
                    if *member_then != now {
                        due.extend(now.groups.iter().flat_map(|group| naming(&documents, group)));
                        *member_then = now;
                    }
                }
            }
            // When nothing more is known at this moment: what comes together is written once.
            () = std::future::ready(()), if !due.is_empty() => {
                for local in std::mem::take(&mut due) {
                    match write(&documents, &local).await {
                        Ok(()) => drop(resting.remove(&local)),
                        Err(error) => {
                            tracing::warn!(group = local, %error, "the addresses that a security group is about could not be written; it will be tried again");
                            resting.insert(local, Instant::now() + REST);
                        }
                    }
                }
            }
            () = sleep_until(next_try.unwrap_or_else(Instant::now)), if next_try.is_some() => {
                let now = Instant::now();
                due.extend(resting.iter().filter(|(_, at)| **at <= now).map(|(local, _)| local.clone()));
            }
        }
    }
}

/// The groups whose rules name this one.
fn naming(documents: &Documents, group: &str) -> Vec<String> {
    let groups = documents.security_groups.by_index("names", group);
    groups.iter().map(|group| group.id().to_owned()).collect()
}

fn member(documents: &Documents, machine: &Machine) -> Option<Member> {
    if machine.security_groups.is_empty() {
        return None;
    }
    let groups = machine.security_groups.iter();
    Some(Member {
        groups: groups.map(|group| group.href.local().to_owned()).collect(),
        addresses: addresses(documents, machine).collect(),
    })
}

/// Those by which others know a machine.
fn addresses(documents: &Documents, machine: &Machine) -> impl Iterator<Item = IpAddr> {
    machine.nics.iter().flat_map(|nic| {
        let network = documents.networks.get(nic.network.local());
        let by_network = |network: &Network| network::ipv6_both(network, &nic.mac);
        let ipv6 = network.and_then(|network| by_network(&network));
        let ipv6 = ipv6.into_iter().flatten().map(IpAddr::from);
        std::iter::once(nic.ip).chain(ipv6)
    })
}

fn reached(documents: &Documents, group: &SecurityGroup) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let of = |named: &str| {
        let machines = documents.machines.by_index("securityGroup", named);
        let machines = machines.iter();
        machines
            .flat_map(|machine| addresses(documents, machine).collect::<Vec<_>>())
            .collect()
    };
    let named = group.named().map(|named| named.local());
    named.map(|named| (named.to_owned(), of(named))).collect()
}

/// What is too much lets nobody in: what is written in part, or not at all, would let in whoever has an address next. The largest
/// groups go first, so that no growing one takes another's place.
fn bounded(
    reached: BTreeMap<String, BTreeSet<IpAddr>>,
) -> (BTreeMap<String, BTreeSet<IpAddr>>, Option<String>) {
    let mut by_size: Vec<_> = reached.into_iter().collect();
    by_size.sort_by_key(|(_, addresses)| addresses.len());
    let mut count = 0;
    let (kept, left_out): (Vec<_>, Vec<_>) = by_size.into_iter().partition(|(_, addresses)| {
        count += addresses.len();
        count <= MOST_REACHED
    });
    if left_out.is_empty() {
        return (kept.into_iter().collect(), None);
    }
    let names = left_out
        .iter()
        .map(|(local, _)| format!("SecurityGroup/{local}"));
    let names: Vec<String> = names.collect();
    let problem = format!(
        "the machines of the groups that rules name have more than {MOST_REACHED} addresses in all: of {} nobody is let in or reached by these rules; name addresses instead, or fewer groups",
        names.join(", ")
    );
    (kept.into_iter().collect(), Some(problem))
}

async fn write(documents: &Documents, local: &str) -> Result<(), DocumentsError> {
    loop {
        let Some(read) = documents.security_groups.get(local) else {
            return Ok(());
        };
        let mut next = read.document.0.clone();
        (next.reached, next.problem) = bounded(reached(documents, &next));
        if next.reached == read.reached && next.problem == read.problem {
            return Ok(());
        }
        match documents.changes().replace(&read, next).commit().await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_too_large_let_in_nobody_and_are_named() {
        let most = u32::try_from(MOST_REACHED).unwrap();
        let with = |counts: &[(&str, u32)]| {
            let addresses = |count| (0..count).map(|n: u32| IpAddr::from(n.to_be_bytes()));
            let groups = counts.iter();
            let groups =
                groups.map(|(name, count)| ((*name).to_owned(), addresses(*count).collect()));
            groups.collect::<BTreeMap<String, BTreeSet<IpAddr>>>()
        };
        let fits = with(&[("app", most - 5), ("db", 5)]);
        assert_eq!(bounded(fits.clone()), (fits, None));
        let (reached, problem) = bounded(with(&[("app", most - 4), ("db", 5)]));
        assert_eq!(reached, with(&[("db", 5)]));
        let problem = problem.unwrap();
        assert!(problem.contains("of SecurityGroup/app nobody"), "{problem}");
    }
}
