//! The packages of Stratus, as `make deb` leaves them in a folder.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cloud::hex;
use crate::failure::{Failure, Result};
use crate::logged_run::quoted;

/// How packages are installed without anybody to ask: configuration stays as its operator has it, another apt is waited for.
const APT: &str = "export DEBIAN_FRONTEND=noninteractive\n\
    apt() { apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 \"$@\" </dev/null; }\n";

/// Installs the daemon from wherever the computer has its packages from.
pub(super) const FROM_SOURCES: &str = "export DEBIAN_FRONTEND=noninteractive\n\
    apt-get -q -y -o DPkg::Lock::Timeout=300 update </dev/null\n\
    apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 --no-install-recommends install stratusd </dev/null";

/// `NAME_VERSION_ARCHITECTURE.deb`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) path: PathBuf,
    name: String,
    pub(super) version: String,
    architecture: String,
}

impl Package {
    fn of_file(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".deb")?;
        let mut parts = stem.split('_');
        let (name, version, architecture) = (parts.next()?, parts.next()?, parts.next()?);
        // An epoch's colon can't be in the name of a file everywhere.
        let version = version.replace("%3a", ":");
        (parts.next().is_none() && (name == "stratus" || name == "stratusd")).then(|| Self {
            path: path.to_owned(),
            name: name.to_owned(),
            version,
            architecture: architecture.to_owned(),
        })
    }

    /// Goes on with an installation that was cut off, and installs the package whose content is on standard input, if it comes whole and is no older than what is there. What else it
    /// needs comes from the computer's own sources, whose lists are renewed only if that doesn't do.
    pub(super) fn script(&self, content: &[u8]) -> String {
        let (name, version) = (quoted(&self.name), quoted(&self.version));
        let file = quoted(&format!("{}_{}_{}.deb", self.name, self.version, self.architecture));
        let sum = hex(&Sha256::digest(content));
        format!(
            "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT\nchmod 755 \"$folder\"\nfile=$folder/{file}\ncat >\"$file\"\n\
             echo \"{sum}  $file\" | sha256sum --check --status || {{ echo 'the package did not come whole' >&2; exit 1; }}\n\
             there=$(dpkg-query -W -f '${{Version}}' {name} 2>/dev/null || :)\n\
             if [ -n \"$there\" ] && dpkg --compare-versions \"$there\" gt {version}; then\n\
             echo \"a newer one is installed: $there\" >&2\nexit 1\nfi\n\
             {APT}dpkg --force-confdef --force-confold --configure -a </dev/null || :\n\
             apt --no-install-recommends install \"$file\" || {{ apt update; apt --no-install-recommends install \"$file\"; }}"
        )
    }
}

#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    found: Vec<Package>,
}

impl Packages {
    /// Those in a folder; of each one.
    pub(super) fn in_folder(folder: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(folder).map_err(|error| Failure::file(folder, &error))?;
        let found = entries.flatten().filter_map(|entry| Package::of_file(&entry.path()));
        let mut packages = Self { folder: folder.to_owned(), found: found.collect() };
        packages.found.sort_by(|a, b| a.path.cmp(&b.path));
        for name in ["stratus", "stratusd"] {
            let several: Vec<String> = packages.found.iter().filter(|package| package.name == name).map(|package| package.path.display().to_string()).collect();
            if several.len() > 1 {
                return Err(Failure::Usage(format!("--packages: which of {} is meant? Leave one in the folder", several.join(", "))));
            }
        }
        if packages.of("stratusd").is_none() {
            return Err(Failure::Usage(format!("--packages: there is no stratusd_VERSION_ARCHITECTURE.deb in {} ('make deb' makes it)", folder.display())));
        }
        Ok(packages)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn of(&self, name: &str) -> Option<&Package> {
        self.found.iter().find(|package| package.name == name)
    }

    /// What they are for.
    pub(super) fn architecture(&self) -> &str {
        self.of("stratusd").map_or("", |package| &package.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(folder.path().join(name), "x").unwrap();
        put("other_1_amd64.deb");
        put("stratus_0.1.0-1_amd64.deb");
        let missing = Packages::in_folder(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("no stratusd_"), "{missing}");
        put("stratusd_0.1.0-1_amd64.deb");
        let packages = Packages::in_folder(folder.path()).unwrap();
        assert_eq!((packages.architecture(), &*packages.of("stratus").unwrap().version), ("amd64", "0.1.0-1"));
        put("stratusd_0.1.1-1_amd64.deb");
        let several = Packages::in_folder(folder.path()).unwrap_err().to_string();
        assert!(several.contains("stratusd_0.1.1-1_amd64.deb") && several.contains("which of"), "{several}");
    }
}
