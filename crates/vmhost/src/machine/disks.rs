//! Disks of a running QEMU: the steps of attaching and detaching one, and bringing the launch record and QEMU to agree.

use std::time::Duration;

use serde_json::json;

use super::Shared;
use crate::block_nodes;
use crate::error::HypervisorError;
use crate::hypervisor::{MachineEvent, Result};
use crate::launch_spec::{DiskId, DiskSpec};
use crate::ports::{OccupiedPort, PortState};
use crate::qemu::{blocking, open_image};
use crate::record::LaunchRecord;

/// Before the second attempt to remove a block node that is still held: by a job, an export, or QEMU itself, which lets go
/// of a device only when the virtual CPU has paused for a moment. Doubled each time.
const FIRST_NODE_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_NODE_PAUSE: Duration = Duration::from_secs(2);
/// Attempts (about a minute) before a detachment is left for the next request or reading of the status.
const NODE_ATTEMPTS: u32 = 40;

impl Shared {
    /// The steps of an attachment after the port is noted.
    pub(super) async fn plug(&self, disk: &DiskSpec, entry: &OccupiedPort) -> Result<()> {
        let read_only = disk.read_only;
        let of_images = entry.sets().zip(disk.images());
        let paths: Vec<_> = of_images
            .filter(|(_, image)| image.is_opened())
            .map(|(set, image)| (set, image.path.clone()))
            .collect();
        let top = entry.first_set;
        let opened = blocking(move || {
            paths
                .iter()
                .map(|(set, path)| Ok((*set, open_image(path, read_only || *set > top)?)))
                .collect::<Result<Vec<_>>>()
        })
        .await?;
        let qmp = self.monitor();
        for (set, descriptor) in opened {
            let arguments = json!({"fdset-id": set});
            qmp.execute_with_descriptor("add-fd", arguments, descriptor)
                .await?;
        }
        let secret = block_nodes::secret(disk, entry.first_set);
        let is_secret = secret.is_some();
        if is_secret {
            qmp.execute("object-add", secret).await?;
        }
        let mut opened = Ok(());
        for node in block_nodes::definitions(disk, entry.port, entry.first_set) {
            opened = qmp.execute("blockdev-add", Some(node)).await.map(drop);
            if opened.is_err() {
                break;
            }
        }
        let mut forgotten = Ok(());
        if is_secret {
            let id = json!({"id": block_nodes::secret_id(entry.first_set)});
            forgotten = qmp.execute("object-del", Some(id)).await.map(drop);
        }
        // What went wrong first is what there is to say.
        opened?;
        forgotten?;
        let device = block_nodes::device(disk, entry.port, None);
        qmp.execute("device_add", Some(device))
            .await
            .map_err(|error| match error.refusal() {
                Some(words) if words.contains("lock") || words.contains("Permission conflict") => {
                    HypervisorError::DiskInUse {
                        disk: disk.id.clone(),
                        reason: words.to_owned(),
                    }
                }
                _ => error.into(),
            })?;
        Ok(())
    }

    /// Makes the port account and QEMU agree: what QEMU has is attached, what it has no more is cleared away.
    pub(super) async fn reconcile(&self, record: &mut LaunchRecord) -> Result<()> {
        let devices = self.devices().await?;
        let mut changed = false;
        for entry in record.ports.occupied.clone() {
            if devices.contains(&entry.disk) {
                if entry.state == PortState::Attaching {
                    record.ports.set_state(&entry.disk, PortState::Attached);
                    changed = true;
                }
            } else if self.remove_nodes(&entry).await? {
                self.release(record, &entry).await?;
                changed = true;
                if entry.state != PortState::Attaching {
                    self.tell(MachineEvent::DiskDetached { disk: entry.disk });
                }
            } else if entry.state != PortState::Detaching {
                record.ports.set_state(&entry.disk, PortState::Detaching);
                changed = true;
            }
        }
        if changed {
            self.save(record).await
        } else {
            Ok(())
        }
    }

    /// The disks whose devices QEMU has.
    async fn devices(&self) -> Result<Vec<DiskId>> {
        let answer = self
            .execute("qom-list", Some(json!({"path": "/machine/peripheral"})))
            .await?;
        let children = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let names = children
            .iter()
            .filter_map(|child| child.get("name")?.as_str());
        Ok(names.filter_map(block_nodes::disk_of_device).collect())
    }

    /// Removes the nodes and descriptors of a disk whose device is gone. `false`: something still uses a node.
    async fn remove_nodes(&self, entry: &OccupiedPort) -> Result<bool> {
        for node in block_nodes::names_to_remove(entry.port, entry.images) {
            match self
                .execute("blockdev-del", Some(json!({"node-name": node})))
                .await
            {
                Ok(_) => {}
                Err(HypervisorError::Monitor(error)) => match error.refusal() {
                    Some(words) if words.contains("in use") || words.contains("busy") => {
                        return Ok(false);
                    }
                    Some(words) if words.contains("Failed to find node") => {}
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error),
            }
        }
        self.remove_descriptors(entry.sets()).await?;
        Ok(true)
    }

    async fn remove_descriptors(&self, sets: impl IntoIterator<Item = u32>) -> Result<()> {
        for set in sets {
            match self
                .execute("remove-fd", Some(json!({"fdset-id": set})))
                .await
            {
                // It is gone already.
                Err(HypervisorError::Monitor(error)) if error.refusal().is_some() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Frees the port of a disk whose nodes are gone.
    async fn release(&self, record: &mut LaunchRecord, entry: &OccupiedPort) -> Result<()> {
        record.ports.release(&entry.disk);
        record.ports.lingering_sets.extend(entry.sets());
        self.drop_lingering(record).await
    }

    /// QEMU closes a removed descriptor only while the guest runs; what is left now is tried again at the next `RESUME`.
    async fn drop_lingering(&self, record: &mut LaunchRecord) -> Result<()> {
        self.remove_descriptors(record.ports.lingering_sets.clone())
            .await?;
        let answer = self.execute("query-fdsets", None).await?;
        let sets = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let left: Vec<u64> = sets
            .iter()
            .filter_map(|set| set.get("fdset-id")?.as_u64())
            .collect();
        record
            .ports
            .lingering_sets
            .retain(|set| left.contains(&u64::from(*set)));
        Ok(())
    }

    /// After the guest began to run: closes what could not be closed before.
    pub(super) async fn tidy(&self) {
        let mut record = self.record.lock().await;
        if record.ports.lingering_sets.is_empty() {
            return;
        }
        let tidied = async {
            self.drop_lingering(&mut record).await?;
            self.save(&record).await
        };
        if let Err(error) = tidied.await {
            tracing::warn!(vmid = self.vmid, %error, "descriptors of detached disks are still open");
        }
    }

    /// After the device of a disk is gone: frees its image and port, patiently.
    pub(super) async fn finish_detach(&self, disk: DiskId) {
        let mut pause = Duration::ZERO;
        for _ in 0..NODE_ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_NODE_PAUSE, LONGEST_NODE_PAUSE);
            let mut record = self.record.lock().await;
            let Some(entry) = record.ports.find(&disk).cloned() else {
                return;
            };
            let step = async {
                if self.devices().await?.contains(&disk) {
                    return Ok(None);
                }
                Ok::<_, HypervisorError>(Some(self.remove_nodes(&entry).await?))
            };
            match step.await {
                // The device is there (again): nothing to finish.
                Ok(None) => return,
                Ok(Some(true)) => {
                    let freed = async {
                        self.release(&mut record, &entry).await?;
                        self.save(&record).await
                    };
                    if let Err(error) = freed.await {
                        tracing::warn!(vmid = self.vmid, %disk, %error, "a detachment could not be recorded");
                    }
                    self.tell(MachineEvent::DiskDetached { disk });
                    return;
                }
                Ok(Some(false)) => {}
                Err(error) => {
                    tracing::warn!(vmid = self.vmid, %disk, %error, "a detachment could not be finished");
                    return;
                }
            }
        }
        tracing::warn!(vmid = self.vmid, %disk, "the image of a detached disk is still in use inside QEMU");
    }
}
