//! The memory of a suspended machine, as files in its folder: `memory` itself, and `memory.json` with what must be the
//! same when it is read back. While it is written it is called `memory.part`, which nobody ever reads.
//!
//! The file is removed, durably, before the guest goes on: memory older than the disks must never be read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::prepare::PrepareError;
use crate::command_line::has_uneven_memory;
use crate::hypervisor::{MachineStatus, RunFolder};
use crate::launch_spec::{Accelerator, DiskId, LaunchSpec, MAX_PORTS, SavedMemory};
use crate::record::LaunchRecord;

/// The form written today.
const FORMAT: u32 = 1;

/// What a machine was when its memory was saved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemoryRecord {
    format: u32,
    /// Hot-plug ports it had.
    port_count: u8,
    /// What was on them.
    disks: Vec<(u8, DiskId)>,
    /// None where there is no QEMU.
    accelerator: Option<Accelerator>,
    /// QEMU's `-cpu`.
    cpu: Option<String>,
    /// Whether it lacks a little of what was asked for; what was saved before that was recorded doesn't.
    #[serde(default)]
    is_uneven: bool,
}

impl MemoryRecord {
    /// Of a machine whose process lives. Blocks briefly.
    pub(crate) fn of(folder: &RunFolder, status: &MachineStatus) -> Self {
        let record = LaunchRecord::read(&folder.record()).ok();
        let used = u8::try_from(status.disks.len()).unwrap_or(u8::MAX);
        Self {
            format: FORMAT,
            port_count: used.saturating_add(status.free_ports),
            disks: status
                .disks
                .iter()
                .map(|disk| (disk.port, disk.id.clone()))
                .collect(),
            accelerator: record.as_ref().map(|record| record.accelerator),
            is_uneven: record
                .as_ref()
                .is_some_and(|record| has_uneven_memory(&record.arguments)),
            cpu: record.and_then(|record| cpu_of(&record.arguments)),
        }
    }

    /// The disks that were there, by their ports.
    pub(crate) fn disks(&self) -> &[(u8, DiskId)] {
        &self.disks
    }

    /// Whether so many ports can be made.
    pub(crate) fn is_possible(&self) -> bool {
        let all_fit = self.disks.iter().all(|(port, _)| *port < self.port_count);
        self.port_count <= MAX_PORTS && all_fit
    }

    /// Whether a disk was there.
    pub(crate) fn knows(&self, disk: &str) -> bool {
        self.disks
            .iter()
            .any(|(_, known)| known.to_string() == disk)
    }

    /// Lets a machine go on from this memory, if it is like the one whose memory it is.
    pub(crate) fn apply(&self, spec: &mut LaunchSpec) -> Result<(), PrepareError> {
        self.apply_from(spec, Some(RunFolder(spec.folder.clone()).memory()))
    }

    /// The same with memory that comes from elsewhere, if it is in no file.
    pub(crate) fn apply_from(
        &self,
        spec: &mut LaunchSpec,
        file: Option<PathBuf>,
    ) -> Result<(), PrepareError> {
        let refuse = |what: &str, then: String, now: String| {
            Err(PrepareError::Missing(format!(
                "its memory can't be read back: {what} was {then} when it was suspended and is {now} now; it is kept. \
                 Set that back and start the machine again, or restart it: it boots anew then"
            )))
        };
        if let Some(accelerator) = self.accelerator
            && accelerator.to_string() != spec.accelerator.to_string()
        {
            return refuse(
                "the accelerator",
                accelerator.to_string(),
                spec.accelerator.to_string(),
            );
        }
        let now = cpu_of(&crate::command_line::arguments(spec));
        if self.cpu.is_some() && self.cpu != now {
            return refuse(
                "the CPU model",
                self.cpu.clone().unwrap_or_default(),
                now.unwrap_or_default(),
            );
        }
        spec.memory = Some(SavedMemory {
            file,
            port_count: self.port_count,
            disks: self.disks.clone(),
            is_uneven: self.is_uneven,
        });
        Ok(())
    }
}

fn cpu_of(arguments: &[String]) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == "-cpu")?;
    arguments.get(at + 1).cloned()
}

/// An empty file for memory to be written to, readable for the daemon alone. Blocks.
pub(crate) fn create(folder: &RunFolder) -> io::Result<OwnedFd> {
    let path = folder.unfinished_memory();
    remove(&path)?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.into())
}

/// All is written: from now on, whatever happens, it can be read back. Blocks on the disk.
pub(crate) fn finish(folder: &RunFolder, record: &MemoryRecord) -> io::Result<()> {
    File::open(folder.unfinished_memory())?.sync_all()?;
    let temporary = folder.memory_record().with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.memory_record())?;
    fs::rename(folder.unfinished_memory(), folder.memory())?;
    File::open(&folder.0)?.sync_all()
}

/// Whether there is memory to be read back. Blocks briefly.
pub(crate) fn is_there(folder: &RunFolder) -> bool {
    folder.memory().exists()
}

/// What is known of the memory that is there.
pub(crate) fn read(folder: &RunFolder) -> Result<Option<MemoryRecord>, PrepareError> {
    if !is_there(folder) {
        return Ok(None);
    }
    let path = folder.memory_record();
    let file = |source| PrepareError::File {
        path: path.clone(),
        source,
    };
    let bytes = fs::read(&path).map_err(file)?;
    let record: MemoryRecord =
        serde_json::from_slice(&bytes).map_err(|error| file(error.into()))?;
    if record.format > FORMAT {
        return Err(PrepareError::Missing(format!(
            "its memory was saved by a newer version of Stratus (form {}); it is kept",
            record.format
        )));
    }
    Ok(Some(record))
}

/// Removes what there is, durably. Blocks on the disk.
pub(crate) fn discard(folder: &RunFolder) -> io::Result<()> {
    let was_there = is_there(folder);
    remove(&folder.memory())?;
    if was_there {
        File::open(&folder.0)?.sync_all()?;
    }
    remove(&folder.unfinished_memory())?;
    remove(&folder.memory_record())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
