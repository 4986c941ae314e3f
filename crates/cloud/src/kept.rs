//! Templates and configurations that are kept as they were given, and looked at when something is made from them.

use cimi::{
    model::Kind,
    resources::{
        AddressTemplate, ForwardingGroupTemplate, NetworkPortConfiguration, NetworkPortTemplate,
        SystemTemplate,
    },
};
use documents::Documents;
use serde_json::{Map, Value};

use crate::{
    CloudError, Result, catalogue::Public, configuration::edit_body, system::check_components,
};

macro_rules! shown_as_given {
    ($($type:ident),* $(,)?) => {$(
        impl Public for $type {
            const KIND: Kind = Kind::$type;

            fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
                self.body.clone()
            }

            fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
                edit_body(&mut self.body, name, value);
                Ok(())
            }
        }
    )*};
}

shown_as_given! {
    AddressTemplate,
    NetworkPortTemplate,
    NetworkPortConfiguration,
    ForwardingGroupTemplate,
}

impl Public for SystemTemplate {
    const KIND: Kind = Kind::SystemTemplate;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        self.body.clone()
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let Some(value) = value else {
            return Err(CloudError::invalid(name, "can't be removed"));
        };
        check_components(value, name)?;
        edit_body(&mut self.body, name, Some(value));
        Ok(())
    }
}
