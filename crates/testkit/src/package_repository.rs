//! Packages of Debian for guests: a repository on a host that they reach, and apt for a guest that has none.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{FileServer, Namespace};

/// Where the repository's host is, seen from the cloud's.
const ADDRESS: &str = "192.168.78.2";

/// Makes an archive (`$1`) of this computer's apt and dpkg with all that they need, but for what every guest has: the C library
/// and its loader. Compressed it would be smaller, and take the guest longer.
const PACK_APT: &str = r"set -eu
programs='/usr/bin/apt-get /usr/bin/dpkg /usr/bin/dpkg-deb /usr/bin/dpkg-split /usr/bin/dpkg-query /usr/bin/tar
    /sbin/ldconfig /usr/lib/apt/methods/http /usr/lib/apt/methods/store'
libraries=$(ldd $programs 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | grep -v '/libc\.so\|/ld-linux' | sort -u)
tables='/usr/share/dpkg/cputable /usr/share/dpkg/tupletable'
for file in $programs $libraries $tables; do echo ${file#/}; done | tar -chf $1 -C / -T -";

/// What apt and dpkg want to find.
const APT_FOLDERS: &str = "/var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/apt/lists/partial /var/cache/apt/archives/partial \
                           /etc/apt/apt.conf.d /etc/apt/preferences.d";

/// A package of Debian.
#[derive(Clone, Copy, Debug)]
pub struct DebianPackage<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The files that it brings, by their paths from `/`: what is in them. Those in `etc` are its settings.
    pub files: &'a [(&'a str, &'a str)],
    /// What is run once it is unpacked, by the shell.
    pub configured: &'a str,
}

/// Packages on a web server. It is a host of its own, which machines of a cloud reach as they reach the world.
#[derive(Debug)]
pub struct PackageRepository {
    files: FileServer,
    index: String,
    folder: TempDir,
    _host: Namespace,
}

impl PackageRepository {
    /// One without packages, with a cable to where a cloud is.
    ///
    /// # Panics
    /// If that isn't possible.
    #[must_use]
    pub fn beside(namespace: &Namespace) -> Self {
        let host = Namespace::new();
        namespace.connect("192.168.78.1/24", &host, &format!("{ADDRESS}/24"));
        Self {
            files: host.enter(|| FileServer::serve_at(ADDRESS)),
            index: String::new(),
            folder: tempfile::Builder::new()
                .prefix("stratus-test-")
                .tempdir()
                .unwrap(),
            _host: host,
        }
    }

    /// As it is written in `sources.list`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("deb [trusted=yes] {}/ ./", self.files.url())
    }

    /// Where a package is on the server, listed or not.
    #[must_use]
    pub fn url_of(&self, package: &DebianPackage<'_>) -> String {
        format!("{}/{}", self.files.url(), file_name(package))
    }

    /// Makes a package, and puts it on the server without telling apt of it.
    ///
    /// # Panics
    /// If that fails.
    pub fn keep(&self, package: &DebianPackage<'_>) -> PathBuf {
        let name = file_name(package);
        let tree = self.folder.path().join("tree").join(&name);
        let write = |path: &str, content: &str, mode: u32| {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let DebianPackage {
            name: package_name,
            version,
            files,
            configured,
        } = package;
        let control = format!(
            "Package: {package_name}\nVersion: {version}\nArchitecture: all\nMaintainer: Ann Example <ann@example.org>\n\
             Description: made for a test\n"
        );
        let settings = files.iter().filter(|(path, _)| path.starts_with("etc/"));
        let settings: String = settings.map(|(path, _)| format!("/{path}\n")).collect();
        write("DEBIAN/control", &control, 0o644);
        write("DEBIAN/conffiles", &settings, 0o644);
        write(
            "DEBIAN/postinst",
            &format!("#!/bin/sh\n{configured}\n"),
            0o755,
        );
        for (path, content) in *files {
            write(path, content, 0o644);
        }
        let made = self.folder.path().join(&name);
        let build = ["--root-owner-group", "--build"];
        printed(Command::new("dpkg-deb").args(build).args([&tree, &made]));
        self.files.put(&format!("/{name}"), &made);
        made
    }

    /// Makes a package that apt finds.
    ///
    /// # Panics
    /// If that fails.
    pub fn publish(&mut self, package: &DebianPackage<'_>) {
        let made = self.keep(package);
        let control = printed(Command::new("dpkg-deb").arg("--field").arg(&made));
        let digest = printed(Command::new("sha256sum").arg(&made));
        let digest = digest.split_whitespace().next().unwrap();
        let (name, bytes) = (file_name(package), fs::metadata(&made).unwrap().len());
        self.index += &format!("{control}Filename: {name}\nSize: {bytes}\nSHA256: {digest}\n\n");
        let index = self.folder.path().join("Packages");
        fs::write(&index, &self.index).unwrap();
        self.files.put("/./Packages", &index);
    }

    /// What a guest like the tiny appliance, which has no package manager, runs to have this computer's.
    ///
    /// # Panics
    /// If this computer has none.
    #[must_use]
    pub fn install_apt(&self) -> String {
        let archive = self.folder.path().join("apt.tar");
        printed(
            Command::new("sh")
                .args(["-c", PACK_APT, "sh"])
                .arg(&archive),
        );
        self.files.put("/apt.tar", &archive);
        let url = self.files.url();
        format!(
            "wget -q -O - {url}/apt.tar | tar -xf - -C /\nmkdir -p {APT_FOLDERS}\n: >/var/lib/dpkg/status\n"
        )
    }
}

fn file_name(package: &DebianPackage<'_>) -> String {
    format!("{}_{}_all.deb", package.name, package.version)
}

fn printed(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
