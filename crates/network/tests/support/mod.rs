//! Network namespaces for tests: a host of its own for each, guests and a world around it, all removed at the end.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its part

pub mod frames;
pub mod ipv6;
pub mod lan;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use network::{BridgedConfig, NetworkConfig, NetworkHost, PlugRequest};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed with everything in it.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        let name = format!(
            "stn{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// `ip` with these words, inside.
    pub fn ip(&self, words: &str) {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split(' '));
        run("ip", &arguments);
    }

    /// A program inside; its output whatever its exit code.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the closure on a thread that lives inside.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .unwrap();
                inside()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What we started inside (dnsmasq) would keep it alive.
        let pids = Command::new("ip")
            .args(["netns", "pids", &self.name])
            .output();
        for pid in String::from_utf8_lossy(&pids.map(|o| o.stdout).unwrap_or_default()).lines() {
            let _ = Command::new("kill").args(["-KILL", pid]).output();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the test can run here; prints why not.
pub fn can_run(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root for network namespaces");
        return false;
    }
    for program in programs.iter().chain(&["ip"]) {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        });
        if !found {
            println!("SKIPPED: needs the program {program}");
            return false;
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: needs /dev/net/tun");
        return false;
    }
    true
}

/// A host in a namespace, with a folder of its own and a configuration for it.
pub struct TestHost {
    pub namespace: Namespace,
    pub folder: tempfile::TempDir,
    pub config: BridgedConfig,
}

impl TestHost {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // So that dnsmasq can drop its privileges.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let config = BridgedConfig::new(
            "t".parse().unwrap(),
            folder.path().join("net"),
            "172.16.0.0/24".parse().unwrap(),
            Ipv4Addr::new(172, 16, 0, 1),
            "cloud.test".parse().unwrap(),
        );
        Self {
            namespace: Namespace::new(),
            folder,
            config,
        }
    }

    /// Runs the test inside the host, with an open network.
    pub fn run<T: Send>(&self, test: impl AsyncFnOnce(NetworkHost) -> T + Send) -> T {
        self.run_with(self.config.clone(), test)
    }

    pub fn run_with<T: Send>(
        &self,
        config: BridgedConfig,
        test: impl AsyncFnOnce(NetworkHost) -> T + Send,
    ) -> T {
        self.namespace.enter(|| {
            // Its threads are made by this one, so they live in the namespace as well.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let host = NetworkHost::open(NetworkConfig::Bridged(config))
                    .await
                    .unwrap();
                test(host).await
            })
        })
    }

    /// A guest that is a namespace: a veth in place of its tap.
    pub fn guest(&self, request: &PlugRequest) -> Namespace {
        let guest = Namespace::new();
        let port = self.config.instance.tap(&request.nic);
        self.namespace.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            guest.name
        ));
        guest.ip(&format!("link set eth0 address {} up", request.mac));
        guest
    }
}

/// A machine with the n-th address.
pub fn machine(n: u8) -> PlugRequest {
    let ip = Ipv4Addr::new(172, 16, 0, n);
    PlugRequest {
        nic: n.to_string().parse().unwrap(),
        mac: network::MacPrefix::default().mac(ip),
        ip,
        ssh_port: None,
        groups: std::collections::BTreeSet::new(),
    }
}

/// Runs a real DHCP client in the guest, which configures nothing; what it was told, or none.
pub fn dhcp(
    guest: &Namespace,
    folder: &Path,
) -> Option<std::collections::BTreeMap<String, String>> {
    let script: PathBuf = folder.join("udhcpc.sh");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && env > \"$(dirname \"$0\")/bound-$interface-$$.env\" && cp \"$(dirname \"$0\")/bound-$interface-$$.env\" \"$(dirname \"$0\")/bound.env\"\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bound = folder.join("bound.env");
    let _ = std::fs::remove_file(&bound);
    let script = script.display().to_string();
    guest.command(
        "busybox",
        &[
            "udhcpc", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "1", "-O", "mtu", "-s", &script,
        ],
    );
    let text = std::fs::read_to_string(bound).ok()?;
    Some(
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    )
}

/// One DNS question (RFC 1035 §4), from the calling thread's namespace: the answer's code and its A, AAAA or PTR records.
pub fn ask(server: impl Into<IpAddr>, name: &str, kind: u16) -> (u8, Vec<String>) {
    let server = server.into();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, kind as u8, 0, 1]);
    let any = match server {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut answer = [0; 1500];
    let deadline = Instant::now() + Duration::from_secs(20);
    let length = loop {
        assert!(Instant::now() < deadline, "no answer about {name}");
        let _ = socket.send_to(&query, SocketAddr::from((server, 53)));
        if let Ok(length) = socket.recv(&mut answer) {
            break length;
        }
    };
    let answer = &answer[..length];
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = query.len();
    let mut records = Vec::new();
    for _ in 0..count {
        skip_name(answer, &mut at);
        let length = usize::from(u16::from_be_bytes([answer[at + 8], answer[at + 9]]));
        at += 10;
        let data = &answer[at..at + length];
        records.push(match kind {
            A => data.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
            AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            _ => read_name(answer, at),
        });
        at += length;
    }
    (answer[3] & 15, records)
}

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const AAAA: u16 = 28;

fn skip_name(message: &[u8], at: &mut usize) {
    while message[*at] != 0 {
        if message[*at] >= 0xc0 {
            *at += 2;
            return;
        }
        *at += 1 + usize::from(message[*at]);
    }
    *at += 1;
}

fn read_name(message: &[u8], mut at: usize) -> String {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            at = (length & 0x3f) << 8 | usize::from(message[at + 1]);
            continue;
        }
        labels.push(String::from_utf8_lossy(&message[at + 1..at + 1 + length]).into_owned());
        at += 1 + length;
    }
    labels.join(".")
}

/// Waits for a condition.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
