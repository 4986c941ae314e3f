//! Ports of networks that users keep: made, switched on and off, given to a machine when it is made, kept when it goes.
//!
//! The wish stands in the port and in the interface of the machine that is plugged in, both written in one transaction.
//! The machine's host carries it out; a port without a machine, or whose machine has no host yet, is at once what it is
//! wanted to be.

use std::sync::Arc;

use cimi::{
    Ref, Right, Timestamp,
    ids::NetworkPortId,
    model::Kind,
    query::Scalar,
    resources::{
        Event, Job, JobGoal, Machine, Network, NetworkPort, NetworkPortConfiguration,
        NetworkPortTemplate, NicPort, PortState, Resource, Unknown,
    },
    uri,
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Rel, Result, access,
    catalogue::{self, Public, object},
    jobs, resolve,
};

const TEMPLATE: &str = "networkPortTemplate";
/// The only type there is: frames of one network, without tags.
const ACCESS: &str = "ACCESS";

impl Cloud {
    /// Makes a port (NetworkPortCreate); it is switched on.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for a network that there isn't, [`CloudError::Conflict`] above the bound of a user.
    pub async fn create_network_port(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let Some(Value::Object(given)) = body.remove(TEMPLATE) else {
            return Err(CloudError::invalid(TEMPLATE, "is missing"));
        };
        let template =
            resolve::resolve::<NetworkPortTemplate>(documents, context, given, TEMPLATE)?;
        let name = resolve::named::<Network>(&template, "network", TEMPLATE)?;
        if let Some(Value::Object(configuration)) = template.get("networkPortConfig") {
            // Its type can only be the one there is: what refers to nothing is refused.
            let path = format!("{TEMPLATE}.networkPortConfig");
            let given = configuration.clone();
            resolve::resolve::<NetworkPortConfiguration>(documents, context, given, &path)?;
        }
        let now = Timestamp::now();
        let network = resolve::blame(
            &format!("{TEMPLATE}.network"),
            self.usable_network(context, &name),
        )?;
        let mut port = NetworkPort {
            id: NetworkPortId::generate(),
            common: Self::common_for(context, now)?,
            state: PortState::Started,
            network: Ref::to(network.document.id.clone()),
            machine: None,
            unknown: Unknown::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut port.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&port)?;
        let event = Event::request(&port, "add", context.user().unwrap_or_default(), now);
        self.write_one_within::<NetworkPort>(context, |changes| {
            changes.unchanged(&network).create(&port).create(&event)
        })
        .await?;
        tracing::info!(port = %port.id, owner = context.user(), "network port made");
        let read = access::find::<NetworkPort>(documents, context, port.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Switches a port on or off. The answer's job is over when the guest sees it.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for other actions; those of lookup and store.
    pub async fn act_on_network_port(
        &self,
        context: &OpContext,
        local: &str,
        action: &str,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let up = match action {
            "start" => true,
            "stop" => false,
            _ => {
                let problem = format!("`{action}` is not something a NetworkPort does");
                return Err(CloudError::invalid("action", problem));
            }
        };
        let rel = format!("{}/{action}", uri::ACTION);
        let goal = JobGoal::PortIs { up };
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = access::find::<NetworkPort>(documents, context, local, Right::Modify)?;
            if read.state.is_wanted_up() == up {
                return Ok(Done {
                    view: None,
                    job: jobs::under_way(documents, &read.key(), &rel, &goal),
                });
            }
            let mut port = read.document.0.clone();
            let machine = port.machine.as_ref();
            let machine = machine.and_then(|machine| documents.machines.get(machine.href.local()));
            let mut changes = documents.changes();
            port.state = PortState::settled(up);
            if let Some(read) = machine {
                let mut machine = read.document.0.clone();
                if switch(&mut machine, &port.id, up) {
                    port.state = PortState::on_its_way(up);
                }
                changes = changes.replace(&read, machine);
            }
            let acl = port.common.acl.clone();
            let job = Job::accepted(port.key(), &rel, goal.clone(), acl, now);
            let event = Event::request(&port, action, context.user().unwrap_or_default(), now);
            let changes = changes.replace(&read, port).create(&job).create(&event);
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(port = %read.id, user = context.user(), "network port: {action} wanted");
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

    /// Removes a port.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while a machine is plugged in.
    pub async fn delete_network_port(&self, context: &OpContext, local: &str) -> Result<Done> {
        let unused = |port: &NetworkPort| catalogue::unused(&port.id, port.machine.as_ref());
        catalogue::delete_unless(&self.0.documents, context, local, unused).await
    }

    /// The port that a new machine of the caller is plugged into.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what there isn't, [`CloudError::Conflict`] if a machine has it,
    /// [`CloudError::Forbidden`] for who may only see it.
    pub(crate) fn free_port(
        &self,
        context: &OpContext,
        local: &str,
        path: &str,
    ) -> Result<Arc<Cached<NetworkPort>>> {
        let documents = &self.0.documents;
        let found = access::find::<NetworkPort>(documents, context, local, Right::Modify);
        let port = resolve::at(path, found)?;
        match &port.machine {
            None => Ok(port),
            Some(machine) => Err(CloudError::Conflict(format!(
                "{} is in use by {}",
                port.document.id, machine.href
            ))),
        }
    }
}

/// Plugs a new machine in: the port as it is then, and what its interface says of it.
pub(crate) fn plugged(port: &NetworkPort, machine: &Machine) -> (NetworkPort, NicPort) {
    let up = port.state.is_wanted_up();
    let taken = NetworkPort {
        machine: Some(Ref::to(machine.id.clone())),
        ..port.clone()
    };
    let id = port.id.clone();
    // Nobody has seen the machine yet: what its port was is what it is.
    (
        taken,
        NicPort {
            id,
            up,
            seen_up: up,
        },
    )
}

/// Wants the interfaces of a machine that are at this port up or down. Returns whether its host has to do it.
fn switch(machine: &mut Machine, port: &NetworkPortId, up: bool) -> bool {
    let is_placed = machine.host.is_some();
    let ports = machine.nics.iter_mut().filter_map(|nic| nic.port.as_mut());
    for nic in ports.filter(|nic| nic.id == *port) {
        nic.up = up;
        if !is_placed {
            nic.seen_up = up;
        }
    }
    is_placed
}

impl Public for NetworkPort {
    const KIND: Kind = Kind::NetworkPort;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state,
            "network": self.network,
            "portType": ACCESS,
        }));
        if let Some(machine) = &self.machine {
            out.insert("machine".to_owned(), json!(machine));
        }
        out
    }

    fn quick<'a>(&'a self, _documents: &'a Documents, name: &str) -> Option<Scalar<'a>> {
        (name == "portType").then(|| ACCESS.into())
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        let action = if self.state.is_wanted_up() {
            "stop"
        } else {
            "start"
        };
        let mut operations = vec![Rel::Edit, Rel::Action(action)];
        if self.machine.is_none() {
            operations.push(Rel::Delete);
        }
        operations
    }
}
