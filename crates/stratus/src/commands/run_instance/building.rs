//! Starting the machine that becomes an image: the options of run-instance that make sense for it.

use std::path::{Path, PathBuf};

use super::{Arguments, Context, Disks, Fate, Network, Rare, Saving, WaitFor, list_types, start};
use crate::cloud::{Api, MachineView};
use crate::failure::{Failure, Result};
use crate::machine_types::machine_types;
use crate::memory_size::Megabytes;
use crate::options::{Cloud, Common, Storage};
use crate::output::Format;
use crate::session::Session;

/// The machine that the image is made in.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "The machine that it is made in")]
pub(in crate::commands) struct Building {
    /// Public key file; the private one lies beside it [default: ~/.ssh/id_rsa.pub or another usual one; env: STRATUSLAB_KEY; key: user_public_key_file]
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
    /// Name of the machine [default: creator: TIME]
    #[arg(long, value_name = "NAME")]
    vm_name: Option<String>,
    /// Model of the network card [key: vm_network_model]
    #[arg(long, value_name = "MODEL")]
    vm_network_model: Option<String>,
    /// Bus of the disks: ide, scsi or virtio [default: as the image says; key: vm_disks_bus]
    #[arg(long, value_name = "BUS")]
    vm_disks_bus: Option<String>,
    /// Accepted for old scripts, without effect
    #[arg(long, value_name = "UUID", hide = true)]
    persistent_disk: Option<String>,
    #[command(flatten)]
    context: Context,
    #[command(flatten)]
    rare: Rare,
}

impl Building {
    /// The public key file as given.
    pub(in crate::commands) fn key(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    /// Whether only the machine types are asked for.
    pub(in crate::commands) const fn lists_types(&self) -> bool {
        self.list_types
    }

    /// Prints the machine types.
    pub(in crate::commands) fn list_types(self, session: &Session, cloud: &Cloud) -> Result {
        session.api(cloud)?;
        let types = machine_types(&session.settings.instance_types);
        let chosen = self.arguments(None, Saving::default()).type_name(session);
        list_types(session, &types, &chosen)
    }

    /// Starts one machine from `image`, to be saved. It is unfinished until somebody says otherwise.
    pub(in crate::commands) async fn start(self, session: &Session, api: &Api, image: &str, saving: Saving) -> Result<MachineView> {
        let arguments = self.arguments(Some(image), saving);
        arguments.check(session)?;
        let types = machine_types(&session.settings.instance_types);
        let name = arguments.type_name(session);
        let kind = types.get(&name).ok_or_else(|| Failure::Value(format!("Unknown instance type: {name}")))?;
        let body = arguments.body(session, api, image, kind).await?;
        let mut started = Vec::new();
        start(session, api, &body, 1, Fate::GoesWithTheCommand, &mut started).await?;
        started.into_iter().next().ok_or_else(|| Failure::Work("no machine was started".to_owned()))
    }

    /// As run-instance would have them.
    fn arguments(self, image: Option<&str>, saving: Saving) -> Arguments {
        Arguments {
            image: image.map(str::to_owned),
            number: Some(1),
            key: self.key,
            kind: self.kind,
            list_types: false,
            cpu: self.cpu,
            ram: self.ram,
            swap: self.swap,
            vm_cpu_amount: self.vm_cpu_amount,
            vm_name: self.vm_name,
            restart_policy: None,
            wait: None::<WaitFor>,
            timeout: 0,
            network: Network {
                vm_network_model: self.vm_network_model,
                ..Network::default()
            },
            disks: Disks {
                vm_disks_bus: self.vm_disks_bus,
                ..Disks::default()
            },
            context: self.context,
            rare: self.rare,
            saving,
            marketplace_endpoint: None,
            storage: Storage::default(),
            cloud: Cloud::default(),
            common: Common {
                verbose: 0,
                quiet: 0,
                format: Format::Table,
                config: None,
                section: None,
            },
        }
    }
}
