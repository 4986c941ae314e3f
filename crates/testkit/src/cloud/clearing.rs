//! Nothing is to be left: looked for when a test is over, and taken down with the cloud.

use std::{fs, time::Duration};

use serde_json::Value;

use super::TestCloud;
use crate::{leaks, namespace::kill};

/// How long the cloud may take to clear away what it was told to remove.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);

impl TestCloud {
    /// Waits until nothing is left of any machine: by what the cloud's own checker finds, and by what is seen without it.
    /// All machines must have been removed before.
    ///
    /// # Panics
    /// If something is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        let machines = self.admin.list("Machine");
        assert!(
            machines.is_empty(),
            "machines are still there: {machines:?}"
        );
        let begun = std::time::Instant::now();
        loop {
            let found = self.left_over();
            if found.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < CLEAR_LIMIT,
                "left over after {} s:\n{}\nthe daemon's log ends:\n{}",
                CLEAR_LIMIT.as_secs(),
                found.join("\n"),
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn left_over(&self) -> Vec<String> {
        let seen: Vec<String> = self.seen.lock().unwrap().iter().cloned().collect();
        let mut found = leaks::left_over(&self.state, self.namespace.as_ref(), &seen);
        let output = self.try_cli(&["doctor", "--format", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match report["findings"].as_array() {
            Some(findings) => {
                found.extend(findings.iter().map(|finding| format!("doctor: {finding}")));
            }
            None => found.push(format!(
                "doctor says {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
        }
        found
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ends:\n{}", self.log_tail());
        }
        // First the daemon, or it would mend what is taken down.
        if let Ok(mut daemon) = self.daemon.lock() {
            daemon.take();
        }
        if let Some(namespace) = &self.namespace {
            namespace.processes().into_iter().for_each(kill);
        }
        leaks::processes_with(&self.folder.path().display().to_string())
            .into_iter()
            .for_each(kill);
        let seen: Vec<String> = self
            .seen
            .lock()
            .map(|seen| seen.iter().cloned().collect())
            .unwrap_or_default();
        let folders = fs::read_dir(self.state.join("machines"))
            .into_iter()
            .flatten()
            .flatten();
        let seen: Vec<String> = seen
            .into_iter()
            .chain(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect();
        seen.iter()
            .flat_map(|uuid| leaks::processes_with(uuid))
            .for_each(kill);
        leaks::remove_control_groups(&format!("stratus-{}", self.instance));
    }
}
