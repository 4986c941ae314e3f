//! The format in which Ubuntu, Incus and others publish images: an index, and files of products with versions with items.
//!
//! Attributes are inherited downwards: item over version over product over file.

use std::collections::BTreeMap;

use marketplace::digest::Digest;
use serde::Deserialize;

use super::browse::{Product, Version};

/// What machines start from, by preference. `disk1.img` is qcow2 in spite of its name.
const USABLE: [&str; 7] = [
    "disk1.img",
    "disk-kvm.img",
    "uefi1.img",
    "disk.qcow2",
    "qcow2",
    "vmdk",
    "root.img",
];
/// Products, and versions of one, that are taken from a file.
const MAX_PRODUCTS: usize = 10_000;
const MAX_VERSIONS: usize = 16;
/// Texts are cut to this.
const MAX_TEXT: usize = 200;

#[derive(Debug, Deserialize)]
struct Index {
    format: String,
    #[serde(default)]
    index: BTreeMap<String, Content>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(default)]
    datatype: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    path: String,
}

/// The files of products that an index names, relative to the root.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_index(text: &[u8]) -> Result<Vec<String>, String> {
    let index: Index =
        serde_json::from_slice(text).map_err(|error| format!("it is no index: {error}"))?;
    if index.format != "index:1.0" {
        return Err(format!(
            "its format is `{}`, not index:1.0",
            cut(&index.format)
        ));
    }
    let contents = index.index.into_values().filter(|content| {
        content.datatype == "image-downloads" && content.format == "products:1.0"
    });
    contents.map(|content| checked_path(content.path)).collect()
}

#[derive(Debug, Deserialize)]
struct File {
    format: String,
    #[serde(default)]
    datatype: Option<String>,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    products: BTreeMap<String, RawProduct>,
}

#[derive(Debug, Deserialize)]
struct RawProduct {
    #[serde(default)]
    aliases: String,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    release: Option<String>,
    #[serde(default)]
    release_title: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    versions: BTreeMap<String, RawVersion>,
}

#[derive(Debug, Deserialize)]
struct RawVersion {
    #[serde(default)]
    items: BTreeMap<String, Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    ftype: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    sha512: Option<String>,
}

/// The products of a file that there are machine images of, for one architecture. Items without a SHA-256 or SHA-512 are
/// left out: nobody could tell whether they came as they were published.
///
/// # Errors
/// What is wrong with it.
pub fn read_products(text: &[u8], architecture: &str) -> Result<Vec<Product>, String> {
    let file: File = serde_json::from_slice(text)
        .map_err(|error| format!("it is no file of products: {error}"))?;
    if file.format != "products:1.0" {
        return Err(format!(
            "its format is `{}`, not products:1.0",
            cut(&file.format)
        ));
    }
    if file
        .datatype
        .is_some_and(|datatype| datatype != "image-downloads")
    {
        return Ok(Vec::new());
    }
    let mut products = Vec::new();
    for (name, raw) in file.products.into_iter().take(MAX_PRODUCTS) {
        let arch = raw.arch.or_else(|| file.arch.clone()).unwrap_or_default();
        if !architecture.is_empty() && arch != architecture {
            continue;
        }
        let mut versions = Vec::new();
        // Newest is greatest by text.
        for (version, raw) in raw.versions.into_iter().rev() {
            if versions.len() < MAX_VERSIONS
                && let Some(found) = version_of(version, raw.items)?
            {
                versions.push(found);
            }
        }
        if versions.is_empty() {
            continue;
        }
        let mut aliases: Vec<String> = raw
            .aliases
            .split(',')
            .map(|alias| cut(alias.trim()))
            .filter(|alias| !alias.is_empty())
            .collect();
        if aliases.is_empty() {
            let variant = raw.variant.as_deref().unwrap_or("default");
            aliases.extend(incus_alias(&raw.os, &raw.release, variant));
        }
        products.push(Product {
            title: title(&raw.os, raw.release_title.or(raw.release)),
            name: cut(&name),
            aliases,
            architecture: cut(&arch),
            versions,
        });
    }
    Ok(products)
}

fn incus_alias(os: &Option<String>, release: &Option<String>, variant: &str) -> Option<String> {
    let alias = format!("{}/{}", os.as_ref()?, release.as_ref()?).to_lowercase();
    Some(cut(&if variant == "default" {
        alias
    } else {
        format!("{alias}/{variant}")
    }))
}

fn title(os: &Option<String>, release: Option<String>) -> Option<String> {
    let os = os.as_ref()?;
    Some(cut(&match release {
        Some(release) => format!("{os} {release}"),
        None => os.clone(),
    }))
}

fn version_of(version: String, items: BTreeMap<String, Item>) -> Result<Option<Version>, String> {
    let rank = |item: &Item| USABLE.iter().position(|ftype| *ftype == item.ftype);
    let best = items
        .into_values()
        .filter(|item| item.sha256.is_some() || item.sha512.is_some())
        .filter_map(|item| rank(&item).map(|rank| (rank, item)))
        .min_by_key(|(rank, _)| *rank);
    let Some((_, item)) = best else {
        return Ok(None);
    };
    Ok(Some(Version {
        version: cut(&version),
        sha256: parsed(item.sha256)?,
        sha512: parsed(item.sha512)?,
        path: checked_path(item.path)?,
        bytes: item.size,
    }))
}

fn parsed<const N: usize>(text: Option<String>) -> Result<Option<Digest<N>>, String> {
    text.map(|text| {
        text.parse::<Digest<N>>()
            .map_err(|error| format!("a checksum is wrong: {error}"))
    })
    .transpose()
}

/// A path below the root: relative, and nowhere above.
pub(super) fn checked_path(path: String) -> Result<String, String> {
    let is_good = !path.is_empty()
        && path.len() <= 1024
        && !path.starts_with('/')
        && !path.contains(['\\', '?', '#', ':'])
        && !path.chars().any(char::is_control)
        && !path.split('/').any(|part| {
            ["", ".", ".."].contains(&part) || part.to_ascii_lowercase().contains("%2e")
        });
    if is_good {
        Ok(path)
    } else {
        Err(format!(
            "`{}` is no path below the root",
            cut(&path).escape_debug()
        ))
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn products(item: &str) -> String {
        format!(
            r#"{{"format":"products:1.0","datatype":"image-downloads","products":{{
              "com.example.cloud:server:24.04:amd64":{{"aliases":"24.04,n,noble","arch":"amd64","os":"example","release":"noble","release_title":"24.04 LTS",
                "versions":{{"20300110":{{"items":{{"disk1.img":{item},"lxd.tar.xz":{{"ftype":"lxd.tar.xz","path":"x","sha256":"00"}}}}}},
                             "20290110":{{"items":{{"disk1.img":{item}}}}}}}}},
              "com.example.cloud:server:24.04:arm64":{{"arch":"arm64","versions":{{}}}}}}}}"#
        )
    }

    #[test]
    fn products_of_the_architecture_are_read_newest_version_first() {
        let item = format!(
            r#"{{"ftype":"disk1.img","path":"server/a.img","size":7,"sha256":"{}"}}"#,
            "ab".repeat(32)
        );
        let found = read_products(products(&item).as_bytes(), "amd64").expect("products");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].aliases, ["24.04", "n", "noble"]);
        assert_eq!(found[0].title.as_deref(), Some("example 24.04 LTS"));
        let versions: Vec<_> = found[0]
            .versions
            .iter()
            .map(|v| v.version.as_str())
            .collect();
        assert_eq!(versions, ["20300110", "20290110"]);
        assert_eq!(found[0].versions[0].path, "server/a.img");
        assert_eq!(found[0].versions[0].bytes, Some(7));
    }

    #[test]
    fn what_leads_elsewhere_or_can_not_be_checked_is_refused() {
        let sum = "ab".repeat(32);
        for path in [
            "/etc/passwd",
            "../x",
            "a/../b",
            "http://h/x",
            "a//b",
            "",
            "a/%2E%2e/b",
            "a?b",
        ] {
            let item = format!(r#"{{"ftype":"disk1.img","path":"{path}","sha256":"{sum}"}}"#);
            assert!(
                read_products(products(&item).as_bytes(), "amd64").is_err(),
                "{path}"
            );
        }
        let unchecked = r#"{"ftype":"disk1.img","path":"a","md5":"00"}"#;
        let found = read_products(products(unchecked).as_bytes(), "amd64").expect("products");
        assert!(found.is_empty());
        for bad in ["", "[]", "{}", r#"{"format":"products:2.0"}"#] {
            assert!(read_products(bad.as_bytes(), "").is_err(), "{bad}");
            assert!(read_index(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_index_names_files_of_downloads() {
        let index = r#"{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","format":"products:1.0","path":"streams/v1/a.json"},
            "b":{"datatype":"image-ids","format":"products:1.0","path":"streams/v1/b.json"}}}"#;
        assert_eq!(
            read_index(index.as_bytes()).expect("index"),
            ["streams/v1/a.json"]
        );
    }
}
