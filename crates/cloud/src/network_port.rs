//! Ports: places on a network that one machine at a time has, and that can be switched off while it runs.

use std::sync::Arc;

use cimi::{
    Ref, Right, Timestamp,
    ids::NetworkPortId,
    model::Kind,
    resources::{Event, Network, NetworkPort, NetworkPortConfiguration, NetworkPortTemplate},
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Rel, Result, access,
    catalogue::{self, Public, object},
    resolve,
};

const TEMPLATE: &str = "networkPortTemplate";

impl Cloud {
    /// Makes a port (NetworkPortCreate). It is connected until it is stopped.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for a network that can't be used.
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
        if let Some(Value::Object(given)) = template.get("networkPortConfig") {
            let path = format!("{TEMPLATE}.networkPortConfig");
            // There is one type of port only; what is referred to must be there all the same.
            resolve::resolve::<NetworkPortConfiguration>(documents, context, given.clone(), &path)?;
        }
        let name = resolve::named::<Network>(&template, "network", TEMPLATE)?;
        let now = Timestamp::now();
        let network = self.usable_network(context, &name)?;
        let mut port = NetworkPort {
            id: NetworkPortId::generate(),
            common: Self::common_for(context, now)?,
            network: Ref::to(network.id.clone()),
            on: true,
            machine: None,
            connected: None,
            unknown: Map::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut port.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&port)?;
        let event = Event::request(&port, "add", context.user().unwrap_or_default(), now);
        let changes = documents.changes().unchanged(&network).create(&port);
        changes.create(&event).commit().await?;
        let read = access::find::<NetworkPort>(documents, context, port.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Connects or disconnects a port: what is at it, at once; what comes to it, from the beginning.
    ///
    /// # Errors
    /// Those of lookup and store.
    pub async fn act_on_port(
        &self,
        context: &OpContext,
        local: &str,
        action: &str,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let on = action == "start";
        loop {
            context.in_time()?;
            let read = access::find::<NetworkPort>(documents, context, local, Right::Modify)?;
            if read.on == on {
                return Err(CloudError::Conflict(format!(
                    "{} is {}; `{action}` is not possible now",
                    read.document.id,
                    crate::machine::text_of(read.state())
                )));
            }
            let mut port = read.document.0.clone();
            port.on = on;
            let user = context.user().unwrap_or_default();
            let event = Event::request(&port, action, user, Timestamp::now());
            let changes = documents.changes().replace(&read, port).create(&event);
            match changes.commit().await {
                Ok(_) => return Ok(Done::default()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a port that no machine has.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while one has it.
    pub async fn delete_network_port(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        let read = access::find::<NetworkPort>(documents, context, local, Right::Modify)?;
        if let Some(machine) = &read.machine {
            return Err(CloudError::Conflict(format!(
                "{} is in use by {machine}; remove the machine first",
                read.document.id
            )));
        }
        match documents.changes().remove(&read).commit().await {
            Ok(_) => Ok(Done::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// A port that a new machine of the caller can take.
    pub(crate) fn free_port(
        &self,
        context: &OpContext,
        local: &str,
        path: &str,
    ) -> Result<Arc<Cached<NetworkPort>>> {
        let found = access::find::<NetworkPort>(&self.0.documents, context, local, Right::Modify);
        let port = resolve::at(path, found)?;
        match &port.machine {
            Some(machine) => Err(CloudError::Conflict(format!(
                "{} is in use by {machine}",
                port.document.id
            ))),
            None => Ok(port),
        }
    }
}

impl Public for NetworkPort {
    const KIND: Kind = Kind::NetworkPort;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state(),
            "network": self.network,
            "portType": "ACCESS",
        }));
        if let Some(machine) = &self.machine {
            out.insert("attachedTo".to_owned(), json!({"href": machine}));
        }
        out
    }

    fn operations(&self) -> Vec<Rel> {
        let action = if self.on { "stop" } else { "start" };
        let mut all = vec![Rel::Edit, Rel::Action(action)];
        if self.machine.is_none() {
            all.push(Rel::Delete);
        }
        all
    }
}
