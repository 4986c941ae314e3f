//! When the indexes of a catalogue were signed that were seen last. An older one is rightly signed, too: whoever stands between, or has a
//! mirror, could go on showing an index in which nothing is mended.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;

/// Nobody has more files of products.
const MAX_BYTES: u64 = 64 << 10;

/// Of each signed file: when it was signed, in seconds since 1970. Kept in a file, so that a restart forgets nothing.
#[derive(Debug)]
pub(super) struct Seen {
    file: Option<PathBuf>,
    times: Mutex<Option<BTreeMap<String, i64>>>,
}

impl Seen {
    /// What is kept in this file; without one it is forgotten with the program.
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            times: Mutex::default(),
        }
    }

    /// Takes note of a file that was signed at `time`. Blocks on a small file.
    ///
    /// # Errors
    /// If one signed later was seen before.
    pub(super) fn note(&self, name: &str, time: i64) -> Result<(), String> {
        let mut times = self.times.lock();
        let times = times.get_or_insert_with(|| self.read());
        match times.get(name) {
            Some(last) if time < *last => {
                return Err(format!(
                    "it is older than the one seen last: signed {}, and that one {}; whoever serves it shows an outdated one",
                    shown(time),
                    shown(*last)
                ));
            }
            Some(last) if time == *last => return Ok(()),
            _ => {}
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

    #[test]
    fn older_ones_are_refused_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalogues/one");
        let seen = Seen::new(Some(file.clone()));
        seen.note("index", 1_900_000_000).unwrap();
        seen.note("index", 1_900_000_000).unwrap();
        seen.note("streams/v1/a b", 5).unwrap();
        seen.note("index", 1_900_000_060).unwrap();
        let refused = seen.note("index", 1_900_000_000).unwrap_err();
        assert!(refused.contains("2030-03-17T17:46:40Z"), "{refused}");
        let again = Seen::new(Some(file.clone()));
        assert!(again.note("index", 1_900_000_000).is_err());
        assert!(again.note("streams/v1/a b", 4).is_err());
        again.note("streams/v1/a b", 6).unwrap();
        std::fs::write(&file, "nonsense\n").unwrap();
        Seen::new(Some(file)).note("index", 1).unwrap();
    }
}
