//! A directory, asked over real connections.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod a_real_directory_is_asked;
mod servers_that_misbehave;
mod settings;
mod slapd;
mod users_of_a_directory_log_in;
