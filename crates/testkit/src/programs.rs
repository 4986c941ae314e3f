//! Which programs a test uses, and what it needs of the machine it runs on.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Root and network namespaces, for a cloud with bridges.
    Root,
    /// QEMU.
    Qemu,
    /// `/dev/net/tun`, for machines on bridges.
    Tun,
    /// The OpenSSH client.
    Ssh,
    /// A program by its name.
    Program(&'static str),
}

impl Need {
    /// Why a test can't run, if this is missing.
    fn missing(self) -> Option<String> {
        let program = |name: &str| {
            (!is_installed(name)).then(|| format!("the program {name} is not installed"))
        };
        match self {
            Self::Root => {
                (!rustix::process::geteuid().is_root()).then(|| "this is not root".to_owned())
            }
            Self::Tun => {
                (!Path::new("/dev/net/tun").exists()).then(|| "there is no /dev/net/tun".to_owned())
            }
            Self::Qemu => program("qemu-system-x86_64").or_else(|| program("qemu-img")),
            Self::Ssh => program("ssh").or_else(|| program("ssh-keygen")),
            Self::Program(name) => program(name),
        }
    }
}

/// Whether the test has to be skipped; prints why. Without `needs`, what a cloud with bridges and guests needs.
///
/// # Panics
/// Instead of skipping, with `STRATUS_REQUIRE_ALL=1` in the environment.
#[must_use]
pub fn skip_unless(needs: &[Need]) -> bool {
    let usual = [
        Need::Root,
        Need::Tun,
        Need::Qemu,
        Need::Ssh,
        Need::Program("dnsmasq"),
        Need::Program("nft"),
        Need::Program("ip"),
    ];
    let needs = if needs.is_empty() { &usual } else { needs };
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return false;
    }
    let missing = missing.join("; ");
    let required = env::var_os("STRATUS_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(
        !required,
        "STRATUS_REQUIRE_ALL=1, but this test can't run: {missing}"
    );
    println!("SKIPPED: {missing}");
    true
}

fn is_installed(name: &str) -> bool {
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(usual)
        .any(|folder| folder.join(name).is_file())
}

/// Where the programs of this build are: `STRATUS_PROGRAMS`, else beside the tests'.
pub(crate) fn programs_dir() -> PathBuf {
    if let Some(folder) = env::var_os("STRATUS_PROGRAMS") {
        return PathBuf::from(folder);
    }
    // target/PROFILE/deps/e2e_something-0123456789abcdef
    let test = env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// The path of one of our programs.
///
/// # Panics
/// If it was not built, with what to do about it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = programs_dir().join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it first, `cargo build -p stratusd -p stratus` with the profile of the tests, or name a folder in STRATUS_PROGRAMS",
        path.display()
    );
    path
}

/// The top folder of the repository.
#[must_use]
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// `PATH` for children: also where Debian has what only administrators use.
pub(crate) fn search_path() -> String {
    let path = env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin")
}
