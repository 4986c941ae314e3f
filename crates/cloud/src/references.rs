//! References in templates: what is kept to be used later refers to what there is now. What goes away afterwards is told when
//! the template is used.

use cimi::model::{Attribute, Changes, Kind, Shape, describe};
use serde_json::{Map, Value};

use crate::{Cloud, CloudError, OpContext, Result, resolve};

impl Cloud {
    /// Refuses a template that refers to what doesn't exist, or what the caller may not see. `#name` is left alone: it is
    /// another component of the same system.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] with the reference's place.
    pub(crate) fn check_references(
        &self,
        context: &OpContext,
        kind: Kind,
        body: &Map<String, Value>,
    ) -> Result<()> {
        self.references_within(context, describe(kind).attributes, body, "")
    }

    /// The same, of what an edit makes otherwise than it is: what went away since stays until it is changed.
    ///
    /// # Errors
    /// As above, and those of a lookup.
    pub(crate) fn check_changed_references(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        changes: &Changes,
    ) -> Result<()> {
        let view = self.get(context, kind, id)?;
        let shown = view.document.attributes(view.right);
        let changed = changes.iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            (shown.get(name) != Some(value)).then(|| (name.clone(), value.clone()))
        });
        self.check_references(context, kind, &changed.collect())
    }

    fn references_within(
        &self,
        context: &OpContext,
        attributes: &[Attribute],
        object: &Map<String, Value>,
        path: &str,
    ) -> Result<()> {
        for attribute in attributes {
            if let Some(value) = object.get(attribute.name) {
                let path = match path {
                    "" => attribute.name.to_owned(),
                    _ => format!("{path}.{}", attribute.name),
                };
                self.references_in(context, &attribute.shape, value, &path)?;
            }
        }
        Ok(())
    }

    fn references_in(
        &self,
        context: &OpContext,
        shape: &Shape,
        value: &Value,
        path: &str,
    ) -> Result<()> {
        match (shape, value) {
            (Shape::Array(inner), Value::Array(all)) => {
                for (index, value) in all.iter().enumerate() {
                    self.references_in(context, inner, value, &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            (Shape::Struct(fields) | Shape::Flattened(fields, _), Value::Object(object)) => {
                self.references_within(context, fields, object, path)
            }
            (Shape::Ref(_), Value::Object(object)) => self.check_reference(context, object, path),
            (Shape::RefOrValue(kind), Value::Object(object)) => {
                self.check_reference(context, object, path)?;
                self.references_within(context, describe(*kind).attributes, object, path)
            }
            _ => Ok(()),
        }
    }

    fn check_reference(
        &self,
        context: &OpContext,
        object: &Map<String, Value>,
        path: &str,
    ) -> Result<()> {
        let href = resolve::href_of(object).filter(|href| !href.starts_with('#'));
        let Some((kind, local)) = href.and_then(|href| href.split_once('/')) else {
            return Ok(());
        };
        let Some(kind) = Kind::from_name(kind) else {
            return Ok(());
        };
        match resolve::at(path, self.get(context, kind, local)) {
            // It is fetched when the first machine is made of it.
            Err(CloudError::Invalid { .. })
                if kind == Kind::MachineImage && self.may_be_fetched(context, local) =>
            {
                Ok(())
            }
            found => found.map(drop),
        }
    }
}
