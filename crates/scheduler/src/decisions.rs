//! What the scheduler decided, written: only in the turn in which it was decided, and only if the machine and the host are still as
//! they were seen to be.

use std::sync::Arc;

use cimi::{
    HostId, Timestamp,
    lifecycle::{Power, Stage},
    resources::{AcceleratorKind, Host, Machine, Resource as _},
};
use documents::{Documents, DocumentsError, step};
use placement::Means;
use store::Revision;

use crate::turn::Turn;

/// By what is decided in one turn written.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    pub(crate) documents: Documents,
    pub(crate) turn: Turn,
    pub(crate) taken: Revision,
}

impl Under {
    /// Writes it, if it is still the turn in which it was decided. None if something was changed meanwhile, and it is to be looked at
    /// again.
    async fn commit(&self, changes: documents::Changes<'_>) -> Result<Option<()>, DocumentsError> {
        let changes = changes.unchanged_raw(self.turn.key(), self.taken);
        match changes.commit().await {
            Ok(_) => Ok(Some(())),
            Err(error) if !error.is_conflict() => Err(error),
            Err(_) if self.turn.is_still(self.taken).await? => Ok(None),
            // Whoever has the turn now decides.
            Err(_) => {
                self.turn.lost(self.taken);
                Ok(Some(()))
            }
        }
    }
}

/// Writes the machine's host, if it still waits for one, and for one like that: a volume may have been attached meanwhile, or
/// the host be about to be removed.
pub(crate) async fn assign(
    under: Under,
    local: Arc<str>,
    host: HostId,
) -> Result<(), DocumentsError> {
    let documents = &under.documents;
    loop {
        let machine = documents.machines.get(&local);
        let (Some(read), Some(host)) = (machine, documents.hosts.get(host.local())) else {
            return Ok(());
        };
        // A volume, or a security group, may have come to it since.
        let has_means = Means::of(&host).cover(Means::wanted_by(&read));
        if !waits(&read) || !has_means || host.desired.maintenance {
            return Ok(());
        }
        let mut placed = read.document.0.clone();
        placed.host = Some(host.document.id.clone());
        placed.reason = None;
        placed.settle();
        let changes = documents.changes().replace(&read, placed).unchanged(&*host);
        if under.commit(changes).await?.is_some() {
            return Ok(());
        }
    }
}

/// Why a machine that has memory can't go on with it on a host, whose processors are not like those of its own.
fn unlike(machine: &Machine, from: &Host, to: &Host) -> Option<String> {
    let has_memory = !matches!(
        machine.observed.stage,
        Stage::Waiting | Stage::Ended { .. } | Stage::Failed
    );
    if !has_memory {
        return None;
    }
    let name = |host: &Host| {
        host.common
            .name
            .clone()
            .unwrap_or_else(|| host.id.to_string())
    };
    let at = (name(from), name(to));
    let runs_with = machine.accelerator.unwrap_or(from.accelerator);
    if runs_with != to.accelerator {
        return Some(format!(
            "it runs by {} on {}, and {} has {} only: stop it first",
            word(runs_with),
            at.0,
            at.1,
            word(to.accelerator)
        ));
    }
    // QEMU's own processor is the same everywhere, and so is one that is named.
    let has_all_of_host = machine
        .cpu_model
        .as_deref()
        .is_none_or(|model| model == "host");
    let is_other = from.cpu_model != to.cpu_model || from.cpu_flags != to.cpu_flags;
    (runs_with == AcceleratorKind::Kvm && has_all_of_host && is_other).then(|| {
        format!(
            "it uses all of the processor of {} ({}), and that of {} is another one ({}): stop it first, or give machines a \
             processor that all hosts have (`machines.cpu_model`)",
            at.0, from.cpu_model, at.1, to.cpu_model
        )
    })
}

const fn word(accelerator: AcceleratorKind) -> &'static str {
    match accelerator {
        AcceleratorKind::Kvm => "KVM",
        AcceleratorKind::Tcg => "TCG",
    }
}

/// Writes where a machine goes, or why it stays, if it is still to be moved and the host open.
pub(crate) async fn send(
    under: Under,
    local: Arc<str>,
    since: Timestamp,
    chosen: Result<HostId, String>,
) -> Result<(), DocumentsError> {
    let documents = &under.documents;
    loop {
        let Some(read) = documents.machines.get(&local) else {
            return Ok(());
        };
        let mut next = read.document.0.clone();
        let moving = next.desired.moving.as_mut();
        let Some(moving) = moving.filter(|moving| moving.since == since && moving.to.is_none())
        else {
            return Ok(());
        };
        let host = match &chosen {
            Ok(host) => documents.hosts.get(host.local()),
            Err(_) => None,
        };
        let unlike = match (&host, read.host.as_ref()) {
            (Some(to), Some(from)) => {
                let from = documents.hosts.get(from.local());
                from.and_then(|from| unlike(&read, &from, to))
            }
            _ => None,
        };
        let why_not = match (&chosen, &host) {
            (Err(why), _) => Some(why.as_str()),
            (Ok(_), None) => Some("the host is removed"),
            (Ok(_), Some(host)) if host.desired.maintenance => Some("the host is closed"),
            // A volume may have come to it since.
            (Ok(_), Some(host)) if !Means::of(host).cover(Means::wanted_by(&read)) => Some(
                "the host has not what it needs now (a way to the storage, or a stratusd that knows security groups)",
            ),
            (Ok(_), Some(_)) => unlike.as_deref(),
        };
        let host = host.filter(|_| why_not.is_none());
        match &host {
            Some(host) => moving.to = Some(host.document.id.clone()),
            None => {
                next.desired.moving = None;
                next.reason = why_not.map(Machine::not_moved);
            }
        }
        next.settle();
        let mut changes = documents.changes().replace(&read, next);
        if let Some(host) = &host {
            changes = changes.unchanged(&**host);
        }
        if under.commit(changes).await?.is_some() {
            return Ok(());
        }
    }
}

/// Writes why the machine has no host, if it still waits for one.
pub(crate) async fn tell(
    documents: Documents,
    local: Arc<str>,
    reason: String,
) -> Result<(), DocumentsError> {
    let edit = |machine: &mut Machine| {
        if !waits(machine) || machine.reason.as_ref() == Some(&reason) {
            return Ok(false);
        }
        machine.reason = Some(reason.clone());
        machine.settle();
        Ok::<_, DocumentsError>(true)
    };
    documents.update(&local, edit).await.map(drop)
}

/// Ends a machine that was deleted while it had no host.
pub(crate) async fn release(documents: Documents, local: Arc<str>) -> Result<(), DocumentsError> {
    let Some(machine) = documents.machines.get(&local) else {
        return Ok(());
    };
    if machine.host.is_some() || !machine.desired.deleted || !machine.left_on.is_empty() {
        return Ok(());
    }
    step::end(&documents, &machine, Timestamp::now())
        .commit()
        .await?;
    tracing::info!(machine = %machine.key(), vmid = machine.vmid.0, "released; it had no host");
    Ok(())
}

pub(crate) fn waits(machine: &Machine) -> bool {
    machine.host.is_none() && machine.desired.power == Power::On && !machine.desired.deleted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::Duration;

    use cimi::{
        VolumeId,
        lifecycle::Moving,
        resources::{AttachStage, AttachedVolume},
        testing,
    };
    use store::SqliteStore;
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn documents(folder: &tempfile::TempDir) -> Documents {
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        Documents::open(store).await.unwrap()
    }

    /// Where nobody has taken the turn.
    fn free(documents: &Documents) -> Under {
        Under {
            documents: documents.clone(),
            turn: Turn::new(documents.clone(), "test"),
            taken: Revision::ZERO,
        }
    }

    async fn create<R: cimi::resources::Resource>(documents: &Documents, document: &R) {
        documents.changes().create(document).commit().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_placed_on_a_host_that_was_closed_or_removed_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        let mut machine = testing::machine(1);
        machine.desired.power = Power::On;
        create(&documents, &machine).await;
        let local: Arc<str> = machine.local_id().into();
        let (mut closed, open) = (testing::host(), testing::host());
        closed.desired.maintenance = true;
        create(&documents, &closed).await;
        for (host, takes_it) in [(&open, false), (&closed, false), (&open, true)] {
            if takes_it {
                create(&documents, host).await;
            }
            let assigned = assign(free(&documents), local.clone(), host.id.clone());
            assigned.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            assert_eq!(machine.host.is_some(), takes_it);
        }
    }

    #[tokio::test]
    async fn one_whose_turn_was_taken_over_decides_nothing_until_it_is_free_again() {
        async fn until(turn: &Turn, wanted: impl Fn(Option<Revision>) -> bool) -> Revision {
            let mut changes = turn.changes();
            let seen = changes.wait_for(|taken| wanted(*taken));
            let limit = Duration::from_secs(60);
            let seen = tokio::time::timeout(limit, seen).await.unwrap().unwrap();
            seen.unwrap_or(Revision::ZERO)
        }
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        // Two of one name, as of computers that were copied.
        let [first, second] = [(); 2].map(|()| Turn::new(documents.clone(), "same"));
        let [end_first, end_second] = [(); 2].map(|()| CancellationToken::new());
        let held = tokio::spawn(first.clone().hold(end_first.clone()));
        let taken = until(&first, |taken| taken.is_some()).await;
        let taken_over = tokio::spawn(second.clone().hold(end_second.clone()));
        let later = until(&second, |taken| taken.is_some()).await;
        let under = Under {
            documents: documents.clone(),
            turn: first.clone(),
            taken,
        };
        let changes = documents.changes().create(&testing::host());
        assert_eq!(under.commit(changes).await.unwrap(), Some(()));
        assert!(documents.hosts.is_empty(), "nothing comes of it");
        until(&first, |taken| taken.is_none()).await;
        end_second.cancel();
        taken_over.await.unwrap();
        assert!(until(&first, |taken| taken.is_some()).await > later);
        end_first.cancel();
        held.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_decided_for_a_machine_without_volumes_is_not_for_one_that_got_some() {
        let folder = tempfile::tempdir().unwrap();
        let documents = documents(&folder).await;
        let mut without = testing::host();
        (without.desired.apart, without.runs_machines) = (true, true);
        let mut with = testing::host();
        (with.desired.apart, with.runs_machines, with.uses_volumes) = (true, true, true);
        create(&documents, &without).await;
        create(&documents, &with).await;
        let mut machine = testing::machine(1);
        machine.volumes.push(AttachedVolume {
            volume: VolumeId::generate(),
            initial_location: None,
            hot: true,
            wanted: true,
            stage: AttachStage::Waiting,
            serial: "v".into(),
            taken: None,
        });
        create(&documents, &machine).await;
        let local: Arc<str> = machine.local_id().into();
        for (host, has_a_way) in [(&without, false), (&with, true)] {
            let assigned = assign(free(&documents), local.clone(), host.id.clone());
            assigned.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            assert_eq!(machine.host.is_some(), has_a_way);
        }
        // Nor is where it goes to, when it is moved.
        for (host, has_a_way) in [(&without, false), (&with, true)] {
            let since = Timestamp::now();
            let asked = |machine: &mut Machine| {
                machine.desired.moving = Some(Moving::asked(since));
                Ok::<_, DocumentsError>(true)
            };
            documents.update(&local, asked).await.unwrap();
            let sent = send(free(&documents), local.clone(), since, Ok(host.id.clone()));
            sent.await.unwrap();
            let machine = documents.machines.get(&local).unwrap();
            let to = has_a_way.then_some(&host.id);
            assert_eq!(machine.moving_to(), to, "{:?}", machine.reason);
            assert_eq!(machine.desired.moving.is_some(), has_a_way);
        }
    }
}
