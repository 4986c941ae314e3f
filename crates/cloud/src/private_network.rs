//! Networks that users make: isolated ones, each with a range of the operator's pool. What is wanted is written here; the
//! controller of the host sets them up and says how they are.
//!
//! A network's number is in its id, so that its existence keeps the number, and with it the range, taken.

use std::net::Ipv4Addr;

use ::network::Ipv4Network;
use cimi::{
    NetworkId, Ref, Right, Timestamp,
    model::Changes,
    resources::{
        Event, ForwardingGroup, Job, JobGoal, Network, NetworkClass, NetworkConfiguration,
        NetworkState, NetworkTemplate, NetworkWish, Resource,
    },
    uri,
};
use documents::Cached;
use serde_json::{Map, Value};

use crate::{Cloud, CloudError, Created, Done, OpContext, Rel, Result, access, catalogue, resolve};

const TEMPLATE: &str = "networkTemplate";
/// Each network has 256 addresses.
const PREFIX: u8 = 24;
/// More than one host can tell apart by the names of its bridges.
const MOST: u32 = 1024;

/// Where the networks that users make come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateNetworks {
    /// Their ranges are parts of this, 256 addresses each.
    pub pool: Ipv4Network,
    /// The domain that each has a part of: `private-3.DOMAIN`.
    pub domain: String,
}

impl PrivateNetworks {
    fn count(&self) -> u16 {
        let bits = u32::from(PREFIX.saturating_sub(self.pool.prefix_len())).min(16);
        u16::try_from((1_u32 << bits).min(MOST)).unwrap_or(u16::MAX)
    }

    /// The first address of the range with this number.
    fn range(&self, number: u16) -> Ipv4Addr {
        let step = 1_u32 << (32 - u32::from(PREFIX));
        let first = self.pool.address().to_bits();
        Ipv4Addr::from_bits(first.saturating_add(u32::from(number) * step))
    }
}

impl Cloud {
    /// Makes a network (NetworkCreate).
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] if the pool has no range left, [`CloudError::Conflict`] if this cloud has no pool.
    pub async fn create_network(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let Some(pool) = &self.0.settings.private_networks else {
            return Err(CloudError::Conflict(
                "this cloud has no networks of users' own: its host is in user mode, or no pool of addresses is \
                 configured"
                    .to_owned(),
            ));
        };
        let Some(Value::Object(given)) = body.remove(TEMPLATE) else {
            return Err(CloudError::invalid(TEMPLATE, "is missing"));
        };
        let template = resolve::resolve::<NetworkTemplate>(documents, context, given, TEMPLATE)?;
        let path = format!("{TEMPLATE}.networkConfig");
        let Some(Value::Object(given)) = template.get("networkConfig").cloned() else {
            return Err(CloudError::invalid(path, "is missing"));
        };
        let configuration =
            resolve::resolve::<NetworkConfiguration>(documents, context, given, &path)?;
        let mtu = configuration.get("mtu").and_then(Value::as_u64);
        let group = match template.get("forwardingGroup") {
            None => None,
            Some(_) => {
                let local =
                    resolve::named::<ForwardingGroup>(&template, "forwardingGroup", TEMPLATE)?;
                let path = format!("{TEMPLATE}.forwardingGroup");
                let found =
                    access::find::<ForwardingGroup>(documents, context, &local, Right::Modify);
                Some(resolve::at(&path, found)?)
            }
        };
        for number in 0..pool.count() {
            let id = NetworkId::numbered(number);
            if documents.networks.get(id.local()).is_some() {
                continue;
            }
            context.in_time()?;
            let now = Timestamp::now();
            let first = pool.range(number).to_bits();
            let mut network = Network {
                domain: format!("{}.{}", id.local(), pool.domain),
                id,
                common: Self::common_for(context, now)?,
                state: NetworkState::Creating,
                class: NetworkClass::Private,
                subnet: format!("{}/{PREFIX}", pool.range(number)),
                gateway: Ipv4Addr::from_bits(first + 1),
                first: Ipv4Addr::from_bits(first + 2),
                last: Ipv4Addr::from_bits(first + 254),
                name_servers: Vec::new(),
                nat: false,
                mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
                forwarded: false,
                wish: Some(NetworkWish {
                    number,
                    on: true,
                    deleted: false,
                }),
                forwarding_group: group
                    .as_ref()
                    .map(|group| Ref::to(group.document.id.clone())),
                reason: None,
                unknown: Map::new(),
            };
            for (name, value) in &body {
                if ["name", "description", "properties"].contains(&name.as_str()) {
                    catalogue::edit_common(&mut network.common, name, Some(value))?;
                }
            }
            catalogue::check_size(&network)?;
            let job = Job::creation(
                Network::COLLECTION.to_owned(),
                network.key(),
                JobGoal::Available,
                network.common.acl.clone(),
                now,
            );
            let event = Event::request(&network, "add", context.user().unwrap_or_default(), now);
            let mut changes = documents.changes().create(&network);
            if let Some(group) = &group {
                changes = changes.unchanged(group);
            }
            match changes.create(&job).create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(network = %network.id, owner = context.user(), "network wanted");
                    let read = access::find(documents, context, network.id.local(), Right::View)?;
                    return Ok(Created {
                        view: catalogue::view::<Network>(documents, context, read),
                        job: Some(job.id.to_string()),
                        existed: false,
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CloudError::Exhausted(format!(
            "all {} networks that users can have are in use; delete one, or ask the administrator for a larger pool",
            pool.count()
        )))
    }

    /// Starts or stops a network that a user made.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] in the wrong state, and for networks of the configuration.
    pub async fn act_on_network(
        &self,
        context: &OpContext,
        local: &str,
        action: &str,
    ) -> Result<Done> {
        let (on, goal) = match action {
            "start" => (true, JobGoal::Available),
            _ => (false, JobGoal::NetworkOff),
        };
        let rel = format!("{}/{action}", uri::ACTION);
        self.change_wish(context, local, &rel, goal, |network, wish| {
            let already = wish.on == on
                && matches!(network.state, NetworkState::Started | NetworkState::Stopped);
            if wish.deleted || already {
                return Err(CloudError::Conflict(format!(
                    "{} is {}; `{action}` is not possible now",
                    network.id,
                    crate::machine::text_of(network.state)
                )));
            }
            wish.on = on;
            Ok(if on {
                NetworkState::Starting
            } else {
                NetworkState::Stopping
            })
        })
        .await
    }

    /// Removes a network that a user made, once nothing is on it.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while it has addresses or ports.
    pub async fn delete_network(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        self.change_wish(context, local, "delete", JobGoal::Gone, |network, wish| {
            let (leases, ports) = (
                documents.addresses.count_by_index("network", local),
                documents.network_ports.count_by_index("network", local),
            );
            if leases > 0 || ports > 0 {
                return Err(CloudError::Conflict(format!(
                    "{} is in use: it has {leases} addresses and {ports} ports; remove the machines, addresses and \
                     ports first",
                    network.id
                )));
            }
            wish.deleted = true;
            Ok(NetworkState::Deleting)
        })
        .await
    }

    /// Changes what is wanted of a network, with the job that tells of it.
    async fn change_wish(
        &self,
        context: &OpContext,
        local: &str,
        rel: &str,
        goal: JobGoal,
        change: impl Fn(&Network, &mut NetworkWish) -> Result<NetworkState> + Send + Sync,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = self.own_network(context, local)?;
            if let Some(job) = crate::jobs::under_way(documents, &read.key(), rel, &goal) {
                return Ok(Done {
                    view: None,
                    job: Some(job),
                });
            }
            let mut network = read.document.0.clone();
            if let Some(mut wish) = network.wish.clone() {
                network.state = change(&network, &mut wish)?;
                network.wish = Some(wish);
            }
            let acl = network.common.acl.clone();
            let job = Job::accepted(network.key(), rel, goal.clone(), acl, now);
            let operation = uri::action_name(rel);
            let user = context.user().unwrap_or_default();
            let event = Event::request(&network, &operation, user, now);
            let changes = documents.changes().replace(&read, network);
            match changes.create(&job).create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(network = %read.id, user = context.user(), "network: {operation} wanted");
                    return Ok(Done {
                        view: None,
                        job: Some(job.id.to_string()),
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Changes name, description, properties, access, or the forwarding group.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] for networks of the configuration.
    pub async fn edit_network(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        self.own_network(context, local)?;
        if let Some(Some(Value::Object(group))) = changes.get("forwardingGroup") {
            let path = "forwardingGroup";
            let href = resolve::href_of(group).unwrap_or_default();
            let local = resolve::local_part::<ForwardingGroup>(href, path)?;
            let found = access::find::<ForwardingGroup>(documents, context, local, Right::Modify);
            resolve::at(path, found)?;
        }
        catalogue::edit::<Network>(documents, context, local, changes).await
    }

    /// A network that a user made and the caller may change.
    pub(crate) fn own_network(
        &self,
        context: &OpContext,
        local: &str,
    ) -> Result<std::sync::Arc<Cached<Network>>> {
        let documents = &self.0.documents;
        let seen = access::find::<Network>(documents, context, local, Right::View)?;
        if seen.wish.is_none() {
            return Err(CloudError::Forbidden(format!(
                "{} is of the cloud's configuration; its administrator changes it there",
                seen.document.id
            )));
        }
        access::find::<Network>(documents, context, local, Right::Modify)
    }
}

/// What may be done with a network in its present state.
pub(crate) fn operations(network: &Network) -> Vec<Rel> {
    let Some(wish) = &network.wish else {
        return Vec::new();
    };
    let mut all = vec![Rel::Edit, Rel::Delete];
    match network.state {
        _ if wish.deleted => {}
        NetworkState::Stopped | NetworkState::Stopping => all.push(Rel::Action("start")),
        NetworkState::Started | NetworkState::Starting => all.push(Rel::Action("stop")),
        NetworkState::Creating | NetworkState::Deleting | NetworkState::Error => {}
    }
    all
}

/// Changes the one attribute that is the user's to change later.
pub(crate) fn edit(network: &mut Network, name: &str, value: Option<&Value>) -> Result<()> {
    if name != "forwardingGroup" {
        return Err(CloudError::invalid(name, "of a network can't be changed"));
    }
    network.forwarding_group = value
        .map(|value| serde_json::from_value(value.clone()))
        .transpose()
        .map_err(|error| CloudError::invalid(name, error.to_string()))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_range_of_its_own_within_the_pool() {
        let pool = PrivateNetworks {
            pool: "10.112.0.0/20".parse().unwrap(),
            domain: "private".into(),
        };
        assert_eq!(pool.count(), 16);
        assert_eq!(pool.range(0), Ipv4Addr::new(10, 112, 0, 0));
        assert_eq!(pool.range(15), Ipv4Addr::new(10, 112, 15, 0));
        let small = PrivateNetworks {
            pool: "10.112.3.0/24".parse().unwrap(),
            ..pool.clone()
        };
        assert_eq!(small.count(), 1);
        let large = PrivateNetworks {
            pool: "10.0.0.0/8".parse().unwrap(),
            ..pool
        };
        assert_eq!(large.count(), 1024);
    }
}
