//! A scheduler over a real, empty store.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses some of it; a test that panics has failed"
)]

use std::{sync::Arc, time::Duration};

use cimi::{
    Acl, Common, HostId, HostPulseId, Timestamp,
    resources::{Capacity, Host, HostPulse, Machine, Resource},
    testing,
};
use documents::{Documents, DocumentsError};
use placement::Policy;
use scheduler::Scheduler;
use store::SqliteStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const MIB: u64 = 1024;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A scheduler over an empty store.
pub struct Cloud {
    pub documents: Documents,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
    pub _folder: tempfile::TempDir,
}

impl Cloud {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let policy = Policy {
            memory_reserve_kib: 0,
            ..Policy::default()
        };
        let stop = CancellationToken::new();
        let task =
            tokio::spawn(Scheduler::new(documents.clone(), policy, "test").run(stop.clone()));
        Self {
            documents,
            stop,
            task,
            _folder: folder,
        }
    }

    pub async fn create<R: Resource>(&self, document: &R) {
        self.documents
            .changes()
            .create(document)
            .commit()
            .await
            .unwrap();
    }

    pub async fn remove<R: documents::OfType>(&self, local: &str) {
        let read = self.documents.view::<R>().get(local).unwrap();
        let changes = self.documents.changes().remove(&read);
        changes.commit().await.unwrap();
    }

    pub async fn edit<R: documents::OfType>(
        &self,
        local: &str,
        edit: impl Fn(&mut R) + Send + Sync,
    ) {
        let change = |document: &mut R| {
            edit(document);
            Ok::<_, DocumentsError>(true)
        };
        self.documents.update(local, change).await.unwrap();
    }

    /// Waits until the machines are as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Machine]) -> bool) -> Vec<Machine> {
        let mut changes = self.documents.machines.changes();
        let seen = async {
            loop {
                let machines: Vec<_> = self
                    .documents
                    .machines
                    .all()
                    .iter()
                    .map(|machine| machine.document.0.clone())
                    .collect();
                if wanted(&machines) {
                    return machines;
                }
                changes.next().await;
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("never happened: {what}"))
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

pub fn host(name: &str, memory_mib: u64) -> Host {
    Host {
        id: HostId::from_local(name).unwrap(),
        capacity: Capacity {
            cpus: 64,
            memory_kib: memory_mib * MIB,
            ..Capacity::default()
        },
        ..testing::host()
    }
}

/// A host that has joined and takes machines.
pub fn joined(name: &str) -> Host {
    let mut host = host(name, 4096);
    (host.desired.apart, host.runs_machines) = (true, true);
    host
}

pub fn pulse_of(host: &str) -> HostPulse {
    HostPulse {
        id: HostPulseId::from_local(host).unwrap(),
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
    }
}

pub fn machine(vmid: u32, memory_mib: u64) -> Machine {
    let mut machine = Machine {
        memory: memory_mib * MIB,
        ..testing::machine(vmid)
    };
    machine.settle();
    machine
}

/// Whether machine `vmid` has this host.
pub fn is_on(vmid: u32, host: &'static str) -> impl Fn(&[Machine]) -> bool {
    move |all| {
        let mut on = all.iter().filter(|machine| machine.vmid.0 == vmid);
        on.any(|machine| machine.host.as_ref().is_some_and(|on| on.local() == host))
    }
}

/// Whether machine `vmid` has no host for this reason.
pub fn waits_because(vmid: u32, reason: &'static str) -> impl Fn(&[Machine]) -> bool {
    move |all| {
        let mut waiting = all.iter().filter(|machine| machine.vmid.0 == vmid);
        waiting.any(|machine| machine.host.is_none() && machine.reason.as_deref() == Some(reason))
    }
}
