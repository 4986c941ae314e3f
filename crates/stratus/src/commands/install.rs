//! `stratus install`: this computer becomes a cloud, or others become hosts of it, over SSH.
//!
//! ```text
//!  looked at ─▶ packages ─▶ configuration ─▶ joined (hosts) ─▶ started ─▶ verified
//! ```
//!
//! Each step looks first and does what is missing, so that all of it can be repeated after whatever failed.

mod computer;
mod package;
mod place;
mod site;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use serde_json::json;

use self::computer::Computer;
use self::package::Packages;
use self::place::Place;
use self::site::Site;
use crate::cloud::{Api, ApiError, Endpoint, HostView, Told, text_of};
use crate::failure::{Failure, Result};
use crate::logged_run::Log;
use crate::options::{Cloud, Common};
use crate::output::{Output, printable};
use crate::progress::Waiting;
use crate::session::Session;

/// Make this computer a cloud, or make other computers hosts of it, over SSH
///
/// Without -n this computer becomes a cloud of its own: packages, configuration, daemon, and whether it answers. With -n each
/// HOST becomes a host of the cloud, eight at a time: it is looked at, packages are copied and installed, it joins by a token for it alone, is started,
/// and is done when the cloud has heard of it. What is there already is left as it is, so that the same command can be given again.
///
/// Other computers are reached by ssh, with a key, and must be known to it already: as root, or as a user who becomes root by sudo
/// without a password. Debian 12 or newer is needed there. To make the token you have to be an administrator; on the cloud's own
/// computer, root needs no login for that.
///
/// Everything that is done goes into a log. JSON: a list of {"host", "version", "state"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus install --packages ./debian
  stratus install --packages ./debian -n node7.example.org -n node8.example.org
  stratus install -n node7 --entry https://cloud.example.org:8443")]
pub struct Arguments {
    /// Computers that become hosts of the cloud, each [USER@]HOST [default: this computer becomes a cloud]
    #[arg(short, long = "node", value_name = "HOST", value_delimiter = ',')]
    nodes: Vec<String>,
    /// Folder with the packages of Stratus, as 'make deb' leaves them [default: the computer's own sources of packages]
    #[arg(long, value_name = "DIR")]
    packages: Option<PathBuf>,
    /// Configuration of the daemon there: what becomes /etc/stratus/stratusd.toml [default: that stays as it is]
    #[arg(long, value_name = "FILE")]
    daemon_config: Option<PathBuf>,
    /// What the host is to be called in the cloud [default: what it calls itself]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where hosts reach the cloud, https://HOST:PORT; several, if it has several entries [default: --endpoint; key: frontend_ip]
    #[arg(long = "entry", value_name = "URL", value_delimiter = ',')]
    entries: Vec<String>,
    /// Private key for ssh [default: ssh's own; key: node_private_key]
    #[arg(short = 'k', long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Port of SSH [default: ssh's own; key: node_ssh_port]
    #[arg(long, value_name = "PORT")]
    ssh_port: Option<u16>,
    /// StratusLab's file of the whole cloud; keys that mean nothing here are told [default: /etc/stratuslab/stratuslab.cfg, if it is there]
    #[arg(long, value_name = "FILE")]
    site_config: Option<PathBuf>,
    /// Where all that is done is written, behind what is there [default: stratus-install.log]
    #[arg(long, value_name = "FILE", default_value = "stratus-install.log", hide_default_value = true)]
    log: PathBuf,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Where the daemon's configuration is.
const CONFIGURATION: &str = "/etc/stratus/stratusd.toml";
/// The first line of one that was written by this command: it may write it again.
const MARK: &str = "# Written by stratus install, which replaces it: without this line it is left alone.";
/// How long a host may take until the cloud has heard of it.
const HEARD_LIMIT: Duration = Duration::from_secs(90);
/// So many computers are worked on at a time.
const AT_ONCE: usize = 8;
/// How often it is looked where the cloud doesn't tell.
const PAUSE: Duration = Duration::from_secs(1);

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        if self.name.is_some() && self.nodes.len() != 1 {
            return Err(Failure::Usage("--name is for one host: give one -n with it".to_owned()));
        }
        if let Some(twice) = self.nodes.iter().enumerate().find_map(|(index, node)| self.nodes.get(..index)?.contains(node).then_some(node)) {
            return Err(Failure::Usage(format!("-n: {twice} is given twice")));
        }
        let site = Site::read(self.site_config.as_deref())?;
        for told in site.iter().flat_map(Site::what_is_not_used) {
            session.out.warning(told);
        }
        let work = Work {
            packages: self.packages.as_deref().map(Packages::in_folder).transpose()?,
            daemon_config: self.daemon_configuration(site.as_ref())?,
            log: Log::append(&self.log)?,
            out: session.out,
            is_for_several: self.nodes.len() > 1,
        };
        session.out.info(format_args!("\tLog file: {}", self.log.display()));
        crate::unfinished::say("Nothing has to be undone: the same command goes on where this one was.");
        if self.nodes.is_empty() {
            let state = work.cloud_here(&session).await?;
            return if session.out.is_json() { session.out.json(&[state]) } else { Ok(()) };
        }
        let places = self.nodes.iter().map(|node| self.place(node, site.as_ref())).collect::<Result<Vec<_>>>()?;
        let api = self.administrator(&session)?;
        let entries = self.entries(&api, site.as_ref())?;
        match places.as_slice() {
            [place] => work.out.banner(&format!("Installing {place}")),
            places => work.out.banner(&format!("Installing {} hosts", places.len())),
        }
        let (work, api, name, entries) = (&work, &api, self.name.as_deref(), &entries);
        let works = places.into_iter().map(|place| async move { (work.host(api, &place, name, entries).await, place) });
        let mut done = Vec::new();
        let mut failed = Vec::new();
        // One that fails, or takes its time, is no reason to leave the others.
        for (ended, place) in stream::iter(works).buffered(AT_ONCE).collect::<Vec<_>>().await {
            match ended {
                Ok(state) => done.push(state),
                Err(failure) => failed.push((place, failure)),
            }
        }
        if session.out.is_json() {
            session.out.json(&done)?;
        }
        let again = format!("Nothing has to be undone: mend that and give the same command again. All that was done is in {}", self.log.display());
        match failed.len() {
            0 => Ok(()),
            1 => failed.pop().map_or(Ok(()), |(place, failure)| Err(of_place(&place, failure).with_hint(again))),
            count => {
                for (place, failure) in failed {
                    let failure = of_place(&place, failure);
                    match &failure {
                        Failure::Hinted { failure, hint } => session.out.error(printable(&format!("Error: {failure}\n{hint}"))),
                        failure => session.out.error(printable(&format!("Error: {failure}"))),
                    }
                }
                Err(Failure::Work(format!("{count} hosts are not installed")).with_hint(again))
            }
        }
    }

    /// What becomes the daemon's configuration, if anything does.
    fn daemon_configuration(&self, site: Option<&Site>) -> Result<Option<String>> {
        let text = match &self.daemon_config {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?),
            // What is said of the whole cloud is for its front end.
            None if self.nodes.is_empty() => site.map(Site::daemon_configuration).transpose()?.flatten(),
            None => None,
        };
        Ok(text.map(|text| format!("{MARK}\n{text}")))
    }

    fn place(&self, node: &str, site: Option<&Site>) -> Result<Place> {
        let key = self.private_key.clone().or_else(|| site?.private_key());
        if let Some(key) = key.as_ref().filter(|key| !key.exists()) {
            return Err(Failure::Usage(format!("Private key `{}` does not exist", key.display())));
        }
        let port = match self.ssh_port {
            Some(port) => Some(port),
            None => site.map(Site::ssh_port).transpose()?.flatten(),
        };
        Place::by_ssh(node, key, port)
    }

    /// The cloud, as an administrator: as options and settings say, or, on its own computer, as its first one.
    fn administrator(&self, session: &Session) -> Result<Api> {
        let mut cloud = self.cloud.clone();
        let is_told = session.settings.text(cloud.endpoint.as_deref(), "endpoint").is_some() || cloud.username.is_some();
        let state = Path::new(computer::USUAL_STATE);
        let read = |name: &str| std::fs::read_to_string(state.join(name)).ok().map(|text| text.trim().to_owned());
        if !is_told && let (Some(address), Some(password)) = (read("ready"), read("secrets/admin-password")) {
            cloud.endpoint = Some(address);
            cloud.username = Some("admin".to_owned());
            cloud.password = Some(password);
            cloud.ca_file = cloud.ca_file.or_else(|| Some(state.join("tls/ca.pem")));
        }
        session.api_in_person(&cloud)
    }

    fn entries(&self, api: &Api, site: Option<&Site>) -> Result<Vec<String>> {
        if !self.entries.is_empty() {
            return self.entries.iter().map(|text| Ok(Endpoint::parse(text)?.root_url())).collect();
        }
        let of_file = || {
            let url = api.endpoint().root_url();
            let (scheme, port) = (url.split("://").next()?, url.rsplit(':').next()?);
            Some(format!("{scheme}://{}:{port}", site?.frontend()?))
        };
        let reached = Some(api.endpoint()).filter(|endpoint| !endpoint.is_loopback()).map(Endpoint::root_url);
        let entry = reached.or_else(of_file).ok_or_else(|| {
            Failure::Usage("hosts can't reach the cloud at an address of this computer alone: give --entry https://HOST:PORT".to_owned())
        })?;
        Ok(vec![entry])
    }
}

/// A failure with where it was.
fn of_place(place: &Place, failure: Failure) -> Failure {
    match failure {
        Failure::Hinted { failure, hint } => of_place(place, *failure).with_hint(hint),
        Failure::Work(text) | Failure::Check(text) | Failure::Value(text) => Failure::Work(format!("{place}: {text}")),
        other => other,
    }
}

/// What all of it is done with.
struct Work {
    packages: Option<Packages>,
    daemon_config: Option<String>,
    log: Log,
    out: Output,
    /// Then no line shows how it goes with one of them.
    is_for_several: bool,
}

/// Whether the daemon has to be started anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    IfItDoesNotRun,
    Anew,
}

impl Work {
    /// Shows a step while it is taken, and with its time and what came of it when it is done.
    async fn step<T>(&self, place: &Place, what: &str, work: impl Future<Output = Result<(T, String)>>) -> Result<T> {
        let began = Instant::now();
        let log = self.log.of_place(place);
        log.step(what);
        let waiting = if self.is_for_several { Waiting::silently() } else { Waiting::start(&self.out, format!("{place}: {what}")) };
        let ended = work.await;
        drop(waiting);
        let (value, told) = ended.inspect_err(|failure| log.step(&format!("{what}: {failure}")))?;
        let seconds = began.elapsed().as_secs_f64();
        log.step(&format!("{what}: {told} ({seconds:.1} s)"));
        self.out.step(format_args!("{place}: {what}: {} ({seconds:.1} s)", printable(&told)));
        Ok(value)
    }

    async fn script(&self, place: &Place, what: &str, script: &str, input: &[u8]) -> Result<String> {
        place.script(&self.log.of_place(place), &self.out, what, script, input).await
    }

    /// This computer becomes a cloud.
    async fn cloud_here(&self, session: &Session) -> Result<serde_json::Value> {
        let place = Place::Here;
        self.out.banner("Installing the front end");
        let found = self.look(&place, &[]).await?;
        if let Some(joined) = &found.joined {
            return Err(Failure::Work(format!("this computer is a host of another cloud ({}): a cloud of its own needs another", joined.host)));
        }
        self.install(&place, &found, &["stratusd", "stratus"]).await?;
        let start = self.configure(&place).await?;
        self.start(&place, start).await?;
        let found = self.look_again(&place).await?;
        let (address, authority) = (found.ready.clone(), found.state.join("tls/ca.pem"));
        let state = self
            .step(&place, "verified", async {
                let address = address.ok_or_else(|| Failure::Work(format!("the daemon does not say in {} that it is ready", found.state.display())))?;
                let ca_file = authority.exists().then(|| authority.clone());
                let cloud = Cloud { ca_file, ..Cloud::default() };
                let api = session.connect(Endpoint::parse(&address)?, None, &cloud)?;
                let health = api.get("/health").await?;
                let status = health.get("status").map(text_of).unwrap_or_default();
                Ok((status.clone(), format!("{address} answers ({status})")))
            })
            .await?;
        let secret = found.state.join("secrets/admin-password");
        self.out.info(format_args!("\tAdministrator: admin, whose first password is in {}", secret.display()));
        self.out.info(format_args!("\tCertificate for clients: {}", authority.display()));
        Ok(json!({ "host": found.name, "version": found.version, "state": state }))
    }

    /// Another computer becomes a host of the cloud.
    async fn host(&self, api: &Api, place: &Place, name: Option<&str>, entries: &[String]) -> Result<serde_json::Value> {
        let found = self.look(place, entries).await?;
        if found.has_cloud {
            return Err(Failure::Work(format!("it is a cloud of its own: its documents are in {}", found.state.join("db").display()))
                .with_hint("A computer is one or the other. If nobody needs that cloud: stratusd teardown there, and move the folder away."));
        }
        self.install(place, &found, &["stratusd"]).await?;
        let start = self.configure(place).await?;
        let host = self.join(api, place, name.unwrap_or(&found.name), entries).await?;
        self.start(place, start).await?;
        let host = self.step(place, "verified", heard_of(api, &host)).await?;
        let found = self.look_again(place).await?;
        Ok(json!({ "host": host.name, "version": found.version, "state": host.state }))
    }

    async fn look(&self, place: &Place, entries: &[String]) -> Result<Computer> {
        let computer = self
            .step(place, "looked at", async {
                let computer = self.read(place, entries).await?;
                let told = computer.to_string();
                Ok((computer, told))
            })
            .await?;
        let package = self.packages.as_ref().map(Packages::architecture);
        let here = jiff::Timestamp::now().as_second();
        for doubt in computer.doubts(here) {
            self.out.warning(format_args!("{place}: {doubt}"));
        }
        match computer.obstacles(package, here, self.daemon_config.is_some()).as_slice() {
            [] => Ok(computer),
            obstacles => Err(Failure::Work(obstacles.join("; "))),
        }
    }

    async fn look_again(&self, place: &Place) -> Result<Computer> {
        self.read(place, &[]).await
    }

    async fn read(&self, place: &Place, entries: &[String]) -> Result<Computer> {
        Computer::read(&self.script(place, "looking at it", &computer::look(entries), &[]).await?)
    }

    async fn install(&self, place: &Place, found: &Computer, names: &[&str]) -> Result {
        let Some(packages) = &self.packages else {
            return self
                .step(place, "packages", async {
                    let told = match &found.version {
                        Some(version) => format!("stratusd {version} is there"),
                        None => {
                            self.script(place, "installing stratusd", package::FROM_SOURCES, &[]).await.map_err(|failure| {
                                failure.with_hint("If its sources of packages do not have Stratus, give the folder of 'make deb': --packages DIR")
                            })?;
                            "installed from its sources".to_owned()
                        }
                    };
                    Ok(((), told))
                })
                .await;
        };
        for name in names {
            let Some(file) = packages.of(name) else {
                if *name == "stratusd" {
                    return Err(Failure::Work(format!("there is no package stratusd_VERSION_ARCHITECTURE.deb in {}", packages.folder().display())));
                }
                continue;
            };
            let installed = if *name == "stratusd" { &found.version } else { &found.client };
            self.step(place, &format!("package {name}"), async {
                if installed.as_deref() == Some(&file.version) {
                    return Ok(((), format!("{} is there", file.version)));
                }
                let content = std::fs::read(&file.path).map_err(|error| Failure::file(&file.path, &error))?;
                self.script(place, &format!("installing {name}"), &file.script(&content), &content).await?;
                Ok(((), format!("{} installed", file.version)))
            })
            .await?;
        }
        Ok(())
    }

    async fn configure(&self, place: &Place) -> Result<Start> {
        let Some(text) = &self.daemon_config else {
            return Ok(Start::IfItDoesNotRun);
        };
        self.step(place, "configuration", async {
            let answer = self.script(place, "writing the configuration", &computer::configure(CONFIGURATION, MARK), text.as_bytes()).await?;
            match answer.lines().last() {
                Some("written") => Ok((Start::Anew, format!("{CONFIGURATION} written"))),
                Some("same") => Ok((Start::IfItDoesNotRun, format!("{CONFIGURATION} is so"))),
                _ => Err(Failure::Work(format!("{CONFIGURATION} is there and was not written by this command: it is left as it is"))
                    .with_hint(format!("Take into it what you need; or move it away for it to be written; or begin it with this line:\n{MARK}"))),
            }
        })
        .await
    }

    /// Gives the host's id.
    async fn join(&self, api: &Api, place: &Place, name: &str, entries: &[String]) -> Result<String> {
        self.step(place, "joined", async {
            let found = self.look_again(place).await?;
            if let Some(joined) = found.joined {
                return match host(api, &joined.host).await? {
                    Some(_) => Ok((joined.host, format!("as {} already", joined.name))),
                    None => Err(Failure::Work(format!("it has joined as {} ({}), which the cloud does not know (any more)", joined.name, joined.host))
                        .with_hint(format!("It is a host of another cloud, or was removed from this one. To let it join anew, remove {} there.", found.state.join("host").display()))),
                };
            }
            let token = api.post("/stratus/host-tokens", &json!({ "name": name, "hours": 1 })).await?.body;
            let token = token.get("token").map(text_of).unwrap_or_default();
            self.script(place, "stratusd join", &computer::join(entries), token.as_bytes()).await?;
            let joined = self.look_again(place).await?.joined;
            let joined = joined.ok_or_else(|| Failure::Work("it says that it has joined, and keeps nothing of that".to_owned()))?;
            Ok((joined.host, format!("as {}", joined.name)))
        })
        .await
    }

    async fn start(&self, place: &Place, start: Start) -> Result {
        self.step(place, "started", async {
            let answer = self.script(place, "starting stratusd", &computer::start(start == Start::Anew), &[]).await.map_err(|failure| {
                failure.with_hint("What the daemon says is there in: journalctl -u stratusd, or without systemd /var/log/stratus/stratusd.log")
            })?;
            let told = if answer.lines().last() == Some("ran") { "runs already" } else { "with the computer from now on" };
            Ok(((), told.to_owned()))
        })
        .await
    }
}

/// The host of that id, if there is one.
async fn host(api: &Api, id: &str) -> Result<Option<HostView>> {
    match api.view(id).await {
        Ok(host) => Ok(Some(host)),
        Err(ApiError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the cloud has heard of a host that has joined.
async fn heard_of(api: &Api, id: &str) -> Result<(HostView, String)> {
    let deadline = tokio::time::Instant::now() + HEARD_LIMIT;
    // Followed before it is looked at, so that nothing is missed in between.
    let mut events = api.follow(&format!("Host?$filter=id='{id}'")).await?;
    loop {
        let host = host(api, id).await?.ok_or_else(|| Failure::Work(format!("{id} was removed from the cloud meanwhile")))?;
        let seen = match host.state.as_deref() {
            Some(state @ ("JOINED" | "LOST")) => state,
            None => "nothing yet",
            Some(state) => {
                let troubles = host.other.get("troubles").map(text_of).filter(|troubles| !troubles.is_empty());
                let name = host.name.clone().unwrap_or_default();
                let of = |name: &str| host.other.get(name).map(text_of).unwrap_or_default();
                let by = format!("machines run by {} ({})", of("accelerator"), of("acceleratorReason"));
                let told = format!("the cloud has heard of {name}: {state}{}; {by}", troubles.map(|troubles| format!(", {troubles}")).unwrap_or_default());
                return Ok((host, told));
            }
        };
        let changed = async {
            match &mut events {
                Some(followed) => match followed.next().await {
                    Some(Told { .. }) => {}
                    None => events = None,
                },
                None => tokio::time::sleep(PAUSE).await,
            }
        };
        if tokio::time::timeout_at(deadline, changed).await.is_err() {
            return Err(Failure::Work(format!("the cloud has not heard of it within {} s: it is {seen}", HEARD_LIMIT.as_secs()))
                .with_hint("What its daemon says is there in: journalctl -u stratusd, or without systemd /var/log/stratus/stratusd.log"));
        }
    }
}
