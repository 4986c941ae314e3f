//! Addresses that users keep: leased beforehand, given to a machine when it is made, kept when it goes.

use std::{net::IpAddr, sync::Arc};

use cimi::{
    AddressId, Common, MachineId, NetworkId, Ref, Right, Timestamp,
    model::Changes,
    resources::{Address, AddressTemplate, Event, Network, Resource},
};
use documents::Cached;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access, catalogue, leases::Reserved,
    resolve,
};

const TEMPLATE: &str = "addressTemplate";
/// Attempts against others who take the same address at the same moment.
const ATTEMPTS: usize = 16;

/// What is asked of a new address.
#[derive(Debug)]
pub(crate) struct AskedAddress {
    /// Name of the network.
    network: String,
    /// A certain one; else any that is free.
    ip: Option<IpAddr>,
}

impl Cloud {
    /// Leases an address to be kept (AddressCreate): the one that is named, or any free one of the network.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if it is in use, [`CloudError::Exhausted`] if none is free.
    pub async fn create_address(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let asked = self.asked_address(context, &mut body)?;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let now = Timestamp::now();
            let (network, lease) = self.reserve_address(context, &asked)?;
            let mut address = Address {
                kept: true,
                used_since: None,
                ..leased(&network.id, &lease, Self::common_for(context, now)?, None)
            };
            for (name, value) in &body {
                if ["name", "description", "properties"].contains(&name.as_str()) {
                    catalogue::edit_common(&mut address.common, name, Some(value))?;
                }
            }
            catalogue::check_size(&address)?;
            let event = Event::request(&address, "add", context.user().unwrap_or_default(), now);
            let written = self.write_one_within::<Address>(context, |changes| {
                changes.unchanged(&network).create(&address).create(&event)
            });
            match written.await {
                Ok(()) => {
                    tracing::info!(address = %address.id, owner = context.user(), "address kept");
                    let read = access::find(documents, context, address.id.local(), Right::View)?;
                    return Ok(Created {
                        view: catalogue::view::<Address>(documents, context, read),
                        job: None,
                        existed: false,
                    });
                }
                Err(CloudError::Raced(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CloudError::Unavailable(
            "too many others want an address of this network: try again".to_owned(),
        ))
    }

    /// What the template of a creation asks for; takes it out of the body.
    pub(crate) fn asked_address(
        &self,
        context: &OpContext,
        body: &mut Map<String, Value>,
    ) -> Result<AskedAddress> {
        let documents = &self.0.documents;
        let Some(Value::Object(given)) = body.remove(TEMPLATE) else {
            return Err(CloudError::invalid(TEMPLATE, "is missing"));
        };
        let template = resolve::resolve::<AddressTemplate>(documents, context, given, TEMPLATE)?;
        let network = resolve::named::<Network>(&template, "network", TEMPLATE)?;
        let ip = match template.get("ip").and_then(Value::as_str) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let problem = format!("`{text}` is not an address");
                CloudError::invalid(format!("{TEMPLATE}.ip"), problem)
            })?),
        };
        Ok(AskedAddress { network, ip })
    }

    /// An address such as is asked for, that nobody else of this process will choose; and its network.
    pub(crate) fn reserve_address(
        &self,
        context: &OpContext,
        asked: &AskedAddress,
    ) -> Result<(Arc<Cached<Network>>, Reserved)> {
        let network = resolve::blame(
            &format!("{TEMPLATE}.network"),
            self.usable_network(context, &asked.network),
        )?;
        let reserved = self
            .0
            .leases
            .reserve(&self.0.documents, &network.document.0, asked.ip);
        let lease = resolve::blame(&format!("{TEMPLATE}.ip"), reserved)?;
        Ok((network, lease))
    }

    /// Changes name, description, properties or access of an address that is kept.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] for an address that came with a machine.
    pub async fn edit_address(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let read = access::find::<Address>(documents, context, local, Right::Modify)?;
        kept(&read)?;
        catalogue::edit::<Address>(documents, context, local, changes).await
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while a machine has it.
    pub async fn delete_address(&self, context: &OpContext, local: &str) -> Result<Done> {
        let unused = |address: &Address| {
            kept(address)?;
            catalogue::unused(&address.id, address.resource.as_ref())
        };
        catalogue::delete_unless(&self.0.documents, context, local, unused).await
    }

    /// The address with this number, if a user keeps it, for a new machine of the caller.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if it is another's, or a machine has it.
    pub(crate) fn kept_address(
        &self,
        context: &OpContext,
        network: &NetworkId,
        ip: IpAddr,
    ) -> Result<Option<Arc<Cached<Address>>>> {
        let id = AddressId::of(network, ip);
        let found = self.0.documents.addresses.get(id.local());
        let Some(address) = found.filter(|address| address.kept) else {
            return Ok(None);
        };
        match &address.resource {
            // What others keep is no more told than what their machines have.
            _ if context.right_on(address.acl()) < Some(Right::Modify) => {
                Err(CloudError::Conflict(format!("address {ip} is in use")))
            }
            Some(machine) => Err(CloudError::Conflict(format!(
                "address {ip} is in use by {}",
                machine.href
            ))),
            None => Ok(Some(address)),
        }
    }

    /// The common attributes of something new that is the caller's alone.
    pub(crate) fn common_for(context: &OpContext, now: Timestamp) -> Result<Common> {
        Ok(Common {
            part_of: context.part_of.clone(),
            ..Common::new(Self::acl_for(context, false)?, now)
        })
    }
}

fn kept(address: &Address) -> Result<()> {
    if address.kept {
        return Ok(());
    }
    Err(CloudError::Conflict(format!(
        "{} came with its machine, and goes with it",
        address.id
    )))
}

/// A lease as a document.
pub(crate) fn leased(
    network: &NetworkId,
    lease: &Reserved,
    common: Common,
    machine: Option<&MachineId>,
) -> Address {
    Address {
        id: lease.id.clone(),
        common,
        ip: lease.ip,
        mac: lease.mac.clone(),
        hostname: host_name(lease.ip),
        network: Ref::to(network.clone()),
        resource: machine.map(|machine| Ref::to(machine.clone())),
        kept: false,
        used_since: None,
        unknown: Map::new(),
    }
}

/// The DNS name of an address: `vm-10-77-0-5`. Unique wherever the address is, whatever users call their machines.
fn host_name(ip: IpAddr) -> String {
    format!("vm-{}", ip.to_string().replace(['.', ':'], "-"))
}
