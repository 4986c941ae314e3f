//! Messages of the operators to everybody, also to who isn't logged in.

use cimi::{Acl, Right, common::ANONYMOUS_ROLE, model::Kind, resources::ServiceMessage};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, OpContext, Result, access,
    catalogue::{Public, object},
};

/// What other versions call the title and the text.
const ALIASES: [(&str, &str, &str); 2] = [
    ("title", "name", "title"),
    ("message", "description", "text"),
];

impl Cloud {
    /// Makes a message.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators, [`CloudError::Invalid`] without title or text.
    pub async fn create_service_message(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_admin(context, "write to everybody")?;
        for (alias, name, what) in ALIASES {
            if let Some(value) = body.remove(alias) {
                body.entry(name).or_insert(value);
            }
            if !body.contains_key(name) {
                let problem = format!("is missing; it is the {what} of the message");
                return Err(CloudError::invalid(name, problem));
            }
        }
        let acl = Acl::owned_by_admin().allowing_role(ANONYMOUS_ROLE, Right::View);
        self.create_owned::<ServiceMessage>(context, body, acl)
            .await
    }
}

impl Public for ServiceMessage {
    const KIND: Kind = Kind::ServiceMessage;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        object(json!({"title": self.common.name, "message": self.common.description}))
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let text = value.and_then(Value::as_str).map(str::to_owned);
        match (name, text) {
            ("title", Some(text)) => self.common.name = Some(text),
            ("message", Some(text)) => self.common.description = Some(text),
            _ => return Err(CloudError::invalid(name, "can't be removed")),
        }
        Ok(())
    }
}
