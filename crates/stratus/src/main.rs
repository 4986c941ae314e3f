//! stratus
fn main() {}
