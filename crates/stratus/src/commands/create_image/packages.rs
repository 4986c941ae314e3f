//! Installing packages by the guest's own package manager.

use clap::ValueEnum;

use crate::logged_run::quoted;

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Installer {
    /// Debian, Ubuntu.
    Apt,
    /// Fedora, Red Hat and their kin.
    Dnf,
    /// The same, some time ago.
    Yum,
    /// Alpine.
    Apk,
    /// SUSE.
    Zypper,
}

/// Prints the name of the first package manager that is there.
pub(super) const DETECT: &str =
    "for program in apt-get dnf yum apk zypper; do if command -v $program >/dev/null 2>&1; then echo $program; exit 0; fi; done; exit 1";

/// The lists of packages. Just after its start a machine may be at them by itself, and apt doesn't wait for that: these are a
/// few tries.
const UPDATE_BY_APT: &str = "\
tries=0
until apt-get -q update; do
    tries=$((tries + 1))
    [ \"$tries\" -lt 7 ] || exit 1
    sleep 10
done
";
/// Nobody can be asked: settings that were changed stay as they are. Here apt can be told to wait.
const INSTALL_BY_APT: &str =
    "apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=600 install --";

impl Installer {
    /// By the name of its program.
    pub(super) fn of_program(name: &str) -> Option<Self> {
        match name.trim() {
            "apt-get" => Some(Self::Apt),
            "dnf" => Some(Self::Dnf),
            "yum" => Some(Self::Yum),
            "apk" => Some(Self::Apk),
            "zypper" => Some(Self::Zypper),
            _ => None,
        }
    }

    /// By the name of an operating system, as descriptions of images have it.
    pub(super) fn of_system(os: &str) -> Option<Self> {
        match os.to_lowercase().as_str() {
            "debian" | "ubuntu" => Some(Self::Apt),
            "fedora" | "rocky" | "almalinux" => Some(Self::Dnf),
            "centos" | "sl" | "scientificlinux" | "rhel" => Some(Self::Yum),
            "alpine" => Some(Self::Apk),
            "opensuse" | "sles" => Some(Self::Zypper),
            _ => None,
        }
    }

    /// Whether an operating system is known to have none.
    pub(super) fn is_without(os: &str) -> bool {
        ["tiny", "ttylinux", "cirros"].contains(&os.to_lowercase().as_str())
    }

    /// The script that adds repositories, brings the lists of packages up to date and installs. All names are quoted.
    pub(super) fn script(self, repositories: &[String], packages: &[String]) -> String {
        let mut script = "set -e\n".to_owned();
        if self == Self::Apt {
            script.push_str("export DEBIAN_FRONTEND=noninteractive\n");
        }
        for (number, repository) in repositories.iter().enumerate() {
            script.push_str(&self.added(number + 1, repository));
        }
        let (update, install) = match self {
            Self::Apt => (UPDATE_BY_APT, INSTALL_BY_APT),
            Self::Dnf => ("dnf -y upgrade\n", "dnf -y install --"),
            Self::Yum => ("yum -y update\n", "yum -y install --"),
            Self::Apk => ("apk update\n", "apk add --"),
            Self::Zypper => ("zypper --non-interactive refresh\n", "zypper --non-interactive install --"),
        };
        script.push_str(update);
        // Most of them take none for a mistake.
        if !packages.is_empty() {
            let names: Vec<String> = packages.iter().map(|name| quoted(name)).collect();
            script.push_str(&format!("{install} {}\n", names.join(" ")));
        }
        script
    }

    fn added(self, number: usize, repository: &str) -> String {
        let repository = repository.trim();
        match self {
            Self::Apt => {
                let line = if repository.starts_with("deb ") { repository.to_owned() } else { format!("deb {repository}") };
                format!("mkdir -p /etc/apt/sources.list.d\nprintf '%s\\n' {} >>/etc/apt/sources.list.d/stratus-build.list\n", quoted(&line))
            }
            Self::Dnf | Self::Yum => {
                let section = format!("[stratus-{number}]\nname=stratus-{number}\nbaseurl={repository}\nenabled=1\ngpgcheck=0");
                format!("printf '%s\\n' {} >/etc/yum.repos.d/stratus-{number}.repo\n", quoted(&section))
            }
            Self::Apk => format!("printf '%s\\n' {} >>/etc/apk/repositories\n", quoted(repository)),
            Self::Zypper => format!("zypper --non-interactive addrepo --no-gpgcheck {} stratus-{number}\n", quoted(repository)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn every_package_manager_is_asked_in_its_own_words() {
        let packages = words(&["vim", "r-base"]);
        for (program, install) in [
            ("apt-get", " install -- 'vim' 'r-base'"),
            ("dnf", "dnf -y install -- 'vim' 'r-base'"),
            ("yum", "yum -y install -- 'vim' 'r-base'"),
            ("apk", "apk add -- 'vim' 'r-base'"),
            ("zypper", "zypper --non-interactive install -- 'vim' 'r-base'"),
        ] {
            assert!(DETECT.contains(program), "{program} is looked for");
            let script = Installer::of_program(program).expect("known").script(&[], &packages);
            assert!(script.contains(install), "{script}");
        }
        assert_eq!(Installer::of_program("pacman"), None);
        assert_eq!(Installer::of_system("Ubuntu"), Some(Installer::Apt));
        assert_eq!(Installer::of_system("scientificlinux"), Some(Installer::Yum));
        assert_eq!(Installer::of_system(""), None);
        assert!(Installer::is_without("CirrOS") && !Installer::is_without("debian") && !Installer::is_without(""));
    }

    #[test]
    fn nothing_that_is_given_is_run_by_the_shell() {
        for installer in Installer::value_variants() {
            let evil = words(&["a'; touch /hit; '"]);
            let script = installer.script(&evil, &evil).replace("deb a", "a").replace("baseurl=a", "a");
            assert!(script.contains(r"'\''; touch /hit; '\'''"), "{script}");
        }
    }

    #[test]
    fn repositories_come_before_the_packages() {
        let repositories = words(&["http://r/debian stable main"]);
        let script = Installer::Apt.script(&repositories, &words(&["x"]));
        let (before, _) = script.split_once("apt-get -q update").expect("update");
        assert!(before.contains("'deb http://r/debian stable main'"), "{script}");
        let script = Installer::Dnf.script(&words(&["http://r/fedora"]), &words(&["x"]));
        assert!(script.contains("baseurl=http://r/fedora\nenabled=1\ngpgcheck=0"), "{script}");
    }

    #[test]
    fn repositories_alone_install_nothing() {
        for installer in Installer::value_variants() {
            let script = installer.script(&words(&["http://r"]), &[]);
            assert!(!script.contains(" install") && !script.contains("apk add"), "{script}");
        }
    }
}
