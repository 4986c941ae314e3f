//! Our examination against QEMU's own reading: whatever is altered in an image, what we accept is a self-contained disk
//! of the size we think.

use std::os::unix::fs::FileExt as _;
use std::process::Command;

use proptest::prelude::*;
use storage::Durability;
use storage::inspect::{self, PREFIX_BYTES, SizeLimits};

/// Places that matter: the header, and the starts of the refcount table, the refcount block and the L1 table.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 4_usize..160, 1 => 0x1_0000_usize..0x1_0010, 1 => 0x2_0000_usize..0x2_0010, 2 => 0x3_0000_usize..0x3_0010]
}

/// Values that matter more than others.
fn value() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(4),
        Just(8),
        Just(0xff),
        any::<u8>()
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn altered_headers_and_tables(changes in proptest::collection::vec((place(), value()), 0..4), length in 0_u64..0x5_0000) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("image");
        storage::qcow2::create(&path, 1 << 30, None, Durability::Cached).expect("create");
        let file = std::fs::File::options().read(true).write(true).open(&path).expect("open");
        for (place, value) in changes {
            file.write_all_at(&[value], place as u64).expect("alter");
        }
        // Half of them whole, half of them cut.
        if length < 0x2_8000 {
            file.set_len(length).expect("cut");
        }
        let mut prefix = std::fs::read(&path).expect("read");
        prefix.truncate(PREFIX_BYTES);
        let limits = SizeLimits::default();
        let Ok(inspected) = inspect::first_bytes(&prefix, Some(inspect::Format::Qcow2), &limits) else { return Ok(()) };
        if inspect::whole_file(&file, &path, &inspected, &limits).is_err() {
            return Ok(());
        }
        let Ok(output) = Command::new("qemu-img").args(["info", "-f", "qcow2", "--output", "json"]).arg(&path).output()
        else {
            eprintln!("skipped: qemu-img is not installed");
            return Ok(());
        };
        // What QEMU refuses is refused by the import, too: it asks.
        if output.status.success() {
            let info: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            prop_assert_eq!(info["virtual-size"].as_u64(), Some(inspected.virtual_bytes(file.metadata().expect("metadata").len())));
            prop_assert!(info.get("backing-filename").is_none(), "{}", info);
            prop_assert!(info["format-specific"]["data"].get("data-file").is_none(), "{}", info);
            prop_assert!(info.get("encrypted").is_none() && info.get("snapshots").is_none(), "{}", info);
        }
    }
}
