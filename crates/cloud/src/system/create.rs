//! What is asked of a new system.

use cimi::{
    Right, Timestamp,
    ids::SystemId,
    resources::{Event, Job, JobGoal, Resource, System, SystemTemplate},
};
use serde_json::{Map, Value};

use super::check_components;
use crate::{Cloud, CloudError, Created, OpContext, Result, access, catalogue, resolve};

const TEMPLATE: &str = "systemTemplate";
/// Systems within systems.
pub(super) const DEEPEST: usize = 4;

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
    /// Those that the creation of each component by itself would have, before anything is made.
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
        let amounts = self.rehearse(context, &components).await?;
        drop(self.place(context, &amounts).await?);
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
        )
        .within(context.parent_job.as_ref());
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
        Err(too_deep())
    }
}

/// A system has systems that have systems …
pub(super) fn too_deep() -> CloudError {
    CloudError::invalid(
        TEMPLATE,
        format!(
            "has systems within systems more than {DEEPEST} deep; does a template refer to itself?"
        ),
    )
}
