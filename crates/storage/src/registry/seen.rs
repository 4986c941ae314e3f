//! When the indexes of a catalogue were signed that were seen last. An older one is rightly signed, too: whoever stands between, or has a
//! mirror, could go on showing an index in which nothing is mended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Nobody has more files of products.
const MAX_BYTES: u64 = 64 << 10;
/// How far the clock of who signs may be ahead of ours, in seconds.
const AHEAD: i64 = 300;

/// Of each signed file: when it was signed, in seconds since 1970. Kept in a file, so that a restart forgets nothing.
#[derive(Debug)]
pub(super) struct Seen(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    file: Option<PathBuf>,
    times: Mutex<Option<BTreeMap<String, i64>>>,
}

impl Seen {
    /// What is kept in this file; without one it is forgotten with the program.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self(Arc::new(Kept {
            file,
            times: Mutex::default(),
        }))
    }

    /// Takes note of a file that was signed at `time`. A time of the future is none to measure later ones by: who signs had a
    /// wrong clock once, or we have, and each right file after it would be refused.
    ///
    /// # Errors
    /// If one signed later was seen before.
    pub(super) async fn note(&self, name: &str, time: i64) -> Result<(), String> {
        let (kept, name) = (self.0.clone(), name.to_owned());
        // It writes a small file.
        tokio::task::spawn_blocking(move || kept.note(&name, time, now()))
            .await
            .map_err(|error| error.to_string())?
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

impl Kept {
    fn note(&self, name: &str, time: i64, now: i64) -> Result<(), String> {
        let mut times = self.times.lock();
        let times = times.get_or_insert_with(|| self.read());
        let latest = now.saturating_add(AHEAD);
        match times.get(name) {
            Some(last) if time < *last && *last <= latest => {
                return Err(format!(
                    "it is older than the one seen last: signed {}, and that one {}; whoever serves it shows an outdated one",
                    shown(time),
                    shown(*last)
                ));
            }
            Some(last) if time == *last => return Ok(()),
            _ => {}
        }
        if time > latest {
            tracing::warn!(
                name,
                signed = shown(time),
                "an index was signed in the future; it is taken, and older ones after it, too"
            );
            return Ok(());
        }
        times.insert(name.to_owned(), time);
        if let Err(error) = self.write(times) {
            tracing::warn!(%error, "which indexes of a catalogue were seen can't be kept");
        }
        Ok(())
    }

    fn read(&self) -> BTreeMap<String, i64> {
        use std::io::Read as _;
        let Some(file) = &self.file else {
            return BTreeMap::new();
        };
        let mut text = String::new();
        let read = std::fs::File::open(file)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %file.display(), %error, "reading which indexes were seen");
            }
        }
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter_map(|(time, name)| Some((name.to_owned(), time.parse().ok()?)))
            .collect()
    }

    /// Whole or not at all.
    fn write(&self, times: &BTreeMap<String, i64>) -> std::io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text: String = times
            .iter()
            .map(|(name, time)| format!("{time} {name}\n"))
            .collect();
        let new = file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(new, file)
    }
}

fn shown(time: i64) -> String {
    marketplace::UtcTime::from_unix_seconds(time)
        .map_or_else(|| time.to_string(), |time| time.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    const NOW: i64 = 1_900_000_100;

    fn kept(file: &std::path::Path) -> Arc<Kept> {
        Seen::new(Some(file.to_owned())).0
    }

    #[test]
    fn older_ones_are_refused_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalogues/one");
        let seen = kept(&file);
        seen.note("index", 1_900_000_000, NOW).unwrap();
        seen.note("index", 1_900_000_000, NOW).unwrap();
        seen.note("streams/v1/a b", 5, NOW).unwrap();
        seen.note("index", 1_900_000_060, NOW).unwrap();
        let refused = seen.note("index", 1_900_000_000, NOW).unwrap_err();
        assert!(refused.contains("2030-03-17T17:46:40Z"), "{refused}");
        let again = kept(&file);
        assert!(again.note("index", 1_900_000_000, NOW).is_err());
        assert!(again.note("streams/v1/a b", 4, NOW).is_err());
        again.note("streams/v1/a b", 6, NOW).unwrap();
        std::fs::write(&file, "nonsense\n").unwrap();
        kept(&file).note("index", 1, NOW).unwrap();
    }

    #[test]
    fn a_time_of_the_future_refuses_no_right_index_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one");
        let seen = kept(&file);
        seen.note("index", NOW - 60, NOW).unwrap();
        seen.note("index", NOW + 86_400, NOW).unwrap();
        seen.note("index", NOW, NOW).unwrap();
        assert!(
            seen.note("index", NOW - 60, NOW).is_err(),
            "the last right one counts"
        );
        // Clocks differ a little.
        seen.note("index", NOW + 200, NOW).unwrap();
        assert!(kept(&file).note("index", NOW, NOW).is_err());
        // What an earlier version wrote down.
        std::fs::write(&file, format!("{} index\n", NOW + 86_400)).unwrap();
        let seen = kept(&file);
        seen.note("index", NOW, NOW).unwrap();
        assert!(kept(&file).note("index", NOW - 1, NOW).is_err());
    }
}
