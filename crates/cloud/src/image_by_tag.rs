//! Images that are asked for by the tag of an endorser, or by a short URL that leads to a Marketplace's entry. Both are resolved
//! once, when they are asked for, to the identifier of an image; from there on it is an image by identifier. Neither is pinned:
//! whoever asks again gets what it leads to then.

use cimi::{
    ImageId,
    resources::{Digests, ImageSource, ImageState},
};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, OpContext, Result, access,
    image_by_name::{self, LOCATION},
};

/// A tag, and whose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    tag: String,
    email: String,
}

fn is_url(location: &str) -> bool {
    location.starts_with("http://") || location.starts_with("https://")
}

/// The tag in a name: `TAG@EMAIL`, `marketplace:TAG@EMAIL`.
fn tag_in_name(location: &str) -> Option<Tag> {
    let named = location.strip_prefix("marketplace:").unwrap_or(location);
    let (at, _) = named.rmatch_indices('@').nth(1)?;
    Tag::new(&named[..at], &named[at + 1..])
}

/// The tag in the address of a Marketplace: `…/metadata/EMAIL?tag=TAG`, `…/tag/EMAIL/TAG`.
fn tag_in_url(location: &str) -> Option<Tag> {
    let location = location.split('#').next()?;
    let (path, query) = location.split_once('?').unwrap_or((location, ""));
    let decoded = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .ok()
            .map(String::from)
    };
    if let Some((_, rest)) = path.split_once("/tag/") {
        let (email, tag) = rest.split_once('/')?;
        return Tag::new(&decoded(tag.trim_end_matches('/'))?, &decoded(email)?);
    }
    let (_, email) = path.split_once("/metadata/")?;
    let tag = query
        .split('&')
        .find_map(|part| part.strip_prefix("tag="))?;
    let tag = decoded(&tag.replace('+', " "))?;
    Tag::new(&tag, &decoded(email.trim_end_matches('/'))?)
}

impl Tag {
    /// None if it is meant to be something else. Whether it is a good tag and address is for the Marketplaces' side to say.
    fn new(tag: &str, email: &str) -> Option<Self> {
        let tag = tag.trim_matches('"');
        (!tag.is_empty() && email.contains('@')).then(|| Self {
            tag: tag.to_owned(),
            email: email.to_owned(),
        })
    }
}

impl Cloud {
    /// The body of an image's creation, with the identifier of the image in place of a tag or a short URL.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] if a tag leads to no image that can be used, [`CloudError::Unavailable`] if nobody can say now.
    pub(crate) async fn with_identifier(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let Some(given) = crate::image::location_of(&body).map(str::to_owned) else {
            return Ok(body);
        };
        let behind = self.behind(context, &body, &given).await?;
        let location = behind.as_deref().unwrap_or(&given);
        if let Some(tag) = self.tag_in(location) {
            let identifier = self.tagged(context, &tag).await?;
            let location = format!("marketplace:{identifier}");
            body.insert(LOCATION.to_owned(), json!({ "href": location }));
        } else if behind.is_some() {
            body.insert(LOCATION.to_owned(), json!({ "href": location }));
        }
        Ok(body)
    }

    fn tag_in(&self, location: &str) -> Option<Tag> {
        if !is_url(location) {
            return tag_in_name(location);
        }
        // Elsewhere `/tag/…` is a path like any other.
        let tag = tag_in_url(location)?;
        self.0.intake.is_of_marketplace(location).then_some(tag)
    }

    async fn tagged(&self, context: &OpContext, tag: &Tag) -> Result<String> {
        access::require_change(context)?;
        let Tag { tag, email } = tag;
        if !self.0.intake.has_marketplaces() {
            return Err(image_by_name::no_marketplace());
        }
        let identifier = self.0.intake.tagged(email, tag).await?;
        // An identifier may have entries of others too, with other places to fetch it from.
        self.check_endorser(&identifier, email, None).await?;
        tracing::info!(
            tag,
            email,
            identifier,
            owner = context.user(),
            "a tag was looked up"
        );
        Ok(identifier)
    }

    /// The address of a Marketplace's entry that a short URL leads to. Not asked of what was fetched from that very URL before.
    async fn behind(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
        location: &str,
    ) -> Result<Option<String>> {
        let is_on_demand = body.get("onDemand").and_then(Value::as_bool) == Some(true);
        let is_plain = is_url(location)
            && image_by_name::named_source(location).is_none()
            && self.tag_in(location).is_none();
        if !is_on_demand || !is_plain || !self.0.intake.has_marketplaces() {
            return Ok(None);
        }
        access::require_change(context)?;
        if self.is_here(context, body, location)? {
            return Ok(None);
        }
        let behind = self.0.intake.entry_behind(location).await;
        Ok(behind.filter(|to| {
            matches!(
                image_by_name::named_source(to),
                Some(Ok(ImageSource::Marketplace))
            ) || self.tag_in(to).is_some()
        }))
    }

    fn is_here(&self, context: &OpContext, body: &Map<String, Value>, url: &str) -> Result<bool> {
        let expected = body.get("expected").cloned().unwrap_or_else(|| json!({}));
        // What is wrong with it is told by whoever makes the image.
        let expected: Digests = serde_json::from_value(expected).unwrap_or_default();
        let key = image_by_name::key_of_url(access::require_user(context)?, url, &expected);
        let id = ImageId::from_local(&image_by_name::stable_id(&key))
            .map_err(|error| CloudError::Internal(error.to_string()))?;
        let known = self.0.documents.images.get(id.local());
        Ok(known.is_some_and(|image| image.state != ImageState::Error || image.file.is_some()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn tag_in_either(location: &str) -> Option<Tag> {
        if is_url(location) {
            return tag_in_url(location);
        }
        tag_in_name(location)
    }

    #[test]
    fn tags_are_told_from_other_names() {
        for (location, tag) in [
            ("ttylinux@ann@example.org", "ttylinux"),
            ("marketplace:ttylinux@ann@example.org", "ttylinux"),
            ("debian:12@ann@example.org", "debian:12"),
            ("a@b@ann@example.org", "a@b"),
            ("https://m/metadata/ann@example.org?tag=a%20b", "a b"),
            (
                "https://m/marketplace/metadata/ann%40example.org/?x=1&tag=%22a+b%22",
                "a b",
            ),
            (
                "https://m/tag/ann@example.org/ttylinux-14%2F1",
                "ttylinux-14/1",
            ),
        ] {
            let read = tag_in_either(location).unwrap();
            assert_eq!(
                (read.tag.as_str(), read.email.as_str()),
                (tag, "ann@example.org"),
                "{location}"
            );
        }
        for location in [
            "ubuntu:24.04@20300110",
            "@ann@example.org",
            "marketplace:MMZu9WvwKIro-rtBQfDk4PsKO7_",
            "https://m/metadata/ann@example.org",
            "https://m/metadata/MMZu9WvwKIro-rtBQfDk4PsKO7_?tag=x",
            "https://m/tag/x/y",
            "https://ann@example.org@m/x.img",
            "https://m/metadata/ann@example.org?tag=%ff",
            "",
        ] {
            assert_eq!(tag_in_either(location), None, "{location}");
        }
    }
}
