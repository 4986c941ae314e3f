//! Names and definitions of the block nodes behind a disk, the same at start and when hot-plugged.
//!
//! Each image of a disk has two nodes: one for the file (a descriptor set) and one for the format. Names are made of the
//! port and the depth in the chain, since node names hold only 31 bytes: `p3` is the top image on port 3, `p3-file` its
//! file, `p3-b1` the first image below.

use serde_json::{Value, json};

use crate::command_line::{VOLUMES_DESCRIPTOR, inherited};
use crate::launch_spec::{DiskFormat, DiskId, DiskSpec, ImageStorage, MAX_CHAIN, MAX_PORTS};

/// How long a guest waits for a volume behind a socket that nobody answers at. It waits rather than lose what it wrote: like a
/// disk that is slow, and never like one that is broken.
const RECONNECT_SECONDS: u32 = 30 * 24 * 3600;
/// How long QEMU tries to connect at first; it does nothing else meanwhile.
const OPEN_SECONDS: u32 = 5;
/// Where a target has the volume.
const ISCSI_LUN: u32 = 1;
/// Descriptor sets below this number belong to the machine itself (serial log, media).
const FIRST_DISK_SET: u32 = 1000;

/// The first descriptor set of the disk that is on a port at start; the image at depth N has the N-th after it.
#[must_use]
pub fn set_at_start(port: u8) -> u32 {
    FIRST_DISK_SET + u32::from(port) * MAX_CHAIN as u32
}

/// Where descriptor sets of disks attached later begin. Their numbers are never used twice: QEMU keeps a removed descriptor
/// until the guest next runs, and would open that instead of the new one of the same set.
#[must_use]
pub fn first_set_after_start() -> u32 {
    set_at_start(MAX_PORTS)
}

/// The format node of an image; depth 0 is what the device uses.
#[must_use]
pub fn format_node(port: u8, depth: u8) -> String {
    if depth == 0 {
        format!("p{port}")
    } else {
        format!("p{port}-b{depth}")
    }
}

/// The file node of an image.
#[must_use]
pub fn file_node(port: u8, depth: u8) -> String {
    format!("{}-file", format_node(port, depth))
}

/// The port a node name belongs to.
#[must_use]
pub fn port_of_node(node: &str) -> Option<u8> {
    node.strip_prefix('p')?.split('-').next()?.parse().ok()
}

/// The device of a disk.
#[must_use]
pub fn device_id(disk: &DiskId) -> String {
    format!("disk-{disk}")
}

/// The disk of a device.
#[must_use]
pub fn disk_of_device(device: &str) -> Option<DiskId> {
    DiskId::new(device.strip_prefix("disk-")?).ok()
}

/// The root port a disk is plugged into.
#[must_use]
pub fn root_port(port: u8) -> String {
    format!("rp{port}")
}

/// All nodes of a disk in the order they must be made: bottom first, each file before its format.
#[must_use]
pub fn definitions(disk: &DiskSpec, port: u8, first_set: u32) -> Vec<Value> {
    let images: Vec<_> = (0u8..).zip(disk.images()).collect();
    let mut nodes = Vec::with_capacity(images.len() * 2);
    for &(depth, image) in images.iter().rev() {
        let read_only = disk.read_only || depth > 0;
        let mut file = json!({
            "node-name": file_node(port, depth),
            "read-only": read_only,
            "auto-read-only": false,
            "discard": "unmap",
        });
        match &image.storage {
            ImageStorage::File | ImageStorage::BlockDevice => {
                let is_device = image.storage == ImageStorage::BlockDevice;
                file["driver"] = Value::from(if is_device { "host_device" } else { "file" });
                let set = first_set + u32::from(depth);
                file["filename"] = Value::from(format!("/dev/fdset/{set}"));
            }
            ImageStorage::Socket => {
                file["driver"] = Value::from("nbd");
                let folder = inherited(VOLUMES_DESCRIPTOR);
                let path = format!("{folder}/{}", image.path.display());
                file["server"] = json!({"type": "unix", "path": path});
                file["export"] = Value::from(storage::exports::EXPORT);
                file["reconnect-delay"] = Value::from(RECONNECT_SECONDS);
                file["open-timeout"] = Value::from(OPEN_SECONDS);
            }
            ImageStorage::Iscsi(target) => {
                // Without a `timeout`: QEMU notices by its NOPs within 15 s that nobody answers, logs in anew and says again what the guest
                // wants. With one, that fails if it was late eight times, and the guest's data is lost; and it doesn't end the wait for a
                // portal that isn't there (QEMU 7.2: none in 210 s with one of 3 s). As in NBD, QEMU does nothing else from when it is to
                // close the node (`blockdev-del`) until the volume is back.
                file["driver"] = Value::from("iscsi");
                file["transport"] = Value::from("tcp");
                file["portal"] = Value::from(target.portal.to_string());
                file["target"] = Value::from(target.target.as_str());
                file["lun"] = Value::from(ISCSI_LUN);
                file["initiator-name"] = Value::from(target.initiator.as_str());
                file["user"] = Value::from(target.user.as_str());
                file["password-secret"] = Value::from(secret_id(first_set));
            }
        }
        nodes.push(file);
        let mut format = json!({
            "driver": image.format.driver(),
            "node-name": format_node(port, depth),
            "file": file_node(port, depth),
            "read-only": read_only,
            "discard": "unmap",
        });
        if image.format == DiskFormat::Qcow2 {
            // Stated even when there is none: otherwise QEMU would follow the image's header.
            format["backing"] = if usize::from(depth) + 1 < images.len() {
                Value::from(format_node(port, depth + 1))
            } else {
                Value::Null
            };
        }
        nodes.push(format);
    }
    nodes
}

/// The secret that a disk is opened with, if it has one, to be made before its nodes: QEMU reads it from its file by itself, and
/// needs it no more once the disk is open.
#[must_use]
pub fn secret(disk: &DiskSpec, first_set: u32) -> Option<Value> {
    let ImageStorage::Iscsi(_) = disk.image.storage else {
        return None;
    };
    let folder = inherited(VOLUMES_DESCRIPTOR);
    Some(json!({
        "qom-type": "secret",
        "id": secret_id(first_set),
        "file": format!("{folder}/{}", disk.image.path.display()),
    }))
}

/// The name of a disk's secret: like the numbers of descriptor sets, it is no other disk's later.
#[must_use]
pub fn secret_id(first_set: u32) -> String {
    format!("secret-{first_set}")
}

/// The names of [`definitions`] for a chain of so many images, in the order they must be removed: top first.
#[must_use]
pub fn names_to_remove(port: u8, images: u8) -> Vec<String> {
    (0..images)
        .flat_map(|depth| [format_node(port, depth), file_node(port, depth)])
        .collect()
}

/// The device of a disk, for `-device` and `device_add`.
#[must_use]
pub fn device(disk: &DiskSpec, port: u8, boot_index: Option<u8>) -> Value {
    let mut device = json!({
        "driver": "virtio-blk-pci",
        "id": device_id(&disk.id),
        "bus": root_port(port),
        "addr": "0x0",
        "drive": format_node(port, 0),
        "werror": "enospc",
        "rerror": "report",
    });
    if !disk.serial.is_empty() {
        device["serial"] = Value::from(disk.serial.as_str());
    }
    if let Some(index) = boot_index {
        device["bootindex"] = Value::from(index);
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch_spec::{ImageFile, IscsiTarget};

    #[test]
    fn a_chain_is_made_from_the_bottom_and_ends_explicitly() {
        let disk = DiskSpec {
            id: DiskId::new("root").expect("a valid identifier"),
            image: ImageFile::file("/o", DiskFormat::Qcow2),
            backing: vec![
                ImageFile::file("/m", DiskFormat::Qcow2),
                ImageFile::file("/b", DiskFormat::Raw),
            ],
            read_only: false,
            serial: "S".to_owned(),
            slot: 0,
        };
        let nodes = definitions(&disk, 3, 1048);
        let names: Vec<&str> = nodes
            .iter()
            .filter_map(|node| node["node-name"].as_str())
            .collect();
        assert_eq!(
            names,
            [
                "p3-b2-file",
                "p3-b2",
                "p3-b1-file",
                "p3-b1",
                "p3-file",
                "p3"
            ]
        );
        assert_eq!(nodes[5]["backing"], "p3-b1");
        assert_eq!(nodes[5]["read-only"], false);
        assert_eq!(nodes[3]["backing"], "p3-b2");
        assert_eq!(nodes[3]["read-only"], true);
        assert!(
            nodes[1].get("backing").is_none(),
            "a raw image has no backing image"
        );
        let mut removal = names_to_remove(3, 3);
        removal.sort();
        let mut made: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        made.sort();
        assert_eq!(removal, made);
    }

    #[test]
    fn a_single_qcow2_image_never_follows_its_header() {
        let disk = DiskSpec {
            id: DiskId::new("v").expect("a valid identifier"),
            image: ImageFile::file("/o", DiskFormat::Qcow2),
            backing: Vec::new(),
            read_only: true,
            serial: String::new(),
            slot: 0,
        };
        let nodes = definitions(&disk, 0, 1000);
        assert_eq!(nodes[1]["backing"], Value::Null);
        assert!(
            nodes[1]
                .as_object()
                .is_some_and(|node| node.contains_key("backing"))
        );
        assert_eq!(nodes[0]["read-only"], true);
    }

    #[test]
    fn a_volume_behind_a_socket_is_waited_for_and_never_opened() {
        let disk = DiskSpec {
            id: DiskId::new("v").expect("a valid identifier"),
            image: ImageFile::socket("0190.sock"),
            backing: Vec::new(),
            read_only: false,
            serial: String::new(),
            slot: 0,
        };
        disk.check().expect("a name is enough");
        let nodes = definitions(&disk, 2, 1000);
        assert_eq!(nodes[0]["driver"], "nbd");
        assert_eq!(nodes[0]["server"]["path"], "/proc/self/fd/7/0190.sock");
        assert!(nodes[0]["reconnect-delay"].as_u64() > Some(24 * 3600));
        assert!(nodes[0].get("filename").is_none());
        assert_eq!(nodes[1]["driver"], "raw");
        for name in ["a/b", "..", "/a", ""] {
            let image = ImageFile::socket(name);
            let other = DiskSpec {
                image,
                ..disk.clone()
            };
            other.check().expect_err("it leads elsewhere");
        }
    }

    #[test]
    fn the_secret_of_a_target_is_on_no_command_line() {
        let target = IscsiTarget {
            portal: "192.0.2.1:3260".parse().expect("an address"),
            target: "iqn.a".to_owned(),
            initiator: "iqn.b".to_owned(),
            user: "stratus".to_owned(),
        };
        let disk = DiskSpec {
            id: DiskId::new("v").expect("a valid identifier"),
            image: ImageFile::iscsi(target, "v.iscsi"),
            backing: Vec::new(),
            read_only: false,
            serial: String::new(),
            slot: 0,
        };
        disk.check().expect("a name is enough");
        let nodes = definitions(&disk, 2, 1000);
        assert_eq!(nodes[0]["driver"], "iscsi");
        assert_eq!(nodes[0]["portal"], "192.0.2.1:3260");
        assert_eq!(nodes[0]["lun"], 1);
        assert!(nodes[0].get("timeout").is_none(), "the guest waits");
        assert_eq!(nodes[1]["driver"], "raw");
        let secret = secret(&disk, 1000).expect("it has one");
        assert_eq!(secret["id"], nodes[0]["password-secret"]);
        assert_eq!(secret["file"], "/proc/self/fd/7/v.iscsi");
    }

    #[test]
    fn names_lead_back_to_ports_and_disks() {
        for port in [0, 9, 63] {
            for depth in [0, 1, 15] {
                assert_eq!(port_of_node(&format_node(port, depth)), Some(port));
                assert_eq!(port_of_node(&file_node(port, depth)), Some(port));
                assert!(file_node(port, depth).len() <= 31);
            }
        }
        assert_eq!(port_of_node("#block123"), None);
        let id = DiskId::new("0190-abc").expect("a valid identifier");
        assert_eq!(disk_of_device(&device_id(&id)), Some(id));
        assert_eq!(disk_of_device("rp0"), None);
    }

    #[test]
    fn descriptor_sets_never_overlap() {
        for port in 0..MAX_PORTS {
            assert!(set_at_start(port) + MAX_CHAIN as u32 <= set_at_start(port + 1));
        }
        assert_eq!(first_set_after_start(), set_at_start(MAX_PORTS));
    }
}
