//! What a computer is, and the scripts that are run on it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::failure::{Failure, Result};
use crate::logged_run::quoted;
use crate::table::shown_bytes;

/// Where the daemon keeps everything, if its configuration says nothing else.
pub(super) const USUAL_STATE: &str = "/var/lib/stratus";

/// Says what the computer is, a line for each: NAME=VALUE; and whether it reaches the cloud's entries.
pub(super) fn look(entries: &[String]) -> String {
    format!("entries={}\n{}", quoted(&entries.join(" ")), include_str!("computer/look.sh"))
}

/// Clocks may be so far apart when a host joins.
const CLOCKS_APART_SECONDS: i64 = 30;
/// Below that there is not even room for the programs; below the second hardly for machines.
const LEAST_KIB: u64 = 2 << 20;
const LITTLE_KIB: u64 = 20 << 20;
/// The oldest Debian whose libraries and QEMU do.
const OLDEST_DEBIAN: u32 = 12;

/// What one that has joined keeps of that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Joined {
    /// `Host/<uuid>`
    pub(super) host: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Computer {
    pub(super) name: String,
    user: u32,
    system: String,
    release: String,
    architecture: String,
    time: i64,
    free_kib: u64,
    has_kvm: bool,
    pub(super) state: PathBuf,
    /// Of stratusd and of the client, where they are installed.
    pub(super) version: Option<String>,
    pub(super) client: Option<String>,
    pub(super) has_cloud: bool,
    pub(super) joined: Option<Joined>,
    /// Where its daemon answers, while it does.
    pub(super) ready: Option<String>,
    /// Another stratusd than the package's that runs there.
    stranger: Option<String>,
    /// Whether an entry of the cloud is reached from there, and those that are not, with why.
    is_in_reach: bool,
    unreached: Option<String>,
}

impl Computer {
    /// Of what [`look`] printed.
    pub(super) fn read(text: &str) -> Result<Self> {
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let strange = |name: &str| Failure::Work(format!("what it is can't be read: {name}={}", values.get(name).copied().unwrap_or_default()));
        let text = |name: &str| values.get(name).map(|value| (*value).to_owned()).filter(|value| !value.is_empty());
        let wanted = |name: &str| text(name).ok_or_else(|| strange(name));
        let joined = text("joined").map(|json| serde_json::from_str(&json).map_err(|_| strange("joined"))).transpose()?;
        Ok(Self {
            name: wanted("name")?,
            user: wanted("user")?.parse().map_err(|_| strange("user"))?,
            system: text("system").unwrap_or_else(|| "an unknown system".to_owned()),
            release: text("release").unwrap_or_default(),
            architecture: text("architecture").unwrap_or_default(),
            time: wanted("time")?.parse().map_err(|_| strange("time"))?,
            free_kib: wanted("free")?.parse().map_err(|_| strange("free"))?,
            has_kvm: text("kvm").is_some(),
            state: wanted("state")?.into(),
            version: text("version"),
            client: text("client"),
            has_cloud: text("cloud").is_some(),
            joined,
            ready: text("ready"),
            stranger: text("stranger"),
            is_in_reach: text("reached").is_some(),
            unreached: text("unreached"),
        })
    }

    /// What is in the way, each with what to do; `here` is the time on this computer.
    pub(super) fn obstacles(&self, package: Option<&str>, here: i64, has_configuration: bool) -> Vec<String> {
        let mut found = Vec::new();
        if self.user != 0 {
            found.push("this has to be done as root: log in as root, or run it by sudo".to_owned());
        }
        let is_old = self.system == "debian" && self.release.parse().is_ok_and(|release: u32| release < OLDEST_DEBIAN);
        if self.architecture.is_empty() || is_old {
            found.push(format!("it has {} {}; the packages are for Debian {OLDEST_DEBIAN} and newer", self.system, self.release));
        } else if let Some(package) = package.filter(|package| *package != self.architecture) {
            found.push(format!("its architecture is {}, and that of the packages {package}", self.architecture));
        }
        if self.lacks_room() {
            let (free, least) = (shown_bytes(self.free_kib << 10), shown_bytes(LEAST_KIB << 10));
            found.push(format!("{free} are free in /var, at least {least} are needed: make room, or mount a larger disk at {}", self.state.display()));
        }
        let apart = self.time - here;
        if apart.abs() > CLOCKS_APART_SECONDS {
            let side = if apart > 0 { "ahead of" } else { "behind" };
            found.push(format!("its clock is {} s {side} this computer's: set it by NTP (apt-get install chrony)", apart.abs()));
        }
        // By default both would take the same interfaces and machines for theirs.
        if let Some(stranger) = self.stranger.as_ref().filter(|_| !has_configuration) {
            found.push(format!(
                "another stratusd runs there, {stranger}: end it (stratusd teardown ends its machines), or let both be, each with its own `instance`, `state_dir`, `listen` and subnets (--daemon-config)"
            ));
        }
        if let Some(unreached) = self.unreached.as_ref().filter(|_| !self.is_in_reach) {
            found.push(format!("from there the cloud is not reached: {unreached}; --entry says where hosts reach it"));
        }
        found
    }

    fn lacks_room(&self) -> bool {
        self.free_kib < LEAST_KIB && self.version.is_none()
    }

    /// What goes, and not well.
    pub(super) fn doubts(&self, here: i64) -> Vec<String> {
        let mut found = Vec::new();
        if !self.has_kvm {
            found.push("it has no /dev/kvm: machines run by translation in software, ten times slower. Switch virtualization on in its firmware.".to_owned());
        }
        if self.free_kib < LITTLE_KIB && !self.lacks_room() {
            found.push(format!("only {} are free for machines' disks", shown_bytes(self.free_kib << 10)));
        }
        let apart = (self.time - here).abs();
        if (5..=CLOCKS_APART_SECONDS).contains(&apart) {
            found.push(format!("its clock is {apart} s off: keep it right by NTP (apt-get install chrony)"));
        }
        if let Some(unreached) = self.unreached.as_ref().filter(|_| self.is_in_reach) {
            found.push(format!("not every entry of the cloud is reached from there: {unreached}"));
        }
        found
    }
}

impl fmt::Display for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kvm = if self.has_kvm { "KVM" } else { "no KVM" };
        write!(f, "{}, {} {} {}, {kvm}, {} free", self.name, self.system, self.release, self.architecture, shown_bytes(self.free_kib << 10))
    }
}

/// Writes what is on standard input as the configuration, if it is right and what is there may be replaced. The last line says what
/// was done: `written`, `same`, `own`.
pub(super) fn configure(file: &str, mark: &str) -> String {
    let (file, mark) = (quoted(file), quoted(mark));
    format!("file={file} mark={mark}\n{}", include_str!("computer/configure.sh"))
}

/// Joins by the token on standard input.
pub(super) fn join(entries: &[String]) -> String {
    let entries: Vec<String> = entries.iter().map(|entry| quoted(entry)).collect();
    format!("stratusd join - {}", entries.join(" "))
}

/// Has the daemon run, now and with the computer. The last line says `ran` if it did already.
pub(super) fn start(anew: bool) -> String {
    let what = if anew { "restart" } else { "start" };
    format!("update-rc.d stratusd enable\nif [ {what} = start ] && service stratusd status >/dev/null 2>&1; then echo ran; else service stratusd {what}; fi")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "user=0\nsystem=debian\nrelease=12\narchitecture=amd64\nname=node7\ntime=1000\nfree=104857600\nkvm=yes\nstate=/var/lib/stratus\nversion=0.1.0-1\nclient=\njoined={\"host\":\"Host/1\",\"name\":\"seven\",\"entries\":[]}\n";

    #[test]
    fn a_computer_is_what_it_says() {
        let computer = Computer::read(SEEN).unwrap();
        assert_eq!(computer.joined, Some(Joined { host: "Host/1".to_owned(), name: "seven".to_owned() }));
        assert_eq!((computer.version.as_deref(), computer.client.as_deref(), computer.has_cloud), (Some("0.1.0-1"), None, false));
        assert_eq!(computer.to_string(), "node7, debian 12 amd64, KVM, 100.00 GiB free");
        assert!(computer.obstacles(Some("amd64"), 1003, false).is_empty() && computer.doubts(1003).is_empty());
        let strange = Computer::read("name=x\nuser=root\n").unwrap_err().to_string();
        assert!(strange.contains("user=root"), "{strange}");
    }

    #[test]
    fn everything_that_is_in_the_way_is_told_at_once() {
        let poor = SEEN.replace("user=0", "user=1000").replace("release=12", "release=11").replace("free=104857600", "free=1000");
        let poor = poor.replace("version=0.1.0-1", "version=").replace("kvm=yes", "kvm=");
        let computer = Computer::read(&poor).unwrap();
        let told = computer.obstacles(None, 1100, false).join("\n");
        for part in ["as root", "debian 11", "1000.00 KiB are free", "100 s behind"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(computer.doubts(1100)[0].contains("/dev/kvm"));
        let other = Computer::read(SEEN).unwrap().obstacles(Some("arm64"), 1000, false);
        assert_eq!(other, ["its architecture is amd64, and that of the packages arm64"]);
    }

    #[test]
    fn what_would_be_in_the_way_later_is_told_before() {
        let joined = "user=0\nname=x\ntime=0\nfree=1000000\nstate=/s\nversion=1\narchitecture=amd64\n";
        let read = |more: &str| Computer::read(&format!("{joined}{more}")).unwrap();
        let told = read("reached=\nunreached=https://a:1 (why)\n").obstacles(None, 0, false);
        assert!(told[0].contains("https://a:1 (why)") && told.len() == 1, "{told:?}");
        let one_of_two = read("reached=yes\nunreached=https://a:1 (why)\n");
        assert!(one_of_two.obstacles(None, 0, false).is_empty());
        let doubts = one_of_two.doubts(0).join("\n");
        assert!(doubts.contains("https://a:1 (why)") && doubts.contains("976.56 MiB are free"), "{doubts}");
        let other = read("stranger=/usr/local/bin/stratusd (process 7)\n");
        assert!(other.obstacles(None, 0, false)[0].contains("/usr/local/bin/stratusd (process 7)"));
        assert!(other.obstacles(None, 0, true).is_empty());
    }

    #[test]
    fn it_is_tried_whether_the_entries_are_reached() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let gone = std::net::TcpListener::bind("[::1]:0").map(|listener| listener.local_addr().unwrap().port()).unwrap_or(1);
        let entries = [there, format!("https://[::1]:{gone}"), "https://nowhere.invalid:8443".to_owned()];
        let output = std::process::Command::new("sh").args(["-euc", &look(&entries)]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(printed.contains("\nreached=yes\n"), "{printed}");
        let unreached = format!("unreached={} (no connection to that port), https://nowhere.invalid:8443 (that name has no address there)", entries[1]);
        assert!(printed.contains(&unreached), "{printed}");
    }

    #[test]
    fn a_configuration_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stratusd.toml");
        // Says of every configuration with this word that it is wrong.
        let program = folder.path().join("stratusd");
        std::fs::write(&program, "#!/bin/sh\n! grep -q wrong \"$3\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let script = configure(&file.display().to_string(), "# mark");
        let run = |text: &str| {
            let input = folder.path().join("input");
            std::fs::write(&input, text).unwrap();
            let output = std::process::Command::new("sh")
                .args(["-euc", &script])
                .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
                .stdin(std::fs::File::open(input).unwrap())
                .output()
                .unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let there = || std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "# nothing but\n\n# comments\n").unwrap();
        assert_eq!(run("# mark\na = 1\n"), (true, "written\n".to_owned()));
        assert_eq!(run("# mark\na = 1\n"), (true, "same\n".to_owned()));
        assert_eq!(run("# mark\nwrong = 2\n"), (false, String::new()));
        assert_eq!(there(), "# mark\na = 1\n");
        assert_eq!(run("# mark\na = 2\n"), (true, "written\n".to_owned()));
        std::fs::write(&file, "a = 3 # mine\n").unwrap();
        assert_eq!(run("# mark\na = 2\n"), (true, "own\n".to_owned()));
        assert_eq!(there(), "a = 3 # mine\n");
    }
}
