//! The rules: one module a resource. Validates, authorizes, and writes what users want, each request in one
//! transaction. The only writer of user intent; knows neither HTTP nor QEMU nor a dialect.
//!
//! Every operation takes an [`OpContext`] first: who asks, how the request is named, until when an answer is of use.

mod access;
mod accounting;
mod address;
mod answer;
mod catalogue;
mod certificate_names;
mod certified;
mod cloud;
mod columns;
mod configuration;
mod context;
mod credential;
mod directory_user;
mod download;
mod error;
mod evacuation;
mod event;
mod event_log;
mod eviction;
mod fencing;
mod for_entries;
mod forwarding_group;
mod front;
mod group;
mod host;
mod host_tokens;
mod host_trust;
mod image;
mod image_by_name;
mod image_by_tag;
mod imported;
mod janitor;
mod jobs;
mod kept;
mod leases;
mod load;
mod lost_hosts;
mod machine;
mod metadata;
mod meter;
mod moving;
mod neighbours;
mod network;
mod network_hosts;
mod network_port;
mod numbers;
mod operator;
mod own_collections;
pub mod people;
mod quota;
mod record;
mod references;
mod resolve;
mod security_group;
mod service_configuration;
mod service_message;
mod services;
mod standing;
mod system;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod user;
mod volume;
mod volume_image;
mod watch;

pub use accounting::UsageQuery;
pub use answer::{
    ByteStream, Check, Console, ConsoleRange, Created, Document, Done, Health, HealthStatus, Page,
    Rel, Upload, View,
};
pub use cloud::{Cloud, MachineType, Settings};
pub use context::{Caller, OpContext, Unchanged};
pub use download::{Download, DownloadRequest};
pub use error::{CloudError, Relayed, Result};
pub use eviction::Eviction;
pub use for_entries::catch_up;
pub use imported::Imported;
pub use janitor::Retention;
pub use load::{Filled, HostUse, Takes};
pub use network::NetworkSettings;
pub use quota::{PerUser, Quotas};
pub use services::{
    Duplex, FilesOfMachines, HostServices, ImageIntake, MeterReading, Metered, NoServices, Relay,
    Resolved, VolumesOfHosts,
};
pub use watch::{Since, Watched, Watching};
