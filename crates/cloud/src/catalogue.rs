//! What all resources have in common when they are listed, shown, edited and deleted.

use std::sync::Arc;

use cimi::{
    Common, Right,
    model::{Changes, Kind},
    query::{Attributes, Scalar},
    resources::Resource,
};
use documents::{Cached, Documents, OfType};
use serde_json::{Map, Value, json};

use crate::{CloudError, Document, Done, OpContext, Rel, Result, View, access};

/// The members of a JSON object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The common attributes in their public form, and the owner's name.
pub(crate) fn common_attributes<R: Resource>(document: &R) -> Map<String, Value> {
    let common = document.common();
    let mut out = object(json!({
        "created": common.created,
        "updated": common.updated,
        "acl": common.acl,
        "owner": common.acl.owner.principal,
    }));
    for (name, text) in [("name", &common.name), ("description", &common.description)] {
        if let Some(text) = text {
            out.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !common.properties.is_empty() {
        out.insert("properties".to_owned(), json!(common.properties));
    }
    out
}

/// The common attributes as filters see them.
pub(crate) fn common_scalar<'a, R: Resource>(document: &'a R, name: &str) -> Option<Scalar<'a>> {
    let common = document.common();
    match name {
        "id" => Some(document.key().into()),
        "name" => common.name.as_deref().map(Scalar::from),
        "description" => common.description.as_deref().map(Scalar::from),
        "created" => Some(common.created.into()),
        "updated" => Some(common.updated.into()),
        "owner" => Some(common.acl.owner.principal.as_str().into()),
        _ => None,
    }
}

/// A resource whose attributes were made beforehand.
pub(crate) struct Plain {
    pub(crate) attributes: Map<String, Value>,
    pub(crate) operations: Vec<Rel>,
}

impl Document for Plain {
    fn attributes(&self, _right: Right) -> Map<String, Value> {
        self.attributes.clone()
    }

    fn operations(&self, _right: Right) -> Vec<Rel> {
        self.operations.clone()
    }
}

impl Attributes for Plain {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        json_scalar(self.attributes.get(name)?)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.attributes.get("properties")?.get(key)?.as_str()
    }
}

/// A JSON value as filters see it; a reference counts as its `href`.
fn json_scalar(value: &Value) -> Option<Scalar<'_>> {
    match value {
        Value::Bool(value) => Some((*value).into()),
        Value::Number(number) => number.as_i64().map(Scalar::Integer),
        Value::String(text) => match text.parse() {
            Ok(time) if text.len() >= 20 && text.contains('T') => Some(Scalar::Time(time)),
            _ => Some(text.as_str().into()),
        },
        Value::Object(members) => members
            .get("href")
            .and_then(Value::as_str)
            .map(Scalar::from),
        Value::Null | Value::Array(_) => None,
    }
}

/// How a stored type looks to the outside, beside the common attributes.
pub(crate) trait Public: OfType {
    /// The type.
    const KIND: Kind;

    /// Its own attributes.
    fn own_attributes(&self, documents: &Documents) -> Map<String, Value>;

    /// What somebody with `Modify` may do with it.
    fn operations(&self) -> Vec<Rel> {
        vec![Rel::Edit, Rel::Delete]
    }

    /// Changes one attribute beside the common ones.
    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let _ = value;
        Err(CloudError::invalid(
            name,
            format!("can't be changed of a {}", Self::COLLECTION),
        ))
    }
}

/// A stored resource with the documents it refers to.
pub(crate) struct Stored<R: OfType> {
    documents: Documents,
    document: Arc<Cached<R>>,
}

impl<R: Public> Stored<R> {
    pub(crate) fn of(documents: &Documents, document: Arc<Cached<R>>) -> Self {
        Self {
            documents: documents.clone(),
            document,
        }
    }

    pub(crate) fn into_view(self, context: &OpContext) -> View {
        View {
            kind: R::KIND,
            id: self.document.key.as_str().into(),
            stamp: Some(self.document.revision.0),
            right: context.right_on(self.document.acl()).unwrap_or(Right::View),
            document: Arc::new(self),
        }
    }
}

impl<R: Public> Document for Stored<R> {
    fn attributes(&self, _right: Right) -> Map<String, Value> {
        let mut out = common_attributes(&self.document.document.0);
        out.extend(self.document.own_attributes(&self.documents));
        out
    }

    fn operations(&self, right: Right) -> Vec<Rel> {
        if right >= Right::Modify {
            Public::operations(&self.document.document.0)
        } else {
            Vec::new()
        }
    }
}

impl<R: Public> Attributes for Stored<R> {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        if let Some(scalar) = common_scalar(&self.document.document.0, name) {
            return Some(scalar);
        }
        let attributes = self.document.own_attributes(&self.documents);
        Some(match json_scalar(attributes.get(name)?)? {
            Scalar::Text(text) => Scalar::from(text.into_owned()),
            Scalar::Boolean(value) => Scalar::Boolean(value),
            Scalar::Integer(value) => Scalar::Integer(value),
            Scalar::Time(value) => Scalar::Time(value),
        })
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.document
            .common()
            .properties
            .get(key)
            .map(String::as_str)
    }
}

/// A stored resource as the caller sees it.
pub(crate) fn view<R: Public>(
    documents: &Documents,
    context: &OpContext,
    document: Arc<Cached<R>>,
) -> View {
    Stored::of(documents, document).into_view(context)
}

/// Changes `name`, `description`, `properties` or `acl`.
pub(crate) fn edit_common(common: &mut Common, name: &str, value: Option<&Value>) -> Result<()> {
    let text = || value.and_then(Value::as_str).map(str::to_owned);
    let wrong = |error: serde_json::Error| CloudError::invalid(name, error.to_string());
    match (name, value) {
        ("name", _) => common.name = text(),
        ("description", _) => common.description = text(),
        ("properties", None) => common.properties.clear(),
        ("properties", Some(value)) => {
            common.properties = serde_json::from_value(value.clone()).map_err(wrong)?;
        }
        ("acl", Some(value)) => {
            common.acl = serde_json::from_value(value.clone()).map_err(wrong)?;
        }
        _ => return Err(CloudError::invalid(name, "can't be changed")),
    }
    Ok(())
}

/// Changes a resource whose type has no rules of its own beyond [`Public::edit`].
pub(crate) async fn edit<R: Public>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
    changes: Changes,
) -> Result<Done> {
    access::find::<R>(documents, context, local, Right::Modify)?;
    let edited = documents
        .update(local, |document: &mut R| {
            access::keep_owner(context, document.acl(), &changes)?;
            for (name, value) in &changes {
                match name.as_str() {
                    "name" | "description" | "properties" | "acl" => {
                        edit_common(document.common_mut(), name, value.as_ref())?;
                    }
                    _ => document.edit(name, value.as_ref())?,
                }
            }
            Ok::<bool, CloudError>(!changes.is_empty())
        })
        .await?;
    Ok(Done {
        view: Some(view(documents, context, edited)),
        job: None,
    })
}

/// Removes a resource that nothing else depends on.
pub(crate) async fn delete<R: Public>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
) -> Result<Done> {
    loop {
        let read = access::find::<R>(documents, context, local, Right::Modify)?;
        match documents.changes().remove(&read).commit().await {
            Ok(_) => return Ok(Done::default()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
}
