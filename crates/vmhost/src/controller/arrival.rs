//! Machines that come from another host: their files lie in a folder of their own until they are this host's.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use cimi::{
    Timestamp,
    resources::{Machine, local_bytes},
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Settings, Shared, prepare, prepare::ROOT_DISK};
use crate::{
    HypervisorError,
    hypervisor::Adopted,
    moving::{Bounds, Packed},
};

/// How the names of these folders end.
const ARRIVING: &str = "arriving";
/// In such a folder: all of the machine is in it.
const WHOLE: &str = "whole";
/// What disks and memory may take beyond what the guest sees: tables of disks, devices in memory, the console.
const BESIDE: u64 = 256 << 20;

/// The ways between hosts that machines go.
pub trait MachineFiles: Send + Sync {
    /// The files of a machine that has left its host for this one. An error is a sentence.
    fn files<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<Packed, String>>;

    /// A connection of this name between the two hosts of a machine that goes from one to the other while its guest runs, once
    /// both have asked for it. An error is a sentence.
    fn channel<'a>(
        &'a self,
        machine: &'a Machine,
        end: WayEnd,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Channel, String>> {
        let _ = (machine, end, name);
        async { Err("there is no connection between the two hosts".to_owned()) }.boxed()
    }
}

/// Which of the two hosts asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayEnd {
    /// The one that has the machine.
    Leaving,
    /// The one that it comes to.
    Coming,
}

/// What is read and written.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection between the two hosts of a machine.
pub type Channel = Box<dyn Duplex>;

/// Where they lie meanwhile.
pub(super) fn folder(settings: &Settings, machine: &str) -> PathBuf {
    settings.machines_dir.join(format!("{machine}.{ARRIVING}"))
}

/// The machine whose files lie there.
pub(super) fn machine_of(folder: &Path) -> Option<&str> {
    let is_one = folder.extension().is_some_and(|end| end == ARRIVING);
    folder.file_stem().filter(|_| is_one)?.to_str()
}

/// How much a machine's files may be.
pub(super) fn bounds(settings: &Settings, machine: &Machine) -> Bounds {
    Bounds {
        most: most(machine),
        reserve: settings.reserve_bytes,
    }
}

fn most(machine: &Machine) -> u64 {
    let disks = local_bytes(&machine.disks);
    let memory = machine.memory.saturating_mul(1024);
    let all = disks.saturating_add(disks / 64).saturating_add(memory);
    all.saturating_add(memory / 8).saturating_add(BESIDE)
}

/// Notes that all of a machine is here, before anybody is told: from then on it may be the only copy. Blocks.
///
/// If its files were copied, of which way they are: then they are whole without anything that runs.
pub(super) fn note_whole(
    settings: &Settings,
    machine: &str,
    copied: Option<Timestamp>,
) -> io::Result<()> {
    let folder = folder(settings, machine);
    let mut note = File::create(folder.join(WHOLE))?;
    let way = copied.map(|way| way.to_string());
    note.write_all(way.unwrap_or_default().as_bytes())?;
    note.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Whether all files of a machine were copied on this way. Blocks.
pub(super) fn is_copied(settings: &Settings, machine: &str, way: Timestamp) -> bool {
    let note = std::fs::read_to_string(folder(settings, machine).join(WHOLE));
    note.is_ok_and(|copied| copied == way.to_string())
}

/// Puts the files of a machine in place that is this host's from now on. Blocks.
pub(super) fn take_in(settings: &Settings, machine: &Machine) -> io::Result<()> {
    let (from, to) = (
        folder(settings, machine.id.local()),
        prepare::folder(settings, machine),
    );
    match std::fs::rename(&from, &to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{} can't become {}: {error}", from.display(), to.display()),
        )),
        Ok(()) => {
            File::open(&settings.machines_dir)?.sync_all()?;
            // It says nothing there.
            let _ = std::fs::remove_file(to.join(WHOLE));
            Ok(())
        }
    }
}

/// Throws away what was copied of a machine. A root disk that came whole is kept like one of a machine that was removed: it may be
/// the only one, whatever documents say now that were restored, or aren't seen by whom this computer is now. Blocks.
pub(super) fn forget(shared: &Shared, machine: &str) -> io::Result<()> {
    let folder = folder(&shared.settings, machine);
    if folder.join(WHOLE).exists()
        && let Ok(id) = machine.parse()
    {
        let kept = shared
            .quarantine
            .put(&folder.join(ROOT_DISK), id, jiff::Timestamp::now());
        kept.map_err(io::Error::other)?;
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends the process of a machine that was to come, if there is one. It has never run.
pub(super) async fn end(shared: &Shared, machine: &str) -> Result<(), HypervisorError> {
    let folder = folder(&shared.settings, machine);
    match shared.hypervisor.adopt(&folder).await {
        Ok(Adopted::Running(handle)) => handle.quit().await.map(drop),
        Ok(Adopted::Unreachable { process, .. }) => process.end().await.map(drop),
        // What is left of one that has ended is cleared away with that.
        Ok(Adopted::Gone { .. }) => Ok(()),
        Err(HypervisorError::NeverStarted { .. } | HypervisorError::Record { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether something lies here of a machine that comes, or was to. Blocks.
pub(super) fn are_there(settings: &Settings) -> bool {
    let entries = std::fs::read_dir(&settings.machines_dir);
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| machine_of(&entry.path()).is_some())
}

/// Clears away what was copied of machines that neither are here nor come. One that can't be keeps no other.
pub(super) async fn sweep(shared: &Arc<Shared>) {
    let entries = match std::fs::read_dir(&shared.settings.machines_dir) {
        Ok(entries) => entries,
        Err(error) => {
            let folder = shared.settings.machines_dir.display();
            tracing::warn!(%folder, %error, "what was copied of machines that don't come here can't be looked for");
            return;
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(machine) = machine_of(&path) else {
            continue;
        };
        let read = shared.documents.machines.get(machine);
        let is_wanted = read.is_some_and(|read| {
            read.host.as_ref() == Some(&shared.host) || read.moving_to() == Some(&shared.host)
        });
        if is_wanted {
            continue;
        }
        tracing::info!(
            machine,
            "doesn't come here: what was copied of it is cleared away"
        );
        if let Err(error) = clear(shared, machine).await {
            tracing::warn!(machine, %error, "what was copied of it can't be cleared away");
        }
    }
}

/// Ends what was to run of it, and throws away what was copied.
pub(super) async fn clear(shared: &Arc<Shared>, machine: &str) -> io::Result<()> {
    end(shared, machine).await.map_err(io::Error::other)?;
    let (shared, machine) = (shared.clone(), machine.to_owned());
    tokio::task::spawn_blocking(move || forget(&shared, &machine)).await?
}
