//! Credentials: SSH public keys that machines accept.

use cimi::{
    model::Kind,
    resources::{Credential, CredentialTemplate},
};
use context::AuthorizedKeys;
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, OpContext, Result,
    catalogue::{Public, object},
    resolve,
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
        let body = self.asked_credential(context, body)?;
        self.create_simple::<Credential>(context, body).await
    }
}

impl Cloud {
    /// Makes what credentials are made from.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what is not an SSH public key.
    pub async fn create_credential_template(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        check_key(body.get("publicKey"))?;
        self.create_simple::<CredentialTemplate>(context, body)
            .await
    }

    /// The attributes of a credential, out of its template if that was given, with a key that machines accept.
    pub(crate) fn asked_credential(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let path = "credentialTemplate";
        if let Some(Value::Object(given)) = body.remove(path) {
            let documents = &self.0.documents;
            let template = resolve::resolve::<CredentialTemplate>(documents, context, given, path)?;
            if let Some(key) = template.get("publicKey") {
                body.insert("publicKey".to_owned(), key.clone());
            }
            // What says for people which it is: the wrapper's, else what was given with the key.
            for name in ["name", "description", "properties"] {
                if let (false, Some(value)) = (body.contains_key(name), template.get(name)) {
                    body.insert(name.to_owned(), value.clone());
                }
            }
        }
        check_key(body.get("publicKey"))?;
        Ok(body)
    }
}

fn check_key(key: Option<&Value>) -> Result<()> {
    let key = key.and_then(Value::as_str).ok_or_else(|| {
        CloudError::invalid(
            "publicKey",
            "is missing; machines accept SSH public keys only",
        )
    })?;
    context::check_public_keys(key)
        .and_then(|()| AuthorizedKeys::parse(key))
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

impl Public for CredentialTemplate {
    const KIND: Kind = Kind::CredentialTemplate;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        self.body.clone()
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        if name == "publicKey" {
            check_key(value)?;
        }
        crate::configuration::edit_body(&mut self.body, name, value);
        Ok(())
    }
}
