//! stratusd
fn main() {}
