//! `stratus run-instance`: machines from an image.

mod building;
mod request;
mod saving;
mod wait;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::commands::image_name::of_argument;
use crate::cloud::{Api, MachineView, Source};
use crate::failure::{Failure, Result};
use crate::machine_types::{DEFAULT_TYPE, MachineType, machine_types, type_table};
use crate::memory_size::{Gigabytes, Megabytes};
use crate::new_file::NewFile;
use crate::options::{Cloud, Common, Storage};
use crate::session::Session;
use crate::unfinished;
pub(super) use building::Building;
pub(super) use saving::{Saving, check_author_email, check_version};
pub(super) use wait::{WaitFor, answers_ssh, wait_for_all};

/// Start machines from an image
///
/// IMAGE is an image's identifier of 27 characters ('stratus image list', or of any Marketplace that the cloud asks), its name, the
/// tag that an endorser gave it (TAG@EMAIL, the newest image of that tag), a product of a catalogue (CATALOGUE:PRODUCT, 'stratus
/// image catalogue'), the URL of an image or of a Marketplace's entry, also a short one that leads to such an entry, or the UUID of a
/// volume (pdisk:HOST:PORT:UUID): the machine boots from that volume itself, and what it writes stays there when it is gone (with
/// --save: from a copy). What the cloud does not have it fetches and checks first; the machine waits in Prolog, and others who want
/// the same image wait for the same download.
/// Prints the number and the address of each machine and returns; the machines start meanwhile (--wait waits for them). Log in
/// with 'stratus connect-instance ID' when they are Running.
///
/// Context tells a machine who it is: the public key always goes in; --context and --context-file add variables, --cloud-init user
/// data (TYPE,FILE pairs joined by '#', see prepare-context).
///
/// JSON: a list of {"id", "uri", "name", "network", "address", "ssh": {"host", "port"}, "state"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus run-instance IMAGE
  stratus run-instance ubuntu:24.04
  stratus run-instance ttylinux@images@example.org
  stratus run-instance -n 3 -t c1.medium --vm-name worker -o ids IMAGE
  stratus run-instance --wait=ssh --cloud-init 'x-shellscript,setup.sh' IMAGE
  ID=$(stratus run-instance --format json IMAGE | jq '.[0].id')
  stratus run-instance --save --author 'Ann Example' --author-email ann@example.org --image-version 1.1 \\
    --title 'Debian with R' --comment 'R 4.5 added' IMAGE      (its disk becomes an image at 'stratus shutdown-instance ID')")]
pub struct Arguments {
    /// Identifier, name or URL of an image, TAG@EMAIL, CATALOGUE:PRODUCT, or UUID of a volume
    #[arg(value_name = "image")]
    image: Option<String>,
    /// How many machines, 1 to 1000 [default: 1; key: instance_number]
    #[arg(short, long, value_name = "N")]
    number: Option<u32>,
    /// Public key file [default: ~/.ssh/id_rsa.pub or another usual one; env: STRATUSLAB_KEY; key: user_public_key_file]
    #[arg(short, long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Machine type [default: m1.small; key: instance_type]
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// List the machine types and stop
    #[arg(short, long, alias = "list-type")]
    list_types: bool,
    /// CPUs, instead of the type's [key: vm_cpu]
    #[arg(long, value_name = "N")]
    cpu: Option<u32>,
    /// Memory in MB, or with a unit (512M, 2G), instead of the type's [key: vm_ram]
    #[arg(long, value_name = "MB")]
    ram: Option<Megabytes>,
    /// Swap in MB, or with a unit, instead of the type's [key: vm_swap]
    #[arg(long, value_name = "MB")]
    swap: Option<Megabytes>,
    /// Share of CPU, 0.5 is half of one [key: vm_cpu_amount]
    #[arg(long, value_name = "SHARE")]
    vm_cpu_amount: Option<f64>,
    /// Name of the machine [default: one-ID; key: vm_name]
    #[arg(long, value_name = "NAME")]
    vm_name: Option<String>,
    /// What happens when the machine ends by itself: never, on-failure, always [key: restart_policy]
    #[arg(long, value_name = "WHEN")]
    restart_policy: Option<String>,
    /// Return when the machines run, or with =ssh when they answer SSH
    #[arg(long, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "running", value_enum, help_heading = "Waiting")]
    wait: Option<WaitFor>,
    /// Seconds to wait [default: 600]
    #[arg(long, value_name = "SECONDS", default_value_t = 600, hide_default_value = true, help_heading = "Waiting")]
    timeout: u64,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    disks: Disks,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    rare: Rare,
    #[command(flatten)]
    saving: Saving,
    /// Accepted for old scripts: the cloud looks images up where its administrator says ('stratus image catalogue'), and a warning
    /// tells if this Marketplace is not among that
    #[arg(long, value_name = "URL", help_heading = "Hardware and placement")]
    marketplace_endpoint: Option<String>,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// The most machines that one command starts; more is rather a slip of the finger.
const MOST_MACHINES: u32 = 1000;
/// How long the places where machines are reached are waited for, all together: a forwarded port is known a moment after the creation,
/// unless no host has room.
const PLACES_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at a machine.
const PAUSE: Duration = Duration::from_millis(100);

/// The machine's network interface.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Network")]
struct Network {
    /// An address of the local network [default: public; key: is_local_ip]
    #[arg(long)]
    local_ip: bool,
    /// An address of the private network [key: is_private_ip]
    #[arg(long)]
    private_ip: bool,
    /// This very address [key: specific_address_request]
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Security group that the machine is in, by UUID or name; may be given several times [default: none]
    #[arg(long, value_name = "GROUP")]
    security_group: Vec<String>,
    /// Model of the network card [key: vm_network_model]
    #[arg(long, value_name = "MODEL")]
    vm_network_model: Option<String>,
}

/// The machine's disks.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Disks")]
struct Disks {
    /// Bus of the disks: ide, scsi or virtio [default: as the image says; key: vm_disks_bus]
    #[arg(long, value_name = "BUS")]
    vm_disks_bus: Option<String>,
    /// Empty disk that goes with the machine, in GB, or with a unit (512M, 2G) [key: extra_disk_size, in MB]
    #[arg(long, value_name = "GB")]
    volatile_disk: Option<Gigabytes>,
    /// Volume to attach
    #[arg(long, value_name = "UUID")]
    persistent_disk: Option<String>,
    /// Data image to attach, read-only [key: readonly_disk_id]
    #[arg(long, value_name = "ID")]
    readonly_disk: Option<String>,
    /// The image is qcow2; found out by the cloud anyway [key: use_qcow_disk_format]
    #[arg(long)]
    qcow_disk_format: bool,
    /// Do not check the image beforehand [key: no_check_image_url]
    #[arg(long)]
    no_check_image_url: bool,
    /// File to write the machines' numbers into, one a line [key: out_vm_ids_file]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What the machine is told.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Context")]
pub(super) struct Context {
    /// File with NAME=VALUE lines [key: extra_context_file]
    #[arg(long, value_name = "FILE")]
    pub(super) context_file: Option<PathBuf>,
    /// Variables, NAME=VALUE#NAME=VALUE [key: extra_context_data]
    #[arg(long, value_name = "PAIRS", allow_hyphen_values = true)]
    pub(super) context: Option<String>,
    /// How the machine is told: one or cloud-init [default: one; key: default_context_method]
    #[arg(long, value_name = "METHOD")]
    pub(super) context_method: Option<String>,
    /// User data for cloud-init, TYPE,FILE#TYPE,FILE; '' is your key alone [key: cloud_init]
    #[arg(long, value_name = "PAIRS")]
    pub(super) cloud_init: Option<String>,
}

/// What few machines need.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Hardware and placement")]
struct Rare {
    /// Give the machine a screen with this keyboard layout, at a VNC socket on its host [key: keymap]
    #[arg(long, value_name = "LAYOUT")]
    keymap: Option<String>,
    /// The host's CPU with all it can do [key: use_host_cpu]
    #[arg(long)]
    use_host_cpu: bool,
    /// Expression that the host must fulfil [key: vm_requirements]
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    vm_requirements: Option<String>,
    /// Expression whose value says how well a host is liked: the highest wins, as with -RUNNING_VMS [key: vm_rank]
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    vm_rank: Option<String>,
    /// On the same host as your other machines of this group
    #[arg(long, value_name = "GROUP")]
    together: Vec<String>,
    /// On another host than each of your other machines of this group
    #[arg(long, value_name = "GROUP")]
    apart: Vec<String>,
    /// Accepted for old scripts, without effect: the VNC console is a socket on the host [key: vnc_port]
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    vnc_port: Option<i32>,
    /// Accepted for old scripts, without effect: the VNC console is a socket on the host [key: vnc_listen]
    #[arg(long, value_name = "IP")]
    vnc_listen: Option<String>,
    /// Text of the machine's template; not offered by this cloud [key: vm_template_file]
    #[arg(long, value_name = "FILE")]
    vm_template_file: Option<PathBuf>,
    /// Accepted, without effect
    #[arg(long, value_name = "HOST,VHOST,USER,PASSWORD,QUEUE", hide = true)]
    notify: Vec<String>,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    /// Whether it was asked to wait for the machines.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let types = machine_types(&session.settings.instance_types);
        let type_name = self.type_name(&session);
        if self.list_types {
            // Endpoint and credentials must be configured, though nothing is called.
            session.api(&self.cloud)?;
            return list_types(&session, &types, &type_name);
        }
        let Some(image) = self.image.as_deref() else {
            return Err(Failure::Usage("Please specify the machine image to start".to_owned()));
        };
        self.check(&session)?;
        self.check_saving(&session)?;
        let api = session.api(&self.cloud)?;
        session.out.detail(format_args!("Accessing compute service at: {}", api.endpoint().cimi_url()));
        let number: u32 = session.settings.parsed(self.number, "instance_number", "a whole number")?.unwrap_or(1);
        if !(1..=MOST_MACHINES).contains(&number) {
            return Err(Failure::Usage(format!("{number} is no number of machines to start: take 1 to {MOST_MACHINES}")));
        }
        session.out.banner("Starting machine(s)");
        let kind = types.get(&type_name).ok_or_else(|| Failure::Value(format!("Unknown instance type: {type_name}")))?;
        let body = self.body(&session, &api, image, kind).await?;
        if number > 1 && body["machineTemplate"].get("volumes").is_some() {
            return Err(Failure::Check(format!("{number} machines can't have one volume: a volume is at one machine at a time")));
        }
        if let Some(marketplace) = &self.marketplace_endpoint {
            warn_of_marketplace(&session, &api, marketplace).await;
        }
        let mut machines = Vec::new();
        let started = start(&session, &api, &body, number, Fate::Stays, &mut machines).await;
        if let Some(file) = session.settings.text(self.disks.output.as_deref().and_then(Path::to_str), "out_vm_ids_file") {
            let ids: Vec<String> = machines.iter().map(MachineView::shown_id).collect();
            std::fs::write(&file, ids.join("\n")).map_err(|error| with_those_kept(Failure::file(Path::new(&file), &error), &machines))?;
        }
        started.map_err(|failure| with_those_kept(failure, &machines))?;
        let machines = match self.wait {
            Some(goal) => wait::wait_for_all(&session, &api, machines, goal, Duration::from_secs(self.timeout)).await?,
            None => machines,
        };
        session.out.step("Done!");
        if session.out.is_json() {
            return session.out.json(&machines.iter().map(as_json).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// The type as given, else the environment's or the file's, under either of its keys.
    fn type_name(&self, session: &Session) -> String {
        let named = session.settings.text(self.kind.as_deref(), "instance_type").or_else(|| session.settings.text(None, "default_instance_type"));
        named.map_or_else(|| DEFAULT_TYPE.to_owned(), |name| name.to_lowercase())
    }

    /// Whether all is said that an image of the machine needs. (create-image needs less.)
    fn check_saving(&self, session: &Session) -> Result {
        check_version(self.saving.image_version.as_deref().unwrap_or_default())?;
        let missing = self.saving.missing();
        if session.settings.switch(self.saving.save, "save_disk") && !missing.is_empty() {
            return Err(Failure::Usage(format!("With the --save option, please provide {}", missing.join(", "))));
        }
        check_author_email(self.saving.author_email.as_deref())
    }

    /// What can be seen to be wrong before anything is sent.
    fn check(&self, session: &Session) -> Result {
        let settings = &session.settings;
        if let Some(file) = settings.text(self.disks.output.as_deref().and_then(Path::to_str), "out_vm_ids_file") {
            check_writable(Path::new(&file))?;
        }
        if let Some(file) = settings.text(self.context.context_file.as_deref().and_then(Path::to_str), "extra_context_file")
            && !Path::new(&file).exists()
        {
            return Err(Failure::Usage("Extra context file does not exist".to_owned()));
        }
        if settings.text(self.rare.vnc_listen.as_deref(), "vnc_listen").is_some_and(|address| address.parse::<IpAddr>().is_err()) {
            return Err(Failure::Usage("VNC listen IP is not valid".to_owned()));
        }
        if settings.text(self.rare.vm_template_file.as_deref().and_then(Path::to_str), "vm_template_file").is_some() {
            return Err(Failure::Check("this cloud has no machine templates of text (--vm-template-file); use the options instead".to_owned()));
        }
        if settings.switch(self.disks.no_check_image_url, "no_check_image_url") {
            session.out.warning("Image availability check is disabled.");
        }
        Ok(())
    }
}

/// Says if the cloud does not look images up in this Marketplace. What is started is the same wherever its entry was found.
async fn warn_of_marketplace(session: &Session, api: &Api, marketplace: &str) {
    // An old cloud has no such list.
    let Ok(sources) = Source::of(api).await else { return };
    let known: Vec<&Source> = sources.iter().filter(|source| source.is_marketplace).collect();
    if known.iter().any(|source| source.is_at(marketplace)) {
        return;
    }
    let known: Vec<String> = known.iter().map(|Source { name, url, .. }| format!("{name} ({url})")).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    session.out.warning(format_args!(
        "this cloud does not look images up in {marketplace}; its Marketplaces: {known}. Its administrator can add others ([[catalogue]])."
    ));
}

/// Whether a file can be written, of which nothing is changed yet: machines whose numbers can't be told should not be started.
fn check_writable(file: &Path) -> Result {
    let shown = file.display();
    match std::fs::metadata(file) {
        Ok(there) if there.is_dir() => Err(Failure::Usage(format!("'{shown}' is a folder; give the name of a file in it"))),
        Ok(_) => std::fs::File::options().append(true).open(file).map(drop).map_err(|error| Failure::file(file, &error)),
        Err(_) => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                return Err(Failure::Usage(format!("'{shown}' can't be written: there is no folder '{}'", folder.display())));
            }
            // Gone again at once.
            NewFile::at(file, false)?.create().map(drop).map_err(|_| Failure::Usage(format!("'{shown}' can't be written: you may make no file there")))
        }
    }
}

fn list_types(session: &Session, types: &std::collections::BTreeMap<String, MachineType>, chosen: &str) -> Result {
    if session.out.is_json() { session.out.json(&types) } else { session.out.line(type_table(types, chosen)) }
}

/// What becomes of machines when the command is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    GoesWithTheCommand,
}

/// A failure, and which machines there are nevertheless.
fn with_those_kept(failure: Failure, machines: &[MachineView]) -> Failure {
    if machines.is_empty() {
        return failure;
    }
    let ids: Vec<String> = machines.iter().map(MachineView::shown_id).collect();
    let ids = ids.join(" ");
    failure.with_hint(format!("Started before that, and kept: {ids}. Remove what you don't want: stratus kill-instance {ids}"))
}

/// Asks for the machines one after the other. Those that were started stay when a later one is refused.
async fn start(session: &Session, api: &Api, body: &Value, number: u32, fate: Fate, machines: &mut Vec<MachineView>) -> Result {
    let out = &session.out;
    out.step(format_args!("Starting {number} machine{}", if number > 1 { "s" } else { "" }));
    out.detail(format_args!("on endpoint: {}", api.endpoint().cimi_url()));
    if out.verbose > 0 {
        let mut shown = body.clone();
        // User data may hold secrets.
        shown["machineTemplate"]["context"] = json!("…");
        out.detail(format_args!("with template:\n{shown:#}"));
    }
    let deadline = Instant::now() + PLACES_LIMIT;
    for index in 1..=number {
        let accepted = match fate {
            Fate::Stays => api.post("Machine", body).await.map_err(Failure::from),
            Fate::GoesWithTheCommand => unfinished::make(api, "Machine", body).await.map_err(Failure::from),
        };
        let accepted = accepted.map_err(|failure| of_argument(failure, "IMAGE"))?;
        let path = accepted.location.clone().unwrap_or_else(|| "Machine".to_owned());
        let mut machine: MachineView = if accepted.body.is_null() { api.view(&path).await? } else { api.viewed(&path, accepted.body)? };
        if machine.id.is_empty() {
            machine.id = path;
        }
        // It is there, whatever follows.
        machines.push(machine.clone());
        if fate == Fate::Stays {
            unfinished::goes_on_as(&going_on(machines));
        }
        while machine.ssh.is_none() && !machine.addresses.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            machine = api.view(&machine.id).await?;
        }
        let network = machine.networks.last().map_or("public", String::as_str);
        let address = machine.address().or_else(|| machine.ssh.as_ref().map(|ssh| ssh.host.as_str())).unwrap_or("-");
        out.step(format_args!("Machine {index} (vm ID: {})", machine.shown_id()));
        out.info(format_args!("\t{} ip: {address}", capitalised(network)));
        if let Some(ssh) = machine.ssh.as_ref().filter(|ssh| ssh.port != 22 && ssh.port != 0) {
            out.info(format_args!("\tSSH: {} port {}", ssh.host, ssh.port));
        }
        if out.quiet > 0 && !out.is_json() {
            out.line(format_args!("{}, {address}", machine.shown_id()))?;
        }
        if let Some(last) = machines.last_mut() {
            *last = machine;
        }
    }
    Ok(())
}

/// What is told whoever doesn't wait any longer.
fn going_on(machines: &[MachineView]) -> String {
    let ids: Vec<String> = machines.iter().map(MachineView::shown_id).collect();
    match ids.as_slice() {
        [id] => format!("machine {id} (stratus kill-instance {id} removes it)"),
        ids => format!("machines {} (stratus kill-instance {} removes them)", ids.join(", "), ids.join(" ")),
    }
}

fn as_json(machine: &MachineView) -> Value {
    json!({
        "id": machine.vmid, "uri": machine.id, "name": machine.name, "network": machine.networks.last(), "address": machine.address(),
        "ssh": machine.ssh_place(), "state": machine.shown_state(),
    })
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect())
}

