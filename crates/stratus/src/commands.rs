//! The commands, one file each.

use clap::Subcommand;

use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::output::Format;

/// Declares the modules, the enum of all commands and the way from a parsed command to its code.
macro_rules! commands {
    ($($variant:ident = $module:ident,)*) => {
        $(mod $module;)*

        /// A parsed command line.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $(#[allow(missing_docs, reason = "each is documented where its arguments are")] $variant(Box<$module::Arguments>),)*
        }

        impl Command {
            /// The options that every command has.
            #[must_use]
            pub fn common(&self) -> &Common {
                match self { $(Self::$variant(arguments) => arguments.common(),)* }
            }

            /// Does the work.
            ///
            /// # Errors
            /// As the command says.
            pub async fn run(self) -> Result {
                match self { $(Self::$variant(arguments) => Box::pin(arguments.run()).await,)* }
            }
        }
    };
}

/// What a shell shows for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

mod action;
mod each;
mod image_name;
mod machine_id;
mod metadata_file;
mod quota_options;
mod removal;
mod usage_formats;
mod volume_id;

commands! {
    RunInstance = run_instance,
    DescribeInstance = describe_instance,
    ConnectInstance = connect_instance,
    Console = console,
    StartInstance = start_instance,
    StopInstance = stop_instance,
    RestartInstance = restart_instance,
    PauseInstance = pause_instance,
    SuspendInstance = suspend_instance,
    Meters = meters,
    ShutdownInstance = shutdown_instance,
    KillInstance = kill_instance,
    CreateVolume = create_volume,
    DescribeVolumes = describe_volumes,
    UpdateVolume = update_volume,
    DeleteVolume = delete_volume,
    AttachVolume = attach_volume,
    DetachVolume = detach_volume,
    System = system,
    SecurityGroup = security_group,
    Image = image,
    CreateImage = create_image,
    BuildMetadata = build_metadata,
    SignMetadata = sign_metadata,
    ValidateMetadata = validate_metadata,
    UploadImage = upload_image,
    UploadMetadata = upload_metadata,
    DeprecateMetadata = deprecate_metadata,
    PrepareContext = prepare_context,
    CopyConfig = copy_config,
    Trust = trust,
    HashPassword = hash_password,
    Completions = completions,
    Man = man,
    Links = links,
    User = user,
    Group = group,
    Quota = quota,
    Accounting = accounting,
    Audit = audit,
    Token = token,
    Login = login,
    Logout = logout,
    Registration = registration,
    Host = host,
    Config = config,
    Install = install,
    Simulate = simulate,
    Status = status,
    Doctor = doctor,
}

impl Command {
    /// Refuses to write a result in a form that only exports have.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn check_format(&self) -> Result {
        match (self, self.common().format) {
            (Self::Accounting(_), _) | (_, Format::Table | Format::Json) => Ok(()),
            (_, Format::Csv | Format::Xml) => Err(Failure::Usage(
                "--format: results are written as table or json".to_owned(),
            )),
        }
    }

    /// The exit status when the user interrupts it: 130, as a shell has it, so that `stratus … && next` does not go on.
    /// StratusLab's own commands always ended with 0 and still do; what they could not do yet, such as waiting, does not.
    #[must_use]
    pub fn interrupted_status(&self) -> u8 {
        match self {
            Self::RunInstance(arguments) if arguments.waits() => INTERRUPTED,
            Self::RunInstance(_)
            | Self::DescribeInstance(_)
            | Self::ConnectInstance(_)
            | Self::ShutdownInstance(_)
            | Self::KillInstance(_)
            | Self::CreateVolume(_)
            | Self::DescribeVolumes(_)
            | Self::UpdateVolume(_)
            | Self::DeleteVolume(_)
            | Self::AttachVolume(_)
            | Self::DetachVolume(_)
            | Self::BuildMetadata(_)
            | Self::SignMetadata(_)
            | Self::ValidateMetadata(_)
            | Self::UploadMetadata(_)
            | Self::DeprecateMetadata(_)
            | Self::PrepareContext(_)
            | Self::CopyConfig(_)
            | Self::HashPassword(_) => 0,
            _ => INTERRUPTED,
        }
    }
}

/// The commands by what they are for, in the order of the overview.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "Machines",
        &[
            "run-instance",
            "describe-instance",
            "connect-instance",
            "console",
            "start-instance",
            "stop-instance",
            "restart-instance",
            "pause-instance",
            "suspend-instance",
            "meters",
            "shutdown-instance",
            "kill-instance",
        ],
    ),
    ("Systems", &["system"]),
    ("Networks", &["security-group"]),
    (
        "Volumes",
        &[
            "create-volume",
            "describe-volumes",
            "update-volume",
            "delete-volume",
            "attach-volume",
            "detach-volume",
        ],
    ),
    (
        "Images and context",
        &["image", "create-image", "prepare-context"],
    ),
    (
        "Describing and signing images",
        &[
            "build-metadata",
            "sign-metadata",
            "validate-metadata",
            "upload-image",
            "upload-metadata",
            "deprecate-metadata",
        ],
    ),
    (
        "Setting up",
        &[
            "copy-config",
            "trust",
            "login",
            "logout",
            "token",
            "hash-password",
            "completions",
            "man",
            "links",
        ],
    ),
    (
        "Administration",
        &[
            "user",
            "registration",
            "group",
            "quota",
            "accounting",
            "audit",
            "host",
            "config",
            "install",
            "simulate",
            "status",
            "doctor",
        ],
    ),
];

/// StratusLab's own commands: those that also have a name `stratus-…` of their own.
#[must_use]
pub fn linked_names(root: &clap::Command) -> Vec<String> {
    root.get_subcommands()
        .map(|command| format!("stratus-{}", command.get_name()))
        .filter(|name| name != "stratus-help")
        .collect()
}
