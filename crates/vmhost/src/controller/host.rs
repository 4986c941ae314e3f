//! This host's own document: what it has and can, how it runs guests, what is wrong with it.

use std::{sync::Arc, time::Duration};

use cimi::{
    Acl, Common, HostId, Right, Timestamp,
    common::USER_ROLE,
    lifecycle::{EndCause, Stage},
    resources::{AcceleratorKind, Capacity, Host, Load},
};
use documents::{Cached, Documents, DocumentsError};
use storage::space::Space;
use tokio_util::sync::CancellationToken;

use super::{
    ImageContent, Networks, Settings, Shared, VmHostError,
    report::{enter, reason_of, report},
};
use crate::{HypervisorError, accel};

/// How often free space is looked at. Nothing waits for it.
const ROUND: Duration = Duration::from_secs(60);

/// What this daemon can that older ones can't.
const FEATURES: [&str; 2] = [Host::GIVES_DISKS, Host::SECURITY_GROUPS];

/// The kind as documents write it.
pub(super) const fn kind(kind: accel::AcceleratorKind) -> AcceleratorKind {
    match kind {
        accel::AcceleratorKind::Kvm => AcceleratorKind::Kvm,
        accel::AcceleratorKind::Tcg => AcceleratorKind::Tcg,
    }
}

impl Shared {
    /// What executes guests that are started now, and why.
    pub(crate) fn accelerator(&self) -> accel::Accelerator {
        self.accelerator.lock().clone()
    }

    /// After QEMU could not use KVM: whether it is started under TCG instead, as all machines are from now on.
    pub(crate) fn falls_back_to_tcg(&self, error: &HypervisorError) -> bool {
        if !self.settings.falls_back_to_tcg {
            return false;
        }
        let mut accelerator = self.accelerator.lock();
        if accelerator.kind == accel::AcceleratorKind::Kvm {
            tracing::error!(%error, "QEMU can't use KVM: machines run under TCG from now on");
            *accelerator = accel::Accelerator {
                kind: accel::AcceleratorKind::Tcg,
                reason: format!("QEMU could not use KVM: {error}"),
            };
            self.host_changed.notify_one();
        }
        true
    }
}

/// Writes the document of this host, found by its name, or the one it has joined as. If the kernel was started anew since the
/// last time, the machines that ran are reported to have ended with it.
///
/// # Errors
/// [`VmHostError::NameTaken`] if the name is that of a host which has joined from elsewhere, and those of the store.
pub(super) async fn announce(
    documents: &Documents,
    settings: &Settings,
    networks: &dyn Networks,
) -> Result<HostId, VmHostError> {
    loop {
        let known = known(documents, settings);
        if let Some(other) = &known
            && other.has_joined()
            && settings.joined.is_none()
        {
            return Err(VmHostError::NameTaken {
                name: settings.host_name.clone(),
                host: other.document.id.clone(),
            });
        }
        let mut host = match &known {
            Some(known) => known.document.0.clone(),
            None => newcomer(settings),
        };
        let booted = std::mem::take(&mut host.boot_id);
        describe(settings, &mut host);
        host.runs_machines = true;
        host.uses_volumes = true;
        host.features = FEATURES.map(str::to_owned).to_vec();
        let iscsi = settings.opens_iscsi.then(|| Host::ISCSI.to_owned());
        host.features.extend(iscsi);
        host.bridges = networks.bridges().await;
        host.started = Timestamp::now();
        if known.is_some() && host.boot_id != booted {
            // Before the new boot is noted: who is killed here does it again.
            end_with_host(documents, &host.id).await?;
        }
        let id = host.id.clone();
        let changes = match &known {
            None => documents.changes().create(&host),
            Some(read) => documents.changes().replace(read, host),
        };
        match changes.commit().await {
            Ok(_) => return Ok(id),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn known(documents: &Documents, settings: &Settings) -> Option<Arc<Cached<Host>>> {
    if let Some(joined) = &settings.joined {
        return documents.hosts.get(joined.local());
    }
    let name = Some(settings.host_name.as_str());
    let mut hosts = documents.hosts.all().into_iter();
    hosts.find(|host| host.common.name.as_deref() == name)
}

/// The host of this name, before anything was looked at.
fn newcomer(settings: &Settings) -> Host {
    let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
    let mut host = Host::newcomer(Common::new(acl, Timestamp::now()));
    host.common.name = Some(settings.host_name.clone());
    host
}

/// Writes into a host's document what this computer is.
pub fn describe(settings: &Settings, host: &mut Host) {
    host.capacity = capacity(settings);
    host.accelerator = kind(settings.accelerator.kind);
    host.accelerator_reason
        .clone_from(&settings.accelerator.reason);
    host.cpu_model = processor("model name").unwrap_or_else(|| "unknown".to_owned());
    host.cpu_flags = cpu_flags();
    host.version.clone_from(&settings.version);
    host.qemu_version.clone_from(&settings.qemu_version);
    host.boot_id = boot_id();
    host.tunnel = settings.tunnel;
    host.images_port = settings.images_port;
    let fence = settings.fence.as_ref();
    host.fences_after = fence.map(|fence| fence.after.as_secs());
    host.troubles = troubles(settings);
}

/// Tells this time that this computer is switched on from any other.
#[must_use]
pub fn boot_id() -> String {
    read_first_line("/proc/sys/kernel/random/boot_id")
}

/// Reports the runs that the host's end has ended. (One that was being started was never seen to run: it is started.)
async fn end_with_host(documents: &Documents, host: &HostId) -> Result<(), DocumentsError> {
    let cause = EndCause::HostReboot;
    for machine in documents.machines.by_index("host", host.local()) {
        report(documents, (host, machine.id()), |machine| {
            if matches!(
                machine.observed.stage,
                Stage::Running | Stage::Paused | Stage::Held
            ) {
                enter(machine, Stage::Ended { cause }, machine.observed.run);
                machine.reason = reason_of(cause, None);
                machine.accelerator = None;
            }
        })
        .await?;
    }
    Ok(())
}

/// One more may be here, which is told.
pub(super) fn image_changed(shared: &Shared, image: &str) {
    let image = shared.documents.images.get(image);
    if image.is_some_and(|image| matches!(shared.images.content(&image), ImageContent::Here(_))) {
        shared.host_changed.notify_one();
    }
}

/// Keeps free space, troubles, copies of images and the load current.
pub(super) async fn keep_current(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
            () = shared.host_changed.notified() => {}
        }
        let accelerator = shared.accelerator();
        let (capacity, troubles) = (capacity(&shared.settings), troubles(&shared.settings));
        let bridges = shared.setup.bridges().await;
        let load = shared.meters.load_of_host();
        let mut cached: Vec<String> = shared.images.fetched().await.into_iter().collect();
        cached.truncate(Host::MAX_CACHED);
        let updated = shared
            .documents
            .update(shared.host.local(), |host: &mut Host| {
                // A few MiB more or less are not worth a write.
                let moved = host
                    .capacity
                    .disk_free_bytes
                    .abs_diff(capacity.disk_free_bytes)
                    > 64 * cimi::size::MEBIBYTE;
                let changed = moved
                    || host.troubles != troubles
                    || host.bridges != bridges
                    || host.cached != cached
                    || is_another_load(host.load, load, &capacity)
                    || host.accelerator_reason != accelerator.reason;
                host.accelerator = kind(accelerator.kind);
                host.accelerator_reason.clone_from(&accelerator.reason);
                host.capacity = capacity.clone();
                host.troubles.clone_from(&troubles);
                host.bridges.clone_from(&bridges);
                host.cached.clone_from(&cached);
                host.load = load;
                Ok::<bool, DocumentsError>(changed)
            })
            .await;
        if let Err(error) = updated {
            tracing::warn!(%error, "the host's document could not be updated; it will be in the next round");
        }
        let (quarantine, period) = (shared.quarantine.clone(), shared.settings.quarantine_period);
        let purge = move || quarantine.purge(jiff::Timestamp::now(), period);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(purge).await {
            tracing::warn!(%error, "quarantine could not be emptied; it will be tried again");
        }
    }
}

/// Whether it is worth a write: it differs by more than a sixteenth of what there is.
fn is_another_load(told: Option<Load>, now: Option<Load>, capacity: &Capacity) -> bool {
    let (Some(told), Some(now)) = (told, now) else {
        return told != now;
    };
    let cpu = told.cpu_percent.abs_diff(now.cpu_percent) * 16 > u64::from(capacity.cpus) * 100;
    cpu || told.memory_kib.abs_diff(now.memory_kib) * 16 > capacity.memory_kib
}

fn capacity(settings: &Settings) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let space = Space::of(&settings.machines_dir).ok();
    Capacity {
        cpus: settings
            .cpus
            .unwrap_or_else(|| u32::try_from(cpus).unwrap_or(u32::MAX)),
        memory_kib: settings
            .memory_mib
            .map_or_else(memory_kib, |mib| mib * 1024),
        disk_bytes: space.as_ref().map_or(0, |space| space.total_bytes),
        disk_free_bytes: space.as_ref().map_or(0, |space| space.free_bytes),
    }
}

fn troubles(settings: &Settings) -> Vec<String> {
    let mut troubles = Vec::new();
    match Space::of(&settings.machines_dir) {
        Ok(space) if space.free_bytes < settings.reserve_bytes => troubles.push(format!(
            "{} has {} MiB free, less than the reserve of {} MiB: free some space",
            settings.machines_dir.display(),
            space.free_bytes / cimi::size::MEBIBYTE,
            settings.reserve_bytes / cimi::size::MEBIBYTE,
        )),
        Ok(_) => {}
        Err(error) => troubles.push(error.to_string()),
    }
    let fence = settings.fence.as_ref();
    troubles.extend(fence.and_then(|fence| fence.guard.trouble()));
    troubles
}

fn read_first_line(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

/// What the first processor says of itself under this name.
fn processor(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn cpu_flags() -> Vec<String> {
    let flags = processor("flags").unwrap_or_default();
    flags.split_whitespace().map(str::to_owned).collect()
}
