//! `$expand`: resources and collections in the place of the references to them (DSP0263 §4.1.6.2), one step deep.

use cimi::{
    model::{Attribute, Kind, Shape, describe, relative},
    query::{Query, Select},
};
use cloud::{Page, View};
use serde_json::{Map, Value, json};

use super::{Asked, Cimi, negotiation::Format};

/// Most resources that one answer shows in the place of references; what is beyond stays a reference.
const EXPANDED_AT_MOST: usize = 1_000;

/// What one answer may still expand.
pub(super) struct Expansion<'a> {
    wanted: &'a Select,
    left: usize,
}

impl<'a> Expansion<'a> {
    pub(super) fn of(wanted: &'a Select) -> Self {
        Self {
            wanted,
            left: EXPANDED_AT_MOST,
        }
    }
}

impl Cimi {
    /// Puts what is referred to in the place of the references that are wanted so. What the caller may not see, and what
    /// isn't there any more, stays a reference.
    pub(super) async fn expand(
        &self,
        asked: &Asked<'_>,
        view: &View,
        attributes: &mut Map<String, Value>,
        expansion: &mut Expansion<'_>,
    ) {
        for field in describe(view.kind).attributes {
            if !expansion.wanted.wants(field.name) {
                continue;
            }
            if let Shape::Collection(members) = field.shape {
                let found = self
                    .members(asked, &view.id, field, members, expansion)
                    .await;
                if let Some(collection) = found {
                    attributes.insert(field.name.to_owned(), collection);
                }
                continue;
            }
            match (field.shape, attributes.get_mut(field.name)) {
                (Shape::Ref(_) | Shape::RefOrValue(_), Some(reference)) => {
                    self.follow(asked, reference, expansion).await;
                }
                (Shape::Array(Shape::Ref(_) | Shape::RefOrValue(_)), Some(Value::Array(all))) => {
                    for reference in all {
                        self.follow(asked, reference, expansion).await;
                    }
                }
                _ => {}
            }
        }
    }

    /// Puts a resource, or a collection of the CloudEntryPoint, in the place of what is a reference and nothing else.
    async fn follow(
        &self,
        asked: &Asked<'_>,
        reference: &mut Value,
        expansion: &mut Expansion<'_>,
    ) {
        let Value::Object(members) = &*reference else {
            return;
        };
        let Some(href) = members.get("href").and_then(Value::as_str) else {
            return;
        };
        if members.len() > 1 || expansion.left == 0 {
            return;
        }
        let href = href.to_owned();
        if let Some(kind) = Kind::from_name(&href) {
            let query = Query {
                last: Some(expansion.left),
                ..Query::default()
            };
            if let Ok(page) = self.api.list(asked.context, kind, &query).await {
                *reference = self.collection_value(kind, &href, &page, expansion);
            }
            return;
        }
        let target = relative(&href).and_then(|path| path.split_once('/'));
        let Some((kind, id)) = target.and_then(|(kind, id)| Some((Kind::from_name(kind)?, id)))
        else {
            return;
        };
        if let Ok(view) = self.api.get(asked.context, kind, id).await {
            expansion.left -= 1;
            *reference = self.value(&view, &href);
        }
    }

    /// A resource's own collection.
    async fn members(
        &self,
        asked: &Asked<'_>,
        parent: &str,
        field: &Attribute,
        members: Kind,
        expansion: &mut Expansion<'_>,
    ) -> Option<Value> {
        let (kind, id) = parent.split_once('/')?;
        if expansion.left == 0 {
            return None;
        }
        let query = Query {
            last: Some(expansion.left),
            ..Query::default()
        };
        let page = self
            .api
            .list_members(
                asked.context,
                Kind::from_name(kind)?,
                id,
                field.name,
                &query,
            )
            .await
            .ok()?;
        let id = format!("{parent}/{}", field.name);
        Some(self.collection_value(members, &id, &page, expansion))
    }

    fn collection_value(
        &self,
        kind: Kind,
        id: &str,
        page: &Page,
        expansion: &mut Expansion<'_>,
    ) -> Value {
        expansion.left = expansion.left.saturating_sub(page.members.len());
        let described = describe(kind);
        let mut value = json!({"href": id, "resourceURI": format!("{}Collection", described.uri()),
            "id": id, "count": page.count});
        if !page.members.is_empty() {
            let members: Vec<_> = page
                .members
                .iter()
                .map(|view| self.value(view, ""))
                .collect();
            value[described.member_key] = members.into();
        }
        if page.can_add {
            value["operations"] = json!([{"rel": "add", "href": id}]);
        }
        value
    }

    /// A resource as part of another's representation; with the reference, if it stands in its place.
    fn value(&self, view: &View, href: &str) -> Value {
        let bytes = self.represent(view, &Select::All, Format::Json);
        let mut value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if !href.is_empty() && value.is_object() {
            value["href"] = href.into();
        }
        value
    }
}
