//! `stratus`: every command of a cloud's users and administrators in one program.
//!
//! `stratus run-instance …` and, through a link, `stratus-run-instance …` are the same. The program
//! speaks the cloud's HTTP interface and needs nothing of the server side.
//!
//! - [`program`]: the command line, from arguments to exit status.
//! - [`commands`]: one file a command.
//! - [`options`]: options that several commands share.
//! - [`config`]: configuration file, environment and the precedence between them.
//! - [`cloud`]: the client of the HTTP interface: addresses, TLS and trust, requests, waiting.
//! - [`endorser`], [`described_image`]: signing keys, and what is described of an image.
//! - [`logged_run`]: programs that are run here and elsewhere, with a log of what they say.
//! - [`unfinished`]: what goes again when a command fails or is interrupted.
//! - [`output`], [`failure`], [`table`], [`progress`]: what the user sees.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )
)]

mod cloud;
mod commands;
mod config;
mod console_filter;
mod described_image;
mod endorser;
mod failure;
mod image_source;
mod kept_logins;
mod logged_run;
mod machine_table;
mod machine_types;
mod memory_size;
mod new_file;
mod options;
mod output;
mod packing;
mod program;
mod progress;
mod public_keys;
mod reverse_names;
mod session;
mod table;
mod unfinished;

fn main() -> std::process::ExitCode {
    program::main()
}
