//! The launch record: what a later controller needs to take a machine over.
//!
//! `launch.json` in the run folder, replaced as a whole before the process is started, again with the process number after
//! it, and at each step of an attachment, before QEMU is told. It is not flushed to disk: it has to outlive this program,
//! and no process outlives the host.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::HypervisorError;
use crate::hypervisor::ExitCause;
use crate::launch_spec::Accelerator;
use crate::ports::PortAccount;
use crate::process::ProcessIdentity;

/// The form written today. Newer ones are refused rather than misread.
pub const RECORD_FORMAT: u32 = 1;

/// Everything known of a started machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// The machine's identifier.
    pub machine: Uuid,
    /// The machine's number.
    pub vmid: u64,
    /// Name shown in process lists.
    pub name: String,
    /// What executes guest instructions.
    pub accelerator: Accelerator,
    /// Program started.
    pub binary: String,
    /// QEMU's version, once it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The whole argument list.
    pub arguments: Vec<String>,
    /// The process, once started. Absent: killed between start and record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessIdentity>,
    /// Control group directories, to be removed after the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<PathBuf>,
    /// Which port carries which disk.
    pub ports: PortAccount,
    /// How the process ended, once seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ExitCause>,
}

impl LaunchRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// `NeverStarted` if there is none, `Record` if it can't be read, is damaged, or of a newer form.
    pub fn read(path: &Path) -> Result<Self, HypervisorError> {
        let refuse = |why: String| HypervisorError::Record {
            path: path.to_path_buf(),
            why,
        };
        let bytes = fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => HypervisorError::NeverStarted {
                folder: path.parent().unwrap_or(path).to_path_buf(),
            },
            _ => refuse(error.to_string()),
        })?;
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if record.format > RECORD_FORMAT {
            return Err(refuse(format!(
                "it has form {}, this program knows up to {RECORD_FORMAT}",
                record.format
            )));
        }
        Ok(record)
    }

    /// Replaces the record: whenever this program is killed, either the old or the new one is there, whole. Blocks briefly.
    ///
    /// # Errors
    /// `System`.
    pub fn write(&self, path: &Path) -> Result<(), HypervisorError> {
        replace_file(path, &serde_json::to_vec_pretty(self).unwrap_or_default())
            .map_err(HypervisorError::system("writing the launch record", path))
    }
}

/// The record's file, written by one at a time and never with an older state than is there.
///
/// A caller that is cancelled leaves its write behind, still under way on another thread; without this it could replace
/// the next one's.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    handed_out: AtomicU64,
    written: Mutex<u64>,
}

impl RecordFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            handed_out: AtomicU64::new(0),
            written: Mutex::new(0),
        }
    }

    /// Writes what the record is now. Call in the order of changes.
    pub(crate) async fn save(
        self: &Arc<Self>,
        record: &LaunchRecord,
    ) -> Result<(), HypervisorError> {
        let turn = self.handed_out.fetch_add(1, Ordering::Relaxed) + 1;
        let (file, record) = (Arc::clone(self), record.clone());
        crate::qemu::blocking(move || {
            let mut written = file.written.lock();
            if *written < turn {
                record.write(&file.path)?;
                *written = turn;
            }
            Ok(())
        })
        .await
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LaunchRecord {
        LaunchRecord {
            format: RECORD_FORMAT,
            machine: Uuid::nil(),
            vmid: 7,
            name: "one-7".to_owned(),
            accelerator: Accelerator::Kvm,
            binary: "/usr/bin/qemu-system-x86_64".to_owned(),
            version: None,
            arguments: vec!["-S".to_owned()],
            process: None,
            cgroups: Vec::new(),
            ports: PortAccount::at_start(8, &[]),
            ended: None,
        }
    }

    #[test]
    fn a_record_is_read_as_written_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("launch.json");
        let mut written = record();
        written.write(&path).expect("written");
        assert_eq!(LaunchRecord::read(&path).expect("read"), written);
        written.process = Some(ProcessIdentity {
            pid: 42,
            start_time_ticks: 4711,
        });
        written.ended = Some(ExitCause::Signal(9));
        written.write(&path).expect("written");
        assert_eq!(LaunchRecord::read(&path).expect("read"), written);
        assert_eq!(
            fs::read_dir(folder.path()).expect("listed").count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn missing_damaged_and_newer_records_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("launch.json");
        assert!(matches!(
            LaunchRecord::read(&path),
            Err(HypervisorError::NeverStarted { .. })
        ));
        fs::write(&path, b"{\"format\": 1").expect("written");
        assert!(matches!(
            LaunchRecord::read(&path),
            Err(HypervisorError::Record { .. })
        ));
        let mut newer = record();
        newer.format = RECORD_FORMAT + 1;
        newer.write(&path).expect("written");
        assert!(matches!(
            LaunchRecord::read(&path),
            Err(HypervisorError::Record { .. })
        ));
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(matches!(
            LaunchRecord::read(&path),
            Err(HypervisorError::Record { .. })
        ));
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        let mut value = serde_json::to_value(record()).expect("a record is JSON");
        value["invented_later"] = serde_json::json!({"a": 1});
        assert!(serde_json::from_value::<LaunchRecord>(value).is_ok());
    }
}
