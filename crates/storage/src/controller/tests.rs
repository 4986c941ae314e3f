//! The controller over a real database and real files, broken off between any two steps.

#![expect(clippy::panic, reason = "a test that fails says what it saw")]

mod authorities;
mod by_name;
mod by_url;
mod catalogues;
mod entries_are_obeyed;
mod export_life;
mod formats_and_packings;
mod full_disks;
mod image_life;
mod judged;
mod quotas;
mod saved_elsewhere;
mod saved_machines;
mod site;
mod site_rules;
mod states;
mod tags;
mod volume_life;
mod world;

#[expect(
    dead_code,
    reason = "shared with the tests of imports, which need more of it"
)]
#[path = "../../tests/web_server/mod.rs"]
mod web_server;
