//! A whole cloud for a test: the real programs, a folder of its own, a network namespace of its own.
//!
//! [`TestCloud::start`] runs `stratusd` as an operator would; a test then uses it as users do, by the `stratus` command
//! ([`TestCloud::cli`]), the API ([`TestCloud::api`]) and OpenSSH ([`TestCloud::ssh`]). [`TestCloud::assert_clean`] looks for
//! what was left over, without asking the daemon. Everything goes when the cloud is dropped, also in a test that failed.
//!
//! The programs are not built by the tests: `cargo build --release -p stratusd -p stratus` (or without `--release`) does it, in
//! the profile of the tests. `make test` does both. A test begins with [`skip_unless`], which says what is missing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "for tests: whoever panics here has failed, and says why"
)]

mod api;
mod appliance;
mod browser;
mod checkout;
mod cloud;
mod cluster;
mod computer_room;
mod daemon;
mod endorser;
mod entry;
mod file_server;
mod leaks;
mod machine;
mod mail_sink;
mod marketplace;
mod namespace;
mod package_repository;
mod ports;
mod programs;
mod stop_point;
mod test_host;
mod waiting;
mod written_lines;

pub use api::{Api, Reply};
pub use appliance::{Appliance, firmware_only_image};
pub use browser::Browser;
pub use checkout::Checkout;
pub use cloud::{Options, TestCloud};
pub use cluster::{Cluster, ClusterMachine};
pub use computer_room::{BareComputer, ComputerRoom};
pub use endorser::{TestEndorser, certified, identifier_of, self_signed};
pub use entry::TestEntry;
pub use file_server::FileServer;
pub use machine::Machine;
pub use mail_sink::{MailSink, SentLetter};
pub use marketplace::TestMarketplace;
pub use namespace::Namespace;
pub use package_repository::{DebianPackage, PackageRepository};
pub use ports::free_port;
pub use programs::{Need, program, skip_unless};
pub use stop_point::StopPoint;
pub use test_host::TestHost;
pub use waiting::wait_until;
