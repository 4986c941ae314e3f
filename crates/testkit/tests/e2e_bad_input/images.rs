//! Images that were made to do harm.

use std::{path::Path, process::Command, time::Duration};

use testkit::{Options, TestCloud, skip_unless, wait_until};

use super::survived;

#[test]
fn hostile_images_are_refused() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        storage: "largest_image_gib = 1\n".to_owned(),
        ..Options::default()
    });
    let folder = cloud.folder().to_owned();
    let shell = |line: &str| {
        let output = Command::new("sh")
            .arg("-ec")
            .arg(line)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    shell("qemu-img create -q -f raw data.raw 1M");
    shell("qemu-img create -q -f qcow2 -b /etc/passwd -F raw backing.qcow2 1M");
    shell("qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on external.qcow2 1M");
    shell("qemu-img create -q -f qcow2 absurd.qcow2 1P");
    shell("head -c 3000000 /dev/urandom | gzip -1 | head -c 1000000 > truncated.gz");
    shell("head -c 1200M /dev/zero | gzip -1 > bomb.gz");
    shell("qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 1M");
    let mut wrong = Vec::new();
    for (name, why) in [
        ("backing.qcow2", "backing"),
        ("external.qcow2", "external file"),
        ("absurd.qcow2", "limit"),
        ("truncated.gz", "gz"),
        ("bomb.gz", "limit"),
        ("flat.vmdk", ""),
    ] {
        let output = cloud.try_cli(&["image", "import", &folder.join(name).display().to_string()]);
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if output.status.success() || !told.contains(why) {
            wrong.push(format!(
                "{name}: {:?}, expected to hear of `{why}`: {told}",
                output.status.code()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The last of them is on its way out.
    wait_until("no image stays", Duration::from_secs(60), || {
        cloud.api().list("MachineImage").is_empty().then_some(())
    });
    let cache = cloud.state_dir().join("cache");
    assert!(cache.is_dir(), "images are elsewhere");
    assert!(size_of(&cache) < 1 << 20, "nothing stays on disk");
    survived(&cloud);
    cloud.assert_clean();
}

/// Bytes of all files below a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                size_of(&path)
            } else {
                entry.metadata().map_or(0, |data| data.len())
            }
        })
        .sum()
}
