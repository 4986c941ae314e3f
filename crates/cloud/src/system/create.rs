//! What is asked of a new system.

use cimi::{
    Right, Timestamp,
    ids::SystemId,
    model::Kind,
    resources::{Component, Event, Job, JobGoal, Resource, System, SystemTemplate},
};
use serde_json::{Map, Value};

use super::check_components;
use crate::{
    Cloud, CloudError, Created, OpContext, Result, access, catalogue,
    quota::{Measure, Place},
    resolve,
};

const TEMPLATE: &str = "systemTemplate";
/// Systems within systems.
const DEEPEST: usize = 4;

impl Cloud {
    /// Makes what systems are made from.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for components that could never be made.
    pub async fn create_system_template(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        let path = "componentDescriptors";
        check_components(body.get(path).unwrap_or(&Value::Null), path)?;
        self.create_simple::<SystemTemplate>(context, body).await
    }

    /// Makes a system (SystemCreate). Its components are made one after the other; the job tells how far it is.
    ///
    /// # Errors
    /// [`CloudError::Invalid`]; [`CloudError::Exhausted`] if the user may not have so much, before anything is made.
    pub async fn create_system(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let Some(Value::Object(given)) = body.remove(TEMPLATE) else {
            return Err(CloudError::invalid(TEMPLATE, "is missing"));
        };
        let template = resolve::resolve::<SystemTemplate>(documents, context, given, TEMPLATE)?;
        let path = format!("{TEMPLATE}.componentDescriptors");
        let descriptors = template.get("componentDescriptors").unwrap_or(&Value::Null);
        let components = check_components(descriptors, &path)?;
        self.check_depth(context)?;
        drop(self.room_for(context, &components).await?);
        let now = Timestamp::now();
        let mut system = System {
            id: SystemId::generate(),
            common: Self::common_for(context, now)?,
            components,
            members: Vec::new(),
            creation: None,
            operation: None,
            trouble: None,
            deleted: false,
            unknown: Map::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut system.common, name, Some(value))?;
            }
        }
        let job = Job::creation(
            System::COLLECTION.to_owned(),
            system.key(),
            JobGoal::Parts,
            system.common.acl.clone(),
            now,
        );
        system.creation = Some(job.id.clone());
        catalogue::check_size(&system)?;
        let event = Event::request(&system, "add", context.user().unwrap_or_default(), now);
        self.write_one_within::<System>(context, |changes| {
            changes.create(&system).create(&job).create(&event)
        })
        .await?;
        tracing::info!(system = %system.id, owner = context.user(), "system wanted");
        let read = access::find::<System>(documents, context, system.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: Some(job.id.to_string()),
            existed: false,
        })
    }

    /// Room for all components, within what the caller may have, as far as they say themselves what they need.
    async fn room_for(&self, context: &OpContext, components: &[Component]) -> Result<Place> {
        let count = |kind: Kind| {
            let of = |component: &&Component| component.kind == kind.name();
            components.iter().filter(of).count() as u64
        };
        let with_machines: u64 = components.iter().map(volumes_of).sum();
        let of_machines: u64 = components.iter().map(addresses_of).sum();
        let amounts = [
            (Measure::Machines, count(Kind::Machine)),
            (Measure::Volumes, count(Kind::Volume) + with_machines),
            (Measure::Credentials, count(Kind::Credential)),
            (Measure::Addresses, count(Kind::Address) + of_machines),
            (Measure::Systems, count(Kind::System) + 1),
        ];
        self.place(context, &amounts).await
    }

    /// Refuses systems within systems without end: a template may refer to itself.
    fn check_depth(&self, context: &OpContext) -> Result<()> {
        let mut part_of = context.part_of.clone();
        for _ in 0..DEEPEST {
            let Some(part) = part_of else {
                return Ok(());
            };
            let outer = part.split('#').next().unwrap_or_default();
            part_of = match self.0.documents.systems.get(outer) {
                Some(system) => system.common().part_of.clone(),
                None => None,
            };
        }
        Err(CloudError::invalid(
            TEMPLATE,
            format!(
                "has systems within systems more than {DEEPEST} deep; does a template refer to itself?"
            ),
        ))
    }
}

/// How many volumes are made together with a machine, as far as its template says so itself.
fn volumes_of(component: &Component) -> u64 {
    component
        .body
        .get("machineTemplate")
        .and_then(|template| template.get("volumeTemplates"))
        .and_then(Value::as_array)
        .map_or(0, |volumes| volumes.len() as u64)
}

/// How many addresses come with a machine, as far as its template says so itself: those that are kept are counted where
/// they are made.
fn addresses_of(component: &Component) -> u64 {
    if component.kind != Kind::Machine.name() {
        return 0;
    }
    let template = component.body.get("machineTemplate");
    let interfaces = template.and_then(|template| template.get("networkInterfaces"));
    let Some(interfaces) = interfaces.and_then(Value::as_array) else {
        return 1;
    };
    let is_kept = |address: &Value| address.get("href").is_some();
    let comes = |interface: &&Value| {
        let given = interface.get("addresses").and_then(Value::as_array);
        !given.is_some_and(|given| given.iter().any(is_kept))
    };
    interfaces.iter().filter(comes).count() as u64
}
