//! What of a guest tells of its builder, or is what two machines must not share. `create_image/clean.sh` of the command line
//! removes the same from inside: the test below compares them.

/// In every home directory: histories, and what one logs in elsewhere with.
pub(super) const IN_HOMES: &[&str] = &[
    ".bash_history",
    ".ash_history",
    ".sh_history",
    ".zsh_history",
    ".history",
    ".local/share/fish/fish_history",
    ".python_history",
    ".ipython/profile_default/history.sqlite",
    ".node_repl_history",
    ".irb_history",
    ".php_history",
    ".Rhistory",
    ".octave_hist",
    ".mysql_history",
    ".mariadb_history",
    ".psql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".lesshst",
    ".local/state/lesshst",
    ".viminfo",
    ".local/state/nvim/shada/main.shada",
    ".local/share/nano/search_history",
    ".wget-hsts",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".vault-token",
    ".Xauthority",
    ".gnupg/secring.gpg",
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/known_hosts",
    ".ssh/known_hosts.old",
    ".ssh/environment",
];
/// Directories in every home directory of which all files are removed: keys are called as one likes.
pub(super) const EMPTIED_IN_HOMES: &[&str] = &[
    SSH,
    ".globus",
    ".stratuslab",
    ".gnupg/private-keys-v1.d",
    ".gnupg/openpgp-revocs.d",
];
pub(super) const SSH: &str = ".ssh";
/// What of `.ssh` is no key: settings, by their names or how these end.
const SETTINGS_OF_SSH: &[&str] = &["config", "rc"];
const SETTINGS_END: &str = ".conf";

/// Directories of which all files are removed.
pub(super) const EMPTIED: &[&str] = &[
    "/var/lib/cloud/instances",
    "/var/lib/cloud/data",
    "/var/lib/cloud/sem",
    "/var/lib/cloud/seed",
    "/var/lib/one-context",
    "/var/lib/systemd/network",
    "/var/lib/dhcp",
    "/var/lib/dhclient",
    "/var/log/journal",
    "/var/log/installer",
    "/var/crash",
    "/var/lib/systemd/coredump",
    "/tmp",
    "/var/tmp",
];
/// Directories of which the files with this in their names are removed.
pub(super) const PARTLY_EMPTIED: &[(&str, &str)] = &[
    ("/etc/ssh", "ssh_host_"),
    ("/etc/dropbear", "host_key"),
    ("/var/lib/NetworkManager", "lease"),
    ("/var/lib/dhcpcd", "lease"),
    ("/var/lib/stratus", "instance"),
];
/// Single files that are removed.
pub(super) const REMOVED: &[&str] = &[
    "/var/lib/cloud/instance",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/NetworkManager/secret_key",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/dropbear/public",
];
/// Single files that are emptied: what reads them counts on their being there.
pub(super) const EMPTIED_FILES: &[&str] = &["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// The directory of logs: files are emptied, since some programs don't make them anew; old ones are removed.
pub(super) const LOGS: &str = "/var/log";
/// Files that are swapped to, where installers put them. Others are named in [`SWAP_TABLE`] or by units.
pub(super) const SWAP_FILES: &[&str] = &[
    "/swapfile",
    "/swap.img",
    "/swap",
    "/swap/swapfile",
    "/var/swap",
    "/var/swapfile",
    "/var/swap.img",
];
/// Which file systems and swap there are.
pub(super) const SWAP_TABLE: &str = "/etc/fstab";
/// Who has a home directory, and where.
pub(super) const USERS: &str = "/etc/passwd";

/// Whether a file in `.ssh` holds no key.
pub(super) fn is_setting_of_ssh(name: &str) -> bool {
    SETTINGS_OF_SSH.contains(&name) || name.ends_with(SETTINGS_END)
}

/// `syslog.1`, `messages-20261128`, `dpkg.log.2.gz`, and journals wherever they are.
pub(super) fn is_old_log(name: &str) -> bool {
    let last = name.rsplit(['.', '-']).next().unwrap_or_default();
    let is_number = !last.is_empty()
        && name.len() > last.len()
        && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number || ["gz", "xz", "bz2", "zst", "old", "journal", "journal~"].contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `create-image` runs inside the guest, whose file system may be one that can't be cleaned from outside.
    const INSIDE: &str = include_str!("../../../../stratus/src/commands/create_image/clean.sh");

    /// The words of a list in the script.
    fn listed(name: &str) -> Vec<&'static str> {
        let list = INSIDE
            .split_once(&format!("\n{name}=\""))
            .and_then(|(_, rest)| rest.split_once('"'));
        list.map(|(words, _)| words.split_whitespace().collect())
            .expect(name)
    }

    #[test]
    fn the_same_is_removed_from_inside() {
        let files = [EMPTIED, REMOVED, EMPTIED_FILES, &[SWAP_TABLE, USERS]].concat();
        let parts = PARTLY_EMPTIED.iter().map(|(dir, _)| *dir);
        for path in files.into_iter().chain(parts).chain([LOGS]) {
            assert!(INSIDE.contains(path), "{path} is not in clean.sh");
        }
        assert_eq!(listed("in_homes"), IN_HOMES);
        assert_eq!(listed("emptied_in_homes"), EMPTIED_IN_HOMES);
        assert_eq!(listed("swap_files"), SWAP_FILES);
        for name in SETTINGS_OF_SSH {
            assert!(INSIDE.contains(&format!("! -name {name} ")), "{name}");
        }
        assert!(INSIDE.contains(&format!("! -name '*{SETTINGS_END}' ")));
        // What programs could fetch again tells little, and may be large: from inside only.
        let others: Vec<&str> = INSIDE
            .split("\"$home/")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with('$'))
            .collect();
        assert_eq!(others, [".cache"]);
    }

    #[test]
    fn old_logs_are_known_by_their_names() {
        for name in [
            "syslog.1",
            "messages-20261128",
            "dpkg.log.2.gz",
            "system.journal",
            "a.journal~",
        ] {
            assert!(is_old_log(name), "{name}");
        }
        for name in ["syslog", "wtmp", "dpkg.log", "2026", "kern"] {
            assert!(!is_old_log(name), "{name}");
        }
    }
}
