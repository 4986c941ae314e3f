//! A folder of images with a file of their checksums (`SHA512SUMS`, `SHA256SUMS`), as Debian publishes.

use std::collections::BTreeMap;

use marketplace::digest::Digest;

use super::browse::{Listed, Product, Version};
use super::simplestreams::checked_path;

/// Endings of what machines start from, by preference.
const USABLE: [&str; 15] = [
    ".qcow2",
    ".qcow2.xz",
    ".qcow2.zst",
    ".qcow2.gz",
    ".qcow2.bz2",
    ".img",
    ".img.xz",
    ".img.zst",
    ".img.gz",
    ".img.bz2",
    ".raw.xz",
    ".raw.zst",
    ".raw.gz",
    ".raw.bz2",
    ".raw",
];
const MAX_LINES: usize = 100_000;

/// The images that a file of checksums names (`HEX  NAME` or `HEX *NAME`), one product for each name without its ending.
/// Of several files of one product the best is taken; its checksum is its version. A line that is wrong is left out, and told.
///
/// # Errors
/// If it is something else.
pub fn read(text: &[u8], architecture: &str) -> Result<Listed<Product>, String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("it is no text: {error}"))?;
    let mut best: BTreeMap<String, (usize, Version)> = BTreeMap::new();
    let mut listed = Listed::default();
    let lines = text.lines().enumerate().take(MAX_LINES);
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let Some((stem, rank, version)) = (match file(line, architecture) {
            Ok(found) => found,
            Err(reason) => {
                listed.leave_out(&format!("line {}", index + 1), &reason);
                None
            }
        }) else {
            continue;
        };
        let is_better = best.get(stem).is_none_or(|(known, _)| rank < *known);
        if is_better {
            best.insert(stem.to_owned(), (rank, version));
        }
    }
    let products = best.into_iter().map(|(stem, (_, version))| Product {
        os: None,
        os_version: None,
        aliases: vec![version.path.clone()],
        title: None,
        architecture: architecture.to_owned(),
        name: stem,
        versions: vec![version],
    });
    listed.usable.extend(products);
    listed.unless_all_is_wrong()
}

/// The file of a line if it is one that machines start from: its product, its rank, and what it must be.
fn file<'l>(
    line: &'l str,
    architecture: &str,
) -> Result<Option<(&'l str, usize, Version)>, String> {
    let (hex, name) = line
        .split_once([' ', '\t'])
        .ok_or_else(|| "it is not `CHECKSUM  NAME`".to_owned())?;
    let name = name.trim_start().trim_start_matches('*');
    let name = name.strip_prefix("./").unwrap_or(name);
    let (sha256, sha512) = match hex.len() {
        64 => (Some(sum::<32>(hex)?), None),
        128 => (None, Some(sum::<64>(hex)?)),
        _ => return Err("its checksum is neither SHA-256 nor SHA-512".to_owned()),
    };
    let ending = USABLE.iter().enumerate().find_map(|(rank, ending)| {
        let stem = name.strip_suffix(ending)?;
        Some((rank, stem))
    });
    let Some((rank, stem)) =
        ending.filter(|(_, stem)| !stem.is_empty() && is_for(stem, architecture))
    else {
        return Ok(None);
    };
    let version = Version {
        version: hex.chars().take(12).collect::<String>().to_lowercase(),
        path: checked_path(name.to_owned())?,
        bytes: None,
        sha256,
        sha512,
    };
    Ok(Some((stem, rank, version)))
}

fn sum<const N: usize>(hex: &str) -> Result<Digest<N>, String> {
    hex.parse()
        .map_err(|error| format!("a checksum is wrong: {error}"))
}

/// Names end with the architecture, or say none.
fn is_for(stem: &str, architecture: &str) -> bool {
    const ALL: [&str; 8] = [
        "amd64", "arm64", "ppc64el", "riscv64", "i386", "armhf", "s390x", "aarch64",
    ];
    architecture.is_empty()
        || stem.contains(architecture)
        || (architecture == "amd64" && stem.contains("x86_64"))
        || !ALL.iter().any(|other| stem.contains(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_is_a_product_in_its_best_form() {
        let (a, b, c) = ("a".repeat(128), "b".repeat(128), "c".repeat(128));
        let text = format!(
            "{a}  debian-12-generic-amd64.raw\n{b}  debian-12-generic-amd64.qcow2\n{c} *debian-12-generic-arm64.qcow2\n{c}  debian-12-generic-amd64.json\n"
        );
        let found = read(text.as_bytes(), "amd64").expect("products").usable;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "debian-12-generic-amd64");
        assert_eq!(found[0].versions[0].path, "debian-12-generic-amd64.qcow2");
        assert_eq!(found[0].versions[0].version, "b".repeat(12));
        let all = read(text.as_bytes(), "").expect("products");
        assert_eq!(all.usable.len(), 2);
    }

    #[test]
    fn a_line_that_is_wrong_is_left_out_and_every_compression_is_known() {
        let sum = "a".repeat(64);
        let text = format!(
            "{sum}  ../up.qcow2\n{sum}  good.qcow2.bz2\nshort  x.img\n{sum}  also.raw.zst\n"
        );
        let listed = read(text.as_bytes(), "").expect("products");
        let paths: Vec<_> = listed
            .usable
            .iter()
            .map(|found| found.versions[0].path.as_str())
            .collect();
        assert_eq!(paths, ["also.raw.zst", "good.qcow2.bz2"]);
        let told = &listed.left_out;
        assert!(told[0].starts_with("line 1: `../up.qcow2`"), "{told:?}");
        assert!(told[1].starts_with("line 3: "), "{told:?}");
    }

    #[test]
    fn what_is_no_list_of_checksums_is_refused() {
        for bad in [
            "<html></html>".to_owned(),
            "abc  x.img".to_owned(),
            format!("{}  ../x.img", "a".repeat(64)),
            format!("{}  x.img", "g".repeat(64)),
        ] {
            assert!(read(bad.as_bytes(), "").is_err(), "{bad}");
        }
        assert!(read(b"\xff", "").is_err());
    }
}
