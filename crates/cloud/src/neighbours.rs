//! Which hosts a host may have the file of an image from, instead of the storage.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
};

use cimi::{
    HostId, Timestamp,
    lifecycle::Stage,
    resources::{Image, ImageState, Machine},
};
use trust::{Authority, NEIGHBOURS_AT_MOST, Neighbour, TICKET_LIFE, Ticket};

use crate::{Cloud, CloudError, Result};

impl Cloud {
    /// Hosts that likely have the file of an image, a few in no order, each with what `to` may have it with: for a host that was found
    /// to see its document. One that has a machine of it has it, since that machine's disk stands on it.
    ///
    /// # Errors
    /// [`CloudError::Internal`] if a ticket can't be made.
    pub fn neighbours_with(&self, image: &str, to: &HostId) -> Result<Vec<Neighbour>> {
        let documents = self.documents();
        let Some(sha1) = documents
            .images
            .get(image)
            .and_then(|image| content(&image))
        else {
            return Ok(Vec::new());
        };
        let machines = documents.machines.by_index("image", image);
        let hosts: BTreeSet<_> = machines
            .iter()
            .filter(|machine| has_disks(machine))
            .filter_map(|machine| machine.host.clone())
            .filter(|host| host != to)
            .collect();
        let reached = |id: &HostId| {
            let host = documents.hosts.get(id.local())?;
            let address = SocketAddr::from((host.tunnel?, host.images_port?));
            let is_there = host.has_joined() && !self.is_away(&host);
            let name = host.common.name.clone().unwrap_or_default();
            is_there.then(|| (id.clone(), name, address))
        };
        let mut hosts: Vec<_> = hosts.iter().filter_map(reached).collect();
        // Each time in another order, so that none has to serve all.
        let order = RandomState::new();
        hosts.sort_by_cached_key(|(id, ..)| order.hash_one(id));
        hosts.truncate(NEIGHBOURS_AT_MOST);
        let (Some(kept), false) = (self.authority_for_hosts(), hosts.is_empty()) else {
            return Ok(Vec::new());
        };
        let failed = |error: trust::TrustError| CloudError::Internal(error.to_string());
        let authority =
            Authority::from_pem(&kept.certificate, &kept.private_key).map_err(failed)?;
        let until = Timestamp::now().after(TICKET_LIFE);
        let with_ticket = |(id, name, address): (HostId, String, SocketAddr)| -> Result<_> {
            let ticket = Ticket {
                sha1: sha1.clone(),
                from: id.local().to_owned(),
                to: to.local().to_owned(),
                until,
            };
            Ok(Neighbour {
                host: id.local().to_owned(),
                name,
                address,
                ticket: ticket.sign(&authority).map_err(failed)?,
            })
        };
        hosts.into_iter().map(with_ticket).collect()
    }
}

/// What an image contains, if it is there.
fn content(image: &Image) -> Option<String> {
    let file = image.file.as_ref();
    let file = file.filter(|_| image.state == ImageState::Available)?;
    file.content().sha1.clone()
}

/// Whether the disks of a machine are where its host is, whatever else is under way.
const fn has_disks(machine: &Machine) -> bool {
    matches!(
        machine.observed.stage,
        Stage::Running | Stage::Paused | Stage::Held | Stage::Saving | Stage::Suspended
    )
}
