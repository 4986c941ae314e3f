//! A host with an interface to a site, and somebody there who works on the host by it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use testkit::{Namespace, program, wait_until};

/// How long what is to come may take.
const LATE: Duration = Duration::from_secs(60);
const INTERFACES: &str = "auto lo\niface lo inet loopback\n\nauto eth1\niface eth1 inet static\n\taddress 192.0.2.5/24\n\tgateway 192.0.2.1\n";

/// The host, what is behind its interface, and its files.
pub struct Scene {
    host: Namespace,
    site: Namespace,
    folder: tempfile::TempDir,
    /// Somebody at the site who answers at port 7.
    _peer: TcpListener,
}

impl Scene {
    pub const MAC: &str = "52:54:00:12:34:56";

    pub fn new() -> Self {
        let (host, site) = (Namespace::new(), Namespace::new());
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc/network")).unwrap();
        fs::write(root.join("etc/network/interfaces"), INTERFACES).unwrap();
        let state = folder.path().join("state");
        fs::write(
            folder.path().join("stratusd.toml"),
            format!("state_dir = {:?}\n", state.display().to_string()),
        )
        .unwrap();
        ip(&format!(
            "link add eth1 netns {} address {} mtu 1450 type veth peer name port netns {} mtu 1450",
            host.name(),
            Self::MAC,
            site.name()
        ));
        let at_site = |words: &str| ip(&format!("-n {} {words}", site.name()));
        at_site("link set port addrgenmode none");
        at_site("address add 192.0.2.1/24 dev port");
        at_site("address add 2001:db8:1::1/64 dev port nodad");
        at_site("address add fe80::1/64 dev port nodad");
        at_site("link set port up");
        let at_host = |words: &str| ip(&format!("-n {} {words}", host.name()));
        at_host("link set eth1 addrgenmode none");
        at_host("link set eth1 up");
        at_host("address add 192.0.2.5/24 brd + dev eth1");
        at_host("address add 192.0.2.55/24 dev eth1 label eth1:more");
        at_host("address add 198.18.0.5/32 dev eth1 noprefixroute");
        at_host("address add 2001:db8:1::5/64 dev eth1 nodad");
        at_host("address add fe80::5/64 dev eth1 nodad");
        at_host("route add default via 192.0.2.1 dev eth1 metric 50");
        at_host("route add 203.0.113.9/32 dev eth1 src 192.0.2.55");
        at_host("route add 203.0.113.64/26 via 203.0.113.9 dev eth1 proto static mtu 1400");
        at_host("route add 198.51.100.0/24 via 192.0.2.1 dev eth1 table 77");
        at_host("-6 route add default via fe80::1 dev eth1 metric 77");
        at_host("-6 route add 2001:db8:7::/48 via 2001:db8:1::1 dev eth1");
        at_host("neigh add 192.0.2.99 lladdr 52:54:00:00:00:99 dev eth1 nud permanent");
        let peer = site.enter(|| TcpListener::bind("192.0.2.1:7").unwrap());
        Self {
            host,
            site,
            folder,
            _peer: peer,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// `ip` on the host, with its output.
    pub fn ip(&self, words: &str) -> String {
        ip(&format!("-n {} {words}", self.host.name()))
    }

    pub fn index(&self, interface: &str) -> String {
        let shown = self.ip(&format!("-o link show dev {interface}"));
        shown.split_once(':').unwrap().0.to_owned()
    }

    /// Addresses, routes and fixed neighbours of the interface and its bridge, in an order of their own.
    pub fn kernel(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (what, words) in [
            ("address", "-o address show"),
            ("route", "-4 route show table all"),
            ("route6", "-6 route show table all"),
            ("neighbour", "neigh show nud permanent"),
        ] {
            let shown = self.ip(words);
            let own = shown.lines().filter(|line| {
                // The kernel alone makes the latter for each interface that has IPv6.
                line.contains("eth1") && !line.contains("multicast ff00::/8")
            });
            lines.extend(own.map(|line| {
                // Addresses come with the number of the interface.
                let line = line.split_once(": ").map_or(line, |(_, rest)| rest);
                let words: Vec<&str> = line.split_whitespace().collect();
                format!("{what} {}", words.join(" "))
            }));
        }
        lines.sort();
        lines.join("\n")
    }

    /// The same, called as if the bridge were the interface.
    pub fn as_of_one(kernel: &str) -> String {
        let kernel = kernel.replace("br-eth1", "eth1");
        let mut lines: Vec<&str> = kernel.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    pub fn interfaces(&self) -> String {
        fs::read_to_string(self.root().join("etc/network/interfaces")).unwrap()
    }

    pub fn nft(&self, text: &str) {
        let output = self.host.output(Command::new("nft").arg(text));
        assert!(output.status.success(), "{output:?}");
    }

    /// Has a port of the site give no answer at all.
    pub fn site_drops(&self, port: u16) {
        let text = format!(
            "add table inet own; add chain inet own input {{ type filter hook input priority 0; policy accept; }}; add rule inet own input tcp dport {port} drop"
        );
        assert!(
            self.site
                .output(Command::new("nft").arg(text))
                .status
                .success()
        );
    }

    /// What is typed in for `stratusd network` with these words.
    pub fn command(&self, words: &str) -> String {
        format!(
            "{} network {words} --root {} --config {} 2>&1",
            program("stratusd").display(),
            self.root().display(),
            self.folder.path().join("stratusd.toml").display()
        )
    }

    /// Runs it to its end; all that it says.
    pub fn run(&self, words: &str) -> String {
        let mut shell = Command::new("sh");
        let output = self.host.output(shell.arg("-c").arg(self.command(words)));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts it, with each line held back until the one before was read.
    pub fn spawn(&self, words: &str) -> Worker {
        let (output, input) = pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC).unwrap();
        // One line.
        fcntl_setpipe_size(&input, 4096).unwrap();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {}", self.command(words)));
        shell.stdin(Stdio::null()).stdout(input);
        let child = self.host.enter(|| shell.spawn().unwrap());
        Worker { child, output }
    }

    /// Until no change is under way any more.
    pub fn until_settled(&self) {
        let trial = self.folder.path().join("state/uplinks/trial.json");
        wait_until("the guard's work", LATE, || (!trial.exists()).then_some(()));
    }

    /// A connection from the site that is there all the time.
    pub fn connection(&self) -> Echo {
        let listener = self
            .host
            .enter(|| TcpListener::bind("192.0.2.5:0").unwrap());
        let to = listener.local_addr().unwrap();
        let site = self.site.enter(|| TcpStream::connect(to).unwrap());
        let (host, _) = listener.accept().unwrap();
        for end in [&site, &host] {
            end.set_read_timeout(Some(LATE)).unwrap();
        }
        Echo { site, host }
    }
}

/// A process that makes a change.
pub struct Worker {
    child: Child,
    output: OwnedFd,
}

impl Worker {
    /// Reads lines until one has this in it; then it is at most one line further.
    pub fn read_until(&mut self, wanted: &str) {
        let mut all = String::new();
        let mut packet = [0; 4096];
        loop {
            let length = rustix::io::read(&self.output, &mut packet).unwrap();
            assert!(length > 0, "it ended before {wanted:?}:\n{all}");
            let line = String::from_utf8_lossy(&packet[..length]).into_owned();
            all.push_str(&line);
            if line.contains(wanted) {
                return;
            }
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn kill_with_guard(&mut self) {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for guard in children.split_whitespace() {
            let guard = rustix::process::Pid::from_raw(guard.parse().unwrap()).unwrap();
            rustix::process::kill_process(guard, rustix::process::Signal::STOP).unwrap();
        }
        self.kill();
        for guard in children.split_whitespace() {
            let guard = rustix::process::Pid::from_raw(guard.parse().unwrap()).unwrap();
            rustix::process::kill_process(guard, rustix::process::Signal::KILL).unwrap();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two ends of a connection over the interface.
pub struct Echo {
    site: TcpStream,
    host: TcpStream,
}

impl Echo {
    /// It carries something, both ways.
    pub fn lives(&mut self) {
        for (from, to) in [(&self.site, &self.host), (&self.host, &self.site)] {
            let (mut from, mut to) = (from, to);
            from.write_all(b"still here").unwrap();
            let mut read = [0; 10];
            to.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"still here");
        }
    }
}

/// Somebody at the site who is logged in on the host: a shell at the other end of a connection.
pub struct Operator {
    shell: Child,
    to: TcpStream,
    from: BufReader<TcpStream>,
}

impl Operator {
    pub fn at(scene: &Scene, port: u16) -> Self {
        let mut listening = Command::new("busybox");
        listening.args(["nc", "-l", "-p", &port.to_string(), "-e", "/bin/sh"]);
        listening.stdin(Stdio::null()).stdout(Stdio::null());
        let shell = scene.host.enter(|| listening.spawn().unwrap());
        let to = wait_until("the operator's shell", LATE, || {
            scene
                .site
                .enter(|| TcpStream::connect(("192.0.2.5", port)).ok())
        });
        to.set_read_timeout(Some(LATE)).unwrap();
        let from = BufReader::new(to.try_clone().unwrap());
        Self { shell, to, from }
    }

    pub fn type_in(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }

    /// Reads lines until one has this in it.
    pub fn read_until(&mut self, wanted: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let length = self
                .from
                .read_line(&mut line)
                .unwrap_or_else(|error| panic!("{error} before {wanted:?}:\n{all}"));
            assert!(length > 0, "the connection ended before {wanted:?}:\n{all}");
            all.push_str(&line);
            if line.contains(wanted) {
                return all;
            }
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

pub fn gone(scene: &Scene, interface: &str) -> bool {
    !scene.ip("-o link show").contains(&format!(": {interface}"))
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
