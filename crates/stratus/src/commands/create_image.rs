//! `stratus create-image`: a new image from a base image, packages and scripts.

mod guest;
mod packages;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;

use self::guest::Guest;
use self::packages::{DETECT, Installer};
use crate::cloud::{Api, ApiError, Body, ImageView, JobEnd, MachineView, Reference, wait_for_job};
use crate::commands::image_name::startable;
use crate::commands::run_instance::{Building, Saving, WaitFor, check_author_email, check_version, wait_for_all};
use crate::config::home;
use crate::failure::{Failure, Result};
use crate::logged_run::{Log, quoted};
use crate::options::{Cloud, Common};
use crate::progress::Waiting;
use crate::public_keys::private_key_file;
use crate::session::Session;
use crate::unfinished;

/// Create an image from a base image, packages and scripts
///
/// Starts a machine from the base image, installs packages with the machine's own package manager, runs the scripts in their order,
/// removes what must not be in an image (your keys, the machine's host keys and identity, histories, logs), shuts the machine down
/// and saves its disk as a new image, which only you can start until you publish it. The author is told by e-mail, with a description
/// to be signed, if the cloud sends mail.
///
/// Everything the machine says goes into a log file. If a step fails the machine is removed and nothing is saved; with
/// --keep-on-failure it goes on running, and you are told how to log in.
///
/// JSON: {"image", "identifier", "machine", "log"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus create-image --title 'Debian with R' --comment 'R 4.5' --author 'Ann Example' --author-email ann@example.org \\
    --packages r-base,git --scripts setup.sh,'test.sh --quick' BASE
  stratus create-image --keep-on-failure --log build.log … BASE")]
pub struct Arguments {
    /// Identifier or name of the base image
    #[arg(value_name = "base-image-id")]
    image: Option<String>,
    #[command(flatten)]
    build: Building,
    /// Title of the new image
    #[arg(long, help_heading = "The new image")]
    title: Option<String>,
    /// Description of the new image
    #[arg(long, help_heading = "The new image")]
    comment: Option<String>,
    /// Its author
    #[arg(long, help_heading = "The new image")]
    author: Option<String>,
    /// Mail address of the author, who is told when the image is there
    #[arg(long, value_name = "ADDRESS", help_heading = "The new image")]
    author_email: Option<String>,
    /// Its version [default: that of the base image, its second number raised by one]
    #[arg(long, value_name = "VERSION", help_heading = "The new image")]
    image_version: Option<String>,
    /// Marketplace that takes the temporary entry, one that the cloud knows [key: marketplace_endpoint_newimage]
    #[arg(long, value_name = "URL", help_heading = "The new image")]
    marketplace_endpoint_newimage: Option<String>,
    /// Scripts to run as root, in this order; each may have arguments behind it
    #[arg(short, long, value_name = "FILE,FILE", value_delimiter = ',', help_heading = "What is done")]
    scripts: Vec<String>,
    /// Packages to install
    #[arg(short = 'a', long, value_name = "NAME,NAME", value_delimiter = ',', help_heading = "What is done")]
    packages: Vec<String>,
    /// Operating system of the base image, which says what installs packages [default: found out]
    #[arg(long, value_name = "NAME", help_heading = "What is done")]
    os: Option<String>,
    /// What installs packages [default: found out in the machine]
    #[arg(long, value_name = "PROGRAM", value_enum, help_heading = "What is done")]
    installer: Option<Installer>,
    /// Repositories of packages to add: a line of sources.list for apt, an address for the others
    #[arg(long, value_name = "REPOSITORY,REPOSITORY", value_delimiter = ',', help_heading = "What is done")]
    extra_os_repos: Vec<String>,
    /// More files to remove before the machine is saved; always removed are keys, host keys, machine-id, histories, logs, leases,
    /// /tmp/* and /var/tmp/*
    #[arg(long, value_name = "FILE,FILE", value_delimiter = ',', help_heading = "What is done")]
    exclude: Vec<String>,
    /// Leave the machine running, as it is after the scripts; shutdown-instance saves it
    #[arg(long, help_heading = "How it goes")]
    no_shutdown: bool,
    /// Accepted with --no-shutdown
    #[arg(long, help_heading = "How it goes")]
    no_upload: bool,
    /// Leave the machine running when a step fails, for a look into it
    #[arg(long, help_heading = "How it goes")]
    keep_on_failure: bool,
    /// File for everything that is said in the machine [default: stratus-create-image-ID.log]
    #[arg(long, value_name = "FILE", help_heading = "How it goes")]
    log: Option<PathBuf>,
    /// Seconds until the machine must run [default: 600]
    #[arg(long, value_name = "SECONDS", default_value_t = 600, hide_default_value = true, help_heading = "How it goes")]
    vm_start_timeout: u64,
    /// Seconds until it must answer [default: 300]
    #[arg(long, value_name = "SECONDS", default_value_t = 300, hide_default_value = true, help_heading = "How it goes")]
    vm_ping_timeout: u64,
    /// Seconds to wait until the image is saved [default: 3600]
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, hide_default_value = true, help_heading = "How it goes")]
    save_timeout: u64,
    /// Accepted for old scripts, without effect
    #[arg(short = 'n', long, value_name = "NAME", hide = true)]
    name: Option<String>,
    /// Accepted for old scripts, without effect
    #[arg(long, value_name = "VERSION", hide = true)]
    name_version: Option<String>,
    /// Accepted for old scripts, without effect
    #[arg(long, value_name = "GROUP", hide = true)]
    image_group: Option<String>,
    #[command(flatten)]
    marketplace: MarketplaceEndpoint,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// The Marketplace without its certificates, which are the cloud's here.
#[derive(Debug, clap::Args)]
struct MarketplaceEndpoint {
    /// Image registry [env: STRATUSLAB_MARKETPLACE_ENDPOINT; key: marketplace_endpoint]
    #[arg(long, value_name = "URL", hide = true)]
    marketplace_endpoint: Option<String>,
}

/// What removes traces of the builder from the machine.
const CLEAN: &str = include_str!("create_image/clean.sh");
/// Waits for what the machine does by itself after SSH answers: it installs packages and writes files, too. That it went wrong is in
/// the log.
const SETTLED: &str = "if command -v cloud-init; then timeout 1200 cloud-init status --wait --long; fi; exit 0";
/// How long logging in is tried once SSH answers.
const LOGIN_LIMIT: Duration = Duration::from_secs(240);

/// A script and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Script {
    file: PathBuf,
    arguments: Vec<String>,
}

impl Script {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let file = PathBuf::from(words.next()?);
        Some(Self { file, arguments: words.map(str::to_owned).collect() })
    }

    fn name(&self) -> String {
        self.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// What matters of a base image.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Base {
    state: String,
    properties: std::collections::BTreeMap<String, String>,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        if self.build.lists_types() {
            return self.build.clone().list_types(&session, &self.cloud);
        }
        let Some(image) = self.image.as_deref() else {
            return Err(Failure::Usage("Please specify the base image".to_owned()));
        };
        let scripts = self.check()?;
        let out = &session.out;
        let key = match self.build.key() {
            Some(public) => public.with_extension(""),
            None => private_key_file(&session.settings, None),
        };
        if !key.exists() {
            return Err(Failure::Usage(format!("Private key `{}` does not exist", key.display())));
        }
        let api = session.api(&self.cloud)?;
        out.banner("Starting image creation");
        out.step("Checking that base image exists");
        let path = startable(&session, &api, image).await?;
        out.step("Retrieving image manifest");
        let base: Base = api.view(&path).await?;
        if base.state != "AVAILABLE" {
            return Err(Failure::Work(format!("the base image {image} is {}, not AVAILABLE", base.state)));
        }
        // Before minutes are spent on it.
        if self.installs()
            && self.installer.is_none()
            && let Some(os) = self.os.as_ref().or_else(|| base.properties.get("os"))
            && Installer::is_without(os)
        {
            return Err(Failure::Check(format!(
                "the system of the base image {image}, {os}, has no package manager: --packages and --extra-os-repos are not possible; \
                 bring what is needed by --scripts, or take another base"
            )));
        }
        out.step("Starting base image");
        let machine = match self.build.clone().start(&session, &api, &path, self.saving()).await {
            Ok(machine) => machine,
            Err(failure) => return Err(not_started(failure).await),
        };
        let id = machine.shown_id();
        // Should a step fail or this program be interrupted, the machine goes, or stays for a look if that is wanted.
        if self.keep_on_failure {
            unfinished::goes_on_as(&format!("machine {id} (stratus connect-instance {id} looks into it, stratus kill-instance {id} removes it)"));
        }
        let log = match Log::create(&self.log.clone().unwrap_or_else(|| PathBuf::from(format!("stratus-create-image-{id}.log")))) {
            Ok(log) => log,
            Err(failure) => {
                unfinished::remove().await;
                return Err(failure);
            }
        };
        out.info(format_args!("\tLog file: {}", log.path().display()));
        match self.build_in(&session, &api, &machine, &base, &scripts, key, log.clone()).await {
            Ok(guest) if self.no_shutdown => {
                unfinished::keep();
                out.step("Machine ready for use");
                out.info(format_args!("\tMachine IP: {}\tRemember to stop the machine when finished", guest.place.host));
                out.info(format_args!("\tLog in with: {}", guest.login()));
                out.info(format_args!("\tWhen it is as it shall be: stratus shutdown-instance {} makes the image", machine.shown_id()));
                self.told(&session, &machine, None, &log)
            }
            Ok(_) => self.save(&session, &api, &machine, &log).await,
            Err(failure) => Err(self.failed(&machine, failure, &log).await),
        }
    }

    /// What can be seen to be wrong before anything is sent.
    fn check(&self) -> Result<Vec<Script>> {
        let wanted = [
            (&self.title, "--title"),
            (&self.comment, "--comment"),
            (&self.author, "--author"),
            (&self.author_email, "--author-email"),
        ];
        let is_missing = |value: &Option<String>| value.as_ref().is_none_or(|text| text.trim().is_empty());
        let missing: Vec<&str> = wanted.into_iter().filter_map(|(value, option)| is_missing(value).then_some(option)).collect();
        if !missing.is_empty() {
            return Err(Failure::Usage(format!("Image creation needs {}", missing.join(", "))));
        }
        check_author_email(self.author_email.as_deref())?;
        check_version(self.image_version.as_deref().unwrap_or_default())?;
        if self.no_upload && !self.no_shutdown {
            return Err(Failure::Usage("--no-upload needs --no-shutdown".to_owned()));
        }
        let scripts: Vec<Script> = self.scripts.iter().filter_map(|text| Script::parse(text)).collect();
        if let Some(folder) = self.log.as_ref().filter(|log| log.is_dir()) {
            return Err(Failure::Usage(format!("'{}' is a folder; give the name of a file in it", folder.display())));
        }
        for script in &scripts {
            if !script.file.is_file() {
                return Err(Failure::Usage(format!("Script does not exist or is not a file: {}", script.file.display())));
            }
        }
        if let Some(os) = &self.os
            && self.installer.is_none()
            && !self.packages.is_empty()
            && Installer::of_system(os).is_none()
        {
            return Err(Failure::Usage(format!("It is not known what installs packages on '{os}'; name it with --installer")));
        }
        Ok(scripts)
    }

    fn saving(&self) -> Saving {
        Saving {
            save: true,
            author: self.author.clone(),
            author_email: self.author_email.clone(),
            image_version: self.image_version.clone(),
            title: self.title.clone(),
            comment: self.comment.clone(),
            marketplace_endpoint_newimage: self.marketplace_endpoint_newimage.clone(),
        }
    }

    /// Everything between the start and the shutdown.
    #[expect(clippy::too_many_arguments, reason = "what a build works with, used once")]
    async fn build_in(
        &self,
        session: &Session,
        api: &Api,
        machine: &MachineView,
        base: &Base,
        scripts: &[Script],
        key: PathBuf,
        log: Log,
    ) -> Result<Guest> {
        let out = &session.out;
        out.step("Waiting for machine to boot");
        let limit = Duration::from_secs(self.vm_start_timeout);
        let started = wait_for_all(session, api, vec![machine.clone()], WaitFor::Running, limit).await?;
        out.step("Waiting for machine network to start");
        let limit = Duration::from_secs(self.vm_ping_timeout);
        let mut answering = wait_for_all(session, api, started, WaitFor::Ssh, limit).await?;
        let machine = answering.pop().unwrap_or_else(|| machine.clone());
        let place = machine.ssh_place().ok_or_else(|| Failure::Work(format!("machine {} has no address", machine.shown_id())))?;
        let folder = home().join(".stratuslab");
        let _ = std::fs::create_dir_all(&folder);
        let guest = Guest {
            place,
            key,
            alias: format!("stratus-{}", machine.id.rsplit('/').next().unwrap_or_default()),
            known_hosts: folder.join("known_hosts"),
            log,
            out: *out,
        };
        out.step("Check if we can connect to the machine");
        {
            let waiting = Waiting::start(out, "logging in");
            guest.until_reachable(LOGIN_LIMIT, || waiting.tick()).await?;
        }
        // Before the machine is waited for: what can't be installed is told now.
        let installer = if self.installs() { Some(self.installer(&guest, base).await?) } else { None };
        {
            let waiting = Waiting::start(out, "waiting for cloud-init");
            guest.script("waiting for cloud-init", SETTLED, &[]).await?;
            drop(waiting);
        }
        if let Some(installer) = installer {
            out.step("Installing user packages");
            guest.script("installing packages", &installer.script(&self.extra_os_repos, &self.packages), &[]).await?;
        }
        if !scripts.is_empty() {
            out.step("Executing user scripts");
        }
        for script in scripts {
            let name = script.name();
            out.info(format_args!("\t{name}"));
            let content = std::fs::read(&script.file).map_err(|error| Failure::file(&script.file, &error))?;
            let place = quoted(&format!("/tmp/{name}"));
            guest.run(&format!("copying {name}"), &format!("cat >{place} && chmod 0755 {place}"), &content).await?;
            let arguments: Vec<String> = script.arguments.iter().map(|one| quoted(one)).collect();
            guest.run(&format!("script {name}"), &format!("cd / && {place} {}", arguments.join(" ")), &[]).await?;
        }
        if !self.no_shutdown {
            out.step("Removing keys, histories and logs");
            guest.script("cleaning up", CLEAN, &self.exclude).await?;
        }
        Ok(guest)
    }

    /// Whether packages are to be installed.
    fn installs(&self) -> bool {
        !self.packages.is_empty() || !self.extra_os_repos.is_empty()
    }

    /// As it was said, by the operating system, or what is there.
    async fn installer(&self, guest: &Guest, base: &Base) -> Result<Installer> {
        if let Some(installer) = self.installer {
            return Ok(installer);
        }
        let os = self.os.as_ref().or_else(|| base.properties.get("os"));
        if let Some(installer) = os.and_then(|os| Installer::of_system(os)) {
            return Ok(installer);
        }
        let found = guest.run("looking for what installs packages", DETECT, &[]).await;
        found.ok().and_then(|program| Installer::of_program(&program)).ok_or_else(|| {
            Failure::Work(
                "the machine has none of apt-get, dnf, yum, apk and zypper to install packages with: --packages and --extra-os-repos are not \
                 possible with this base; bring what is needed by --scripts"
                    .to_owned(),
            )
        })
    }

    /// Shuts the machine down, and waits until its disk is an image.
    async fn save(&self, session: &Session, api: &Api, machine: &MachineView, log: &Log) -> Result {
        let out = &session.out;
        let id = machine.shown_id();
        out.banner("Finished building image increment.");
        // The contract's words as far as they are true: whether letters go out is known to the cloud alone.
        out.banner(&format!(
            "Please check {} for new image ID and instruction, if the cloud sends mail.",
            self.author_email.as_deref().unwrap_or_default()
        ));
        out.step("Shutting down machine");
        log.step("shutting down");
        let accepted = api.send(Method::POST, &format!("{}/shutdown", machine.id), Body::Empty).await;
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return Err(self.failed(machine, error.into(), log).await),
        };
        // From here on the cloud finishes it alone.
        unfinished::keep();
        unfinished::goes_on_as(&format!("machine {id} is shut down and saved, and its author gets an e-mail if the cloud sends mail"));
        let saved = saved_as(api, machine).await?;
        let waiting = Waiting::start(out, "saving");
        let limit = Duration::from_secs(self.save_timeout);
        match wait_for_job(api, accepted.job.as_deref(), limit, &waiting).await? {
            JobEnd::Success => {}
            JobEnd::Failed(reason) => {
                log.step(&reason);
                return Err(Failure::Work(reason));
            }
            JobEnd::StillRunning => {
                return Err(Failure::Work(format!("machine {id} is not saved after {} s; it goes on", limit.as_secs()))
                    .with_hint("stratus image list shows the image when it is there; the author gets an e-mail if the cloud sends mail."));
            }
        }
        drop(waiting);
        let image = match saved {
            Some(path) => Some(api.view::<ImageView>(&path).await?),
            None => None,
        };
        self.told(session, machine, image, log)
    }

    /// The result.
    fn told(&self, session: &Session, machine: &MachineView, image: Option<ImageView>, log: &Log) -> Result {
        let out = &session.out;
        if let Some(image) = &image {
            let identifier = image.identifier.as_deref().unwrap_or(&image.id);
            log.step(&format!("saved as {identifier}"));
            out.step(format_args!("New image: {identifier}"));
            if out.quiet > 0 && !out.is_json() {
                out.line(identifier)?;
            }
        }
        if out.is_json() {
            return out.json(&serde_json::json!({
                "image": image.as_ref().map(|image| &image.id), "identifier": image.as_ref().and_then(|image| image.identifier.as_ref()),
                "machine": machine.vmid, "log": log.path(),
            }));
        }
        Ok(())
    }

    /// A step failed: the machine goes, or stays for a look.
    async fn failed(&self, machine: &MachineView, failure: Failure, log: &Log) -> Failure {
        let id = machine.shown_id();
        log.step(&format!("failed: {failure}"));
        if !self.keep_on_failure {
            let left = unfinished::remove().await;
            let fate = match left.first() {
                None => format!("Machine {id} is removed and nothing is saved"),
                Some((_, error)) => format!(
                    "Machine {id} could not be removed ({error}; stratus kill-instance {id} does it) and nothing is saved"
                ),
            };
            return failure.with_hint(format!(
                "{fate}; {} has the whole story, and --keep-on-failure leaves the machine for a look.",
                log.path().display()
            ));
        }
        unfinished::keep();
        failure.with_hint(format!(
            "Machine {id} runs on: stratus connect-instance {id} logs in, stratus shutdown-instance {id} saves it as it is, stratus \
             kill-instance {id} removes it. {} has the whole story.",
            log.path().display()
        ))
    }
}

/// The start failed: a machine that is there nevertheless goes. There is nothing in it to look into.
async fn not_started(failure: Failure) -> Failure {
    match unfinished::remove().await.first() {
        None => failure,
        Some((path, error)) => {
            failure.with_hint(format!(
                "{path} was started and could not be removed ({error}): find it with stratus describe-instance, and remove it with stratus \
                 kill-instance."
            ))
        }
    }
}

/// The image that a machine is being saved as.
async fn saved_as(api: &Api, machine: &MachineView) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Saved {
        saved_as: Option<Reference>,
    }
    match api.view::<Saved>(&machine.id).await {
        Ok(saved) => Ok(saved.saved_as.map(|image| image.href)),
        // It was quicker than we are.
        Err(ApiError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn scripts_may_have_arguments() {
        let script = Script::parse("dir/setup.sh --fast 2").expect("a script");
        assert_eq!(script.file, Path::new("dir/setup.sh"));
        assert_eq!(script.arguments, ["--fast", "2"]);
        assert_eq!(script.name(), "setup.sh");
        assert_eq!(Script::parse("  "), None);
    }

    #[test]
    fn words_stay_words() {
        for word in ["a b", "it's", "$(x)", "", "-x", "a\nb", "'"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
