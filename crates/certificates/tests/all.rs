//! Certificates as OpenSSL, Globus and VOMS make them.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod believed;
mod chains_that_are_refused;
mod organisations_are_believed_by_their_servers;
mod proxies_of_the_grid_stand_for_their_user;
mod site;
