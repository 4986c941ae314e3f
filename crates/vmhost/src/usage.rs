//! What a process has used, as the kernel counts it.

use std::fs;
use std::io;
use std::path::Path;

/// Counted since the machine's process began; what it holds is that of now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, in milliseconds.
    pub cpu_ms: u64,
    /// Memory it holds of the host's, in KiB.
    pub memory_kib: u64,
    /// What the guest read from and wrote to its disks.
    pub disks: Traffic,
    /// The interfaces of the host that lead to it; empty where its network is not the host's.
    pub taps: Vec<String>,
}

/// What went in two directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes to the guest: read, received.
    pub bytes_in: u64,
    /// Bytes from the guest: written, sent.
    pub bytes_out: u64,
    /// Operations or packets to the guest.
    pub count_in: u64,
    /// Operations or packets from the guest.
    pub count_out: u64,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
            count_in: self.count_in.saturating_add(other.count_in),
            count_out: self.count_out.saturating_add(other.count_out),
        }
    }
}

/// CPU time (ms) and memory (KiB) of a process (`/proc/PID/stat`, proc(5)). Blocks briefly.
pub(crate) fn of_process(pid: u32) -> io::Result<(u64, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::Error::other("/proc/PID/stat has another form"))
}

fn parse_stat(text: &str) -> Option<(u64, u64)> {
    // The name before may hold anything, parentheses too.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)?.saturating_add(number(12)?);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let pages = number(21)?;
    let page_kib = (rustix::param::page_size() as u64) / 1024;
    Some((
        ticks.saturating_mul(1000) / per_second,
        pages.saturating_mul(page_kib),
    ))
}

/// The taps a process has open (`iff` in `/proc/PID/fdinfo`). Blocks briefly.
pub(crate) fn taps_of(pid: u32) -> Vec<String> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let is_tun =
        |path: &Path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == "/dev/net/tun");
    let mut taps: Vec<String> = descriptors
        .flatten()
        .filter(|descriptor| is_tun(&descriptor.path()))
        .filter_map(|descriptor| {
            let number = descriptor.file_name();
            let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
            let text = fs::read_to_string(info).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("iff:"))?;
            Some(line.trim().to_owned())
        })
        .collect();
    taps.sort();
    taps.dedup();
    taps
}

/// What went over the interfaces of this host, by name; what the host received the guest has sent (`/proc/net/dev`).
/// Blocks briefly.
pub(crate) fn interfaces() -> Vec<(String, Traffic)> {
    // That of this thread: its network namespace may be another than the process's first.
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines().filter_map(parse_interface).collect()
}

fn parse_interface(line: &str) -> Option<(String, Traffic)> {
    let (name, rest) = line.split_once(':')?;
    let fields: Vec<u64> = rest
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let traffic = Traffic {
        bytes_out: *fields.first()?,
        count_out: *fields.get(1)?,
        bytes_in: *fields.get(8)?,
        count_in: *fields.get(9)?,
    };
    Some((name.trim().to_owned(), traffic))
}

/// CPU time of all processors that wasn't idle, in ms, and memory that can't be had, in KiB, of this host. Blocks briefly.
pub(crate) fn of_host() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are counted in user.
    let idle = fields.get(3)?.saturating_add(*fields.get(4)?);
    let all: u64 = fields.iter().take(8).sum();
    let ticks = all.saturating_sub(idle);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let used = kib("MemTotal:")?.saturating_sub(kib("MemAvailable:")?);
    Some((ticks.saturating_mul(1000) / per_second, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let before = of_process(std::process::id()).expect("our own");
        let mut x = 1_u64;
        let end = std::time::Instant::now() + std::time::Duration::from_millis(60);
        while std::time::Instant::now() < end {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after = of_process(std::process::id()).expect("our own");
        assert!(after.0 >= before.0 + 10, "{before:?} {after:?}");
        assert!(after.1 > 100, "{after:?}");
        let (cpu, memory) = of_host().expect("the host's");
        assert!(cpu > 0 && memory > 0);
        assert!(interfaces().iter().any(|(name, _)| name == "lo"));
    }

    #[test]
    fn names_and_nonsense_do_no_harm() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 10000 25 0";
        let (cpu, memory) = parse_stat(&format!("1 (a) b) {fields}")).expect("fields");
        assert!(cpu >= 42 && memory >= 25);
        for text in [
            "",
            ")",
            "1 (a) S 1",
            "1 (a) S x x x x x x x x x x x x x x x x x x x x x x",
        ] {
            assert_eq!(parse_stat(text), None, "{text}");
        }
        assert_eq!(parse_interface("Inter-|   Receive"), None);
        let line = "st-7: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0";
        let (name, traffic) = parse_interface(line).expect("a line");
        assert_eq!(
            (name.as_str(), traffic.bytes_out, traffic.bytes_in),
            ("st-7", 1, 3)
        );
    }
}
