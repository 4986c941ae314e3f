//! The supervisor of one network's dnsmasq.
//!
//! ```text
//!            open                    killed, died                 shutdown
//!  (found) ───────▶ running ───────────────────────▶ failing ─────────────▶ stopped
//!                    ▲  ▲                               │
//!                    │  └── started again, at once or after a pause that doubles up to 10 s
//!                    └───── SIGHUP after every batch of changes, until it is seen to have read them
//! ```
//!
//! dnsmasq is no child: it puts itself into the background and lives on when this process ends. A new supervisor finds
//! it by its pid file, or by its command line, and takes it over if the command line is what it would use itself.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::background::BackgroundProcess;
use crate::dhcp_release;
use crate::dns_probe;
use crate::dnsmasq_files::{
    DnsmasqConfig, Lease, Leases, RememberedLease, is_stale, parse_dhcp_hosts, parse_lease_file,
    purge_lease_file,
};
use crate::error::{NetworkError, Result};
use crate::files::{read_or_empty, write_atomically};
use crate::log_limit::{LogLimit, old_log, set_large_log_aside};

const QUEUE: usize = 1024;
const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(2);
const FOLLOW_LIMIT: Duration = Duration::from_secs(1);
/// How long after a change it is looked whether leases are left that nobody has any more.
const LOOK_AFTER: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// One that ran this long did not fail to start: it is started again without a pause.
const RAN_WELL: Duration = Duration::from_secs(5);

/// How DHCP and DNS are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpHealth {
    /// It runs.
    Running {
        /// Its process.
        pid: i32,
    },
    /// It does not, and is being started again.
    Failing {
        /// Failures in a row.
        failures: u32,
        /// What it said last.
        reason: String,
    },
    /// It was told to stop.
    Stopped,
}

#[derive(Debug)]
enum Wish {
    Add(Lease),
    Remove(Ipv4Addr),
    Exactly(Leases),
    /// Start it again: its interface is another one now.
    Renew,
    Stop,
}

type Answer = std::result::Result<(), String>;

#[derive(Debug)]
struct Request {
    wish: Wish,
    answer: oneshot::Sender<Answer>,
}

/// DHCP and DNS of one network.
#[derive(Debug)]
pub struct Dnsmasq {
    requests: mpsc::Sender<Request>,
    health: watch::Receiver<DhcpHealth>,
    config: DnsmasqConfig,
    _supervisor: AbortOnDropHandle<()>,
}

/// A change on its way.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Resolves when dnsmasq serves the change; if it does not run, it will read them at its start.
    ///
    /// # Errors
    /// The files cannot be written, or an address cannot be taken from its last holder.
    pub async fn done(self) -> Result<()> {
        match self.0.await {
            Ok(answer) => answer.map_err(|reason| NetworkError::Dnsmasq { reason }),
            Err(_) => Err(NetworkError::Closed {
                part: "dnsmasq's supervisor",
            }),
        }
    }
}

impl Dnsmasq {
    /// Adopts the running dnsmasq of this configuration or starts one, with the leases its files name.
    ///
    /// With `fresh`, the interface was made just now: one that still runs is bound to an interface that is no more, and
    /// is replaced.
    ///
    /// # Errors
    /// It cannot be started; the reason is its own words.
    pub async fn open(config: DnsmasqConfig, fresh: bool) -> Result<Self> {
        tokio::fs::create_dir_all(&config.directory)
            .await
            .map_err(NetworkError::file(&config.directory))?;
        let leases = parse_dhcp_hosts(&read_or_empty(&config.dhcp_hosts()).await?);
        let mut supervisor = Supervisor {
            config: config.clone(),
            leases,
            process: None,
            since: Instant::now(),
            generation: first_generation(),
            failures: 0,
        };
        supervisor.take_over_or_start(fresh).await?;
        let (report, health) = watch::channel(supervisor.health(""));
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = AbortOnDropHandle::new(tokio::spawn(supervisor.run(queue, report)));
        Ok(Self {
            requests,
            health,
            config,
            _supervisor: task,
        })
    }

    /// Ends the dnsmasq of this configuration, if one runs, and removes its files, without a supervisor.
    ///
    /// # Errors
    /// It does not end, or a file cannot be removed.
    pub async fn remove(config: &DnsmasqConfig) -> Result<()> {
        if let Some(process) = find(config) {
            process.end(STOP_LIMIT).await?;
        }
        remove_files(config).await
    }

    /// Gives an address to a MAC, taking it from whoever had it.
    ///
    /// # Errors
    /// The supervisor has ended.
    pub async fn add(&self, lease: Lease) -> Result<Pending> {
        self.send(Wish::Add(lease)).await
    }

    /// Forgets an address; it need not be known. It can be given to another MAC at once.
    ///
    /// # Errors
    /// The supervisor has ended.
    pub async fn forget(&self, ip: Ipv4Addr) -> Result<Pending> {
        self.send(Wish::Remove(ip)).await
    }

    /// Makes the leases exactly these.
    ///
    /// # Errors
    /// As [`Pending::done`].
    pub async fn reconcile(&self, leases: Leases) -> Result<()> {
        self.send(Wish::Exactly(leases)).await?.done().await
    }

    /// Starts dnsmasq again, bound to the interface that now has the bridge's name.
    ///
    /// # Errors
    /// It does not end or not start.
    pub async fn renew(&self) -> Result<()> {
        self.send(Wish::Renew).await?.done().await
    }

    /// Ends dnsmasq and removes its files.
    ///
    /// # Errors
    /// It does not end, or a file cannot be removed.
    pub async fn stop(&self) -> Result<()> {
        self.send(Wish::Stop).await?.done().await
    }

    /// How it is, and word of every change.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<DhcpHealth> {
        self.health.clone()
    }

    /// The leases its files name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn list(&self) -> Result<Leases> {
        Ok(parse_dhcp_hosts(
            &read_or_empty(&self.config.dhcp_hosts()).await?,
        ))
    }

    async fn send(&self, wish: Wish) -> Result<Pending> {
        let (answer, receiver) = oneshot::channel();
        self.requests
            .send(Request { wish, answer })
            .await
            .map_err(|_| NetworkError::Closed {
                part: "dnsmasq's supervisor",
            })?;
        Ok(Pending(receiver))
    }
}

struct Supervisor {
    config: DnsmasqConfig,
    leases: Leases,
    process: Option<BackgroundProcess>,
    since: Instant,
    /// Counts versions of the files, from a number no earlier supervisor used.
    generation: u64,
    failures: u32,
}

impl Supervisor {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, report: watch::Sender<DhcpHealth>) {
        let mut batch = Vec::new();
        let mut next_try: Option<Instant> = None;
        // A guest may have asked once more while its lease was taken from it.
        let mut next_look = Some(Instant::now() + LOOK_AFTER);
        // dnsmasq goes on with a log that was emptied, and makes one that is missing only at its start.
        let mut log = LogLimit::of(self.config.log_file());
        loop {
            tokio::select! {
                // A death is dealt with before a change, which would only fail.
                biased;
                () = ended(self.process.as_ref()) => {
                    let ran = self.since.elapsed();
                    self.process = None;
                    tracing::warn!(bridge = %self.config.bridge, ?ran, "dnsmasq ended and is started again");
                    if ran >= RAN_WELL {
                        self.failures = 0;
                    }
                    self.failures += 1;
                    next_try = Some(Instant::now() + if self.failures == 1 { Duration::ZERO } else { pause(self.failures) });
                    report.send_replace(self.health("it ended"));
                }
                () = until(next_try) => {
                    next_try = None;
                    match self.start().await {
                        Ok(()) => {
                            log = LogLimit::of(self.config.log_file());
                            report.send_replace(self.health(""));
                        }
                        Err(error) => {
                            self.failures += 1;
                            next_try = Some(Instant::now() + pause(self.failures));
                            tracing::error!(bridge = %self.config.bridge, failures = self.failures, %error, "dnsmasq does not start");
                            report.send_replace(self.health(&error.to_string()));
                        }
                    }
                }
                () = until(next_look) => {
                    next_look = match self.release_stale().await {
                        Ok(0) => None,
                        Ok(_) => Some(Instant::now() + LOOK_AFTER),
                        Err(error) => {
                            tracing::warn!(%error, "cannot give leases back to dnsmasq; is the loopback interface up?");
                            None
                        }
                    };
                }
                // Never ends; it is at work whenever nothing else is to be done.
                () = log.keep() => {}
                received = queue.recv_many(&mut batch, QUEUE) => {
                    if received == 0 {
                        return;
                    }
                    let (wishes, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|request| (request.wish, request.answer)).unzip();
                    let stop = wishes.iter().any(|wish| matches!(wish, Wish::Stop));
                    let result = if stop { self.stop().await } else { self.fulfil(wishes).await };
                    next_look = (!stop).then(|| Instant::now() + LOOK_AFTER);
                    if self.process.is_none() && !stop {
                        next_try.get_or_insert_with(Instant::now);
                    }
                    let result = result.map_err(|error| match error {
                        NetworkError::Dnsmasq { reason } => reason,
                        other => other.to_string(),
                    });
                    let now = if stop && result.is_ok() {
                        next_try = None;
                        DhcpHealth::Stopped
                    } else {
                        self.health(result.as_ref().err().map_or("", String::as_str))
                    };
                    report.send_if_modified(|shown| {
                        let same = *shown == now || matches!((&*shown, &now), (DhcpHealth::Failing { .. }, DhcpHealth::Failing { .. }));
                        if !same {
                            *shown = now;
                        }
                        !same
                    });
                    for answer in answers {
                        // Whoever asked may have given up.
                        let _ = answer.send(result.clone());
                    }
                }
            }
        }
    }

    fn health(&self, reason: &str) -> DhcpHealth {
        match &self.process {
            Some(process) => DhcpHealth::Running { pid: process.pid() },
            None => DhcpHealth::Failing {
                failures: self.failures,
                reason: reason.to_owned(),
            },
        }
    }

    async fn take_over_or_start(&mut self, fresh: bool) -> Result<()> {
        if let Some(running) = find(&self.config) {
            let current = running
                .arguments()
                .is_some_and(|a| a.get(1..) == Some(self.config.arguments().as_slice()));
            if current && !fresh {
                tracing::info!(pid = running.pid(), bridge = %self.config.bridge, "adopted the running dnsmasq");
                self.process = Some(running);
                return Ok(());
            }
            running.end(STOP_LIMIT).await?;
        }
        self.start().await
    }

    async fn start(&mut self) -> Result<()> {
        self.write_hosts().await?;
        let config = &self.config;
        let remembered = read_or_empty(&config.lease_file()).await?;
        let kept = purge_lease_file(&remembered, &self.leases);
        if kept != remembered {
            write_atomically(&config.lease_file(), kept).await?;
        }
        set_large_log_aside(&config.log_file()).await;
        let _ = tokio::fs::remove_file(config.pid_file()).await;
        let run = Command::new(&config.program)
            .args(config.arguments())
            .stdin(Stdio::null())
            .current_dir("/")
            .kill_on_drop(true)
            .output();
        // It goes to the background once it has opened and bound everything; what it could not, it says before.
        let output = tokio::time::timeout(START_LIMIT, run)
            .await
            .map_err(|_| NetworkError::Timeout {
                what: "starting dnsmasq".into(),
                limit: START_LIMIT,
            })?
            .map_err(|source| NetworkError::Program {
                program: config.program.clone(),
                source,
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = said
                .trim()
                .trim_start_matches("dnsmasq:")
                .trim()
                .chars()
                .take(500)
                .collect();
            return Err(NetworkError::Dnsmasq { reason });
        }
        let process = find(&self.config).ok_or_else(|| NetworkError::Dnsmasq {
            reason: "it ended right after its start; see its log".into(),
        })?;
        tracing::info!(pid = process.pid(), bridge = %config.bridge, "started dnsmasq");
        self.process = Some(process);
        self.since = Instant::now();
        Ok(())
    }

    async fn write_hosts(&mut self) -> Result<()> {
        self.generation += 1;
        write_atomically(
            &self.config.dhcp_hosts(),
            self.config.dhcp_hosts_text(&self.leases),
        )
        .await?;
        write_atomically(
            &self.config.dns_hosts(),
            self.config.dns_hosts_text(self.generation),
        )
        .await
    }

    async fn fulfil(&mut self, wishes: Vec<Wish>) -> Result<()> {
        let mut added = Vec::new();
        let mut renew = false;
        for wish in wishes {
            match wish {
                Wish::Add(lease) => {
                    added.push(lease.ip);
                    self.leases.insert(lease.ip, lease);
                }
                Wish::Remove(ip) => {
                    self.leases.remove(&ip);
                }
                Wish::Exactly(leases) => {
                    added.extend(leases.keys().copied());
                    self.leases = leases;
                }
                Wish::Renew => renew = true,
                Wish::Stop => {}
            }
        }
        if renew {
            return self.restart().await;
        }
        self.write_hosts().await?;
        let Some(process) = &self.process else {
            return Ok(());
        };
        process.signal(Signal::HUP)?;
        let stale = self.stale().await?;
        let blocking: Vec<_> = stale
            .iter()
            .map(|lease| lease.ip)
            .filter(|ip| added.contains(ip))
            .collect();
        if !stale.is_empty()
            && let Err(error) = self.release(stale).await
        {
            tracing::warn!(%error, "cannot give leases back to dnsmasq; is the loopback interface up?");
        }
        if self.follows(&blocking).await? {
            return Ok(());
        }
        // Hung, or out of reach: all is read, and stale leases are purged, at every start.
        tracing::warn!(bridge = %self.config.bridge, "dnsmasq does not follow a change and is started again");
        self.restart().await
    }

    async fn restart(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.end(STOP_LIMIT).await?;
        }
        self.start().await
    }

    async fn stale(&self) -> Result<Vec<RememberedLease>> {
        let text = read_or_empty(&self.config.lease_file()).await?;
        Ok(parse_lease_file(&text)
            .into_iter()
            .filter(|lease| is_stale(lease, &self.leases))
            .collect())
    }

    /// Gives back what nobody has any more; how many these were.
    async fn release_stale(&self) -> Result<usize> {
        if self.process.is_none() {
            return Ok(0);
        }
        let stale = self.stale().await?;
        let many = stale.len();
        if many > 0 {
            let released = self.release(stale).await;
            released.map_err(|error| NetworkError::Dnsmasq {
                reason: error.to_string(),
            })?;
        }
        Ok(many)
    }

    async fn release(&self, stale: Vec<RememberedLease>) -> std::io::Result<()> {
        let gateway = self.config.gateway;
        tokio::task::spawn_blocking(move || dhcp_release::send(&stale, gateway))
            .await
            .map_err(std::io::Error::other)?
    }

    /// Waits until it serves the files as they are now, and the addresses that another MAC is about to use are free.
    async fn follows(&self, blocking: &[Ipv4Addr]) -> Result<bool> {
        let deadline = Instant::now() + FOLLOW_LIMIT;
        let marker = self.config.marker(self.generation);
        if !dns_probe::known(self.config.gateway, &marker, deadline)
            .await
            .unwrap_or(false)
        {
            return Ok(false);
        }
        while !blocking.is_empty()
            && self
                .stale()
                .await?
                .iter()
                .any(|lease| blocking.contains(&lease.ip))
        {
            if Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(true)
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.end(STOP_LIMIT).await?;
        }
        self.leases.clear();
        remove_files(&self.config).await
    }
}

/// Ours is the one that was told our pid file.
fn find(config: &DnsmasqConfig) -> Option<BackgroundProcess> {
    let mark = format!("--pid-file={}", config.pid_file().display());
    BackgroundProcess::by_pid_file(&config.pid_file(), &mark)
        .or_else(|| BackgroundProcess::by_argument(&mark))
}

async fn remove_files(config: &DnsmasqConfig) -> Result<()> {
    let log = config.log_file();
    let files = [
        config.dhcp_hosts(),
        config.dns_hosts(),
        config.lease_file(),
        config.pid_file(),
        old_log(&log),
        log,
    ];
    for path in files {
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(NetworkError::file(path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn first_generation() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // Batches take longer than a nanosecond: no supervisor reaches the first number of its successor.
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(failures.saturating_sub(2)))
        .min(LONGEST_PAUSE)
}

async fn ended(process: Option<&BackgroundProcess>) {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
