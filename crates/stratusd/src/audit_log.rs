//! The audit log on disk: `STATE/audit/audit.log`, a JSON object a line, and the one before it.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use doors::{AuditLog, Audited};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

/// Entries that may wait to be written.
const WAITING: usize = 1024;
/// Entries that are written at once.
const AT_ONCE: usize = 256;
/// How much of each file is looked at for the last entries.
const LOOKED_AT_BYTES: u64 = 16 << 20;

/// The way to the log, for those who write and read it.
pub struct FileLog {
    entries: mpsc::Sender<String>,
    folder: PathBuf,
}

/// What writes it.
#[derive(Debug)]
pub struct Writer {
    entries: mpsc::Receiver<String>,
    file: Arc<Mutex<LogFile>>,
}

/// A log in `folder` that takes at most `most_bytes`, in two files.
///
/// # Errors
/// If it can't be written to.
pub fn open(folder: &Path, most_bytes: u64) -> anyhow::Result<(FileLog, Writer)> {
    crate::instance::make_dir(folder, 0o700)?;
    let file = LogFile::open(folder.to_owned(), most_bytes / 2)?;
    let (sender, entries) = mpsc::channel(WAITING);
    let log = FileLog {
        entries: sender,
        folder: folder.to_owned(),
    };
    let file = Arc::new(Mutex::new(file));
    Ok((log, Writer { entries, file }))
}

#[async_trait]
impl AuditLog for FileLog {
    async fn record(&self, what: Audited) {
        let line = serde_json::to_string(&what).unwrap_or_default();
        if self.entries.send(line).await.is_err() {
            tracing::error!(?what, "the audit log takes no entries any more");
        }
    }

    async fn last(&self, most: usize, user: Option<&str>) -> io::Result<Vec<Value>> {
        let (folder, user) = (self.folder.clone(), user.map(str::to_owned));
        let read = spawn_blocking(move || {
            let mut last = VecDeque::new();
            for path in [former(&folder), current(&folder)] {
                read_into(&mut last, &path, most, user.as_deref())?;
            }
            Ok(last.into())
        });
        read.await.map_err(io::Error::other)?
    }
}

impl Writer {
    /// Writes until told to stop, and then what has come until then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut lines = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.entries.recv_many(&mut lines, AT_ONCE) => {
                    if count == 0 {
                        return stop.cancelled().await;
                    }
                }
                () = stop.cancelled() => return,
            }
            let (file, batch) = (Arc::clone(&self.file), std::mem::take(&mut lines));
            let written = spawn_blocking(move || {
                let result = file.lock().write(&batch);
                (result, batch)
            });
            if let Ok((Err(error), batch)) = written.await {
                // Then at least the other log has it.
                tracing::error!(%error, ?batch, "entries of the audit log can't be written");
            }
        }
    }
}

#[derive(Debug)]
struct LogFile {
    folder: PathBuf,
    most_bytes: u64,
    file: File,
}

impl LogFile {
    fn open(folder: PathBuf, most_bytes: u64) -> io::Result<Self> {
        let file = append_to(&current(&folder))?;
        Ok(Self {
            folder,
            most_bytes,
            file,
        })
    }

    fn write(&mut self, lines: &[String]) -> io::Result<()> {
        if self.file.metadata()?.len() >= self.most_bytes {
            std::fs::rename(current(&self.folder), former(&self.folder))?;
            self.file = append_to(&current(&self.folder))?;
        }
        let mut text = lines.join("\n");
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

fn current(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

fn former(folder: &Path) -> PathBuf {
    folder.join("audit.log.1")
}

/// Adds the entries of a file to the last ones. A line that was cut off by a power cut is left out.
fn read_into(
    last: &mut VecDeque<Value>,
    path: &Path,
    most: usize,
    user: Option<&str>,
) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_AT_BYTES)))?;
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
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use cimi::Timestamp;

    use super::*;

    fn entry(user: &str, number: usize) -> Audited {
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
        }
    }

    #[tokio::test]
    async fn entries_are_kept_in_order_within_bounds_and_for_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let (log, writer) = open(&path, 20_000).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        for number in 0..400 {
            let user = if number % 2 == 0 { "joe" } else { "ann" };
            log.record(entry(user, number)).await;
        }
        // What was recorded before the stop is written.
        stop.cancel();
        running.await.unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        let ids = |entries: Vec<Value>| -> Vec<String> {
            let id = |entry: &Value| entry["requestId"].as_str().unwrap().to_owned();
            entries.iter().map(id).collect()
        };
        assert_eq!(ids(log.last(3, None).await.unwrap()), ["397", "398", "399"]);
        assert_eq!(ids(log.last(2, Some("joe")).await.unwrap()), ["396", "398"]);
        let mode = std::fs::metadata(current(&path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // A daemon that starts again goes on, after whatever the last one left.
        let half = append_to(&current(&path)).unwrap();
        (&half).write_all(b"{\"requestId\": \"cut").unwrap();
        let (log, writer) = open(&path, 20_000).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(writer.run(stop.clone()));
        log.record(entry("joe", 400)).await;
        log.record(entry("joe", 401)).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(ids(log.last(1, None).await.unwrap()), ["401"]);
    }

    #[tokio::test]
    async fn an_old_log_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(folder.path().to_owned(), 1000).unwrap();
        for number in 0..100 {
            let line = serde_json::to_string(&entry("joe", number)).unwrap();
            file.write(&[line]).unwrap();
        }
        let size = |path: PathBuf| std::fs::metadata(path).unwrap().len();
        let (old, new) = (size(former(folder.path())), size(current(folder.path())));
        assert!(old < 1300 && new < 1300, "{old} {new}");
    }
}
