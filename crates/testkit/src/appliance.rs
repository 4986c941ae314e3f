//! What machines boot in tests: the tiny appliance, and disks that hold nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::programs::{repository, search_path};

/// The files of the tiny appliance.
#[derive(Clone, Debug)]
pub struct Appliance {
    /// Its disk, qcow2.
    pub disk: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
    /// Its kernel's arguments.
    pub arguments: String,
}

impl Appliance {
    /// The tiny appliance: that in the folder `STRATUS_TINY`, else built, which is done once for all tests: the build keeps its
    /// result under the hash of what it is made of.
    ///
    /// # Panics
    /// If it can't be built.
    #[must_use]
    pub fn tiny() -> Self {
        static BUILT: OnceLock<Appliance> = OnceLock::new();
        BUILT.get_or_init(build).clone()
    }
}

fn build() -> Appliance {
    let folder = match env::var_os("STRATUS_TINY").map(PathBuf::from) {
        Some(folder) if folder.join("tiny.qcow2").is_file() => folder,
        _ => {
            let folder = repository().join(".cache/appliances");
            fs::create_dir_all(&folder).unwrap();
            // Tests are processes of their own, and begin at the same time.
            let lock = fs::File::create(folder.join("tests.lock")).unwrap();
            lock.lock().unwrap();
            let output = Command::new(repository().join("appliances/tiny/build"))
                .arg(&folder)
                .env("PATH", search_path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "appliances/tiny/build: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            folder
        }
    };
    let file = |name: &str| {
        let path = folder.join(name);
        assert!(path.is_file(), "{} is missing", path.display());
        path
    };
    let arguments = fs::read_to_string(file("tiny.cmdline"))
        .unwrap()
        .trim()
        .to_owned();
    Appliance {
        disk: file("tiny.qcow2"),
        kernel: file("tiny.vmlinuz"),
        initrd: file("tiny.initrd"),
        arguments,
    }
}

/// A disk of 1 MiB without anything to boot: its machine stays in the firmware, runs for the hypervisor and costs next to
/// nothing.
///
/// # Panics
/// If it can't be written.
#[must_use]
pub fn firmware_only_image(folder: &Path) -> PathBuf {
    let path = folder.join("empty.img");
    // Not all zero: content decides what an image is called, and this one shall differ from others' empty disks.
    let mut content = vec![0_u8; 1 << 20];
    content[4096..4096 + 15].copy_from_slice(b"nothing to boot");
    fs::write(&path, content).unwrap();
    path
}
