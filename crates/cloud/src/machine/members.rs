//! The collections that a machine owns: its disks, volumes and network interfaces.

use std::sync::Arc;

use cimi::{
    Right,
    model::Kind,
    resources::{AttachStage, DiskRole, Machine, Resource},
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use super::view::attach_state;
use crate::{
    Cloud, CloudError, OpContext, Rel, Result, View,
    catalogue::{Plain, object},
    network,
};

impl Cloud {
    /// The members of `disks`, `volumes`, `networkInterfaces` or `meters`, and whether the caller may add one.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for other collections.
    pub async fn machine_members(
        &self,
        context: &OpContext,
        id: &str,
        collection: &str,
    ) -> Result<(Vec<View>, bool)> {
        let machine = self.find_machine(context, id, Right::View)?;
        let right = context.right_on(machine.acl()).unwrap_or(Right::View);
        let views = match collection {
            "disks" => (0..machine.disks.len())
                .map(|n| disk_view(&machine, n, right))
                .collect(),
            "volumes" => machine
                .volumes
                .iter()
                .map(|v| v.volume.local())
                .map(|v| volume_view(context, &machine, v))
                .collect::<Result<_>>()?,
            "networkInterfaces" => (0..machine.nics.len())
                .map(|n| interface_view(&self.0.documents, &machine, n, right))
                .collect(),
            "meters" => self.meters_of_machine(&machine.document.id, right).await?,
            _ => {
                return Err(CloudError::not_found(format!(
                    "{}/{collection}",
                    machine.document.id
                )));
            }
        };
        Ok((views, collection == "volumes" && right >= Right::Modify))
    }

    /// One member of them.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub async fn machine_member(
        &self,
        context: &OpContext,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<View> {
        let (members, _) = self.machine_members(context, id, collection).await?;
        let wanted = |view: &View| view.id.rsplit('/').next() == Some(member);
        let missing = || CloudError::not_found(format!("Machine/{id}/{collection}/{member}"));
        members.into_iter().find(wanted).ok_or_else(missing)
    }
}

fn member(
    machine: &Cached<Machine>,
    kind: Kind,
    tail: &str,
    right: Right,
    attributes: Map<String, Value>,
    deletable: bool,
) -> View {
    let operations = if deletable && right >= Right::Modify {
        vec![Rel::Delete]
    } else {
        Vec::new()
    };
    View {
        kind,
        id: format!("{}/{tail}", machine.document.id).into(),
        stamp: Some(machine.revision.0),
        right,
        document: Arc::new(Plain {
            attributes,
            operations,
        }),
    }
}

fn disk_view(machine: &Cached<Machine>, number: usize, right: Right) -> View {
    let mut attributes = Map::new();
    if let Some(disk) = machine.disks.get(number) {
        let role = match &disk.role {
            DiskRole::Root => "root",
            DiskRole::Swap => "swap",
            DiskRole::Volatile => "volatile",
            DiskRole::ReadOnly { .. } => "readOnly",
        };
        let place = u8::try_from(machine.place_of_disk(number)).unwrap_or(25);
        let letter = char::from(b'a' + place.min(25));
        let image = match &disk.role {
            DiskRole::Root => machine.image.as_ref().map(|image| &image.href),
            DiskRole::ReadOnly { image } => Some(image),
            DiskRole::Swap | DiskRole::Volatile => None,
        };
        attributes = object(json!({
            "capacity": disk.size_bytes.capacity_kb(),
            "initialLocation": format!("/dev/vd{letter}"),
            "role": role,
            "serial": disk.serial,
        }));
        if let Some(image) = image {
            attributes.insert("machineImage".to_owned(), json!({"href": image}));
        }
    }
    member(
        machine,
        Kind::Disk,
        &format!("disks/{number}"),
        right,
        attributes,
        false,
    )
}

/// The member of `volumes` for the volume with this local id.
pub(super) fn volume_view(
    context: &OpContext,
    machine: &Cached<Machine>,
    volume: &str,
) -> Result<View> {
    let right = context.right_on(machine.acl()).unwrap_or(Right::View);
    let attached = machine
        .volumes
        .iter()
        .find(|attached| attached.volume.local() == volume)
        .ok_or_else(|| {
            CloudError::not_found(format!("{}/volumes/{volume}", machine.document.id))
        })?;
    let mut attributes = object(json!({
        "volume": {"href": attached.volume},
        "state": attach_state(&attached.stage, attached.wanted),
        "serial": attached.serial,
        "hot": attached.hot,
    }));
    let mut put = |name: &str, value: &str| attributes.insert(name.to_owned(), value.into());
    match &attached.stage {
        AttachStage::Attached { target } | AttachStage::Detaching { target, .. } => {
            put("target", target);
        }
        AttachStage::Failed { reason } => {
            put("reason", reason);
        }
        AttachStage::Waiting => {}
    }
    if let Some(location) = &attached.initial_location {
        put("initialLocation", location);
    }
    Ok(member(
        machine,
        Kind::MachineVolume,
        &format!("volumes/{volume}"),
        right,
        attributes,
        attached.hot,
    ))
}

fn interface_view(
    documents: &Documents,
    machine: &Cached<Machine>,
    number: usize,
    right: Right,
) -> View {
    let mut attributes = Map::new();
    if let Some(nic) = machine.nics.get(number) {
        attributes = object(json!({
            "network": {"href": nic.network},
            "macAddress": nic.mac,
            "addresses": [{"href": nic.address, "ip": nic.ip.to_string()}],
            "state": if nic.port.as_ref().is_none_or(|port| port.seen_up) { "Active" } else { "Disabled" },
            "model": nic.model.as_deref().unwrap_or("virtio"),
        }));
        if let Some(port) = &nic.port {
            attributes.insert("networkPort".to_owned(), json!({"href": port.id}));
        }
        if let Some(network) = documents.networks.get(nic.network.local()) {
            if let Some(ip6) = network::ipv6_of(&network, &nic.mac)
                && let Some(address) = attributes
                    .get_mut("addresses")
                    .and_then(|all| all.get_mut(0))
            {
                address["ip6"] = ip6.to_string().into();
            }
            attributes.insert("mtu".to_owned(), network::mtu(&network).into());
            let kind = network::network_type(&network);
            attributes.insert("networkType".to_owned(), kind.into());
        }
    }
    let mut view = member(
        machine,
        Kind::MachineNetworkInterface,
        &format!("networkInterfaces/{number}"),
        right,
        attributes,
        false,
    );
    // Part of it is the network's.
    view.stamp = None;
    view
}
