//! The operator's own interface becomes a port of a bridge, on request, and leaves it again: changed, tested, and put back if the
//! test fails, if nobody confirms in time, or if whoever makes the change dies.
//!
//! | who | does |
//! |---|---|
//! | the worker ([`Uplinks::attach`], [`Uplinks::detach`]) | notes what there is, changes, tests, waits until somebody confirms |
//! | the guard ([`Uplinks::guard`]), a process of its own | puts all back if the worker dies or hangs, or nobody confirms in time |
//! | whoever confirms ([`Uplinks::confirm`]), best by another connection | has the next boot do the same |
//!
//! The bridge has the interface's MAC, so leases of DHCP and what others know by ARP stay good. It is the operator's from then on:
//! networks of machines are plugged into it (see [`Site`](crate::Site)), and taking them down leaves it alone.

mod boot;
mod holdings;
mod in_hex;
mod moving;
mod note;
mod plan;
mod port;
mod probe;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{NetworkError, Result};
use crate::links::Links;
use crate::name::InterfaceName;
use holdings::Device;
use moving::{Moved, Way};
use note::{Kept, Lock, Notes, Stage, Trial};
use plan::Plan;
use probe::Probe;

/// How long a change and its test may take before the guard puts all back.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
/// How long what answered before may take to do so again.
const TEST_LIMIT: Duration = Duration::from_secs(20);
/// How long whoever looks at a change may have the lock.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// How often the guard and who waits look.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The interface; of [`Uplinks::detach`] its bridge.
    pub interface: InterfaceName,
    /// The bridge's name; by default `br-` and the interface's.
    pub bridge: Option<InterfaceName>,
    /// Who must answer by TCP afterwards, be it with a refusal, besides gateways and the connection by which the operator is here.
    pub reach: Vec<SocketAddr>,
    /// How long somebody may take to confirm; zero: the test alone decides.
    pub confirm: Duration,
    /// Not for the next boot.
    pub until_boot: bool,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It stays so.
    Kept,
    /// All is as it was before, and why.
    PutBack(String),
}

/// What this host's interfaces are in by us, and the changes of that.
#[derive(Debug, Clone)]
pub struct Uplinks {
    notes: Notes,
    root: PathBuf,
}

type Tell<'a> = &'a mut dyn FnMut(&str);

impl Uplinks {
    /// Those that are noted in this folder. `root` is the root of the file system in which files for the next boot are.
    #[must_use]
    pub fn new(folder: PathBuf, root: PathBuf) -> Self {
        Self {
            notes: Notes(folder),
            root,
        }
    }

    /// Says what [`attach`](Self::attach) would do.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), before anything is changed.
    pub async fn plan_attach(&self, wish: &Wish, tell: Tell<'_>) -> Result<()> {
        let links = Links::open()?;
        let plan = self.attaching(&links, wish).await?;
        plan.tell(tell);
        plan.refuse_unknown_boot(wish)
    }

    /// Says what [`detach`](Self::detach) would do.
    ///
    /// # Errors
    /// As [`detach`](Self::detach), before anything is changed.
    pub async fn plan_detach(&self, wish: &Wish, tell: Tell<'_>) -> Result<()> {
        let links = Links::open()?;
        self.detaching(&links, wish).await?.tell(tell);
        Ok(())
    }

    /// Makes an interface the port of a new bridge that has all that it had. `guard` is the program that runs
    /// [`guard`](Self::guard) with the process number that is its last argument.
    ///
    /// # Errors
    /// The interface can't be one, another change is under way, or the next boot's files are not ours to change: all of these
    /// before anything is changed. A step fails: after all was put back.
    pub async fn attach(&self, wish: &Wish, guard: Command, tell: Tell<'_>) -> Result<Ended> {
        let links = Links::open()?;
        let lock = self.begin(&links).await?;
        let plan = self.attaching(&links, wish).await?;
        plan.tell(tell);
        plan.refuse_unknown_boot(wish)?;
        self.change(&links, lock, plan, wish, guard, tell).await
    }

    /// Takes the interface out of the bridge that [`attach`](Self::attach) made, with all that the bridge has, and removes that.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); or something else is in the bridge.
    pub async fn detach(&self, wish: &Wish, guard: Command, tell: Tell<'_>) -> Result<Ended> {
        let links = Links::open()?;
        let lock = self.begin(&links).await?;
        let plan = self.detaching(&links, wish).await?;
        plan.tell(tell);
        self.change(&links, lock, plan, wish, guard, tell).await
    }

    /// Keeps the change that waits for it, for the next boots, too.
    ///
    /// # Errors
    /// None waits, or its time is over.
    pub async fn confirm(&self) -> Result<String> {
        let links = Links::open()?;
        let _lock = self.begin(&links).await?;
        let refuse = |why: &str| {
            Err(NetworkError::Trial {
                why: why.to_owned(),
            })
        };
        match self.notes.trial()? {
            Some(trial) if trial.stage == Stage::Waiting => {
                let told = format!("{} has what {} had", trial.to(), trial.from());
                self.keep(&links, trial).await?;
                Ok(told)
            }
            _ => refuse("no change waits for being confirmed: it was put back, or none was made"),
        }
    }

    /// What is in which bridge, and whether it is confirmed, a line each.
    ///
    /// # Errors
    /// A note can't be read.
    pub fn status(&self) -> Result<Vec<String>> {
        let mut lines: Vec<String> = self
            .notes
            .kept()?
            .iter()
            .map(|kept| format!("{} is in {}", kept.port, kept.bridge))
            .collect();
        if let Some(trial) = self.notes.trial()? {
            let (to, left) = (trial.to(), trial.until.saturating_sub(note::now()));
            lines.push(match trial.stage {
                Stage::Waiting => format!(
                    "{to} has what {} had, and waits {left} s for being confirmed",
                    trial.from()
                ),
                Stage::Changing | Stage::Keeping => {
                    format!("{to} is being given what {} has", trial.from())
                }
            });
        }
        Ok(lines)
    }

    /// Looks after the change that process `worker` makes, until that has ended one way or the other. `ready` is called once
    /// nothing can go wrong unseen any more.
    ///
    /// # Errors
    /// It can't begin, or not put back what it should.
    pub async fn guard(&self, worker: i32, ready: impl FnOnce()) -> Result<()> {
        // Of no terminal: it outlives whoever is cut off.
        let _ = rustix::process::setsid();
        let wrong = |source: rustix::io::Errno| NetworkError::Socket {
            what: format!("watching process {worker}"),
            source: source.into(),
        };
        let pid = Pid::from_raw(worker).ok_or_else(|| wrong(rustix::io::Errno::SRCH))?;
        let worker = pidfd_open(pid, PidfdFlags::empty()).map_err(wrong)?;
        ready();
        loop {
            match self.look_after(&worker).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Whoever is cut off has nobody else.
                Err(error) => tracing::error!(%error, "not put back yet; trying on"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One look of the guard; whether nothing is under way any more.
    async fn look_after(&self, worker: &OwnedFd) -> Result<bool> {
        let Some(trial) = self.notes.trial()? else {
            return Ok(true);
        };
        if trial.stage == Stage::Waiting && trial.is_of_this_boot() && !trial.is_over() {
            // Whoever confirms it is not to find it locked.
            return Ok(false);
        }
        if let Some(_lock) = self.notes.lock()? {
            return Ok(self.settle(&Links::open()?).await?.is_none());
        }
        if trial.stage == Stage::Changing && trial.is_over() {
            // It hangs, maybe at a terminal that takes nothing any more. Then the lock is ours.
            let _ = pidfd_send_signal(worker, Signal::KILL);
        }
        Ok(false)
    }

    /// The lock, with nothing left over of those who had it before.
    async fn begin(&self, links: &Links) -> Result<Lock> {
        let end = tokio::time::Instant::now() + LOCK_LIMIT;
        let lock = loop {
            if let Some(lock) = self.notes.lock()? {
                break lock;
            }
            if tokio::time::Instant::now() >= end {
                return Err(NetworkError::Trial {
                    why: "another change is being made right now; wait for its end".to_owned(),
                });
            }
            tokio::time::sleep(LOOK).await;
        };
        self.settle(links).await?;
        Ok(lock)
    }

    /// Ends what nobody works on any more; what is left waits for being confirmed.
    async fn settle(&self, links: &Links) -> Result<Option<Trial>> {
        let Some(trial) = self.notes.trial()? else {
            return Ok(None);
        };
        match trial.stage {
            Stage::Keeping => self.keep(links, trial).await?,
            // With the boot it went, too.
            _ if !trial.is_of_this_boot() => self.notes.remove_trial()?,
            Stage::Waiting if !trial.is_over() => return Ok(Some(trial)),
            Stage::Changing | Stage::Waiting => self.put_back(links, &trial).await?,
        }
        Ok(None)
    }

    async fn change(
        &self,
        links: &Links,
        lock: Lock,
        mut plan: Plan,
        wish: &Wish,
        mut guard: Command,
        tell: Tell<'_>,
    ) -> Result<Ended> {
        // Of the operator's own connections only those of which it is seen that they acknowledge.
        let mut probes = Vec::new();
        for probe in plan.probes {
            if !matches!(probe, Probe::Connection { .. })
                || probe.answers(links, &plan.from, true, tell).await?
            {
                probes.push(probe);
            }
        }
        plan.trial.until = note::after(CHANGE_LIMIT);
        self.notes.write_trial(&plan.trial)?;
        guard.arg(std::process::id().to_string());
        let watching = match start(&mut guard) {
            Ok(watching) => watching,
            Err(error) => {
                self.notes.remove_trial()?;
                return Err(error);
            }
        };
        let mut trial = plan.trial;
        let tested = match trial.moved.go(links, trial.way, tell).await {
            Ok(()) => test(links, &plan.to, &probes, tell).await,
            Err(error) => Err(error),
        };
        if let Err(error) = tested {
            tell("putting all back");
            self.put_back(links, &trial).await?;
            return match error {
                NetworkError::Trial { why } => Ok(Ended::PutBack(why)),
                error => Err(error),
            };
        }
        if wish.confirm.is_zero() {
            self.keep(links, trial).await?;
            return Ok(Ended::Kept);
        }
        trial.stage = Stage::Waiting;
        trial.until = note::after(wish.confirm);
        self.notes.write_trial(&trial)?;
        tell(&format!(
            "it works; confirm within {} s, best by a new connection: stratusd network confirm",
            wish.confirm.as_secs()
        ));
        drop(lock);
        self.wait(watching, guard, &trial).await
    }

    /// Until somebody has confirmed, or all is put back.
    async fn wait(&self, mut watching: Child, mut guard: Command, trial: &Trial) -> Result<Ended> {
        loop {
            if self.notes.trial()?.is_none() {
                let kept = self.notes.kept()?;
                let is_kept = kept.iter().any(|one| one.bridge == trial.moved.bridge);
                return Ok(match is_kept == (trial.way == Way::Join) {
                    true => Ended::Kept,
                    false => Ended::PutBack("nobody confirmed it in time".to_owned()),
                });
            }
            // Killed by somebody: there must be one.
            if watching.try_wait().is_ok_and(|ended| ended.is_some())
                && self.notes.trial()?.is_some()
            {
                watching = start(&mut guard)?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// As it was before, whatever was done of it.
    async fn put_back(&self, links: &Links, trial: &Trial) -> Result<()> {
        if port::find(links, &trial.moved.port).await?.is_none() {
            tracing::warn!(interface = %trial.moved.port, "it is gone, and with it what was to be put back");
            return self.notes.remove_trial();
        }
        let way = match trial.way {
            Way::Join => Way::Leave,
            Way::Leave => Way::Join,
        };
        trial.moved.go(links, way, &mut |_| {}).await?;
        if trial.made_bridge {
            trial.moved.remove_bridge(links).await?;
        }
        self.notes.remove_trial()
    }

    /// For good, whatever was done of that. What of the next boot's files can't be changed is told when all else is done.
    async fn keep(&self, links: &Links, mut trial: Trial) -> Result<()> {
        if trial.stage != Stage::Keeping {
            boot::check(&trial.files)?;
            trial.stage = Stage::Keeping;
            self.notes.write_trial(&trial)?;
        }
        let Moved { bridge, port, .. } = &trial.moved;
        let files = match trial.way {
            Way::Join => {
                self.notes.write_kept(&Kept {
                    bridge: bridge.clone(),
                    port: port.clone(),
                    files: trial.files.clone(),
                    until_boot: trial.files.is_empty().then(|| trial.boot.clone()),
                })?;
                boot::make(&trial.files)
            }
            Way::Leave => {
                let files = boot::undo(&trial.files);
                trial.moved.remove_bridge(links).await?;
                self.notes.remove_kept(bridge)?;
                files
            }
        };
        self.notes.remove_trial()?;
        files
    }
}

/// Starts the guard, and waits until it watches: it says so by a line.
fn start(guard: &mut Command) -> Result<Child> {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let wrong = |source| NetworkError::Program {
        program: guard_program(),
        source,
    };
    guard
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = guard.spawn().map_err(wrong)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(wrong)?;
    }
    if line.is_empty() {
        return Err(wrong(std::io::Error::other("it ended at once")));
    }
    Ok(child)
}

fn guard_program() -> PathBuf {
    "the guard of the change".into()
}

/// Whether all answer that did before, after some time for a switch to learn where we are now.
async fn test(links: &Links, to: &Device, probes: &[Probe], tell: Tell<'_>) -> Result<()> {
    let found = port::find(links, &to.name).await?;
    let device = found.map_or_else(|| to.clone(), |found| found.device);
    let end = tokio::time::Instant::now() + TEST_LIMIT;
    for probe in probes {
        tell(&format!("does {probe} answer?"));
        while !probe.answers(links, &device, false, tell).await? {
            if tokio::time::Instant::now() >= end {
                return Err(NetworkError::Trial {
                    why: format!("{probe} doesn't answer any more"),
                });
            }
        }
    }
    Ok(())
}
