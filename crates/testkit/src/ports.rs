//! Ports for programs that have to be told which one is theirs.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below those that the system gives to whoever asks for any one (`net.ipv4.ip_local_port_range`).
const FIRST: u16 = 10_000;
const COUNT: u32 = 10_000;
/// As many as a test takes, at most: each process begins where others that run beside it don't.
const OF_A_TEST: u32 = 16;

/// A port of the loopback interface that nobody listens at, and that nobody gets by chance before it is used.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() % COUNT * OF_A_TEST;
    for _ in 0..COUNT {
        let number = (own + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports from {FIRST} on are taken");
}
