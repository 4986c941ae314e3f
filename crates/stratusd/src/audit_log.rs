//! The audit log on disk: `STATE/audit/audit-<day>.<number>.log`, a JSON object a line; a new file each day, and when one is
//! large. It is flushed every few seconds: a power cut takes no more. What is older than it is kept goes by days. The size is an alarm: who fills the log doesn't push out what was there
//! without being seen, and what anybody can send as often as they like is [counted together](pace).

mod pace;

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cimi::Timestamp;
use doors::{AuditLog, Audited};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::pace::Pace;

/// Entries that may wait to be written.
const WAITING: usize = 1024;
/// Entries that are written at once.
const AT_ONCE: usize = 256;
/// How much of each file is looked at for the last entries.
const LOOKED_AT_BYTES: u64 = 16 << 20;
/// How much of all files.
const LOOKED_AT_IN_ALL: u64 = 8 * LOOKED_AT_BYTES;
/// Parts of the space: so much of it goes at once when it is full.
const PARTS: u64 = 16;
/// How often what was written is flushed, and what was counted together is looked at.
const TICK: Duration = Duration::from_secs(5);
const MILLIS_A_DAY: i64 = 24 * 3600 * 1000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// For how many days.
    pub days: u64,
    /// Bytes of all files. Beyond them the oldest go before their time, and an operator is told.
    pub most_bytes: u64,
}

/// The way to the log, for those who write and read it.
pub struct FileLog {
    entries: mpsc::Sender<Audited>,
    folder: PathBuf,
}

/// What writes it.
#[derive(Debug)]
pub struct Writer {
    entries: mpsc::Receiver<Audited>,
    file: Arc<Mutex<LogFile>>,
    pace: Pace,
    tick: Duration,
}

/// A log in `folder`.
///
/// # Errors
/// If it can't be written to.
pub fn open(folder: &Path, keeping: Keeping) -> anyhow::Result<(FileLog, Writer)> {
    crate::instance::make_dir(folder, 0o700)?;
    let file = LogFile::open(folder.to_owned(), keeping, Timestamp::now())?;
    let (sender, entries) = mpsc::channel(WAITING);
    let log = FileLog {
        entries: sender,
        folder: folder.to_owned(),
    };
    let writer = Writer {
        entries,
        file: Arc::new(Mutex::new(file)),
        pace: Pace::default(),
        tick: TICK,
    };
    Ok((log, writer))
}

#[async_trait]
impl AuditLog for FileLog {
    async fn record(&self, what: Audited) {
        if let Err(error) = self.entries.send(what).await {
            tracing::error!(what = ?error.0, "the audit log takes no entries any more");
        }
    }

    async fn last(&self, most: usize, user: Option<&str>) -> io::Result<Vec<Value>> {
        let (folder, user) = (self.folder.clone(), user.map(str::to_owned));
        let read = spawn_blocking(move || last_of(&folder, most, user.as_deref()));
        read.await.map_err(io::Error::other)?
    }
}

impl Writer {
    /// Writes until told to stop, and then what has come until then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.tick);
        let mut entries = Vec::new();
        let mut goes_on = true;
        while goes_on {
            tokio::select! {
                biased;
                // First: entries that keep coming don't put it off.
                _ = tick.tick() => self.flush().await,
                count = self.entries.recv_many(&mut entries, AT_ONCE) => {
                    if count == 0 {
                        stop.cancelled().await;
                        goes_on = false;
                    }
                }
                () = stop.cancelled() => goes_on = false,
            }
            let now = std::time::Instant::now();
            let mut due: Vec<Audited> = entries
                .drain(..)
                .filter_map(|entry| self.pace.pass(entry, now))
                .collect();
            due.extend(self.pace.over(now, !goes_on));
            self.write(&due).await;
        }
    }

    async fn flush(&self) {
        let file = Arc::clone(&self.file);
        if let Ok(Err(error)) = spawn_blocking(move || file.lock().flush()).await {
            tracing::error!(%error, "the audit log can't be flushed");
        }
    }

    async fn write(&self, entries: &[Audited]) {
        if entries.is_empty() {
            return;
        }
        let lines = entries.iter().map(serde_json::to_string);
        let batch: Vec<String> = lines.map(Result::unwrap_or_default).collect();
        let file = Arc::clone(&self.file);
        let written = spawn_blocking(move || {
            let result = file.lock().write(&batch, Timestamp::now());
            (result, batch)
        });
        if let Ok((Err(error), batch)) = written.await {
            // Then at least the other log has it.
            tracing::error!(%error, ?batch, "entries of the audit log can't be written");
        }
    }
}

#[derive(Debug)]
struct LogFile {
    folder: PathBuf,
    keeping: Keeping,
    day: String,
    number: u32,
    file: File,
    /// Whether its last line was cut off: by a power cut before, or a disk that was full.
    is_cut: bool,
    /// How much of it outlives a power cut, in bytes.
    flushed: u64,
}

impl LogFile {
    fn open(folder: PathBuf, keeping: Keeping, now: Timestamp) -> io::Result<Self> {
        let day = day_of(now);
        let number = files(&folder)?
            .iter()
            .filter_map(|path| numbered(path))
            .filter(|(of, _)| *of == day)
            .map(|(_, number)| number)
            .max()
            .unwrap_or(0);
        let file = append_to(&named(&folder, &day, number))?;
        let is_cut = is_cut(&file)?;
        let this = Self {
            folder,
            keeping,
            day,
            number,
            file,
            is_cut,
            flushed: 0,
        };
        this.make_room(now);
        Ok(this)
    }

    fn write(&mut self, lines: &[String], now: Timestamp) -> io::Result<()> {
        let day = day_of(now);
        if day != self.day {
            self.begin(day, 0, now)?;
        } else if self.file.metadata()?.len() >= self.keeping.most_bytes / PARTS {
            self.begin(day, self.number.saturating_add(1), now)?;
        }
        let mut text = lines.join("\n");
        text.push('\n');
        if self.is_cut {
            // What is new begins a line.
            text.insert(0, '\n');
        }
        self.is_cut = true;
        self.file.write_all(text.as_bytes())?;
        self.is_cut = false;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length != self.flushed {
            self.file.sync_data()?;
            self.flushed = length;
        }
        Ok(())
    }

    fn begin(&mut self, day: String, number: u32, now: Timestamp) -> io::Result<()> {
        self.flush()?;
        self.file = append_to(&named(&self.folder, &day, number))?;
        self.is_cut = is_cut(&self.file)?;
        (self.day, self.number, self.flushed) = (day, number, 0);
        self.make_room(now);
        Ok(())
    }

    /// Removes what is too old; and what is too much, which an operator is to know. What is new is written whether or not it succeeds.
    fn make_room(&self, now: Timestamp) {
        if let Err(error) = self.try_make_room(now) {
            tracing::error!(%error, folder = %self.folder.display(), "old parts of the audit log can't be removed");
        }
    }

    fn try_make_room(&self, now: Timestamp) -> io::Result<()> {
        let mut files = files(&self.folder)?;
        let days = i64::try_from(self.keeping.days).unwrap_or(i64::MAX);
        let age = days.saturating_mul(MILLIS_A_DAY);
        let oldest = day_of(Timestamp::from_millis(now.as_millis().saturating_sub(age)));
        let current = named(&self.folder, &self.day, self.number);
        files.retain(|path| *path != current);
        let is_old = |path: &PathBuf| match numbered(path) {
            Some((day, _)) => day < oldest,
            // Of an older version: as old as its last entry.
            None => modified(path).is_some_and(|when| day_of(when) < oldest),
        };
        if !files.is_empty() && files.iter().all(is_old) {
            // Rather a clock that is wrong than a log that was kept for so long and then no more.
            tracing::error!(
                today = self.day,
                "all of the audit log would be too old: nothing of it is removed today; see that the clock is right"
            );
        } else {
            files.retain(|path| !(is_old(path) && std::fs::remove_file(path).is_ok()));
        }
        let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        let mut total: u64 = files.iter().chain([&current]).map(size).sum();
        let part = self.keeping.most_bytes / PARTS;
        for path in &files {
            if total.saturating_add(part) <= self.keeping.most_bytes {
                break;
            }
            tracing::error!(
                file = %path.display(),
                "the audit log has reached `retention.audit_mib` before its time: its oldest part is removed; see who fills it, or give it more room"
            );
            let freed = size(path);
            std::fs::remove_file(path)?;
            total = total.saturating_sub(freed);
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Whether a file ends within a line.
fn is_cut(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

/// `2026-11-29`, by UTC.
fn day_of(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

fn named(folder: &Path, day: &str, number: u32) -> PathBuf {
    folder.join(format!("audit-{day}.{number:04}.log"))
}

/// The day and number of a file.
fn numbered(path: &Path) -> Option<(String, u32)> {
    let name = path.file_name()?.to_str()?;
    let (day, number) = name
        .strip_prefix("audit-")?
        .strip_suffix(".log")?
        .split_once('.')?;
    Some((day.to_owned(), number.parse().ok()?))
}

fn modified(path: &Path) -> Option<Timestamp> {
    let since = path.metadata().ok()?.modified().ok()?;
    let since = since.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(
        i64::try_from(since.as_millis()).ok()?,
    ))
}

/// All files, the oldest first.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Older versions had two files.
        let order = match path.file_name().and_then(|name| name.to_str()) {
            Some("audit.log.1") => Some((String::new(), 0)),
            Some("audit.log") => Some((String::new(), 1)),
            _ => numbered(&path),
        };
        found.extend(order.map(|order| (order, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The last entries, the newest at the end.
fn last_of(folder: &Path, most: usize, user: Option<&str>) -> io::Result<Vec<Value>> {
    let mut all = VecDeque::new();
    let mut left = LOOKED_AT_IN_ALL;
    for path in files(folder)?.iter().rev() {
        if all.len() >= most || left == 0 {
            break;
        }
        let look_at = LOOKED_AT_BYTES.min(left);
        let mut of_file = VecDeque::new();
        left -= read_into(&mut of_file, path, most - all.len(), user, look_at)?;
        of_file.extend(all);
        all = of_file;
    }
    Ok(all.into())
}

/// Adds the last entries of a file; returns how much of it was read. A line that was cut off by a power cut is left out.
fn read_into(
    last: &mut VecDeque<Value>,
    path: &Path,
    most: usize,
    user: Option<&str>,
    look_at: u64,
) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(look_at)))?;
    for line in BufReader::new(file).split(b'\n') {
        let Ok(entry) = serde_json::from_slice::<Value>(&line?) else {
            continue;
        };
        let is_of = |name: &str| entry.get(name).and_then(Value::as_str) == user;
        if user.is_none() || is_of("user") || is_of("claimed") {
            if last.len() >= most {
                last.pop_front();
            }
            last.push_back(entry);
        }
    }
    Ok(length.min(look_at))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(super) fn entry(user: &str, number: usize) -> Audited {
        Audited {
            time: Timestamp::now(),
            request_id: number.to_string().into(),
            user: Some(user.into()),
            authenticated_by: None,
            token: None,
            claimed: None,
            address: [192, 0, 2, 1].into(),
            method: "DELETE".to_owned(),
            path: "/cimi/Volume/1".to_owned(),
            about: None,
            made: None,
            status: 204,
            outcome: None,
            others: 0,
        }
    }

    const KEEPING: Keeping = Keeping {
        days: 10,
        most_bytes: 320_000,
    };

    fn ids(entries: &[Value]) -> Vec<&str> {
        let ids = entries.iter().map(|entry| entry["requestId"].as_str());
        ids.map(Option::unwrap).collect()
    }

    #[tokio::test]
    async fn entries_are_kept_in_order_and_for_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let (log, writer) = open(&path, KEEPING).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        for number in 0..400 {
            let user = if number % 2 == 0 { "joe" } else { "ann" };
            log.record(entry(user, number)).await;
        }
        // What was recorded before the stop is written.
        stop.cancel();
        running.await.unwrap();
        assert_eq!(
            ids(&log.last(3, None).await.unwrap()),
            ["397", "398", "399"]
        );
        let joes = log.last(2, Some("joe")).await.unwrap();
        assert_eq!(ids(&joes), ["396", "398"]);
        let all = files(&path).unwrap();
        for file in &all {
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // A daemon that starts again goes on, after whatever the last one left.
        let half = append_to(all.last().unwrap()).unwrap();
        (&half).write_all(b"{\"requestId\": \"cut").unwrap();
        let (log, writer) = open(&path, KEEPING).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        log.record(entry("joe", 400)).await;
        log.record(entry("joe", 401)).await;
        stop.cancel();
        running.await.unwrap();
        let last = log.last(3, None).await.unwrap();
        assert_eq!(ids(&last), ["399", "400", "401"]);
    }

    #[tokio::test]
    async fn what_one_user_sends_in_vain_pushes_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let (log, writer) = open(&path, KEEPING).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        log.record(entry("ann", 0)).await;
        for number in 1..=20_000 {
            let mut refused = entry("joe", number);
            refused.status = 403;
            log.record(refused).await;
        }
        log.record(entry("ann", 20_001)).await;
        stop.cancel();
        running.await.unwrap();
        let all = log.last(10_000, None).await.unwrap();
        assert!(all.len() < 1000, "{}", all.len());
        assert_eq!(
            ids(&log.last(9, Some("ann")).await.unwrap()),
            ["0", "20001"]
        );
        let joes = log.last(10_000, Some("joe")).await.unwrap();
        let others: u64 = joes
            .iter()
            .filter_map(|entry| entry["others"].as_u64())
            .sum();
        assert_eq!(joes.len() as u64 + others, 20_000, "each is counted");
    }

    #[tokio::test]
    async fn entries_that_keep_coming_are_flushed_too() {
        let folder = tempfile::tempdir().unwrap();
        let much = Keeping {
            most_bytes: 1 << 40,
            ..KEEPING
        };
        let (log, mut writer) = open(&folder.path().join("audit"), much).unwrap();
        writer.tick = Duration::from_millis(100);
        let file = Arc::clone(&writer.file);
        let steady = async {
            for number in 0.. {
                log.record(entry("joe", number)).await;
            }
        };
        let flushed = async {
            let begun = std::time::Instant::now();
            while file.lock().flushed == 0 {
                assert!(begun.elapsed() < Duration::from_secs(20), "never flushed");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = flushed => {}
            () = steady => {}
            () = writer.run(CancellationToken::new()) => {}
        }
    }

    #[test]
    fn days_go_when_they_are_old_and_the_oldest_when_it_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let at = |day: i64| Timestamp::from_millis(1_700_000_000_000 + day * MILLIS_A_DAY);
        let lines = |count: usize| -> Vec<String> {
            let line = serde_json::to_string(&entry("joe", 0)).unwrap();
            vec![line; count]
        };
        let mut file = LogFile::open(folder.path().to_owned(), KEEPING, at(0)).unwrap();
        for day in 0..30 {
            file.write(&lines(1), at(day)).unwrap();
        }
        let days = files(folder.path()).unwrap();
        assert_eq!(days.len(), 11, "{days:?}");
        // Within one day no more than there is room for.
        for _ in 0..100 {
            file.write(&lines(100), at(30)).unwrap();
        }
        let all = files(folder.path()).unwrap();
        let total: u64 = all.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(total <= KEEPING.most_bytes + 40_000, "{total}");
        assert!(total >= KEEPING.most_bytes / 2, "{total}");
        assert!(
            all.iter()
                .all(|path| numbered(path).unwrap().0 == day_of(at(30))),
            "{all:?}"
        );
        // A clock that is far ahead takes nothing away.
        LogFile::open(folder.path().to_owned(), KEEPING, at(30_000)).unwrap();
        // (The oldest makes room for the new file.)
        assert_eq!(files(folder.path()).unwrap().len(), all.len());
        // One that starts again goes on with the last.
        let again = LogFile::open(folder.path().to_owned(), KEEPING, at(30)).unwrap();
        assert_eq!(again.number, file.number);
        assert!(again.number > 0);
    }
}
