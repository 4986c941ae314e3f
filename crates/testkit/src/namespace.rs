//! A network namespace: the host that a cloud believes to have for itself.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one, in which only the loopback interface is up.
    #[must_use]
    pub fn new() -> Self {
        sweep();
        let name = format!(
            "st-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        checked(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        checked(Command::new("ip").args(["-n", &namespace.name, "link", "set", "lo", "up"]));
        namespace
    }

    /// Its name, for `ip -n`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lays a cable to another one. Each end is called `lan`, and has its address (with the length of its prefix).
    ///
    /// # Panics
    /// If that isn't possible, as when one has such an end already.
    pub fn connect(&self, own: &str, other: &Self, its: &str) {
        let ip = |arguments: &[&str]| checked(Command::new("ip").args(arguments));
        ip(&[
            "link",
            "add",
            "lan",
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            "lan",
            "netns",
            &other.name,
        ]);
        for (namespace, address) in [(self, own), (other, its)] {
            ip(&[
                "-n",
                &namespace.name,
                "address",
                "add",
                address,
                "dev",
                "lan",
            ]);
            ip(&["-n", &namespace.name, "link", "set", "lan", "up"]);
        }
    }

    /// Cuts the cable at this end, or mends it.
    ///
    /// # Panics
    /// If there is none.
    pub fn cut(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        checked(Command::new("ip").args(["-n", &self.name, "link", "set", "lan", state]));
    }

    /// Runs a closure on a thread inside. What it starts is inside, too. (`ip netns exec` would not do: it mounts another
    /// `/sys`, in which there are no control groups.)
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                inside()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside to its end.
    pub fn output(&self, command: &mut Command) -> Output {
        self.enter(|| command.output()).unwrap()
    }

    /// The numbers of all processes inside.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let output = Command::new("ip")
            .args(["netns", "pids", &self.name])
            .output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // They would keep it alive.
        self.processes().into_iter().for_each(kill);
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Removes the namespaces of test processes that were ended before they could do so themselves, with all that runs inside.
fn sweep() {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let is_left = owner_of(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_left {
            drop(Namespace { name });
        }
    }
}

/// The process that made a namespace of a test.
fn owner_of(name: &str) -> Option<&str> {
    let (pid, count) = name.strip_prefix("st-")?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(pid) && is_number(count)).then_some(pid)
}

/// SIGKILL; that it is gone already is no fault.
pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn checked(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, skip_unless};

    #[test]
    fn what_a_test_that_was_killed_left_goes_with_the_next_one() {
        if skip_unless(&[Need::Root, Need::Program("ip")]) {
            return;
        }
        // It lives until all is there: other tests sweep as well, at any moment.
        let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
        let left = Namespace {
            name: format!("st-{}-0", owner.id()),
        };
        checked(Command::new("ip").args(["netns", "add", left.name()]));
        let mut process = left.enter(|| Command::new("sleep").arg("1000").spawn().unwrap());
        owner.kill().unwrap();
        owner.wait().unwrap();
        let of_living = Namespace::new();
        let names = || {
            fs::read_dir(NAMESPACES)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
        };
        assert!(names().all(|name| name != left.name()));
        assert!(!process.wait().unwrap().success(), "it was ended");
        drop(Namespace::new());
        assert!(names().any(|name| name == of_living.name()));
    }

    #[test]
    fn only_tests_namespaces_are_theirs() {
        assert_eq!(owner_of("st-12-0"), Some("12"));
        for other in ["st-12", "st--0", "st-a-0", "st-1-x", "x-1-0", "st"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
