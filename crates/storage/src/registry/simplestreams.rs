//! The format in which Ubuntu, Incus and others publish images: an index, and files of products with versions with items.
//!
//! Attributes are inherited downwards: item over version over product over file.

use std::collections::BTreeMap;

use marketplace::digest::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::browse::{Listed, Product, Version};

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
pub(super) fn read_index(text: &[u8]) -> Result<Listed<String>, String> {
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
    let mut listed = Listed::default();
    for content in contents {
        listed.add("a file of products", checked_path(content.path));
    }
    listed.unless_all_is_wrong()
}

#[derive(Debug, Deserialize)]
struct File {
    format: String,
    #[serde(default)]
    datatype: Option<String>,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    products: BTreeMap<String, Readable<RawProduct>>,
}

/// Something of others that may be written in another way than is known here.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Readable<T> {
    Yes(T),
    No(IgnoredAny),
}

impl<T> Readable<T> {
    fn known(self) -> Result<T, String> {
        match self {
            Self::Yes(known) => Ok(known),
            Self::No(_) => Err("it is not written as simplestreams are".to_owned()),
        }
    }
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
    version: Option<String>,
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
    items: BTreeMap<String, Readable<Item>>,
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
/// left out: nobody could tell whether they came as they were published. So is what is written wrongly, which is told.
///
/// # Errors
/// What is wrong with it, if that is all of it.
pub fn read_products(text: &[u8], architecture: &str) -> Result<Listed<Product>, String> {
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
        return Ok(Listed::default());
    }
    let mut listed = Listed::default();
    for (name, raw) in file.products.into_iter().take(MAX_PRODUCTS) {
        let raw = match raw.known() {
            Ok(raw) => raw,
            Err(reason) => {
                listed.leave_out(&cut(&name), &reason);
                continue;
            }
        };
        let arch = raw.arch.or_else(|| file.arch.clone()).unwrap_or_default();
        if !architecture.is_empty() && arch != architecture {
            continue;
        }
        let mut versions = Vec::new();
        // Newest is greatest by text.
        for (version, raw) in raw.versions.into_iter().rev() {
            if versions.len() == MAX_VERSIONS {
                break;
            }
            let shown = format!("{} {}", cut(&name), cut(&version));
            versions.extend(version_of(version, raw.items, |reason| {
                listed.leave_out(&shown, &reason);
            }));
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
        listed.usable.push(Product {
            os: raw.os.as_ref().map(|os| cut(&os.to_lowercase())),
            os_version: raw
                .version
                .as_ref()
                .or(raw.release.as_ref())
                .map(|version| cut(version)),
            title: title(&raw.os, raw.release_title.or(raw.release)),
            name: cut(&name),
            aliases,
            architecture: cut(&arch),
            versions,
        });
    }
    listed.unless_all_is_wrong()
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

/// The best of a version's items; `wrong` is told of those that can't be used though they are meant to be.
fn version_of(
    version: String,
    items: BTreeMap<String, Readable<Item>>,
    mut wrong: impl FnMut(String),
) -> Option<Version> {
    let rank = |item: &Item| USABLE.iter().position(|ftype| *ftype == item.ftype);
    let mut ranked = Vec::new();
    for (name, item) in items {
        match item.known() {
            Ok(item) if item.sha256.is_some() || item.sha512.is_some() => {
                ranked.extend(rank(&item).map(|rank| (rank, item)));
            }
            Ok(_) => {}
            Err(reason) => wrong(format!("{}: {reason}", cut(&name))),
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .find_map(|(_, item)| match checked(&version, item) {
            Ok(version) => Some(version),
            Err(reason) => {
                wrong(reason);
                None
            }
        })
}

fn checked(version: &str, item: Item) -> Result<Version, String> {
    Ok(Version {
        version: cut(version),
        sha256: parsed(item.sha256)?,
        sha512: parsed(item.sha512)?,
        path: checked_path(item.path)?,
        bytes: item.size,
    })
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
        let listed = read_products(products(&item).as_bytes(), "amd64").expect("products");
        assert!(listed.left_out.is_empty(), "{:?}", listed.left_out);
        let found = listed.usable;
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
        assert!(found.usable.is_empty() && found.left_out.is_empty());
        for bad in ["", "[]", "{}", r#"{"format":"products:2.0"}"#] {
            assert!(read_products(bad.as_bytes(), "").is_err(), "{bad}");
            assert!(read_index(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_left_out_with_a_reason_and_the_rest_is_used() {
        let sum = "ab".repeat(32);
        let good = format!(r#"{{"ftype":"qcow2","path":"a.qcow2","size":7,"sha256":"{sum}"}}"#);
        let product = |item: &str| {
            format!(r#"{{"arch":"amd64","versions":{{"1":{{"items":{{"x":{item}}}}}}}}}"#)
        };
        let wrong = [
            format!(r#"{{"ftype":"qcow2","path":"../up","sha256":"{sum}"}}"#),
            r#"{"ftype":"qcow2","path":"a","sha256":"zz"}"#.to_owned(),
            format!(r#"{{"ftype":"qcow2","path":"a","size":"seven","sha256":"{sum}"}}"#),
            "7".to_owned(),
        ];
        for wrong in wrong {
            let text = format!(
                r#"{{"format":"products:1.0","products":{{"bad":{},"good":{},"strange":7}}}}"#,
                product(&wrong),
                product(&good)
            );
            let listed = read_products(text.as_bytes(), "amd64").expect("products");
            let names: Vec<_> = listed
                .usable
                .iter()
                .map(|found| found.name.as_str())
                .collect();
            assert_eq!(names, ["good"], "{wrong}");
            let told = listed.left_out.join("\n");
            assert!(
                told.contains("bad 1: ") && told.contains("strange: "),
                "{told}"
            );
        }
        // Of one version's items another one is taken.
        let text = products(&format!(
            r#"{{"ftype":"disk1.img","path":"/etc/passwd","sha256":"{sum}"}},"b":{good}"#
        ));
        let listed = read_products(text.as_bytes(), "amd64").expect("products");
        assert_eq!(listed.usable[0].versions[0].path, "a.qcow2");
        assert!(listed.left_out[0].contains("is no path below the root"));
    }

    #[test]
    fn an_index_names_files_of_downloads() {
        let index = r#"{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","format":"products:1.0","path":"streams/v1/a.json"},
            "b":{"datatype":"image-ids","format":"products:1.0","path":"streams/v1/b.json"}}}"#;
        assert_eq!(
            read_index(index.as_bytes()).expect("index").usable,
            ["streams/v1/a.json"]
        );
    }
}
