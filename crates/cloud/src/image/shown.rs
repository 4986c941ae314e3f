//! What is shown of an image, and what its owner may change.

use cimi::{
    model::Kind,
    resources::{Image, ImageSource},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    CloudError, Result,
    catalogue::{Public, object},
    cloud::{set_public, visibility},
    image_by_name,
};

impl Public for Image {
    const KIND: Kind = Kind::MachineImage;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let location = match &self.desired.source {
            ImageSource::Upload => "upload:".to_owned(),
            ImageSource::Url { url } => without_secrets(url),
            ImageSource::Machine(capture) => capture.machine.to_string(),
            named => image_by_name::shown(named, self.identifier()).unwrap_or_default(),
        };
        let mut out = object(json!({
            "state": self.state,
            "type": self.kind,
            "imageLocation": location,
            "visibility": visibility(&self.common.acl),
        }));
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                out.insert(name.to_owned(), value);
            }
        };
        put("identifier", json!(self.identifier()));
        put("reason", json!(self.reason));
        put("progress", json!(self.progress));
        put("kernelArguments", json!(self.kernel_arguments));
        put("expected", json!(self.desired.expected));
        if let Some(capture) = self.capture() {
            put("origin", json!({"href": capture.origin}));
        }
        put("announced", json!(self.announced));
        if !self.uncleaned.is_empty() {
            put("uncleaned", json!(self.uncleaned));
        }
        for (name, file) in [("kernel", &self.kernel), ("initrd", &self.initrd)] {
            put(
                name,
                file.as_ref().map_or(Value::Null, |id| json!({"href": id})),
            );
        }
        if let Some(on_demand) = &self.desired.on_demand {
            put("onDemand", json!(true));
            put("pinned", json!(on_demand.pinned));
            put("lastUsed", json!(on_demand.last_used));
        }
        if let Some(origin) = &self.provenance {
            put("foundIn", json!(origin.found_in));
            put("title", json!(origin.title));
            put("endorser", json!(origin.endorser));
            put("sourceVersion", json!(origin.version));
        }
        if let Some(file) = &self.file {
            put("format", json!(file.format));
            put("virtualSize", json!(file.virtual_size));
            put("bytes", json!(file.digests.bytes));
            put("md5", json!(file.digests.md5));
            put("sha1", json!(file.digests.sha1));
            put("sha256", json!(file.digests.sha256));
            put("sha512", json!(file.digests.sha512));
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        match (name, value) {
            ("visibility", Some(value)) => {
                let public = value == "PUBLIC";
                if let Some(warning) = self.warning().filter(|_| public) {
                    return Err(CloudError::invalid(
                        name,
                        format!(
                            "can't be PUBLIC: {warning}. Make the image anew by `stratus create-image`, which cleans within the machine; or, if \
                             you have cleaned it yourself, say so: `stratus image update --cleaned` (`uncleaned`: [])"
                        ),
                    ));
                }
                set_public(&mut self.common.acl, public);
            }
            // By its owner's word.
            ("uncleaned", value) if value.and_then(Value::as_array).is_none_or(Vec::is_empty) => {
                let warning = self.warning();
                self.uncleaned.clear();
                // It told of nothing else. What was announced of it is announced anew, by whoever does that.
                if self.reason == warning {
                    self.reason = None;
                }
            }
            ("uncleaned", _) => {
                return Err(CloudError::invalid(
                    name,
                    "is found by the cloud: you can only say by [] that nothing is left",
                ));
            }
            ("kernelArguments", value) => {
                self.kernel_arguments = value.and_then(Value::as_str).map(str::to_owned);
            }
            ("pinned", value) => {
                let on_demand = self.desired.on_demand.as_mut().ok_or_else(|| {
                    CloudError::invalid(
                        name,
                        "is for images on demand; others never go by themselves",
                    )
                })?;
                on_demand.pinned = value.and_then(Value::as_bool) == Some(true);
            }
            _ => return Err(CloudError::invalid(name, "of an image can't be changed")),
        }
        Ok(())
    }
}

/// A URL as it may be shown, also to those who may not change the image: who fetches, and with which signature, is left
/// out.
fn without_secrets(url: &str) -> String {
    let (plain, _) = url.split_once(['?', '#']).unwrap_or((url, ""));
    let Some((scheme, rest)) = plain.split_once("://") else {
        return plain.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_keys_of_its_builder_is_not_published_without_a_word() {
        let mut image = cimi::testing::image();
        set_public(&mut image.common.acl, false);
        image.uncleaned = vec!["partition 2 is an XFS file system".to_owned()];
        let public = |image: &mut Image| image.edit("visibility", Some(&json!("PUBLIC")));
        let refused = public(&mut image).unwrap_err().to_string();
        assert!(
            refused.contains("XFS") && refused.contains("--cleaned"),
            "{refused}"
        );
        assert_eq!(visibility(&image.common.acl), "PRIVATE");
        image.edit("visibility", Some(&json!("PRIVATE"))).unwrap();
        assert!(image.edit("uncleaned", Some(&json!(["less"]))).is_err());
        image.edit("uncleaned", Some(&json!([]))).unwrap();
        public(&mut image).unwrap();
        assert_eq!(visibility(&image.common.acl), "PUBLIC");
    }

    #[test]
    fn locations_are_shown_without_what_opens_them() {
        for (url, shown) in [
            ("http://a/b.img", "http://a/b.img"),
            (
                "https://joe:pw@a:8/b/c@d?X-Signature=s#f",
                "https://a:8/b/c@d",
            ),
            ("https://joe:p@w@a?x", "https://a"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
