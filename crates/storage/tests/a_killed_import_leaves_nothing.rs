//! A process killed in the middle of an import; the next one finds a clean store.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use storage::digest::Expected;
use storage::import::{ImageStore, Limits, Options, Progress, Source};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

/// Set for the process that is to be killed.
const VICTIM: &str = "STORAGE_TEST_VICTIM_DIR";

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Imports without end and says when it is well under way. Only does something in the process started below.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Ok(dir) = std::env::var(VICTIM) else {
        return;
    };
    let store = ImageStore::open(Path::new(&dir), Options::default()).expect("open");
    let (progress, mut seen) = watch::channel(Progress::default());
    tokio::spawn(async move {
        seen.wait_for(|progress| progress.bytes_written > 4 << 20)
            .await
            .expect("under way");
        println!("\nunder way");
    });
    let source = Source::Stream {
        reader: Box::new(tokio::io::repeat(7).take(u64::MAX)),
        length: None,
    };
    let _ = store
        .import(source, Expected::default(), Limits::default(), &progress)
        .await;
}

#[test]
fn the_next_process_sweeps_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "a_killed_import_leaves_nothing::victim",
            "--nocapture",
        ])
        .env(VICTIM, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start this test again");
    let mut child = KillOnDrop(child);
    let output = BufReader::new(child.0.stdout.take().expect("piped"));
    assert!(
        output
            .lines()
            .any(|line| line.is_ok_and(|line| line.contains("under way"))),
        "it ended early"
    );
    let incoming = dir.path().join("incoming");
    assert_eq!(std::fs::read_dir(&incoming).expect("list").count(), 1);
    drop(child);

    let store =
        ImageStore::open(dir.path(), Options::default()).expect("the lock went with the process");
    assert_eq!(std::fs::read_dir(&incoming).expect("list").count(), 0);
    assert!(store.list().is_empty());
}
