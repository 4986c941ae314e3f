//! All tests that need a store and a mail server.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod letters_are_delivered;
mod real_servers_take_letters;
