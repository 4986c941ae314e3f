//! What a cloud without machines and volumes must not have any more. Looks for itself and asks the daemon nothing: that is what
//! `stratus doctor` does, which is asked as well.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{Namespace, programs::search_path};

/// Everything that is left over, as lines for people. `instance` is the cloud's tag in names of interfaces.
pub(crate) fn left_over(
    state: &Path,
    namespace: Option<&Namespace>,
    machines: &[String],
) -> Vec<String> {
    let mut found = qemu_processes(state, machines);
    found.extend(machine_folders(state));
    found.extend(control_groups(machines));
    if let Some(namespace) = namespace {
        found.extend(strangers(namespace, state));
        found.extend(interfaces(namespace));
        found.extend(firewall_elements(namespace));
        found.extend(leases(state));
    }
    found
}

/// All processes one of whose arguments contains a text, but for our own.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    all_processes()
        .filter(|(pid, arguments)| {
            *pid != std::process::id() && arguments.iter().any(|argument| argument.contains(text))
        })
        .map(|(pid, _)| pid)
        .collect()
}

/// Every process that has arguments, with them.
fn all_processes() -> impl Iterator<Item = (u32, Vec<String>)> {
    entries(Path::new("/proc")).into_iter().filter_map(|path| {
        let pid: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let line = fs::read(path.join("cmdline")).ok()?;
        let arguments: Vec<String> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        (!arguments.is_empty()).then_some((pid, arguments))
    })
}

fn qemu_processes(state: &Path, machines: &[String]) -> Vec<String> {
    let state = state.display().to_string();
    all_processes()
        .filter(|(_, arguments)| arguments[0].contains("qemu"))
        .filter(|(_, arguments)| {
            arguments.iter().any(|argument| {
                argument.contains(&state) || machines.iter().any(|uuid| argument.contains(uuid))
            })
        })
        .map(|(pid, arguments)| format!("process {pid}: {}", arguments[0]))
        .collect()
}

/// Processes in the cloud's namespace that are neither the daemon nor a dnsmasq of its networks.
fn strangers(namespace: &Namespace, state: &Path) -> Vec<String> {
    let inside = namespace.processes();
    let of_network = |arguments: &[String]| {
        arguments[0].ends_with("stratusd")
            || arguments[0].ends_with("dnsmasq")
                && arguments
                    .iter()
                    .any(|argument| argument.contains(&*state.to_string_lossy()))
    };
    all_processes()
        .filter(|(pid, arguments)| inside.contains(pid) && !of_network(arguments))
        .map(|(pid, arguments)| format!("process {pid} in the namespace: {}", arguments.join(" ")))
        .collect()
}

fn machine_folders(state: &Path) -> Vec<String> {
    entries(&state.join("machines"))
        .into_iter()
        .map(|path| format!("folder {}", path.display()))
        .collect()
}

/// Control groups that are named for machines of ours, in whatever hierarchy.
fn control_groups(machines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    // Groups' names have the UUID without its dashes.
    let plain: Vec<String> = machines.iter().map(|uuid| uuid.replace('-', "")).collect();
    let is_ours = |path: &Path| {
        let path = path.to_string_lossy();
        machines
            .iter()
            .chain(&plain)
            .any(|uuid| path.contains(uuid))
    };
    let mut folders = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in entries(&folder)
            .into_iter()
            .filter(|path| path.is_dir() && !path.is_symlink())
        {
            if is_ours(&path) {
                found.push(format!("control group {}", path.display()));
            } else if depth < 3 {
                folders.push((path, depth + 1));
            }
        }
    }
    found
}

/// Interfaces that are neither the loopback, nor of a network, nor a cable to another host: taps.
fn interfaces(namespace: &Namespace) -> Vec<String> {
    let links = json(namespace, "ip", &["-j", "-d", "link"]);
    let links = links.as_array().cloned().unwrap_or_default();
    let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    let is_expected = |link: &Value| {
        let kind = link["linkinfo"]["info_kind"].as_str();
        name(link) == "lo" || matches!(kind, Some("bridge" | "vxlan" | "veth"))
    };
    links
        .iter()
        .filter(|link| !is_expected(link))
        .map(|link| format!("interface {}", name(link)))
        .collect()
}

/// Elements of the sets that are keyed by interface: a machine's right to send.
fn firewall_elements(namespace: &Namespace) -> Vec<String> {
    let rules = json(namespace, "nft", &["-j", "list", "ruleset"]);
    let objects = rules["nftables"].as_array().cloned().unwrap_or_default();
    let sets = objects
        .iter()
        .flat_map(|object| [&object["set"], &object["map"]]);
    sets.filter(|set| {
        set["table"]
            .as_str()
            .is_some_and(|table| table.starts_with("stratus_"))
            && set["family"] == "bridge"
    })
    .filter_map(|set| {
        // What was only noted for a while, to count packets, goes by itself.
        let lasting = |element: &&Value| element["elem"]["expires"].is_null();
        let elements: Vec<_> = set["elem"].as_array()?.iter().filter(lasting).collect();
        (!elements.is_empty()).then(|| format!("nftables set {}: {elements:?}", set["name"]))
    })
    .collect()
}

/// Lines of dnsmasq's files, but for the name that it has itself in DHCPv6.
fn leases(state: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap_or_default();
            if ["dhcp-hosts", "leases"].iter().any(|known| name == *known) {
                let text = fs::read_to_string(&path).unwrap_or_default();
                found.extend(
                    text.lines()
                        .filter(|line| !line.trim().is_empty())
                        .filter(|line| !line.starts_with('#') && !line.starts_with("duid "))
                        .map(|line| format!("{}: {line}", path.display())),
                );
            }
        }
    }
    found
}

fn json(namespace: &Namespace, program: &str, arguments: &[&str]) -> Value {
    let output = namespace.output(
        Command::new(program)
            .args(arguments)
            .env("PATH", search_path()),
    );
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// The control groups of a cloud, in whatever hierarchy.
pub(crate) fn control_group_folders(parent: &str) -> Vec<String> {
    entries(Path::new("/sys/fs/cgroup"))
        .into_iter()
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|hierarchy| hierarchy.join(parent))
        .filter(|folder| folder.is_dir())
        .map(|folder| format!("control group {}", folder.display()))
        .collect()
}

/// Removes the control groups of a cloud, once their processes are gone.
pub(crate) fn remove_control_groups(parent: &str) {
    for hierarchy in entries(Path::new("/sys/fs/cgroup"))
        .into_iter()
        .chain([PathBuf::from("/sys/fs/cgroup")])
    {
        let parent = hierarchy.join(parent);
        for machine in entries(&parent).into_iter().filter(|path| path.is_dir()) {
            // A process that was killed just now may still be counted.
            let _ = crate::waiting::soon(Duration::from_secs(5), || fs::remove_dir(&machine).ok());
        }
        if parent.is_dir() {
            let _ = crate::waiting::soon(Duration::from_secs(5), || fs::remove_dir(&parent).ok());
        }
    }
}
