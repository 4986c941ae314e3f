//! Open files: as many as the kernel lets us have, and connections that leave enough of them for everything else.
//!
//! Without a descriptor left nothing works: no machine can be started, asked or found. So connections, which strangers
//! open, never get more than half.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most that are asked for. Programs that we start inherit the limit, and some close that many files one by one.
const MOST: u64 = 65_536;
/// Kept for machines, the database and programs that we start, however few there are.
const RESERVE: u64 = 512;

/// Raises the limit of open files as far as it goes, and returns it.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (now, hard) = (
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.unwrap_or(u64::MAX),
    );
    let wanted = hard.min(MOST);
    if now >= wanted {
        return now;
    }
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        },
    );
    match raised {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, now, wanted, "the limit of open files can't be raised");
            now
        }
    }
}

/// How many connections may be open at once, of so many that were configured, with so many files.
pub fn connections(configured: usize, files: u64) -> usize {
    let most = (files / 2).min(files.saturating_sub(RESERVE)).max(16);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if configured > most {
        tracing::warn!(
            "limits.connections is {configured}, but of {files} open files only {most} can be connections: raise the hard limit of open files (`ulimit -Hn`), or set it lower"
        );
    }
    configured.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(connections(4096, MOST), 4096);
        assert_eq!(connections(100_000, MOST), 32_768);
        assert_eq!(connections(4096, 4096), 2048);
        assert_eq!(connections(4096, 1024), 512);
        assert_eq!(connections(4096, 600), 88);
        assert_eq!(connections(10, 1024), 10);
        assert_eq!(connections(4096, 0), 16);
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let now = raise();
        assert!(now >= hard.min(MOST), "{now} of {hard}");
        assert_eq!(getrlimit(Resource::Nofile).current, Some(now));
    }
}
