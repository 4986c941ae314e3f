//! Machine types and templates.

use cimi::{
    Acl, Common, Right, Timestamp,
    common::USER_ROLE,
    ids::MachineConfigurationId,
    model::Kind,
    resources::{ConfigurationDisk, MachineConfiguration, MachineTemplate},
    size::{ByteSize, MEBIBYTE},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, MachineType, OpContext, Result, access,
    catalogue::{self, Public, object},
    cloud::seed,
    error::unreadable,
    machine::typed,
};

impl Cloud {
    /// Offers the machine types of the settings as configurations owned by the administrators,
    /// and takes back those that the settings don't have any more.
    pub(crate) async fn seed_machine_types(&self) -> Result<()> {
        for kind in &self.0.settings.machine_types {
            seed(&self.0.documents, machine_type(kind)?, |_, _| {}).await?;
        }
        // What somebody made has an id of the cloud's own making; what is left was offered by former settings.
        let offered = |name: &str| self.0.settings.machine_types.iter().any(|t| t.name == name);
        for former in self.0.documents.machine_configurations.all() {
            if offered(former.id()) || uuid::Uuid::parse_str(former.id()).is_ok() {
                continue;
            }
            let removed = self.0.documents.changes().remove(&former).commit().await;
            if let Err(error) = removed
                && !error.is_conflict()
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Makes a configuration, template or credential of the caller from its checked attributes.
    pub(crate) async fn create_simple<R: Public>(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        let acl = Self::acl_for(context, false)?;
        self.create_owned::<R>(context, body, acl).await
    }

    /// The same, with this access.
    pub(crate) async fn create_owned<R: Public>(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
        acl: Acl,
    ) -> Result<Created> {
        let common = Common {
            part_of: context.part_of.clone(),
            ..Common::new(acl, Timestamp::now())
        };
        let common = serde_json::to_value(common).unwrap_or_default();
        for name in [
            "id",
            "resourceURI",
            "operations",
            "acl",
            "created",
            "updated",
        ] {
            body.remove(name);
        }
        body.extend(object(common));
        body.insert(
            "id".to_owned(),
            format!("{}/{}", R::COLLECTION, cimi::JobId::generate().local()).into(),
        );
        let document: R = typed(body, "")?;
        catalogue::check_size(&document)?;
        self.write_one_within::<R>(context, |changes| changes.create(&document))
            .await?;
        let read = access::find::<R>(&self.0.documents, context, document.local_id(), Right::View)?;
        Ok(Created {
            view: catalogue::view(&self.0.documents, context, read),
            job: None,
            existed: false,
        })
    }
}

fn machine_type(kind: &MachineType) -> Result<MachineConfiguration> {
    let id = MachineConfigurationId::from_local(&kind.name)
        .map_err(|error| CloudError::Internal(error.to_string()))?;
    let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
    let mut common = Common::new(acl, Timestamp::now());
    common.name = Some(kind.name.clone());
    let swap = ConfigurationDisk {
        capacity: ByteSize(kind.swap_mib * MEBIBYTE).capacity_kb(),
        format: "swap".to_owned(),
        initial_location: None,
    };
    Ok(MachineConfiguration {
        id,
        common,
        cpu: kind.cpus,
        memory: kind.memory_mib * 1024,
        cpu_arch: cimi::resources::default_architecture(),
        disks: if kind.swap_mib > 0 {
            vec![swap]
        } else {
            Vec::new()
        },
        unknown: Map::new(),
    })
}

/// Changes one attribute of a template that is kept in its JSON form.
pub(crate) fn edit_body(body: &mut Map<String, Value>, name: &str, value: Option<&Value>) {
    match value {
        None => body.remove(name),
        Some(value) => body.insert(name.to_owned(), value.clone()),
    };
}

impl Public for MachineConfiguration {
    const KIND: Kind = Kind::MachineConfiguration;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out =
            object(json!({"cpu": self.cpu, "memory": self.memory, "cpuArch": self.cpu_arch}));
        if !self.disks.is_empty() {
            out.insert("disks".to_owned(), json!(self.disks));
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let number = || {
            value
                .and_then(Value::as_u64)
                .ok_or_else(|| CloudError::invalid(name, "must be a number above 0"))
        };
        match name {
            "cpu" => self.cpu = u32::try_from(number()?).unwrap_or(u32::MAX),
            "memory" => self.memory = number()?,
            // There is one to choose from, and the default.
            "cpuArch" => self.cpu_arch = cimi::resources::default_architecture(),
            "disks" => {
                let given = value.cloned().unwrap_or_else(|| json!([]));
                self.disks =
                    serde_json::from_value(given).map_err(|error| unreadable("disks", &error))?;
            }
            _ => return Err(CloudError::invalid(name, "can't be changed")),
        }
        Ok(())
    }
}

impl Public for MachineTemplate {
    const KIND: Kind = Kind::MachineTemplate;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        self.body.clone()
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        edit_body(&mut self.body, name, value);
        Ok(())
    }
}
