//! `stratusd serve` on a host that has joined: it says that it is there, and runs the machines that are placed on it.
//!
//! ```text
//!  an entry ◀── store of this host ── controller of machines: Host/<own>, and the machines that are here
//!           ◀──                    ── pulse: HostPulse/<own>  under a lease that is kept alive
//!           ◀── next certificate at two thirds of its life ── then the store is opened anew
//!           ──▶ files of images                          ── replicas: STATE/cache/replicas
//!  a host   ◀─▶ files of images, as entries allow        ── the same
//!           ◀─▶ volumes, in NBD                          ── a socket in the folder of each machine that has one
//!           ──▶ questions: consoles, meters, the doctor, disks that are saved  ── answered on a connection to each entry
//! ```
//!
//! Without bridges (as a user without privileges) machines could be reached from this host alone: then it says what it is, and
//! runs none.
//!
//! When no entry hears it, the controller rests, and machines run on. It takes them over when the store is open again, as
//! after a restart.

mod answers;
mod arrivals;
mod giving;
mod images;
mod neighbours;
mod pulse;
mod volumes;
mod watchdog;

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use cimi::{HostId, Timestamp, resources::Host};
use documents::{Documents, DocumentsError};
use storage::replicas::Replicas;
use store::{EtcdOptions, EtcdStore, SharedStore, StoreError};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use trust::{Joined, REMOVED, RENEW_PATH, RenewRequest, SERVER_NAME};
use vmhost::{controller::VmHost, guard::Moment, qemu::QemuHypervisor};

pub use self::answers::AWAY_AT_MOST;
pub(crate) use self::watchdog::FOLDER as GUARD_FOLDER;
use self::{
    answers::Answers,
    arrivals::Arrivals,
    giving::{Giving, Place},
    pulse::Pulse,
    volumes::RemoteVolumes,
    watchdog::Watchdog,
};
use crate::{
    config::Config,
    instance::{Instance, make_dir},
    joining::{Believed, Entry, Folder, Kept, ask},
    networks::OfDocuments,
    roles::Role,
    serve::Signals,
    settings,
};

/// How often it says that it is there.
const PULSE_EVERY: Duration = Duration::from_secs(3);
/// How often it looks whether it has changed.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Rest after no entry did what was asked; it grows up to the second.
const REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(15);
/// Rest after an entry refused what this host tells of itself: of an older version, it will do so until it is upgraded.
const REFUSED_REST: Duration = Duration::from_secs(600);
/// How long a store is tried that isn't heard any more: one that is opened tries in long intervals. A host that was removed
/// would try often for ever.
const UNHEARD: Duration = Duration::from_secs(20);
/// How long a call may take, with all entries that are tried.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// Rest after no entry gave a certificate.
const RENEWED_AGAIN: Duration = Duration::from_secs(300);

/// Why a host ends that is one no more. Nothing is better when it is started again.
#[derive(Debug, thiserror::Error)]
#[error("{name} was removed from its cloud: to join again, remove {folder} and use a new token")]
pub(crate) struct Removed {
    name: String,
    folder: String,
}

/// Runs until it is told to stop.
///
/// # Errors
/// If it was asked for roles, what it keeps can't be read, or it was removed from the cloud.
pub(crate) async fn serve(
    config: Config,
    instance: &Instance,
    (folder, kept): (Folder, Kept),
    asked: &[Role],
    ready_fd: Option<i32>,
) -> anyhow::Result<()> {
    ensure!(
        asked.is_empty(),
        "this host has joined a cloud as {}, and plays no roles of its own yet: start it without --roles",
        kept.joined.name
    );
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut signals = Signals::new()?;
    let entries: Vec<String> = kept.entries.iter().map(ToString::to_string).collect();
    tracing::info!(
        host = kept.joined.host,
        name = kept.joined.name,
        ?entries,
        "starting as a host of a cloud"
    );
    let mut settings = settings::vm_host(&config).await?;
    settings.host_name.clone_from(&kept.joined.name);
    let towards = kept.entries.iter().find_map(Entry::address);
    settings.tunnel = towards.and_then(|entry| config.tunnel_address(entry));
    // Where there are no bridges, there is no such address, and there are no machines and no images.
    let given_at = match (settings.tunnel, config.network.images_port) {
        (None, _) | (_, 0) => None,
        (Some(address), port) => Some(Place::at(address, port).await),
    };
    let hypervisor = match config.bridged() {
        true => Some(Arc::new(settings::hypervisor(&config, &settings)?)),
        false => {
            tracing::warn!(
                "no machines are placed on this host: it has no bridges (`network.mode`), so that only itself would reach them"
            );
            None
        }
    };
    // Whose space it tells.
    make_dir(&settings.machines_dir, 0o711)?;
    let stop = CancellationToken::new();
    let id: HostId = kept
        .joined
        .host
        .parse()
        .context("what this host keeps of itself")?;
    settings.joined = Some(id.clone());
    let guard = Watchdog::new(&config, &settings.machines_dir);
    settings.fence = guard.fence();
    let host = JoinedHost {
        pulse: Pulse::of(&id)?,
        id,
        config: Arc::new(config),
        folder,
        settings,
        hypervisor,
        guard,
        given_at,
        stop: stop.clone(),
    };
    instance.ready(
        &format!("host {} of {}", kept.joined.name, entries.join(", ")),
        ready_fd,
    )?;
    let mut running = tokio::spawn(Box::pin(host.run(kept)));
    let ended = tokio::select! {
        ended = &mut running => ended,
        name = signals.stop(|| ()) => {
            tracing::info!("{name}: stopping");
            stop.cancel();
            running.await
        }
    };
    instance.stopping();
    ended.context("the host's own work")?
}

struct JoinedHost {
    id: HostId,
    config: Arc<Config>,
    folder: Folder,
    settings: vmhost::controller::Settings,
    /// What runs machines, where this host can.
    hypervisor: Option<Arc<QemuHypervisor>>,
    /// What ends machines here that go on elsewhere, if this host is heard of no more.
    guard: Watchdog,
    /// Where other hosts come for images; none: they don't.
    given_at: Option<Place>,
    /// Where it says that it is there, and how.
    pulse: Pulse,
    stop: CancellationToken,
}

/// Those of this host, and how others have them.
type Images = (Replicas, Option<Giving>);

/// How a time with one certificate ended.
enum Ended {
    Stopped,
    /// The store is to be opened anew, by this.
    Anew(Kept),
    Removed,
}

impl JoinedHost {
    async fn run(self, kept: Kept) -> anyhow::Result<()> {
        tokio::select! {
            ended = self.serve(kept) => ended,
            never = self.guard.keep() => match never {},
        }
    }

    async fn serve(&self, mut kept: Kept) -> anyhow::Result<()> {
        loop {
            let Some(store) = self.open(&kept).await? else {
                return Ok(());
            };
            let ended = Box::pin(self.with_store(&store, &kept)).await;
            store.close().await;
            match ended? {
                Ended::Stopped => return Ok(()),
                Ended::Anew(next) => kept = next,
                Ended::Removed => return Err(self.was_removed(&kept)),
            }
        }
    }

    /// The end of a host that is one no more.
    fn was_removed(&self, kept: &Kept) -> anyhow::Error {
        let folder = self.folder.path().display().to_string();
        let name = kept.joined.name.clone();
        Removed { name, folder }.into()
    }

    /// The store by way of any entry; none if it is told to stop before.
    ///
    /// # Errors
    /// If an entry says that this host was removed, or what it keeps can't be used.
    async fn open(&self, kept: &Kept) -> anyhow::Result<Option<SharedStore>> {
        let key = self.folder.key()?;
        let mut options = EtcdOptions::new(kept.entries.iter().map(ToString::to_string).collect());
        // What is forgotten when is the cloud's affair.
        options.history_revisions = None;
        options.deadline = CALL_LIMIT;
        let mut rest = REST;
        options.tls.authority = Some(kept.joined.authority.clone().into_bytes());
        options.tls.identity = Some((
            kept.joined.certificate.clone().into_bytes(),
            key.to_pem().into_bytes(),
        ));
        options.tls.server_name = Some(SERVER_NAME.to_owned());
        loop {
            let opened = EtcdStore::open(options.clone());
            match self.stop.run_until_cancelled(opened).await {
                None => return Ok(None),
                Some(Ok(store)) => return Ok(Some(Arc::new(store))),
                Some(Err(error @ StoreError::Endpoint { .. })) => return Err(error.into()),
                Some(Err(error)) if is_removal(&error) => return Err(self.was_removed(kept)),
                Some(Err(error)) => {
                    let expires = kept.joined.expires;
                    if expires <= Timestamp::now() {
                        tracing::warn!(%expires, "the certificate of this host has ended, as it was off for so long: remove the host from the cloud and {}, and join anew by another token", self.folder.path().display());
                    } else {
                        tracing::warn!(%error, "no entry can be reached; trying on");
                    }
                }
            }
            if self.stop.run_until_cancelled(sleep(rest)).await.is_none() {
                return Ok(None);
            }
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    /// Everything that goes on as long as a certificate is good.
    async fn with_store(&self, store: &SharedStore, kept: &Kept) -> anyhow::Result<Ended> {
        let documents = Documents::open_part(store.clone()).await;
        let documents = match documents {
            Ok(documents) => documents,
            Err(error) => {
                tracing::warn!(%error, "this host's documents can't be read; trying on");
                sleep(REST).await;
                return Ok(Ended::Anew(kept.clone()));
            }
        };
        let boot_id = vmhost::controller::boot_id();
        tokio::select! {
            () = self.stop.cancelled() => return Ok(Ended::Stopped),
            () = self.removed(&documents) => return Ok(Ended::Removed),
            () = until_alone(&documents, &self.id, &boot_id) => {}
        }
        let (stop, heard) = (self.stop.child_token(), CancellationToken::new());
        let until_ended = async {
            let ended = tokio::select! {
                () = self.stop.cancelled() => {
                    self.pulse.end(store).await;
                    Ended::Stopped
                }
                () = self.removed(&documents) => Ended::Removed,
                next = self.renew(kept) => Ended::Anew(next),
                () = self.beat(store, &documents, &heard) => Ended::Anew(kept.clone()),
                // With the place in what it tells of itself.
                () = self.had_a_place() => Ended::Anew(kept.clone()),
            };
            stop.cancel();
            ended
        };
        // The work ends in order: a step that is being taken comes to its end.
        let work = async {
            // Before that is noted, the guard ends what is started.
            if stop.run_until_cancelled(heard.cancelled()).await.is_some() {
                self.work(&documents, kept, &stop).await;
            }
        };
        let (ended, ()) = tokio::join!(until_ended, work);
        Ok(ended)
    }

    /// Runs machines, or says what this host is, until told to stop.
    async fn work(&self, documents: &Documents, kept: &Kept, stop: &CancellationToken) {
        let Some(hypervisor) = &self.hypervisor else {
            let Some(never) = stop.run_until_cancelled(self.report(documents)).await else {
                return;
            };
            match never {}
        };
        loop {
            match stop
                .run_until_cancelled(self.open_machines(documents, kept, hypervisor))
                .await
            {
                None => return,
                Some(Ok((machines, (replicas, giving), volumes, answers))) => {
                    let giving = async {
                        if let Some(giving) = giving {
                            giving.run(stop.clone()).await;
                        }
                    };
                    tokio::join!(
                        machines.run(stop.clone()),
                        replicas.run(stop.clone()),
                        giving,
                        volumes.run(stop.clone()),
                        answers.run(stop.clone())
                    );
                    return;
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        "the machines of this host can't be looked after: {error:#}; trying on"
                    );
                }
            }
            if stop.run_until_cancelled(sleep(REST)).await.is_none() {
                return;
            }
        }
    }

    async fn open_machines(
        &self,
        documents: &Documents,
        kept: &Kept,
        hypervisor: &Arc<QemuHypervisor>,
    ) -> anyhow::Result<(VmHost, Images, RemoteVolumes, Arc<Answers>)> {
        let key = self.folder.key()?;
        let replicas = images::open(&self.settings, kept, &key, documents.clone()).await?;
        let mut settings = self.settings.clone();
        settings.images_port = self.given_at.as_ref().and_then(Place::port);
        let listener = self.given_at.as_ref().and_then(Place::listener);
        let giving = listener.map(|listener| {
            Giving::open(listener, (kept, &key), self.id.local(), replicas.clone())
        });
        let giving = giving.transpose()?;
        let daemon = self.settings.storage_daemon.clone();
        let opens_iscsi = hypervisor.opens_iscsi().await;
        if let Err(why) = &opens_iscsi {
            tracing::info!(
                why,
                "QEMU has no iSCSI driver here: machines use volumes in NBD, also where the storage would show them by iSCSI (Debian: qemu-block-extra; then start this daemon anew)"
            );
        }
        settings.opens_iscsi = opens_iscsi.is_ok();
        let means = (daemon, settings.opens_iscsi);
        let volumes = RemoteVolumes::open(kept, &key, documents.clone(), means)?;
        let networks = OfDocuments {
            config: self.config.clone(),
            documents: documents.clone(),
        };
        let machines = VmHost::open(
            documents.clone(),
            settings,
            hypervisor.clone(),
            (
                Arc::new(replicas.clone()),
                Arc::new(volumes.clone()),
                Arc::new(Arrivals::open(kept, &key)?),
            ),
            Arc::new(networks),
        );
        let machines = machines.await?;
        let answers = Answers::open(kept, &key, documents.clone(), machines.clone())?;
        Ok((machines, (replicas, giving), volumes, answers))
    }

    /// Waits until other hosts can come for images, if they could not before.
    async fn had_a_place(&self) {
        match &self.given_at {
            Some(place) => place.had().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until this host is one no more.
    async fn removed(&self, documents: &Documents) {
        let mut changes = documents.hosts.changes();
        while documents.hosts.get(self.id.local()).is_some() {
            changes.next().await;
        }
    }

    /// Says what this host is, for ever.
    async fn report(&self, documents: &Documents) -> Infallible {
        let started = Timestamp::now();
        loop {
            let written = documents.update(self.id.local(), |host: &mut Host| {
                let before = serde_json::to_value(&*host).ok();
                let free = host.capacity.disk_free_bytes;
                vmhost::controller::describe(&self.settings, host);
                host.started = started;
                // A few MiB more or less are not worth a write.
                if host.capacity.disk_free_bytes.abs_diff(free) < 64 * cimi::size::MEBIBYTE {
                    host.capacity.disk_free_bytes = free;
                }
                Ok::<bool, DocumentsError>(serde_json::to_value(&*host).ok() != before)
            });
            let rest = match written.await {
                Ok(_) => REPORT_EVERY,
                Err(DocumentsError::Store(error @ StoreError::Refused { .. })) => {
                    tracing::warn!(%error, "the cloud doesn't take what this host tells of itself: its entries may be of an older version than this host; trying again in {} minutes", REFUSED_REST.as_secs() / 60);
                    REFUSED_REST
                }
                Err(error) => {
                    tracing::warn!(%error, "what this host is could not be told; trying on");
                    REST
                }
            };
            sleep(rest).await;
        }
    }

    /// Says that this host is there, until no entry has heard it for a while. Once one has, that is `noted`.
    async fn beat(&self, store: &SharedStore, documents: &Documents, noted: &CancellationToken) {
        let mut heard = Instant::now();
        loop {
            let asked = Moment::now();
            match self.pulse.beat(store).await {
                Ok(()) => {
                    heard = Instant::now();
                    let known = documents.hosts.get(self.id.local());
                    let told = known.and_then(|known| known.fences_after);
                    self.guard.heard(asked, told.map(Duration::from_secs));
                    noted.cancel();
                    sleep(PULSE_EVERY).await;
                }
                Err(error) if heard.elapsed() > UNHEARD || is_removal(&error) => return,
                Err(error) => {
                    tracing::warn!(%error, "the cloud can't be told that this host is there; trying on");
                    sleep(REST).await;
                }
            }
        }
    }

    /// Waits until the certificate is to be renewed, and gets the next one.
    async fn renew(&self, kept: &Kept) -> Kept {
        let now = Timestamp::now();
        sleep_until(Instant::now() + until_renewal(now, kept.joined.expires)).await;
        loop {
            for entry in &kept.entries {
                match self.renewed_at(entry, kept).await {
                    Ok(next) => {
                        tracing::info!(expires = %next.joined.expires, "this host has its next certificate");
                        return next;
                    }
                    Err(error) => {
                        tracing::warn!(%entry, "the certificate is not renewed: {error:#}");
                    }
                }
            }
            sleep(RENEWED_AGAIN).await;
        }
    }

    async fn renewed_at(&self, entry: &crate::joining::Entry, kept: &Kept) -> anyhow::Result<Kept> {
        let key = self.folder.key()?;
        let asked = RenewRequest {
            request: key.request()?,
        };
        let believed = Believed::of_host(kept, &key)?;
        let joined: Joined = ask(entry, &believed, RENEW_PATH, &asked)
            .await
            .map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        ensure!(
            joined.host == kept.joined.host && joined.authority == kept.joined.authority,
            "the answer is for another host"
        );
        let next = Kept {
            joined,
            entries: kept.entries.clone(),
        };
        self.folder.write(&next)?;
        Ok(next)
    }
}

/// Waits until no other computer is there as this host: one that has a copy of what this one keeps. Both would take all machines
/// for theirs. (After a quick reboot, until nothing is heard any more of the time before.)
async fn until_alone(documents: &Documents, id: &HostId, boot_id: &str) {
    let mut pulses = documents.host_pulses.changes();
    let is_alone = || {
        let host = documents.hosts.get(id.local());
        host.is_none_or(|host| host.boot_id.is_empty() || host.boot_id == boot_id)
            || documents.host_pulses.get(id.local()).is_none()
    };
    while !is_alone() {
        tracing::warn!(
            host = %id,
            "another computer is there as this host, or was so a moment ago: waiting until nothing is heard of it; one that was copied has to join by a token of its own"
        );
        pulses.next().await;
    }
}

/// Whether an entry says that this host was removed. It has shown that it is one, and asked the database.
fn is_removal(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { reason, .. } if reason.contains(REMOVED))
}

/// How long a certificate is left as it is: until two thirds of its life are over.
fn until_renewal(now: Timestamp, expires: Timestamp) -> Duration {
    let left = expires.since(now);
    left.saturating_sub(trust::CERTIFICATE_LIFE / 3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::pin::pin;

    use cimi::{Acl, Common};
    use store::SqliteStore;

    use super::*;

    #[tokio::test]
    async fn a_copy_of_a_host_waits_as_long_as_that_is_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let host = Host {
            boot_id: "theirs".to_owned(),
            ..Host::newcomer(Common::new(Acl::owned_by_admin(), Timestamp::now()))
        };
        let pulse = pulse::of(&host.id).unwrap();
        let changes = documents.changes().create(&host).create(&pulse);
        changes.commit().await.unwrap();
        until_alone(&documents, &host.id, "theirs").await;
        let mut copy = pin!(until_alone(&documents, &host.id, "a copy's"));
        // What it was told before it waits doesn't count.
        for _ in 0..3 {
            assert!(futures::poll!(copy.as_mut()).is_pending());
        }
        let read = documents.host_pulses.get(host.id.local()).unwrap();
        documents.changes().remove(&read).commit().await.unwrap();
        copy.await;
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let day = Duration::from_secs(24 * 3600);
        let now = Timestamp::from_millis(1_000_000_000_000);
        let left = |days: u32| until_renewal(now, now.after(day * days));
        assert_eq!(left(30), day * 20);
        assert_eq!(left(11), day);
        assert_eq!(left(10), Duration::ZERO);
        assert_eq!(
            until_renewal(now, Timestamp::from_millis(0)),
            Duration::ZERO
        );
    }
}
