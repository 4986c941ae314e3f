//! Indexes of images as strangers publish them: simplestreams and lists of checksums. What is read stays below its root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::registry::{read_checksums, read_products};

fuzz_target!(|data: &[u8]| {
    let found = [read_products(data, "amd64"), read_checksums(data, "")];
    for product in found.into_iter().flatten().flat_map(|listed| listed.usable) {
        assert!(!product.versions.is_empty());
        for version in product.versions {
            assert!(version.sha256.is_some() || version.sha512.is_some());
            assert!(!version.path.starts_with('/') && !version.path.split('/').any(|part| part == ".."));
        }
    }
});
