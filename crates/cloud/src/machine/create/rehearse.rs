//! The creation of a machine up to where it would be written: whether it could be done now, and what it would take.

use std::collections::BTreeSet;

use cimi::{
    AddressId, Right,
    resources::{Resource, Volume},
    size::ByteSize,
};
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, OpContext, Result, access,
    leases::Reserved,
    machine::{available, request::volume_reference},
    quota::Measure,
    resolve, volume,
};

/// What a machine would take.
pub(crate) struct Rehearsed {
    /// Of what the user may have.
    pub(crate) amounts: Vec<(Measure, u64)>,
    /// Addresses that are free: nobody else gets them until they are dropped.
    pub(crate) reserved: Vec<Reserved>,
    /// Ids of volumes and kept addresses, which only one machine can have.
    pub(crate) takes: Vec<String>,
}

impl Cloud {
    /// What a machine would take. Addresses in `coming` are there by then; so are volumes whose names begin with `#`.
    ///
    /// # Errors
    /// Those of [`Cloud::create_machine`], but for quotas.
    pub(crate) fn rehearse_machine(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
        coming: &BTreeSet<AddressId>,
    ) -> Result<Rehearsed> {
        access::require_unlimited(context)?;
        let plan = self.plan(context, body)?;
        let mut takes = Vec::new();
        let mut reserved = Vec::new();
        for interface in &plan.interfaces {
            let network = self.usable_network(context, &interface.network)?;
            if let Some(ip) = interface.ip {
                let id = AddressId::of(&network.id, ip);
                let kept = self.kept_address(context, &network.id, ip)?;
                if kept.is_some() || coming.contains(&id) {
                    takes.push(id.to_string());
                    continue;
                }
            }
            let lease =
                self.0
                    .leases
                    .reserve(&self.0.documents, &network.document.0, interface.ip)?;
            reserved.push(lease);
        }
        for entry in &plan.template.volumes {
            let path = "machineTemplate.volumes";
            let local = volume_reference(entry, path)?;
            if local.starts_with('#') {
                takes.push(format!("{}/{local}", Volume::COLLECTION));
                continue;
            }
            let found = access::find::<Volume>(&self.0.documents, context, &local, Right::View);
            let volume = resolve::at(path, found)?;
            volume::may_attach(context, &volume)?;
            available(&volume)?;
            if let Some(attachment) = &volume.attachment {
                return Err(CloudError::Conflict(volume::not_available(
                    &self.0.documents,
                    context,
                    attachment,
                )));
            }
            takes.push(volume.document.0.key());
        }
        for new in &plan.new_volumes {
            let size = ByteSize::from_capacity_kb(new.capacity_kb);
            self.check_volume_size(size, "machineTemplate.volumeTemplates")?;
        }
        let mut amounts = plan.amounts().to_vec();
        for (measure, amount) in &mut amounts {
            if *measure == Measure::Addresses {
                *amount = reserved.len() as u64;
            }
        }
        Ok(Rehearsed {
            amounts,
            reserved,
            takes,
        })
    }
}
