//! A step of a machine that its host takes, and what follows from it: who else is told, and who gets back what the machine held.
//!
//! ```text
//!  the step                       follows in the same transaction
//!  ─────────────────────────────  ───────────────────────────────────────────────────────────────
//!  it comes to another state      an Event
//!  it ends a use                  the record of it
//!  a volume leaves its list       Volume.attachment is cleared
//!  a port was switched            NetworkPort.state, Event
//!  it is removed                  its addresses, ports and volumes are free; MachineRecord, Event
//! ```
//!
//! Who has all documents ([`Documents::open`]) writes both at once: [`step`], [`end`]. A host that has a part of them writes the
//! step alone; the entry that it writes through adds the same by [`follows`].

use cimi::{
    Common, Timestamp,
    ids::MachineRecordId,
    lifecycle::{MachineState, Phase},
    resources::{
        Event, EventOutcome, Machine, MachineRecord, NetworkPort, PortState, Resource, Unknown,
    },
};
use store::Transaction;

use crate::{Cached, Changes, Documents, DocumentsError, changes::next_moment};

/// The transaction that makes `next` of a machine, with what follows from it.
pub fn step<'a>(documents: &'a Documents, read: &Cached<Machine>, next: Machine) -> Changes<'a> {
    let mut next = next;
    next.settle();
    let changes = documents.changes();
    let changes = told(changes, read, Some(&next), Timestamp::now());
    changes.replace(read, next)
}

/// The transaction that removes a machine, with what follows from it.
///
/// Nothing outside of the documents is touched: call it when nothing of the machine is left on its host. On a conflict, call
/// again with the machine as it is then.
pub fn end<'a>(documents: &'a Documents, read: &Cached<Machine>, now: Timestamp) -> Changes<'a> {
    told(documents.changes(), read, None, now).remove(read)
}

/// What follows when somebody who has a part of the documents makes `after` of a machine, or removes it.
///
/// # Errors
/// If a document can't be written.
pub fn follows(
    documents: &Documents,
    before: &Machine,
    after: Option<&Machine>,
) -> Result<Transaction, DocumentsError> {
    let now = Timestamp::now();
    // A use ends when whoever ended it says so, but not before it is told, nor before the machine's last word.
    let told_at = after.map_or(now, |after| after.common.updated.min(now));
    let told_at = told_at.max(next_moment(before.common.updated));
    told(documents.changes(), before, after, now)
        .account(before, after, told_at)
        .into_transaction()
}

/// What others are told. What belongs to the machine is read from the caches, each of it guarded by its revision.
fn told<'a>(
    changes: Changes<'a>,
    before: &Machine,
    after: Option<&Machine>,
    now: Timestamp,
) -> Changes<'a> {
    if !changes.documents().are_whole() {
        return changes;
    }
    let changes = volumes(changes, before, after);
    let changes = ports(changes, before, after, now);
    match after {
        Some(after) => match change_of_state(before, after, now) {
            Some(event) => changes.create(&event),
            None => changes,
        },
        None => released(changes, before, now),
    }
}

/// The volumes that are not at the machine any more have no attachment: nobody else can have them before, and nobody has to
/// wait for them after.
fn volumes<'a>(mut changes: Changes<'a>, before: &Machine, after: Option<&Machine>) -> Changes<'a> {
    let documents = changes.documents();
    let stays = |volume| {
        let mut there = after.iter().flat_map(|after| &after.volumes);
        there.any(|attached| attached.volume == volume)
    };
    if after.is_some_and(|_| before.volumes.iter().all(|one| stays(one.volume.clone()))) {
        return changes;
    }
    for volume in documents.volumes.by_index("machine", before.local_id()) {
        if !stays(volume.document.id.clone()) {
            let mut free = volume.document.0.clone();
            free.attachment = None;
            changes = changes.replace(&volume, free);
        }
    }
    changes
}

/// Ports say of themselves what was seen of them at the machine; without it, that they are as they are wanted.
fn ports<'a>(
    mut changes: Changes<'a>,
    before: &Machine,
    after: Option<&Machine>,
    now: Timestamp,
) -> Changes<'a> {
    let documents = changes.documents();
    let Some(after) = after else {
        for port in documents
            .network_ports
            .by_index("machine", before.local_id())
        {
            let mut free = port.document.0.clone();
            free.machine = None;
            free.state = PortState::settled(free.state.is_wanted_up());
            changes = settled(changes, &port, free, now);
        }
        return changes;
    };
    let seen = |machine: &Machine| {
        let ports = machine.nics.iter().filter_map(|nic| nic.port.clone());
        ports.collect::<Vec<_>>()
    };
    let was = seen(before);
    for at in seen(after) {
        if was
            .iter()
            .any(|was| was.id == at.id && was.seen_up == at.seen_up)
        {
            continue;
        }
        let Some(read) = documents.network_ports.get(at.id.local()) else {
            continue;
        };
        let plugged = read.machine.as_ref();
        if plugged.is_some_and(|plugged| plugged.href == after.id) {
            let mut port = read.document.0.clone();
            port.state = PortState::settled(at.seen_up);
            changes = settled(changes, &read, port, now);
        }
    }
    changes
}

/// A port as it is from now on, with an event if that is another state.
fn settled<'a>(
    changes: Changes<'a>,
    before: &Cached<NetworkPort>,
    after: NetworkPort,
    now: Timestamp,
) -> Changes<'a> {
    let (was, is) = (before.state, after.state);
    if was == is {
        return changes.replace(before, after);
    }
    let outcome = EventOutcome::Success;
    let event = Event::state_change(&after, was.name(), is.name(), None, outcome, now);
    changes.replace(before, after).create(&event)
}

fn change_of_state(before: &Machine, after: &Machine, now: Timestamp) -> Option<Event> {
    if after.state == before.state && after.phase == before.phase {
        return None;
    }
    let outcome = match after.state {
        MachineState::Error => EventOutcome::Failure,
        _ => EventOutcome::Success,
    };
    // Where the phase stays (StratusLab has none for it), the state tells.
    let text = |machine: &Machine| {
        if before.phase == after.phase {
            format!("{:?}", machine.state)
        } else {
            format!("{:?}", machine.phase)
        }
    };
    let (was, is) = (text(before), text(after));
    let reason = after.reason.as_deref();
    Some(Event::state_change(after, &was, &is, reason, outcome, now))
}

/// Nothing is held by a machine that is no more; what is kept of it is its record.
fn released<'a>(mut changes: Changes<'a>, machine: &Machine, now: Timestamp) -> Changes<'a> {
    let documents = changes.documents();
    for address in documents.addresses.by_index("machine", machine.local_id()) {
        changes = if address.kept {
            let mut free = address.document.0.clone();
            free.resource = None;
            changes.replace(&address, free)
        } else {
            changes.remove(&address)
        };
    }
    // A number is never used twice, but a database restored from an older copy may have counted on from there.
    if let Some(record) = record_of(machine, now)
        && documents.machine_records.get(record.local_id()).is_none()
    {
        changes = changes.create(&record);
    }
    let event = Event::state_change(
        machine,
        &format!("{:?}", machine.phase),
        &format!("{:?}", Phase::Done),
        machine.reason.as_deref(),
        EventOutcome::Success,
        now,
    );
    changes.create(&event)
}

/// What is kept of a machine.
fn record_of(machine: &Machine, now: Timestamp) -> Option<MachineRecord> {
    let common = Common {
        updated: now,
        ..machine.common.clone()
    };
    Some(MachineRecord {
        // A number can always be the part of an id after the slash.
        id: MachineRecordId::from_local(&machine.vmid.to_string()).ok()?,
        common,
        machine: machine.id.clone(),
        vmid: machine.vmid,
        phase: Phase::Done,
        cpu: machine.cpu,
        memory: machine.memory,
        image: machine.image.clone(),
        addresses: machine.nics.iter().map(|nic| nic.ip).collect(),
        host: machine.host.clone(),
        first_started: machine.first_started,
        ended: now,
        unknown: Unknown::new(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use cimi::{
        Acl, AddressId, NetworkId, Ref, VolumeId,
        lifecycle::MachineState,
        resources::{Address, Attachment, Nic, Volume, VolumeState},
        size::ByteSize,
    };
    use store::SqliteStore;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000)
    }

    fn common() -> Common {
        Common::new(Acl::owned_by_user("alice"), now())
    }

    fn machine(vmid: u32, ip: IpAddr) -> Machine {
        let network = NetworkId::from_local("public").unwrap();
        let mut machine = Machine {
            state: MachineState::Deleting,
            phase: Phase::Epilog,
            nics: vec![Nic {
                address: AddressId::of(&network, ip),
                network,
                ip,
                mac: "0a:0a:0a:4d:00:02".into(),
                model: None,
                port: None,
            }],
            ..cimi::testing::machine(vmid)
        };
        machine.desired.deleted = true;
        machine
    }

    fn lease(machine: &Machine) -> Address {
        let nic = machine.nics.first().unwrap();
        Address {
            id: nic.address.clone(),
            common: common(),
            ip: nic.ip,
            mac: nic.mac.clone(),
            hostname: "h".into(),
            network: Ref::to(nic.network.clone()),
            resource: Some(Ref::to(machine.id.clone())),
            kept: false,
            used_since: None,
            unknown: Unknown::new(),
        }
    }

    fn volume_of(machine: &Machine) -> Volume {
        Volume {
            id: VolumeId::generate(),
            common: common(),
            state: VolumeState::Available,
            reason: None,
            kind: "http://schemas.dmtf.org/cimi/1/mapped".into(),
            size_bytes: ByteSize::from_gib(1),
            bootable: false,
            attachment: Some(Attachment {
                machine: machine.id.clone(),
                since: now(),
            }),
            deleted: false,
            origin: None,
            base: None,
            capture: None,
            location: None,
            size_since: None,
            unknown: Unknown::new(),
        }
    }

    #[tokio::test]
    async fn a_released_machine_holds_nothing_and_its_number_still_answers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let (gone, stays) = (
            machine(7, [10, 77, 0, 2].into()),
            machine(8, [10, 77, 0, 3].into()),
        );
        let volume = volume_of(&gone);
        documents
            .changes()
            .create(&gone)
            .create(&stays)
            .create(&lease(&gone))
            .create(&lease(&stays))
            .create(&volume)
            .commit()
            .await
            .unwrap();

        let read = documents.machines.get(gone.local_id()).unwrap();
        end(&documents, &read, now()).commit().await.unwrap();

        assert!(documents.machines.get(gone.local_id()).is_none());
        assert!(documents.machines.get(stays.local_id()).is_some());
        let leases = documents.addresses.all();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases.first().unwrap().ip, IpAddr::from([10, 77, 0, 3]));
        let volume = documents.volumes.get(volume.local_id()).unwrap();
        assert_eq!(volume.attachment, None);
        let record = documents.machine_records.get("7").unwrap();
        assert_eq!(record.addresses, [IpAddr::from([10, 77, 0, 2])]);
        assert_eq!(record.phase, Phase::Done);
        assert_eq!(documents.events.len(), 1);
    }

    #[tokio::test]
    async fn a_machine_that_changed_meanwhile_is_not_released_half() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let machine = machine(7, [10, 77, 0, 2].into());
        let created = documents
            .changes()
            .create(&machine)
            .create(&lease(&machine));
        created.commit().await.unwrap();
        let read = documents.machines.get(machine.local_id()).unwrap();
        let changes = end(&documents, &read, now());
        documents
            .changes()
            .replace(&read, machine.clone())
            .commit()
            .await
            .unwrap();
        assert!(changes.commit().await.unwrap_err().is_conflict());
        assert_eq!(documents.addresses.len(), 1);
        assert!(documents.machine_records.is_empty());
    }
}
