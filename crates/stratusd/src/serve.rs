//! The wiring: what is opened in which order, who runs, and how all of it ends.
//!
//! ```text
//!  lock ─▶ database ─▶ documents ─▶ host, storage (announce themselves) ─▶ rules ─▶ administrator ─▶ controllers ─▶ API ─▶ ready
//!
//!  SIGTERM ─▶ API drains ─▶ controllers end ─▶ database closes        machines, taps, dnsmasq and rules stay
//! ```

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration, time::Instant};

use accounts::Accounts;
use anyhow::{Context as _, bail};
use cloud::{Cloud, Quotas};
use directory::LdapDirectory;
use documents::Documents;
use doors::{
    AuditLog, Doors, HostCalls, HostDoor, Meetings, People, Running, Server, Serving, tls,
};
use marketplace_service::Marketplace;
use scheduler::Scheduler;
use storage::{
    controller::StorageController,
    exports::{Exports, VolumeServer},
    registry::Registries,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vmhost::controller::VmHost;

use crate::{
    asking_hosts::Elsewhere,
    audit_log,
    config::Config,
    database, first_start,
    host_services::{LocalHost, Names, VolumesHere},
    instance::Instance,
    keeper::{self, Keeper, Pulse},
    market, networks, registries,
    roles::{Role, Roles},
    saved_images, settings,
    site_certificates::SiteCertificates,
    user_file::{self, UserFile},
};

/// How long controllers may take to end. What they leave undone, the next start does.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Runs the cloud until it is told to stop. `instance` is the hold on its state directory; `open_files` is how many there
/// may be at once.
///
/// # Errors
/// If a part can't be started, or ends by itself.
pub async fn serve(
    config: Config,
    instance: &Instance,
    open_files: u64,
    asked: &[Role],
    ready_fd: Option<i32>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let config = Arc::new(config);
    let roles = Roles::of(asked)?;
    let state = config.state_dir();
    // One implementation of cryptography for all that is served and fetched, whatever roles there are.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Asked for first, so that nobody is killed half-started.
    let mut signals = Signals::new()?;
    doors::metrics::install();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), state = %state.display(), "starting");

    // Before everything that may be told to trust it: a cloud may be its own Marketplace.
    let certificate = if roles.answer() && config.tls.enabled {
        let config = config.clone();
        Some(tokio::task::spawn_blocking(move || certificate(&config)).await??)
    } else {
        None
    };
    let store = database::open(&config).await?;
    let documents = Documents::open(store.clone())
        .await
        .context("reading the database")?;
    tracing::info!(machines = documents.machines.len(), revision = %documents.revision(), "database open");

    // Before the storage, which looks images up in it, as entries do; whoever of this cloud shows it.
    let looks_up = roles.has(Role::Storage) || roles.has(Role::Entry);
    let is_shown = roles.has(Role::Marketplace);
    let marketplace = if is_shown || looks_up {
        Some(market::open(&config, store.clone(), is_shown).await?)
    } else {
        None
    };
    let names = if looks_up {
        let registries = registries::open(&config, marketplace.as_ref());
        Some(Names {
            registries: registries.context("[[catalogue]]")?,
            redirects: settings::redirects(&config)?,
        })
    } else {
        None
    };
    let pulse = match roles.has(Role::Storage) {
        true => {
            let pulse = keeper::pulse(&documents, &config)?;
            pulse.until_free().await?;
            Some(pulse)
        }
        false => None,
    };
    let tenure = pulse.as_ref().and_then(Pulse::tenure);
    // Counts for the rules and for the storage alike.
    let quotas = Quotas::new(documents.clone(), settings::per_user(&config));
    // Who writes a volume: a machine here, or a host that uses it from afar.
    let exports = Exports::default();
    let calls = HostCalls::default();
    let meetings = Meetings::default();
    let elsewhere = Elsewhere {
        documents: documents.clone(),
        calls: calls.clone(),
        meetings: meetings.clone(),
        began: Instant::now(),
    };
    let host = LocalHost {
        shares_by_iscsi: config.storage.share == "iscsi",
        documents: documents.clone(),
        storage: match &names {
            Some(names) if roles.has(Role::Storage) => {
                // What it writes counts only as long as it has the part.
                let documents = match &tenure {
                    Some(tenure) => documents.written_by(tenure.over(store.clone())),
                    None => documents.clone(),
                };
                let shared = (&quotas, &exports, &elsewhere);
                Some(open_storage(&config, &documents, shared, &names.registries).await?)
            }
            _ => None,
        },
        machines: if roles.has(Role::VmHost) {
            Some(open_host(&config, &documents, &exports, &elsewhere).await?)
        } else {
            None
        },
        elsewhere,
        keeper: Keeper::of(documents.clone()),
        names,
        base_url: saved_images::base_url(&config),
    };
    let mut parts = Parts::new();
    if let Some(pulse) = &pulse {
        // The folder is this daemon's alone by now.
        pulse.take().await?;
        let pulse = pulse.clone();
        parts.hold("storage-pulse", async move {
            let error = pulse.hold().await;
            tracing::error!("{error:#}");
        });
    }
    let files = Arc::new(host.clone());
    let (services, intake) = (Arc::new(host.clone()), Arc::new(host.clone()));
    let passwords = settings::passwords(&config);
    let cloud = Cloud::open_counting(
        documents.clone(),
        settings::rules(&config, passwords.clone(), roles.has(Role::Registration))?,
        quotas,
        services,
        intake,
    )?;
    if roles.serve_users() {
        let seeded = cloud.seed().await;
        seeded.context("writing what the configuration says there is")?;
        first_start::ensure_administrator(&cloud, &state).await?;
    }
    if roles.has(Role::Entry) && !roles.has(Role::Storage) {
        // By which the daemon that keeps the images is asked.
        let context = first_start::context();
        cloud.ensure_authority(&context).await?;
    }

    for (of, key, path) in user_file::configured(&config.accounts) {
        if !roles.has(Role::Entry) {
            continue;
        }
        let mut file = UserFile::new(of, path.to_owned());
        let begun = file.begin(&cloud).await;
        begun.with_context(|| format!("taking over the users of `{key}`"))?;
        let cloud = cloud.clone();
        parts.start("users", |stop| async move {
            stop.run_until_cancelled(file.follow(cloud)).await;
        });
    }
    if roles.has(Role::Entry) {
        let (cloud, retention) = (cloud.clone(), settings::retention(&config));
        parts.start("rules", |stop| async move {
            Box::pin(stop.run_until_cancelled(cloud.run(retention))).await;
        });
    }
    if let Some(server) = settings::mail(&config)?.filter(|_| roles.serve_users()) {
        let postman = mail::Postman::new(store.clone(), &server).context("`[mail]`")?;
        let postman = postman.named(&settings::own_name(&state));
        parts.start("mail", |stop| postman.run(stop));
    }
    if roles.has(Role::Entry) {
        let settings =
            saved_images::settings(&config, &state, marketplace.as_ref()).context("`[saving]`")?;
        let announcer = saving::Announcer::new(documents.clone(), settings);
        parts.start("saved-images", |stop| announcer.run(stop));
    }
    if roles.has(Role::Scheduler) {
        let scheduler = Scheduler::new(
            documents.clone(),
            settings::placement(&config),
            &settings::own_name(&state),
        );
        parts.start("scheduler", |stop| scheduler.run(stop));
    }
    if let Some(storage) = host.storage {
        parts.start("storage", |stop| async move { storage.run(stop).await });
    }
    if let Some(machines) = host.machines {
        parts.start("vm-host", |stop| async move { machines.run(stop).await });
    }

    if let Some(running) = marketplace.clone() {
        // Also where images are only looked up in it: it follows what other daemons of this cloud take.
        parts.start("marketplace", |stop| running.run(stop));
    }
    let marketplace = marketplace.filter(|_| roles.has(Role::Marketplace));
    if let Some(marketplace) = &marketplace {
        for follower in market::followers(&config, marketplace)? {
            parts.start("marketplace follower", |stop| follower.run(stop));
        }
    }

    let door = if roles.answer() {
        let tls = certificate.clone().map(tls::Speech::new).transpose()?;
        let accounts = Accounts::new(
            Arc::new(cloud.clone()),
            passwords,
            settings::accounts(&config),
        );
        let accounts = Arc::new(accounts.with_directory(Arc::new(LdapDirectory::default())));
        let mut site =
            SiteCertificates::new(&config.certificates, Arc::clone(&accounts), tls.clone());
        site.look().await;
        parts.start("certificates", |stop| async move {
            stop.run_until_cancelled(site.follow()).await;
        });
        let keeping = audit_log::Keeping {
            days: config.retention.audit_days,
            most_bytes: config.retention.audit_mib.saturating_mul(1 << 20),
        };
        let (log, writer) = audit_log::open(&state.join("audit"), keeping)?;
        let log: Arc<dyn AuditLog> = Arc::new(log);
        // Stopped last: what the door still answers is written down, too.
        parts.start("audit", |stop| writer.run(stop));
        let serving = roles.serving();
        let targets = match roles.has(Role::Storage) {
            true => settings::targets(&config, &state).await?,
            false => None,
        };
        if let Some(targets) = targets.clone() {
            parts.start("iscsi", |stop| async move {
                stop.run_until_cancelled(targets.run()).await;
            });
        }
        let hosts = (roles.has(Role::Entry) || roles.has(Role::Storage)).then(|| {
            let targets = targets.clone();
            let volumes = roles.has(Role::Storage).then(|| VolumeServer {
                targets,
                documents: documents.clone(),
                exports,
                daemon: settings::storage_daemon(&state, "hosts that have joined get no volumes"),
                uid_base: settings::uid_base(&config),
                tenure,
            });
            let shown = Arc::new(VolumesHere(volumes.clone()));
            let files = Arc::clone(&files);
            let ways = (calls, meetings);
            let door = HostDoor::new(cloud.clone(), Arc::clone(&log), (shown, files), ways);
            let hosts = Arc::new(match volumes {
                Some(_) => door.keeping_images(),
                None => door,
            });
            let following = Arc::clone(&hosts);
            parts.start("hosts", |stop| async move {
                let volumes = async {
                    match volumes {
                        Some(volumes) => volumes.run().await,
                        None => std::future::pending().await,
                    }
                };
                let following = async { tokio::join!(following.follow(), volumes) };
                stop.run_until_cancelled(following).await;
            });
            hosts
        });
        Some(
            open_doors(
                &config,
                &cloud,
                accounts,
                (marketplace, serving),
                tls,
                open_files,
                (log, hosts),
            )
            .await?,
        )
    } else {
        None
    };
    let address = door
        .as_ref()
        .map_or_else(|| "no API".to_owned(), |door| url(&config, door));
    instance.ready(&address, ready_fd)?;
    tracing::info!("ready in {} ms: {address}", began.elapsed().as_millis());

    let failed = tokio::select! {
        name = parts.ended() => Some(name),
        name = signals.stop(|| renew_certificate(&config, certificate.as_ref())) => {
            tracing::info!("{name}: stopping; machines run on");
            None
        }
    };
    instance.stopping();
    if let Some(door) = door {
        door.end().await;
    }
    cloud.finish().await;
    parts.end().await;
    if let Some(pulse) = pulse {
        pulse.let_go().await;
    }
    store.close().await;
    tracing::info!("stopped");
    match failed {
        Some(name) => bail!("the part `{name}` ended by itself; see the log above"),
        None => Ok(()),
    }
}

/// The controller of this host, with its document written.
async fn open_host(
    config: &Arc<Config>,
    documents: &Documents,
    exports: &Exports,
    elsewhere: &Elsewhere,
) -> anyhow::Result<VmHost> {
    networks::check(config).await?;
    let settings = settings::vm_host(config).await?;
    let hypervisor = Arc::new(settings::hypervisor(config, &settings)?);
    VmHost::open(
        documents.clone(),
        settings,
        hypervisor,
        (
            Arc::new(vmhost::controller::OfStorage),
            Arc::new(exports.clone()),
            Arc::new(elsewhere.clone()),
        ),
        Arc::new(networks::Configured(config.clone())),
    )
    .await
    .context("starting the VM host controller")
}

async fn open_storage(
    config: &Config,
    documents: &Documents,
    (quotas, exports, elsewhere): (&Quotas, &Exports, &Elsewhere),
    registries: &Registries,
) -> anyhow::Result<StorageController> {
    let mut settings = settings::storage(config, registries.clone())?;
    settings.exports = exports.clone();
    settings.rooms = Arc::new(quotas.clone());
    settings.disks_elsewhere = Some(Arc::new(elsewhere.clone()));
    StorageController::open(documents.clone(), settings)
        .await
        .context("starting the storage controller")
}

/// The API, listening.
async fn open_doors(
    config: &Arc<Config>,
    cloud: &Cloud,
    accounts: Arc<Accounts>,
    (marketplace, serving): (Option<Marketplace>, Serving),
    tls: Option<Arc<tls::Speech>>,
    open_files: u64,
    (log, hosts): (Arc<dyn AuditLog>, Option<Arc<HostDoor>>),
) -> anyhow::Result<Running> {
    let people = People::new(cloud.clone(), Arc::clone(&accounts));
    let mut doors = Doors::new(Arc::new(cloud.clone()), accounts, settings::doors(config))
        .audited_by(log)
        .serving(serving);
    if serving != Serving::HostsAlone {
        doors = doors.with_people(people);
    }
    if let Some(marketplace) = marketplace {
        doors = doors.with_marketplace(marketplace);
    }
    if tls.is_none() {
        tracing::warn!(
            "TLS is off: passwords are sent in clear text, unless a proxy in front of this adds it"
        );
    }
    let mut server = Server::new(Arc::new(doors), settings::server(config, open_files), tls);
    if let Some(hosts) = hosts {
        server = server.with_hosts(hosts);
    }
    Ok(server.start(config.listen()).await?)
}

/// The operator's certificate, or our own.
fn certificate(config: &Config) -> anyhow::Result<Arc<tls::Certificate>> {
    Ok(Arc::new(tls::Certificate::read(&certificate_files(
        config,
    )?)?))
}

/// Reads the certificate anew: whoever connects from now on is shown it. One that can't be used changes nothing.
fn renew_certificate(config: &Config, certificate: Option<&Arc<tls::Certificate>>) {
    let Some(certificate) = certificate else {
        return;
    };
    let renew = || anyhow::Ok(certificate.renew(&certificate_files(config)?)?);
    match tokio::task::block_in_place(renew) {
        Ok(()) => tracing::info!("SIGHUP: the certificate was read anew"),
        Err(error) => tracing::error!("SIGHUP: the certificate stays as it is: {error:#}"),
    }
}

/// Where it is; ours is made if it isn't there, or too old.
fn certificate_files(config: &Config) -> anyhow::Result<tls::CertificateFiles> {
    let folder = config.state_dir().join("tls");
    let files = if config.tls.certificate.is_empty() {
        let mut names = tls::host_names();
        names.extend(config.tls.names.iter().cloned());
        let ip = config.listen().ip();
        if !ip.is_unspecified() {
            names.push(ip.to_string());
        }
        let files = tls::ensure_self_signed(&folder, &names)?;
        if let Some(authority) = &files.authority {
            publish(authority, &folder.join("ca.pem"))?;
        }
        files
    } else {
        tls::CertificateFiles {
            certificate: config.tls.certificate.clone().into(),
            key: config.tls.key.clone().into(),
            authority: None,
        }
    };
    Ok(files)
}

/// What clients are to trust, by the name that is documented.
fn publish(authority: &Path, to: &Path) -> anyhow::Result<()> {
    let certificate = std::fs::read(authority).with_context(|| authority.display().to_string())?;
    if std::fs::read(to).is_ok_and(|there| there == certificate) {
        return Ok(());
    }
    crate::instance::write_atomically(to, &certificate, 0o644)
}

/// Where clients on this host reach the API.
fn url(config: &Config, door: &Running) -> String {
    let scheme = if config.tls.enabled { "https" } else { "http" };
    let host = match door.address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    format!("{scheme}://{host}:{}", door.address.port())
}

/// The tasks of the parts that run, each with its name. Dropping this ends them at once.
struct Parts {
    tasks: JoinSet<&'static str>,
    /// What goes on until all others have ended.
    held: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Parts {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            held: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    fn start<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = part(self.stop.clone());
        self.tasks.spawn(async move {
            work.await;
            name
        });
    }

    /// One that others depend on until they have ended, and that is ended then.
    fn hold(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.held.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits for a part that ends though nobody told it to, and returns its name.
    async fn ended(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => ended,
            Some(ended) = self.held.join_next() => ended,
            else => std::future::pending().await,
        };
        ended.map_or_else(|error| error.to_string(), str::to_owned)
    }

    async fn end(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(END_LIMIT, ended).await.is_err() {
            tracing::warn!(
                "some work didn't end within {} s; the next start takes it up",
                END_LIMIT.as_secs()
            );
        }
    }
}

/// The signals that mean something.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Asks for them.
    ///
    /// # Errors
    /// If they can't be had.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the one to stop, and returns its name; calls `on_hangup` for each SIGHUP on the way.
    pub(crate) async fn stop(&mut self, on_hangup: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hangup.recv() => {
                    on_hangup();
                    tracing::info!("SIGHUP: a changed configuration counts from the next start on; machines run through it");
                }
            }
        }
    }
}
