//! Images, machines and volumes for tests, and their jobs.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::TestCloud;
use crate::{Api, Appliance, Machine, waiting::wait_until};

/// How long a job may take.
const JOB_LIMIT: Duration = Duration::from_secs(60);

impl TestCloud {
    /// The tiny appliance in this cloud, public: `MachineImage/<id>`. Imported by the first call.
    ///
    /// # Panics
    /// If the import fails.
    pub fn image(&self) -> String {
        let mut image = self.image.lock().unwrap();
        if let Some(id) = &*image {
            return id.clone();
        }
        let tiny = Appliance::tiny();
        let paths = [&tiny.disk, &tiny.kernel, &tiny.initrd].map(|path| path.display().to_string());
        let [disk, kernel, initrd] = &paths;
        let answer = self.cli_json(&[
            "image",
            "import",
            disk,
            "--public",
            "--kernel",
            kernel,
            "--initrd",
            initrd,
            "--kernel-args",
            &tiny.arguments,
        ]);
        let identifier = answer["identifier"].as_str();
        let id = identifier.map(|identifier| format!("MachineImage/{identifier}"));
        let id = id.unwrap_or_else(|| panic!("no identifier: {answer}"));
        *image = Some(id.clone());
        id
    }

    /// Imports a file as an image to start machines from: `MachineImage/<id>`.
    ///
    /// # Panics
    /// If the import fails.
    pub fn import(&self, path: &Path) -> String {
        let answer = self.cli_json(&["image", "import", "--public", &path.display().to_string()]);
        format!(
            "MachineImage/{}",
            answer["identifier"]
                .as_str()
                .unwrap_or_else(|| panic!("no identifier: {answer}"))
        )
    }

    /// What to send for a small machine.
    #[must_use]
    pub fn machine_document(&self, image: &str) -> Value {
        json!({
            "resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate",
            "machineTemplate": {
                "machineConfig": {"cpu": 1, "memory": 128 * 1024},
                "machineImage": {"href": image},
                "credential": {"publicKey": self.public_key()},
            },
        })
    }

    /// Starts a small machine from the tiny appliance.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn machine(&self) -> Machine<'_> {
        let image = self.image();
        self.machine_of(&self.api(), &self.machine_document(&image))
    }

    /// Starts a machine as a user.
    ///
    /// # Panics
    /// If that is refused.
    #[track_caller]
    pub fn machine_of(&self, api: &Api, document: &Value) -> Machine<'_> {
        let body = api.post("Machine", document).expect(201);
        self.known_machine(api, &body)
    }

    /// A machine by its document.
    #[must_use]
    #[track_caller]
    pub fn known_machine(&self, api: &Api, document: &Value) -> Machine<'_> {
        let machine = Machine::new(self, api.clone(), document);
        self.remember(machine.uuid());
        machine
    }

    /// A machine by its number.
    #[must_use]
    #[track_caller]
    pub fn machine_by_number(&self, vmid: u64) -> Machine<'_> {
        let document = self.admin.get(&format!("Machine/{vmid}")).expect(200);
        self.known_machine(&self.api(), &document)
    }

    /// Remembers a machine, so that what is named for it is looked for at the end.
    ///
    /// # Panics
    /// Never.
    pub fn remember(&self, uuid: &str) {
        self.seen.lock().unwrap().insert(uuid.to_owned());
    }

    /// Makes a volume and waits until it can be used: `Volume/<uuid>`.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn volume(&self, api: &Api, gib: u64) -> String {
        let kilobytes = (gib << 30).div_ceil(1000);
        let document = json!({"name": "data", "volumeTemplate": {"volumeConfig": {"type": "http://schemas.dmtf.org/cimi/1/mapped", "capacity": kilobytes}}});
        let reply = api.post("Volume", &document);
        let job = reply.job.clone();
        let body = reply.expect(201);
        if let Some(job) = job {
            self.wait_for_job(&job);
        }
        body["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {body}"))
            .to_owned()
    }

    /// Waits until a job has ended.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn wait_for_job(&self, job: &str) {
        let (state, document) = self.job_end(job);
        assert_eq!(state, "SUCCESS", "{job}: {document}");
    }

    /// Waits until a job has ended; its state and document.
    ///
    /// # Panics
    /// If it doesn't end.
    #[track_caller]
    pub fn job_end(&self, job: &str) -> (String, Value) {
        wait_until(job, JOB_LIMIT, || {
            let document = self.admin.get(job).expect(200);
            let state = document["state"].as_str().unwrap_or_default().to_owned();
            (!["QUEUED", "RUNNING"].contains(&state.as_str())).then_some((state, document))
        })
    }
}
