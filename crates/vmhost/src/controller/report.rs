//! What a worker writes: the observed part of its machine's document.

use cimi::{
    HostId, Timestamp,
    lifecycle::{EndCause, Stage},
    resources::Machine,
};
use documents::{Documents, DocumentsError, step};

/// Changes the observed part of the document of a machine of this host, with what [follows](documents::step) from that. Returns whether
/// it still was one: of another host's nothing is said, whatever was seen of it before.
pub(crate) async fn report(
    documents: &Documents,
    (host, machine): (&HostId, &str),
    mut observe: impl FnMut(&mut Machine) + Send,
) -> Result<bool, DocumentsError> {
    loop {
        let read = documents.machines.get(machine);
        let Some(read) = read.filter(|read| read.host.as_ref() == Some(host)) else {
            return Ok(false);
        };
        let mut next = read.document.0.clone();
        observe(&mut next);
        next.settle();
        if same(&next, &read.document.0) {
            return Ok(true);
        }
        match step::step(documents, &read, next).commit().await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether there is nothing to report. What is derived of this doesn't count: another version, which has the last word of it, may have
/// other rules for it, and would be contradicted for ever.
fn same(a: &Machine, b: &Machine) -> bool {
    a.observed == b.observed
        && a.reason == b.reason
        && a.volumes == b.volumes
        && a.ssh == b.ssh
        && a.accelerator == b.accelerator
        && a.first_started == b.first_started
}

/// Enters a stage.
pub(crate) fn enter(machine: &mut Machine, stage: Stage, run: u64) {
    if machine.observed.stage != stage || machine.observed.run != run {
        // However the clock is set: nobody is told that time goes back.
        machine.observed.since = Timestamp::now().max(machine.observed.since);
    }
    if stage == Stage::Booting && machine.observed.stage != stage {
        // A new process, which counts from nothing.
        machine.observed.traffic = None;
    }
    match stage {
        Stage::Suspended => machine.observed.has_memory = true,
        // It is forgotten before a guest goes on from it, and before a run is over.
        Stage::Running
        | Stage::Paused
        | Stage::Held
        | Stage::Crossing
        | Stage::Ended { .. }
        | Stage::Releasing => machine.observed.has_memory = false,
        // It is there until its guest goes on, and if that fails.
        Stage::Waiting | Stage::Preparing | Stage::Booting | Stage::Failed | Stage::Saving => {}
    }
    machine.observed.stage = stage;
    machine.observed.run = run;
}

/// Why a run ended, for people.
pub(crate) fn reason_of(cause: EndCause, detail: Option<&str>) -> Option<String> {
    let text = match cause {
        EndCause::Requested => return None,
        EndCause::GuestShutdown => "powered off by the guest",
        EndCause::GuestPanic => "the guest's kernel panicked",
        EndCause::HypervisorDied => "its QEMU process died",
        EndCause::HostReboot => "its host was switched off or lost power",
    };
    Some(match detail {
        None => text.to_owned(),
        Some(detail) => format!("{text}: {detail}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_said_of_a_machine_that_is_another_hosts_by_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store::SqliteStore::open(folder.path().join("db")).expect("a store");
        let documents = Documents::open(std::sync::Arc::new(store))
            .await
            .expect("documents");
        let (own, other) = (HostId::generate(), HostId::generate());
        let mut machine = cimi::testing::machine(1);
        machine.host = Some(other.clone());
        let created = documents.changes().create(&machine).commit().await;
        created.expect("a machine");
        let id = machine.id.local();
        for (host, is_its) in [(&own, false), (&other, true)] {
            let said = report(&documents, (host, id), |machine| {
                machine.observed.guarded = true;
            });
            assert_eq!(said.await.expect("a store"), is_its);
            let read = documents.machines.get(id).expect("a machine");
            assert_eq!(read.observed.guarded, is_its);
        }
    }

    #[test]
    fn memory_is_there_until_its_guest_goes_on() {
        let mut machine = cimi::testing::machine(1);
        let mut has = |stage: Stage| {
            enter(&mut machine, stage, 1);
            machine.observed.has_memory
        };
        assert!(!has(Stage::Running) && !has(Stage::Saving));
        assert!(has(Stage::Suspended));
        assert!(has(Stage::Booting) && has(Stage::Failed) && has(Stage::Booting));
        assert!(!has(Stage::Running) && !has(Stage::Booting));
    }

    /// The first time of a machine is that of the entry which made it, and this host's clock may be behind.
    #[test]
    fn what_was_seen_never_gets_older() {
        let mut machine = cimi::testing::machine(1);
        let made = Timestamp::now().after(std::time::Duration::from_secs(10));
        machine.observed.since = made;
        enter(&mut machine, Stage::Preparing, 1);
        assert_eq!(machine.observed.since, made);
    }
}
