//! What all resources have in common when they are listed, shown, edited and deleted.

use std::sync::{Arc, OnceLock};

use cimi::{
    Common, MachineId, Ref, Right, Timestamp,
    model::{Changes, Kind, Shape, describe},
    query::{Attributes, Scalar},
    resources::{Event, Resource},
};
use documents::{Cached, Documents, OfType};
use serde_json::{Map, Value, json};

use crate::{CloudError, Document, Done, OpContext, Rel, Result, View, access, error::unreadable};

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

    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        self.attributes
            .get(name)
            .map(json_scalars)
            .unwrap_or_default()
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
        Value::String(text) => Some(text_scalar(text)),
        Value::Object(members) => members
            .get("href")
            .and_then(Value::as_str)
            .map(Scalar::from),
        Value::Null | Value::Array(_) => None,
    }
}

/// A text as filters see it, which may be a time.
pub(crate) fn text_scalar(text: &str) -> Scalar<'_> {
    match text.parse() {
        Ok(time) if text.len() >= 20 && text.contains('T') => Scalar::Time(time),
        _ => text.into(),
    }
}

/// The members of a JSON array as filters see them.
fn json_scalars(value: &Value) -> Vec<Scalar<'_>> {
    match value {
        Value::Array(members) => members.iter().filter_map(json_scalar).collect(),
        _ => Vec::new(),
    }
}

/// How an attribute follows from a reference, and from the document that this leads to.
pub(crate) struct Through {
    /// The attribute that has the reference; it [is its own](Public::is_own).
    pub(crate) reference: &'static str,
    /// What the document of this local id has.
    pub(crate) look_up: fn(&Documents, &str) -> Option<String>,
}

/// How a stored type looks to the outside, beside the common attributes.
pub(crate) trait Public: OfType {
    /// The type.
    const KIND: Kind;

    /// Whether its name is only a name.
    const MAY_BE_RENAMED: bool = true;

    /// Its own attributes.
    fn own_attributes(&self, documents: &Documents) -> Map<String, Value>;

    /// Names all that is shown, see [`View::stamp`]. `revision` is that of the document itself: whoever shows something
    /// of other documents, too, must answer otherwise.
    fn stamp(&self, revision: u64, documents: &Documents) -> Option<u64> {
        let _ = documents;
        Some(revision)
    }

    /// One of its own attributes as filters see it, for those that lists of thousands are filtered by: nothing is built
    /// for it. What isn't answered here is taken from [`own_attributes`](Self::own_attributes).
    fn quick<'a>(&'a self, documents: &'a Documents, name: &str) -> Option<Scalar<'a>> {
        let _ = (documents, name);
        None
    }

    /// The same for one of its own attributes that has several values.
    fn quick_several(&self, name: &str) -> Option<Vec<Scalar<'_>>> {
        let _ = name;
        None
    }

    /// Whether one of its own attributes follows from the document alone: lists of very many are filtered by those fast.
    fn is_own(name: &str) -> bool {
        let _ = name;
        false
    }

    /// How an attribute follows from another one, if it follows from nothing else of the document.
    fn through(name: &str) -> Option<Through> {
        let _ = name;
        None
    }

    /// What somebody with `Modify` may do with it.
    fn operations(&self, documents: &Documents) -> Vec<Rel> {
        let _ = documents;
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

/// A stored resource that a filter or an order looks at, one of perhaps many thousand.
pub(crate) struct Candidate<'a, R: OfType> {
    documents: &'a Documents,
    pub(crate) document: Arc<Cached<R>>,
    /// Its own attributes, once one was asked for that isn't [quick](Public::quick).
    shown: OnceLock<Map<String, Value>>,
}

impl<'a, R: Public> Candidate<'a, R> {
    pub(crate) fn of(documents: &'a Documents, document: Arc<Cached<R>>) -> Self {
        Self {
            documents,
            document,
            shown: OnceLock::new(),
        }
    }
}

impl<R: Public> Attributes for Candidate<'_, R> {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        attribute(&self.document.document.0, self.documents, &self.shown, name)
    }

    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        several(&self.document.document.0, self.documents, &self.shown, name)
    }

    fn property(&self, key: &str) -> Option<&str> {
        let properties = &self.document.common().properties;
        properties.get(key).map(String::as_str)
    }
}

fn attribute<'a, R: Public>(
    document: &'a R,
    documents: &'a Documents,
    shown: &'a OnceLock<Map<String, Value>>,
    name: &str,
) -> Option<Scalar<'a>> {
    if let Some(scalar) = common_scalar(document, name).or_else(|| document.quick(documents, name))
    {
        return Some(scalar);
    }
    // What no document of the type has isn't worth building anything for, nor is what has no single value.
    if matches!(describe(R::KIND).attribute(name)?.shape, Shape::Array(_)) {
        return None;
    }
    json_scalar(
        shown
            .get_or_init(|| document.own_attributes(documents))
            .get(name)?,
    )
}

fn several<'a, R: Public>(
    document: &'a R,
    documents: &'a Documents,
    shown: &'a OnceLock<Map<String, Value>>,
    name: &str,
) -> Vec<Scalar<'a>> {
    let has_several = describe(R::KIND)
        .attribute(name)
        .is_some_and(|attribute| matches!(attribute.shape, Shape::Array(_)));
    if !has_several {
        return Vec::new();
    }
    if let Some(quick) = document.quick_several(name) {
        return quick;
    }
    let shown = shown.get_or_init(|| document.own_attributes(documents));
    shown.get(name).map(json_scalars).unwrap_or_default()
}

/// A stored resource with the documents it refers to.
struct Stored<R: OfType> {
    documents: Documents,
    document: Arc<Cached<R>>,
    shown: OnceLock<Map<String, Value>>,
}

impl<R: Public> Document for Stored<R> {
    fn attributes(&self, _right: Right) -> Map<String, Value> {
        shown(&self.documents, &self.document.document.0)
    }

    fn operations(&self, right: Right) -> Vec<Rel> {
        if right >= Right::Modify {
            Public::operations(&self.document.document.0, &self.documents)
        } else {
            Vec::new()
        }
    }
}

impl<R: Public> Attributes for Stored<R> {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        attribute(
            &self.document.document.0,
            &self.documents,
            &self.shown,
            name,
        )
    }

    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        several(
            &self.document.document.0,
            &self.documents,
            &self.shown,
            name,
        )
    }

    fn property(&self, key: &str) -> Option<&str> {
        let properties = &self.document.common().properties;
        properties.get(key).map(String::as_str)
    }
}

/// All public attributes.
pub(crate) fn shown<R: Public>(documents: &Documents, document: &R) -> Map<String, Value> {
    let mut out = common_attributes(document);
    out.extend(document.own_attributes(documents));
    out
}

/// A stored resource as the caller sees it.
pub(crate) fn view<R: Public>(
    documents: &Documents,
    context: &OpContext,
    document: Arc<Cached<R>>,
) -> View {
    View {
        kind: R::KIND,
        id: document.key.as_str().into(),
        // Before anything is read: what changes meanwhile then has a stamp of its own.
        stamp: document.document.0.stamp(document.revision.0, documents),
        right: context.right_on(document.acl()).unwrap_or(Right::View),
        document: Arc::new(Stored {
            documents: documents.clone(),
            document,
            shown: OnceLock::new(),
        }),
    }
}

/// Changes `name`, `description`, `properties` or `acl`.
pub(crate) fn edit_common(common: &mut Common, name: &str, value: Option<&Value>) -> Result<()> {
    let text = || value.and_then(Value::as_str).map(str::to_owned);
    let wrong = |error: serde_json::Error| unreadable(name, &error);
    match (name, value) {
        ("name", _) => common.name = text(),
        ("description", _) => common.description = text(),
        ("properties", None) => common.properties.clear(),
        ("properties", Some(value)) => {
            common.properties = serde_json::from_value(value.clone()).map_err(wrong)?;
        }
        ("acl", Some(value)) => {
            common.acl = access::list_of(value)?;
        }
        _ => return Err(CloudError::invalid(name, "can't be changed")),
    }
    Ok(())
}

/// The changes that make a difference to what is shown of `document`, in their order. A whole representation that is sent
/// back as it was shown changes nothing, whatever is rounded or derived in it.
pub(crate) fn differing<'c, R: Public>(
    documents: &Documents,
    document: &R,
    changes: &'c Changes,
) -> Vec<(&'c str, Option<&'c Value>)> {
    let shown = shown(documents, document);
    changes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_ref()))
        .filter(|(name, value)| {
            let (old, new) = (shown.get(*name), *value);
            old.filter(|old| !is_empty(old)) != new.filter(|new| !is_empty(new))
        })
        .collect()
}

/// What representations leave out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(members) => members.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Changes a resource whose type has no rules of its own beyond [`Public::edit`]. Rights and values are checked on the
/// very document that is then replaced.
pub(crate) async fn edit<R: Public>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
    changes: Changes,
) -> Result<Done> {
    let edited = documents
        .update(local, |document: &mut R| {
            context.in_time()?;
            apply(documents, context, document, &changes)
        })
        .await?;
    Ok(Done {
        view: Some(view(documents, context, edited)),
        job: None,
    })
}

/// Makes the changes to a document as it was read; whether there were any.
///
/// # Errors
/// If the caller may not change it, or not so.
pub(crate) fn apply<R: Public>(
    documents: &Documents,
    context: &OpContext,
    document: &mut R,
    changes: &Changes,
) -> Result<bool> {
    access::require(context, document, Right::Modify)?;
    access::keep_owner(context, document.acl(), changes)?;
    let differing = differing(documents, document, changes);
    access::keep_rights(context, document, differing.iter().map(|(name, _)| *name))?;
    for (name, value) in &differing {
        match *name {
            "name" if !R::MAY_BE_RENAMED => {
                let text = "says who it is, and can't be changed";
                return Err(CloudError::invalid("name", text));
            }
            "name" | "description" | "properties" | "acl" => {
                edit_common(document.common_mut(), name, *value)?;
            }
            _ => document.edit(name, *value)?,
        }
    }
    check_size(document)?;
    Ok(!differing.is_empty())
}

/// Removes a resource that nothing else depends on.
pub(crate) async fn delete<R: Public>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
) -> Result<Done> {
    loop {
        context.in_time()?;
        let read = access::find::<R>(documents, context, local, Right::Modify)?;
        match documents.changes().remove(&read).commit().await {
            Ok(_) => return Ok(Done::default()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a resource unless something speaks against it, and writes down who did.
///
/// # Errors
/// What `refusal` says, and those of lookup and store.
pub(crate) async fn delete_unless<R: Public>(
    documents: &Documents,
    context: &OpContext,
    local: &str,
    refusal: impl Fn(&R) -> Result<()> + Send + Sync,
) -> Result<Done> {
    loop {
        context.in_time()?;
        let read = access::find::<R>(documents, context, local, Right::Modify)?;
        refusal(&read.document.0)?;
        let user = context.user().unwrap_or_default();
        let event = Event::request(&read.document.0, "delete", user, Timestamp::now());
        let changes = documents.changes().remove(&read).create(&event);
        match changes.commit().await {
            Ok(_) => return Ok(Done::default()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses to remove what a machine has.
pub(crate) fn unused(id: &impl std::fmt::Display, machine: Option<&Ref<MachineId>>) -> Result<()> {
    match machine {
        None => Ok(()),
        Some(machine) => Err(CloudError::Conflict(format!(
            "{id} is in use by {}; remove the machine first",
            machine.href
        ))),
    }
}

/// Largest document that users may make, in bytes. Half of what one transaction may hold: what the cloud adds to a
/// document later, and writes beside it, must always fit.
pub(crate) const LARGEST_DOCUMENT_BYTES: usize = 512 * 1024;

/// Refuses documents that have become too large by what the user put into them.
pub(crate) fn check_size<R: Resource>(document: &R) -> Result<()> {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, document)
        .map_err(|error| CloudError::Internal(error.to_string()))?;
    if size.0 > LARGEST_DOCUMENT_BYTES {
        return Err(CloudError::TooLarge(format!(
            "the {} would have {} bytes, and at most {LARGEST_DOCUMENT_BYTES} are kept of one: shorten its texts, properties or user data",
            R::COLLECTION,
            size.0
        )));
    }
    Ok(())
}

/// Counts bytes.
struct Size(usize);

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
