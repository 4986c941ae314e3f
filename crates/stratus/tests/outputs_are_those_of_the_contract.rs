//! What commands send and print, byte for byte where StratusLab's scripts read it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod images;
mod machines;
mod operators;
mod reaching_machines;
mod systems;
mod volumes;

use crate::support::{Reply, Seen};

const U: &str = "08f59022-463a-4662-8136-c0cee5517f17";
const V: &str = "18f59022-463a-4662-8136-c0cee5517f18";
const IMAGE: &str = "GaHbcDefGhiJklMnoPqrStuVwxY";

fn unknown(seen: &Seen) -> Reply {
    Reply::refusal(404, &format!("nothing at {}", seen.line))
}
