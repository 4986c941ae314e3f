//! A machine as a test sees it: by the API, and from inside by SSH.

use std::{process::Output, time::Duration};

use serde_json::{Value, json};

use crate::{Api, TestCloud, wait_until, waiting::soon};

/// How long a guest may take to answer SSH: 4 s on a quiet machine, several times that on one that also compiles.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long what needs no guest may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// A machine of a [`TestCloud`].
#[derive(Clone, Debug)]
pub struct Machine<'c> {
    cloud: &'c TestCloud,
    api: Api,
    /// `Machine/<uuid>`.
    pub id: String,
    /// Its number.
    pub vmid: u64,
}

impl<'c> Machine<'c> {
    pub(crate) fn new(cloud: &'c TestCloud, api: Api, document: &Value) -> Self {
        let id = document["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {document}"))
            .to_owned();
        let vmid = document["vmid"]
            .as_u64()
            .unwrap_or_else(|| panic!("no vmid: {document}"));
        Self {
            cloud,
            api,
            id,
            vmid,
        }
    }

    /// Its UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        self.id.trim_start_matches("Machine/")
    }

    /// Its document.
    #[must_use]
    #[track_caller]
    pub fn document(&self) -> Value {
        self.api.get(&self.id).expect(200)
    }

    /// Its phase: `Running`, …; `Done` when it is gone.
    #[must_use]
    #[track_caller]
    pub fn phase(&self) -> String {
        let reply = self.api.get(&self.id);
        if reply.status == 404 {
            return "Done".to_owned();
        }
        reply.expect(200)["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits for a phase.
    ///
    /// # Panics
    /// If it doesn't come.
    #[track_caller]
    pub fn wait_for_phase(&self, phase: &str) {
        let mut last = String::new();
        let found = soon(CHANGE_LIMIT, || {
            last = self.phase();
            (last == phase).then_some(())
        });
        if found.is_some() {
            return;
        }
        let document = self.api.get(&self.id).text();
        panic!(
            "machine {} is {last} and not {phase} after {} s: {document}",
            self.vmid,
            CHANGE_LIMIT.as_secs()
        );
    }

    /// Its address.
    #[must_use]
    #[track_caller]
    pub fn address(&self) -> String {
        self.document()["addresses"][0]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Runs a command in it; the output whatever the exit status.
    #[must_use]
    pub fn try_ssh(&self, command: &str) -> Output {
        let document = self.document();
        let host = document["ssh"]["host"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let port = document["ssh"]["port"].as_u64().unwrap_or(22);
        self.cloud.ssh_to(&host, port, self.uuid(), command)
    }

    /// Runs a command in it; what it printed, without the end of the last line.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ssh(&self, command: &str) -> String {
        let output = self.try_ssh(command);
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "ssh {}: {command}: {} {out}{error}",
            self.vmid,
            output.status
        );
        out.trim_end().to_owned()
    }

    /// Waits until it answers SSH.
    ///
    /// # Panics
    /// If it doesn't, with its console.
    #[track_caller]
    pub fn wait_for_ssh(&self) {
        let answers = soon(BOOT_LIMIT, || {
            self.try_ssh("true").status.success().then_some(())
        });
        assert!(
            answers.is_some(),
            "machine {} does not answer SSH after {} s: {}\n{}",
            self.vmid,
            BOOT_LIMIT.as_secs(),
            self.document(),
            self.console()
        );
    }

    /// What it wrote to its serial console.
    #[must_use]
    pub fn console(&self) -> String {
        self.api.get(&format!("{}/console", self.id)).text()
    }

    /// Begins to attach a volume, and waits until it is.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn attach(&self, volume: &str) {
        let reply = self.api.post(
            &format!("{}/volumes", self.id),
            &json!({"volume": {"href": volume}}),
        );
        let job = reply.job.clone();
        let _ = reply.expect(201);
        self.cloud.wait_for_job(&job.unwrap());
    }

    /// Begins to detach a volume, and waits until it is.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn detach(&self, volume: &str) {
        let uuid = volume.trim_start_matches("Volume/");
        let reply = self.api.delete(&format!("{}/volumes/{uuid}", self.id));
        let job = reply.job.clone();
        let _ = reply.expect(202);
        self.cloud.wait_for_job(&job.unwrap());
    }

    /// Removes it at once, and waits until it is gone.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn kill(&self) {
        self.api.post(&format!("{}/kill", self.id), &json!({})).ok();
        self.wait_for_phase("Done");
    }

    /// The number of its QEMU's process, found without the cloud's help.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        crate::leaks::processes_with(self.uuid())
    }

    /// Waits for its QEMU, and gives its process.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[track_caller]
    pub fn process(&self) -> u32 {
        let all = wait_until("the QEMU process", CHANGE_LIMIT, || {
            Some(self.processes()).filter(|all| !all.is_empty())
        });
        assert_eq!(
            all.len(),
            1,
            "several QEMU for machine {}: {all:?}",
            self.vmid
        );
        all[0]
    }
}
