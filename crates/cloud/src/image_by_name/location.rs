//! Names of images as locations: how they are written, and what they are told from addresses by.

use cimi::{VolumeId, resources::ImageSource};

use super::LOCATION;
use crate::{CloudError, Result, image::IDENTIFIER_LENGTH};

/// The forms of an image's location that are names.
pub(crate) fn named_source(location: &str) -> Option<Result<ImageSource>> {
    if let Some(identifier) = location
        .strip_prefix("marketplace:")
        .or_else(|| entry_identifier(location))
    {
        return Some(if is_identifier(identifier) {
            Ok(ImageSource::Marketplace)
        } else {
            Err(CloudError::invalid(
                LOCATION,
                format!("`{identifier}` is not an identifier of 27 characters"),
            ))
        });
    }
    if let Some(name) = location.strip_prefix("catalogue:") {
        return Some(catalogue_source(name));
    }
    volume_of(location).map(|volume| {
        VolumeId::from_local(&volume.to_lowercase())
            .map(|volume| ImageSource::Volume { volume })
            .map_err(|error| CloudError::invalid(LOCATION, error.to_string()))
    })
}

/// The identifier in the location of a Marketplace's entry, which names it.
pub(crate) fn identifier_in(location: &str) -> Option<&str> {
    location
        .strip_prefix("marketplace:")
        .or_else(|| entry_identifier(location))
}

/// The location as it is shown.
pub(crate) fn shown(source: &ImageSource, identifier: Option<&str>) -> Option<String> {
    match source {
        ImageSource::Marketplace => Some(format!("marketplace:{}", identifier.unwrap_or_default())),
        ImageSource::Catalogue {
            catalogue,
            product,
            version,
        } => {
            let version = version.as_ref().map(|version| format!("@{version}"));
            let version = version.unwrap_or_default();
            Some(format!("catalogue:{catalogue}:{product}{version}"))
        }
        ImageSource::Volume { volume } => Some(volume.to_string()),
        _ => None,
    }
}

/// `NAME:PRODUCT` or `NAME:PRODUCT@VERSION`.
fn catalogue_source(name: &str) -> Result<ImageSource> {
    let form = || {
        CloudError::invalid(
            LOCATION,
            "must be catalogue:NAME:PRODUCT, or catalogue:NAME:PRODUCT@VERSION",
        )
    };
    let (catalogue, product) = name.split_once(':').ok_or_else(form)?;
    let (product, version) = match product.rsplit_once('@') {
        Some((product, version)) => (product, Some(version.to_owned())),
        None => (product, None),
    };
    if catalogue.is_empty() || product.is_empty() || version.as_deref() == Some("") {
        return Err(form());
    }
    Ok(ImageSource::Catalogue {
        catalogue: catalogue.to_owned(),
        product: product.to_owned(),
        version,
    })
}

/// Endorser and time that the location of an entry names behind the identifier: `…/metadata/IDENTIFIER/EMAIL/CREATED`.
pub(super) fn named_entry(location: &str) -> Option<(&str, Option<&str>)> {
    let identifier = entry_identifier(location)?;
    let plain = location.split(['?', '#']).next()?;
    let (_, after) = plain.split_once(&format!("/metadata/{identifier}/"))?;
    let mut parts = after.split('/').filter(|part| !part.is_empty());
    Some((parts.next()?, parts.next()))
}

/// `https://…/metadata/IDENTIFIER`, as StratusLab's commands send it.
pub(super) fn entry_identifier(location: &str) -> Option<&str> {
    let plain = location.split(['?', '#']).next()?;
    if !plain.starts_with("http://") && !plain.starts_with("https://") {
        return None;
    }
    let (_, after) = plain.split_once("/metadata/")?;
    let identifier = after.split('/').next()?;
    is_identifier(identifier).then_some(identifier)
}

/// `Volume/UUID`, `volume:UUID`, `pdisk:HOST:PORT:UUID`, `pdisk:HOST/UUID`.
fn volume_of(location: &str) -> Option<&str> {
    if let Some(volume) = location
        .strip_prefix("Volume/")
        .or_else(|| location.strip_prefix("volume:"))
    {
        return Some(volume);
    }
    let rest = location.strip_prefix("pdisk:")?;
    Some(rest.rsplit([':', '/']).next().unwrap_or(rest))
}

pub(crate) fn is_identifier(text: &str) -> bool {
    text.len() == IDENTIFIER_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        // 160 bits: the first character has four.
        && text.as_bytes().first().is_some_and(|first| (b'A'..=b'P').contains(first))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        let id = "MMZu9WvwKIro-rtBQfDk4PsKO7_";
        for location in [
            format!("marketplace:{id}"),
            format!("https://m.example.org/metadata/{id}"),
            format!("https://m.example.org/marketplace/metadata/{id}/a@b?x=1"),
        ] {
            assert_eq!(
                named_source(&location).unwrap().unwrap(),
                ImageSource::Marketplace
            );
            assert_eq!(identifier_in(&location), Some(id));
        }
        let uuid = "0190a1c4-0000-7000-8000-000000000001";
        for location in [
            format!("Volume/{uuid}"),
            format!("volume:{uuid}"),
            format!("pdisk:host.example.org:8445:{uuid}"),
            format!("pdisk:host.example.org/{}", uuid.to_uppercase()),
        ] {
            let volume = VolumeId::from_local(uuid).unwrap();
            assert_eq!(
                named_source(&location).unwrap().unwrap(),
                ImageSource::Volume { volume }
            );
        }
        let ubuntu = named_source("catalogue:ubuntu:com.x:server:24.04:amd64@20300110")
            .unwrap()
            .unwrap();
        let shown = shown(&ubuntu, None).unwrap();
        assert_eq!(shown, "catalogue:ubuntu:com.x:server:24.04:amd64@20300110");
        for bad in [
            "marketplace:short",
            "catalogue:x",
            "catalogue::y",
            "catalogue:x:y@",
            "Volume/../x",
        ] {
            assert!(named_source(bad).unwrap().is_err(), "{bad}");
        }
        for other in [
            "https://h/x.img",
            "https://h/metadata/x",
            "upload:",
            "ftp://h/x",
        ] {
            assert!(named_source(other).is_none(), "{other}");
        }
    }

    #[test]
    fn who_names_an_endorser_s_entry_means_that_one() {
        let id = "MMZu9WvwKIro-rtBQfDk4PsKO7_";
        let url = |rest: &str| format!("https://m.example.org/marketplace/metadata/{id}{rest}");
        assert_eq!(named_entry(&url("")), None);
        assert_eq!(named_entry(&url("/?x=1")), None);
        assert_eq!(named_entry(&url("/a@b?x=1")), Some(("a@b", None)));
        let time = "2030-01-15T08:05:00Z";
        let whole = url(&format!("/a@b/{time}"));
        assert_eq!(named_entry(&whole), Some(("a@b", Some(time))));
        assert_eq!(named_entry(&format!("marketplace:{id}")), None);
    }
}
