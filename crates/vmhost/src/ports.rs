//! The account of hot-plug ports: which PCIe root port carries which disk.
//!
//! QEMU 7.2 accepts a second device on an occupied root port without a word, and the guest never sees it; so nothing may
//! be plugged but through this account. It is part of the launch record and written before QEMU is told.

use serde::{Deserialize, Serialize};

use crate::block_nodes;
use crate::error::HypervisorError;
use crate::hypervisor::AttachedDisk;
use crate::launch_spec::{DiskId, DiskSpec};

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// Told to QEMU, or about to be.
    Attaching,
    /// The device exists.
    Attached,
    /// The guest was asked to give it up.
    Detaching,
}

/// A port in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupiedPort {
    /// The port's number, from 0.
    pub port: u8,
    /// The disk on it.
    pub disk: DiskId,
    /// Number of images in its chain, which tells the names of its block nodes.
    pub images: u8,
    /// Descriptor set of its top image; those below follow.
    pub first_set: u32,
    /// How far it has come.
    pub state: PortState,
}

impl OccupiedPort {
    /// The descriptor sets of its images.
    #[must_use]
    pub fn sets(&self) -> std::ops::Range<u32> {
        self.first_set..self.first_set + u32::from(self.images)
    }
}

/// All ports of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAccount {
    /// How many ports the machine was started with.
    pub count: u8,
    /// Those in use, in any order.
    pub occupied: Vec<OccupiedPort>,
    /// Descriptor sets up to here were used.
    pub next_set: u32,
    /// Descriptor sets of detached disks that QEMU keeps until the guest next runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lingering_sets: Vec<u32>,
}

impl PortAccount {
    /// The account at start.
    #[must_use]
    pub fn at_start(count: u8, disks: &[(u8, &DiskSpec)]) -> Self {
        let occupied = disks
            .iter()
            .filter(|(port, _)| *port < count)
            .map(|(port, disk)| OccupiedPort {
                port: *port,
                disk: disk.id.clone(),
                images: chain_length(disk),
                first_set: block_nodes::set_at_start(*port),
                state: PortState::Attached,
            })
            .collect();
        Self {
            count,
            occupied,
            next_set: block_nodes::first_set_after_start(),
            lingering_sets: Vec::new(),
        }
    }

    /// Takes the lowest free port for a disk.
    ///
    /// # Errors
    /// `DiskAlreadyAttached`, `NoFreePort`.
    pub fn occupy(&mut self, disk: &DiskSpec) -> Result<OccupiedPort, HypervisorError> {
        if self.find(&disk.id).is_some() {
            return Err(HypervisorError::DiskAlreadyAttached {
                disk: disk.id.clone(),
            });
        }
        let port = (0..self.count)
            .find(|port| !self.occupied.iter().any(|used| used.port == *port))
            .ok_or(HypervisorError::NoFreePort { ports: self.count })?;
        let entry = OccupiedPort {
            port,
            disk: disk.id.clone(),
            images: chain_length(disk),
            first_set: self.next_set,
            state: PortState::Attaching,
        };
        self.next_set = entry.sets().end;
        self.occupied.push(entry.clone());
        Ok(entry)
    }

    /// The port of a disk.
    #[must_use]
    pub fn find(&self, disk: &DiskId) -> Option<&OccupiedPort> {
        self.occupied.iter().find(|used| used.disk == *disk)
    }

    /// The disk on a port.
    #[must_use]
    pub fn on_port(&self, port: u8) -> Option<&OccupiedPort> {
        self.occupied.iter().find(|used| used.port == port)
    }

    /// Notes a step; does nothing for a disk that isn't here.
    pub fn set_state(&mut self, disk: &DiskId, state: PortState) {
        if let Some(used) = self.occupied.iter_mut().find(|used| used.disk == *disk) {
            used.state = state;
        }
    }

    /// Frees the port of a disk.
    pub fn release(&mut self, disk: &DiskId) {
        self.occupied.retain(|used| used.disk != *disk);
    }

    /// Ports without a disk.
    #[must_use]
    pub fn free(&self) -> u8 {
        self.count
            .saturating_sub(u8::try_from(self.occupied.len()).unwrap_or(u8::MAX))
    }

    /// The disks whose devices exist, in port order.
    #[must_use]
    pub fn attached(&self) -> Vec<AttachedDisk> {
        let mut disks: Vec<AttachedDisk> = self
            .occupied
            .iter()
            .filter(|used| used.state != PortState::Attaching)
            .map(|used| AttachedDisk {
                id: used.disk.clone(),
                port: used.port,
                detaching: used.state == PortState::Detaching,
            })
            .collect();
        disks.sort_by_key(|disk| disk.port);
        disks
    }
}

fn chain_length(disk: &DiskSpec) -> u8 {
    u8::try_from(disk.images().count()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch_spec::{DiskFormat, ImageFile};

    fn disk(id: &str) -> DiskSpec {
        DiskSpec {
            id: DiskId::new(id).expect("a valid identifier"),
            image: ImageFile::file("/d", DiskFormat::Raw),
            backing: Vec::new(),
            read_only: false,
            serial: String::new(),
            slot: 0,
        }
    }

    #[test]
    fn a_port_carries_one_disk_until_it_is_released() {
        let mut ports = PortAccount::at_start(2, &[(0, &disk("root"))]);
        assert_eq!(ports.occupy(&disk("a")).expect("a free port").port, 1);
        assert!(matches!(
            ports.occupy(&disk("a")),
            Err(HypervisorError::DiskAlreadyAttached { .. })
        ));
        assert!(matches!(
            ports.occupy(&disk("b")),
            Err(HypervisorError::NoFreePort { ports: 2 })
        ));
        ports.release(&disk("root").id);
        assert_eq!(ports.occupy(&disk("b")).expect("a free port").port, 0);
        assert_eq!(ports.free(), 0);
        let mut sets: Vec<u32> = ports.occupied.iter().map(|used| used.first_set).collect();
        sets.push(block_nodes::set_at_start(0));
        sets.sort_unstable();
        sets.dedup();
        assert_eq!(sets.len(), 3, "a descriptor set is never used again");
    }

    #[test]
    fn a_disk_being_attached_is_not_shown_yet() {
        let mut ports = PortAccount::at_start(2, &[]);
        let a = disk("a");
        ports.occupy(&a).expect("a free port");
        assert!(ports.attached().is_empty());
        ports.set_state(&a.id, PortState::Detaching);
        assert!(ports.attached().iter().all(|disk| disk.detaching));
    }
}
