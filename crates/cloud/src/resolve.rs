//! Creation by value and by reference (DSP0263 §4.2.1.1; `cimi.md` §8): what a template refers to is read and put in
//! its place; what is given inline overrides it.

use cimi::{Right, model::overlay};
use documents::{Documents, OfType};
use serde_json::{Map, Value};

use crate::{CloudError, OpContext, Result, access};

/// `given` with the resource of type `R` that it refers to merged in beneath. `path` is where it stands in the request.
pub(crate) fn resolve<R: OfType>(
    documents: &Documents,
    context: &OpContext,
    given: Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>> {
    let Some(href) = href_of(&given) else {
        return Ok(given);
    };
    let local = local_part::<R>(href, path)?;
    let referred = at(
        path,
        access::find::<R>(documents, context, local, Right::View),
    )?;
    let stored = serde_json::to_value(&referred.document.0)
        .map_err(|error| CloudError::Internal(error.to_string()))?;
    let Value::Object(stored) = stored else {
        return Err(CloudError::Internal(format!("{href} is not an object")));
    };
    Ok(overlay(stored, given))
}

/// What was found by a reference that stands at `path` of a request: that there is nothing is the request's fault then.
pub(crate) fn at<T>(path: &str, found: Result<T>) -> Result<T> {
    found.map_err(|error| match error {
        CloudError::NotFound { what } => {
            CloudError::invalid(path, format!("refers to {what}, which does not exist"))
        }
        other => other,
    })
}

/// What is wrong with something of a request, told of where that stands in it: whoever found it knew only where it stands in
/// others.
pub(crate) fn blame<T>(path: &str, found: Result<T>) -> Result<T> {
    found.map_err(|error| match error {
        CloudError::Invalid { mut violations } => {
            for violation in &mut violations {
                path.clone_into(&mut violation.path);
            }
            CloudError::Invalid { violations }
        }
        other => other,
    })
}

/// The part after the slash of the reference to an `R` that a resolved template has as `member`.
pub(crate) fn named<R: OfType>(
    template: &Map<String, Value>,
    member: &str,
    path: &str,
) -> Result<String> {
    let path = format!("{path}.{member}");
    let href = template
        .get(member)
        .and_then(Value::as_object)
        .and_then(href_of)
        .ok_or_else(|| {
            let problem = format!("is missing; give {{\"href\": \"{}/…\"}}", R::COLLECTION);
            CloudError::invalid(path.clone(), problem)
        })?;
    Ok(local_part::<R>(href, &path)?.to_owned())
}

/// The reference in an object, if it has one.
pub(crate) fn href_of(object: &Map<String, Value>) -> Option<&str> {
    object.get("href").and_then(Value::as_str)
}

/// The part after the slash of a reference to an `R`: relative, absolute, or with a leading slash.
pub(crate) fn local_part<'a, R: OfType>(href: &'a str, path: &str) -> Result<&'a str> {
    let marker = format!("{}/", R::COLLECTION);
    let local = match href.strip_prefix(&marker) {
        Some(local) => Some(local),
        None => href
            .rsplit_once(&format!("/{marker}"))
            .map(|(_, local)| local),
    };
    local
        .map(|local| local.trim_end_matches('/'))
        .filter(|local| !local.is_empty() && !local.contains('/'))
        .ok_or_else(|| {
            CloudError::invalid(
                path,
                format!("must refer to a {}, but is `{href}`", R::COLLECTION),
            )
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use cimi::resources::Volume;

    use super::*;

    #[test]
    fn references_may_be_relative_or_absolute() {
        for href in [
            "Volume/a1",
            "/cimi/Volume/a1",
            "https://h:8443/cimi/Volume/a1/",
        ] {
            assert_eq!(local_part::<Volume>(href, "x").unwrap(), "a1", "{href}");
        }
        for href in ["Machine/a1", "Volume/", "a1", "Volume/a/b"] {
            assert!(local_part::<Volume>(href, "x").is_err(), "{href}");
        }
    }
}
