//! A real etcd cluster on this machine, for tests: Debian's `etcd-server`, members on free ports of the loopback
//! interface with folders of their own. Gone with its owner, also when that panics.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a cluster may take to elect its first leader.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How the members identify themselves, and whom they let in: PEM files, for `https`.
#[derive(Debug, Clone)]
pub struct MemberTls {
    /// Certificate of the members.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signed it, and the clients' certificates.
    pub authority: PathBuf,
}

/// Some members of etcd.
#[derive(Debug)]
pub struct EtcdCluster {
    folder: PathBuf,
    members: Vec<Member>,
    tls: Option<MemberTls>,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl EtcdCluster {
    /// Whether there is something to test with. Says so if not.
    #[must_use]
    pub fn possible() -> bool {
        let there = Command::new("etcd")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !there {
            eprintln!("skipped: there is no etcd here; install the package etcd-server");
        }
        there
    }

    /// Start so many members in `folder`, and wait until they serve.
    ///
    /// # Panics
    /// If they don't.
    #[must_use]
    pub fn start(folder: &Path, members: usize, tls: Option<MemberTls>) -> Self {
        // A port that was free a moment ago may be taken by another test: then with others.
        for _ in 0..5 {
            let mut cluster = Self {
                folder: folder.to_owned(),
                members: (0..members)
                    .map(|_| Member {
                        client: free_port(),
                        peer: free_port(),
                        process: None,
                    })
                    .collect(),
                tls: tls.clone(),
            };
            for at in 0..members {
                let _ = std::fs::remove_dir_all(cluster.data(at));
                let _ = std::fs::remove_file(cluster.folder.join(format!("m{at}.log")));
                cluster.restart(at);
            }
            if cluster.serves() {
                return cluster;
            }
        }
        panic!("etcd did not start; its logs are in {}", folder.display());
    }

    /// Where clients find the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| self.url(member.client))
            .collect()
    }

    /// Start a member (again).
    ///
    /// # Panics
    /// If there is no such member, or the program can't be started.
    pub fn restart(&mut self, at: usize) {
        let all: Vec<String> = (0..self.members.len())
            .map(|at| format!("m{at}=http://127.0.0.1:{}", self.members[at].peer))
            .collect();
        let (client, peer) = (self.members[at].client, self.members[at].peer);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("m{at}.log")))
            .unwrap();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{at}"), "--data-dir"])
            .arg(self.data(at))
            .args(["--listen-client-urls", &self.url(client)])
            .args(["--advertise-client-urls", &self.url(client)])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args([
                "--initial-advertise-peer-urls",
                &format!("http://127.0.0.1:{peer}"),
            ])
            .args(["--initial-cluster", &all.join(",")])
            .args([
                "--initial-cluster-token",
                &format!("test-{}", self.members[0].peer),
            ])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(["--logger", "zap", "--auth-token", "simple"])
            // Who is quiet for so many seconds has to log in again.
            .args(["--auth-token-ttl", "2"]);
        if let Some(tls) = &self.tls {
            command
                .arg("--cert-file")
                .arg(&tls.certificate)
                .arg("--key-file")
                .arg(&tls.key)
                .arg("--trusted-ca-file")
                .arg(&tls.authority)
                .arg("--client-cert-auth");
        }
        command
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.members[at].process = Some(command.spawn().unwrap());
    }

    /// Kill a member with SIGKILL.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stop a member as a hanging machine does, or let it go on.
    ///
    /// # Panics
    /// If there is no such member, or it can't be told.
    pub fn freeze(&self, at: usize, frozen: bool) {
        let process = self.members[at].process.as_ref().unwrap();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let told = Command::new("kill")
            .args([signal, &process.id().to_string()])
            .status();
        assert!(told.is_ok_and(|status| status.success()));
    }

    /// Ask `etcdctl`, at all members. What it printed.
    ///
    /// # Errors
    /// What it complains of.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.endpoints().join(","));
        if let Some(tls) = &self.tls {
            command
                .arg("--cacert")
                .arg(&tls.authority)
                .arg("--cert")
                .arg(&tls.certificate)
                .arg("--key")
                .arg(&tls.key);
        }
        let output = command
            .args(arguments)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Which member leads.
    ///
    /// # Panics
    /// If none does for long.
    #[must_use]
    pub fn leader(&self) -> usize {
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            for (at, member) in self.members.iter().enumerate() {
                let status = self.ctl(&["endpoint", "status", "-w", "fields"]);
                let text = status.unwrap_or_default();
                if leads(&text, &self.url(member.client)) {
                    return at;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no member of etcd leads");
    }

    fn serves(&mut self) -> bool {
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            let ended = |member: &mut Member| {
                let process = member.process.as_mut();
                process.is_none_or(|process| !matches!(process.try_wait(), Ok(None)))
            };
            if self.members.iter_mut().any(ended) {
                return false;
            }
            if self.members.iter().all(|member| answers(member.client)) && self.elected() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        false
    }

    /// All members say so in their logs: needs no client.
    fn elected(&self) -> bool {
        (0..self.members.len()).all(|at| {
            let log = std::fs::read_to_string(self.folder.join(format!("m{at}.log")));
            log.is_ok_and(|log| log.contains("serving client traffic"))
        })
    }

    fn data(&self, at: usize) -> PathBuf {
        self.folder.join(format!("m{at}"))
    }

    fn url(&self, port: u16) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}

/// Whether the member at `url` says that it leads, in what `etcdctl endpoint status -w fields` prints.
fn leads(text: &str, url: &str) -> bool {
    let (mut member, mut leader) = (None, None);
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match (name.trim().trim_matches('"'), value.trim()) {
            ("MemberID", value) => member = Some(value.to_owned()),
            ("Leader", value) => leader = Some(value.to_owned()),
            ("Endpoint", value) if value.trim_matches('"') == url => {
                return member.is_some() && member == leader;
            }
            _ => {}
        }
    }
    false
}

fn answers(port: u16) -> bool {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

/// A port below those that the system gives to whoever asks for any one, so that a member that is started again finds it free.
/// Each process begins where others that run beside it don't.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..10_000 {
        let number = std::process::id() % 10_000 * 32 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(number % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports from 20000 on are taken");
}
