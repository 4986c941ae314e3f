//! Credentials: SSH public keys that machines accept.

use cimi::{model::Kind, resources::Credential};
use context::AuthorizedKeys;
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, OpContext, Result,
    catalogue::{Public, object},
};

impl Cloud {
    /// Makes a credential.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what is not an SSH public key.
    pub async fn create_credential(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        check_key(body.get("publicKey"))?;
        self.create_simple::<Credential>(context, body).await
    }
}

fn check_key(key: Option<&Value>) -> Result<()> {
    let key = key.and_then(Value::as_str).ok_or_else(|| {
        CloudError::invalid(
            "publicKey",
            "is missing; machines accept SSH public keys only",
        )
    })?;
    AuthorizedKeys::parse(key)
        .map_err(|error| CloudError::invalid("publicKey", error.to_string()))?;
    Ok(())
}

impl Public for Credential {
    const KIND: Kind = Kind::Credential;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        object(json!({"publicKey": self.public_key}))
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        if name != "publicKey" {
            return Err(CloudError::invalid(name, "can't be changed"));
        }
        check_key(value)?;
        self.public_key = value.and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(())
    }
}
