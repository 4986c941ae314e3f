//! The end of a machine: the one transaction after which nothing of it is held any more.
//!
//! Two controllers end machines: the one of the host it was placed on, once nothing of it is left there, and the
//! scheduler, if it was deleted before it had a host. Both do it by [`release_machine`].

use cimi::{
    Common, Timestamp,
    ids::MachineRecordId,
    lifecycle::Phase,
    resources::{Event, EventOutcome, Machine, MachineRecord, PortState, Resource, Unknown},
};

use crate::{Cached, Changes, Documents};

/// The transaction that removes a machine: its document, its address leases, its hold on volumes, ports and addresses kept by users; and that writes what is
/// kept of it, its [`MachineRecord`], and the event that tells of it.
///
/// Reads what belongs to the machine from the caches, each of it guarded by its revision: on a conflict, call again with
/// the machine as it is then. Nothing outside of the documents is touched: call it when nothing of the machine is left on
/// its host.
pub fn release_machine<'a>(
    documents: &'a Documents,
    machine: &Cached<Machine>,
    now: Timestamp,
) -> Changes<'a> {
    let mut changes = documents.changes().remove(machine);
    let local = machine.local_id();
    for address in documents.addresses.by_index("machine", local) {
        changes = if address.kept {
            let mut free = address.document.0.clone();
            free.resource = None;
            changes.replace(&address, free)
        } else {
            changes.remove(&address)
        };
    }
    for port in documents.network_ports.by_index("machine", local) {
        let mut free = port.document.0.clone();
        free.machine = None;
        free.state = PortState::settled(free.state.is_wanted_up());
        changes = changes.replace(&port, free);
    }
    for volume in documents.volumes.by_index("machine", local) {
        let mut free = volume.document.0.clone();
        free.attachment = None;
        changes = changes.replace(&volume, free);
    }
    // A number is never used twice, but a database restored from an older copy may have counted on from there.
    if let Some(record) = record_of(machine, now)
        && documents.machine_records.get(record.local_id()).is_none()
    {
        changes = changes.create(&record);
    }
    let event = Event::state_change(
        &machine.document.0,
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
        release_machine(&documents, &read, now())
            .commit()
            .await
            .unwrap();

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
        let changes = release_machine(&documents, &read, now());
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
