//! Options that several commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::cloud::Api;
use crate::failure::Result;
use crate::output::Format;
use crate::session::Session;

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Tell more; twice: also the cloud's whole refusals; three times: also the causes of an error
    #[arg(short, long, action = ArgAction::Count, help_heading = "Common options")]
    pub verbose: u8,
    /// Tell less: -q only warnings and errors, -qq only errors, -qqq nothing
    #[arg(short, long, action = ArgAction::Count, help_heading = "Common options")]
    pub quiet: u8,
    /// How the result is printed [default: table]
    #[arg(long, value_enum, value_name = "FORMAT", hide_default_value = true, default_value_t = Format::Table, help_heading = "Common options")]
    pub format: Format,
    /// Configuration file [default: ~/.stratuslab/stratuslab-user.cfg]
    #[arg(short, long, value_name = "FILE", help_heading = "Common options")]
    pub config: Option<PathBuf>,
    /// Section of the configuration file to use [env: STRATUSLAB_USER_CONFIG_SECTION; key: selected_section]
    #[arg(
        short = 'S',
        long = "user-config-section",
        value_name = "NAME",
        help_heading = "Common options"
    )]
    pub section: Option<String>,
}

/// Which cloud, and who asks.
#[derive(Debug, Clone, Default, Args)]
pub struct Cloud {
    /// The cloud: https://HOST[:PORT][/PATH], or a host name (https, port 443); of several entries all, with commas between [env: STRATUSLAB_ENDPOINT; key: endpoint]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Cloud")]
    pub endpoint: Option<String>,
    /// User name [env: STRATUSLAB_USERNAME; key: username]
    #[arg(short, long, value_name = "NAME", help_heading = "Cloud")]
    pub username: Option<String>,
    /// Password; asked for on a terminal when missing [env: STRATUSLAB_PASSWORD; key: password]
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        allow_hyphen_values = true,
        help_heading = "Cloud"
    )]
    pub password: Option<String>,
    /// Certificate of the user, or a proxy, PEM; without user name and password [env: STRATUSLAB_PEM_CERTIFICATE; key: pem_certificate]
    #[arg(long = "pem-cert", value_name = "FILE", help_heading = "Cloud")]
    pub pem_certificate: Option<PathBuf>,
    /// Private key of the user, PEM, not encrypted [default: in the file of the certificate; env: STRATUSLAB_PEM_KEY; key: pem_key]
    #[arg(long = "pem-key", value_name = "FILE", help_heading = "Cloud")]
    pub pem_key: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM [env: STRATUS_CA; key: ca_file]
    #[arg(long = "ca", value_name = "FILE", help_heading = "Cloud")]
    pub ca_file: Option<PathBuf>,
}

/// What a command understands that only asks the cloud.
#[derive(Debug, Clone, Args)]
pub struct Asking {
    #[command(flatten)]
    pub cloud: Cloud,
    #[command(flatten)]
    pub common: Common,
}

impl Asking {
    /// The session of the command, and the cloud it asks.
    ///
    /// # Errors
    /// Those of the configuration.
    pub fn begin(&self) -> Result<(Session, Api)> {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        Ok((session, api))
    }
}

/// Where volumes are; usually where the machines are.
#[derive(Debug, Clone, Default, Args)]
pub struct Storage {
    /// The storage service, when it is not the cloud itself [env: STRATUSLAB_PDISK_ENDPOINT; key: pdisk_endpoint]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Storage")]
    pub pdisk_endpoint: Option<String>,
    /// User name there [default: as for the cloud; env: STRATUSLAB_PDISK_USERNAME; key: pdisk_username]
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub pdisk_username: Option<String>,
    /// Password there [default: as for the cloud; env: STRATUSLAB_PDISK_PASSWORD; key: pdisk_password]
    #[arg(
        long,
        value_name = "PASSWORD",
        allow_hyphen_values = true,
        help_heading = "Storage"
    )]
    pub pdisk_password: Option<String>,
}

/// Where descriptions of images are.
#[derive(Debug, Clone, Default, Args)]
pub struct Marketplace {
    /// The Marketplace: https://HOST[:PORT][/PATH], or a host name; of several entries all, with commas between [default: https://marketplace.stratuslab.eu; env: STRATUSLAB_MARKETPLACE_ENDPOINT; key: marketplace_endpoint]
    #[arg(long, value_name = "ENDPOINT", help_heading = "Marketplace")]
    pub marketplace_endpoint: Option<String>,
    /// Certificates to trust besides the system's, PEM [env: STRATUS_CA; key: ca_file]
    #[arg(long = "ca", value_name = "FILE", help_heading = "Marketplace")]
    pub ca_file: Option<PathBuf>,
}

/// What descriptions of images are signed with.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// Key and certificate of the endorser, PKCS#12 [default: ~/.globus/usercert.p12; env: STRATUSLAB_P12_CERTIFICATE; key: p12_certificate]
    #[arg(long = "p12-cert", value_name = "FILE", help_heading = "Signing")]
    pub p12_certificate: Option<PathBuf>,
    /// Its password, or that of the PEM key; asked for on a terminal when missing [env: STRATUSLAB_P12_PASSWORD; key: p12_password]
    #[arg(
        long,
        value_name = "PASSWORD",
        allow_hyphen_values = true,
        help_heading = "Signing"
    )]
    pub p12_password: Option<String>,
    /// Certificate of the endorser, PEM, instead of PKCS#12
    #[arg(
        long = "pem-cert",
        value_name = "FILE",
        conflicts_with = "p12_certificate",
        help_heading = "Signing"
    )]
    pub pem_certificate: Option<PathBuf>,
    /// Private key of the endorser, PEM [default: in the file of the certificate]
    #[arg(
        long = "pem-key",
        value_name = "FILE",
        requires = "pem_certificate",
        help_heading = "Signing"
    )]
    pub pem_key: Option<PathBuf>,
    /// Sign with SHA-1, for Marketplaces of StratusLab, which know nothing else (RSA keys) [key: sha1_signature]
    #[arg(long = "sha1-signature", help_heading = "Signing")]
    pub sha1_signature: bool,
}

/// Port translation.
#[derive(Debug, Clone, Default, Args)]
pub struct PortTranslation {
    /// Show and use translated ports [key: port_translation]
    #[arg(long = "pat-enable", help_heading = "Port translation")]
    pub enabled: bool,
    /// Accepted for compatibility: the cloud itself knows the translations [key: pat_service_host]
    #[arg(long, value_name = "HOST", help_heading = "Port translation")]
    pub pat_service_host: Option<String>,
    /// Host that forwards the ports [default: what the cloud says; key: pat_gateway_host]
    #[arg(long, value_name = "HOST", help_heading = "Port translation")]
    pub pat_gateway_host: Option<String>,
}
