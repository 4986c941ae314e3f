//! Whether all components of a system can be made, by the rules by which each is made, asked before anything is. What
//! happens between the asking and the making can still be in the way: then the system is in error, and says so.

use std::collections::{BTreeMap, BTreeSet};

use cimi::{
    AddressId,
    model::{Kind, Violation},
    resources::{Component, SystemTemplate},
};
use serde_json::{Map, Value, json};

use super::{
    check_components,
    components::with_references,
    create::{DEEPEST, too_deep},
};
use crate::{Cloud, CloudError, OpContext, Result, leases::Reserved, quota::Measure, resolve};

const COMPONENTS: &str = "systemTemplate.componentDescriptors";
/// Most components of a system and of the systems within it together.
const MOST_IN_ALL: usize = 1_000;

/// A system that is made in thought.
#[derive(Default)]
struct Rehearsal {
    amounts: BTreeMap<Measure, u64>,
    components: usize,
    /// What stands for addresses that will be there; nobody else gets them meanwhile.
    reserved: Vec<Reserved>,
    coming: BTreeSet<AddressId>,
    /// Which component takes what only one can have.
    taken: BTreeMap<String, String>,
}

/// What stands for the components of one system that are made in thought already.
#[derive(Default)]
struct Stage<'c> {
    /// References, by the component's name.
    references: BTreeMap<&'c str, String>,
    /// Keys of credentials, by the references that stand for these.
    keys: BTreeMap<String, Value>,
}

impl Cloud {
    /// What all components would take of what the caller may have, and the system itself.
    ///
    /// # Errors
    /// Those that the creation of one of them would have, with its name.
    pub(super) async fn rehearse(
        &self,
        context: &OpContext,
        components: &[Component],
    ) -> Result<Vec<(Measure, u64)>> {
        for component in components.iter().filter(|c| c.kind == Kind::Machine.name()) {
            let wanted = self.want_images(context, &component.body).await;
            wanted.map_err(|error| of_component(&component.name, error))?;
        }
        let mut rehearsal = Rehearsal::default();
        rehearsal.system(self, context, components, 0)?;
        Ok(rehearsal.amounts.into_iter().collect())
    }
}

impl Rehearsal {
    fn add(&mut self, amounts: &[(Measure, u64)]) {
        for (measure, amount) in amounts {
            let sum = self.amounts.entry(*measure).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    fn system(
        &mut self,
        cloud: &Cloud,
        context: &OpContext,
        components: &[Component],
        depth: usize,
    ) -> Result<()> {
        if depth >= DEEPEST {
            return Err(too_deep());
        }
        self.components += components.len();
        if self.components > MOST_IN_ALL {
            let problem = format!(
                "has more than {MOST_IN_ALL} components, with those of the systems within; does a template refer to itself?"
            );
            return Err(CloudError::invalid("systemTemplate", problem));
        }
        self.add(&[(Measure::Systems, 1)]);
        let mut stage = Stage::default();
        for component in components {
            context.in_time()?;
            self.component(cloud, context, component, &mut stage, depth)
                .map_err(|error| of_component(&component.name, error))?;
        }
        Ok(())
    }

    fn component<'c>(
        &mut self,
        cloud: &Cloud,
        context: &OpContext,
        component: &'c Component,
        stage: &mut Stage<'c>,
        depth: usize,
    ) -> Result<()> {
        let mut body = stage.dressed(&component.body);
        let kind = Kind::from_name(&component.kind);
        let mut stands_for_it = format!("{}/#{}", component.kind, component.name);
        match kind {
            Some(Kind::Machine) => {
                let machine = cloud.rehearse_machine(context, body, &self.coming)?;
                self.add(&machine.amounts);
                self.reserved.extend(machine.reserved);
                for taken in machine.takes {
                    self.take(taken, &component.name)?;
                }
            }
            Some(Kind::Volume) => {
                let (size, _) = cloud.asked_volume(context, &mut body)?;
                self.add(&[(Measure::Volumes, 1), (Measure::VolumeSpace, size.0)]);
            }
            Some(Kind::Credential) => {
                let credential = cloud.asked_credential(context, body)?;
                self.add(&[(Measure::Credentials, 1)]);
                if let Some(key) = credential.get("publicKey") {
                    stage.keys.insert(stands_for_it.clone(), key.clone());
                }
            }
            Some(Kind::Address) => {
                let asked = cloud.asked_address(context, &mut body)?;
                let (_, lease) = cloud.reserve_address(context, &asked)?;
                self.add(&[(Measure::Addresses, 1)]);
                stands_for_it = lease.id.to_string();
                self.coming.insert(lease.id.clone());
                self.reserved.push(lease);
            }
            Some(Kind::System) => {
                let path = "systemTemplate";
                let Some(Value::Object(given)) = body.remove(path) else {
                    return Err(CloudError::invalid(path, "is missing"));
                };
                let documents = &cloud.0.documents;
                let template = resolve::resolve::<SystemTemplate>(documents, context, given, path)?;
                let descriptors = template.get("componentDescriptors").unwrap_or(&Value::Null);
                let within = check_components(descriptors, COMPONENTS)?;
                self.system(cloud, context, &within, depth + 1)?;
            }
            _ => return Err(CloudError::invalid("type", "is nothing that is made")),
        }
        stage.references.insert(&component.name, stands_for_it);
        Ok(())
    }

    fn take(&mut self, what: String, by: &str) -> Result<()> {
        match self.taken.get(&what) {
            Some(other) => Err(CloudError::Conflict(format!(
                "{} is wanted by component `{other}`, too, and only one machine can have it",
                what.replace("/#", " component "),
            ))),
            None => {
                self.taken.insert(what, by.to_owned());
                Ok(())
            }
        }
    }
}

impl Stage<'_> {
    /// What creates a component, with what stands for others in the place of references to them.
    fn dressed(&self, body: &Map<String, Value>) -> Map<String, Value> {
        let names = self.references.iter();
        let names: BTreeMap<&str, &str> =
            names.map(|(name, href)| (*name, href.as_str())).collect();
        let Value::Object(mut body) = with_references(&Value::Object(body.clone()), &names) else {
            return Map::new();
        };
        // A machine reads the key of its credential, so that has to be there.
        let template = body.get_mut("machineTemplate");
        let credential = template.and_then(|template| template.get_mut("credential"));
        if let Some(credential) = credential
            && let Some(href) = credential.get("href").and_then(Value::as_str)
            && let Some(key) = self.keys.get(href)
        {
            *credential = json!({"publicKey": key});
        }
        body
    }
}

/// What is wrong with a component, with its name.
fn of_component(name: &str, error: CloudError) -> CloudError {
    let named = |text: String| format!("component `{name}`: {text}");
    match error {
        CloudError::Invalid { violations } => {
            let within = |violation: Violation| {
                let path = violation.path.strip_prefix(COMPONENTS);
                let path =
                    path.map_or(violation.path.as_str(), |path| path.trim_start_matches('.'));
                Violation::new(
                    format!("{COMPONENTS}.{name}.{path}"),
                    violation.problem.clone(),
                )
            };
            CloudError::Invalid {
                violations: violations.into_iter().map(within).collect(),
            }
        }
        CloudError::Conflict(text) => CloudError::Conflict(named(text)),
        CloudError::Exhausted(text) => CloudError::Exhausted(named(text)),
        CloudError::Forbidden(text) => CloudError::Forbidden(named(text)),
        // What it refers to: the request's fault, here.
        CloudError::NotFound { what } => {
            let problem = format!("refers to {what}, which does not exist");
            CloudError::invalid(format!("{COMPONENTS}.{name}"), problem)
        }
        other => other,
    }
}
