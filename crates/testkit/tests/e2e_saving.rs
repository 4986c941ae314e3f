//! Machines that become images: saved at their shutdown, captured while they are off; whatever happens in between.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use testkit::{
    DebianPackage, Machine, Namespace, Need, Options, PackageRepository, TestCloud, skip_unless,
    wait_until,
};

/// Saving the tiny appliance takes about a second on a quiet machine.
const LIMIT: Duration = Duration::from_secs(90);

/// A machine that is to be saved, with a file in it that is on its disk.
fn marked<'c>(cloud: &'c TestCloud, title: &str) -> Machine<'c> {
    let mut document = cloud.machine_document(&cloud.image());
    document["machineTemplate"]["save"] = json!({
        "author": "Ann Example", "authorEmail": "ann@example.org", "title": title, "comment": "made by a test", "version": "1.1",
    });
    let machine = cloud.machine_of(&cloud.api(), &document);
    machine.wait_for_ssh();
    machine.ssh(&format!("echo {title} > /etc/made-here && sync"));
    machine
}

fn image_named(cloud: &TestCloud, title: &str) -> Option<Value> {
    let images = cloud.api().list("MachineImage");
    images.into_iter().find(|image| image["name"] == title)
}

fn wait_for_image(cloud: &TestCloud, title: &str) -> Value {
    wait_until("the saved image", LIMIT, || {
        image_named(cloud, title).filter(|image| image["state"] == "AVAILABLE")
    })
}

/// Starts a machine from an image, and makes sure that it has what was made in the other.
fn holds(cloud: &TestCloud, image: &Value, title: &str) {
    let identifier = image["identifier"].as_str().unwrap();
    let machine = cloud.machine_of(
        &cloud.api(),
        &cloud.machine_document(&format!("MachineImage/{identifier}")),
    );
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /etc/made-here"), title);
    machine.kill();
}

#[test]
fn a_machine_is_saved_at_its_shutdown_and_starts_again() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let origin = cloud.image().trim_start_matches("MachineImage/").to_owned();
    let volume = cloud.volume(&cloud.api(), 1);
    let started = cloud.cli_json(&[
        "run-instance",
        "--ram",
        "128",
        "--save",
        "--author",
        "Ann Example",
        "--author-email",
        "ann@example.org",
        "--image-version",
        "2.0",
        "--title",
        "by-command",
        "--comment",
        "c",
        &origin,
    ]);
    let machine = cloud.machine_by_number(started[0]["id"].as_u64().unwrap());
    assert!(
        started[0]["name"]
            .as_str()
            .unwrap()
            .starts_with("creator: "),
        "{started}"
    );
    machine.wait_for_ssh();
    machine.ssh("echo by-command > /etc/made-here && sync");
    machine.attach(&volume);
    cloud.cli(&["shutdown-instance", &machine.vmid.to_string()]);
    let image = wait_for_image(&cloud, "by-command");
    assert_eq!(image["visibility"], "PRIVATE", "{image}");
    assert_eq!(image["format"], "qcow2", "{image}");
    assert_eq!(image["imageLocation"], machine.id.as_str(), "{image}");
    machine.wait_for_phase("Done");
    let free = wait_until("the volume to be free", LIMIT, || {
        let document = cloud.api().get(&volume).expect(200);
        (document["count"] == 0).then_some(document)
    });
    assert_eq!(free["state"], "AVAILABLE", "{free}");
    let told = wait_until("the announcement", LIMIT, || {
        let image = image_named(&cloud, "by-command")?;
        let announced = &image["announced"];
        // While it is pending it was only begun.
        (announced["at"].is_string() && announced["pending"] != true).then_some(image)
    });
    // Nothing was configured for it: the cloud's own Marketplace has it, for two days.
    let market = told["announced"]["marketplace"].as_str().unwrap();
    assert!(market.ends_with("/marketplace"), "{told}");
    let found = cloud.cli_json(&["image", "search", "by-command"]);
    assert_eq!(found[0]["identifier"], image["identifier"], "{found}");
    assert!(
        found[0]["valid"].as_str() > found[0]["created"].as_str(),
        "{found}"
    );
    holds(&cloud, &image, "by-command");
    // Nobody else can start it.
    let stranger = cloud.user("mallory");
    let identifier = image["identifier"].as_str().unwrap();
    let refused = stranger.post(
        "Machine",
        &cloud.machine_document(&format!("MachineImage/{identifier}")),
    );
    assert_eq!(refused.status, 400, "{}", refused.text());
    let told = refused.text();
    assert!(told.contains("its owner doesn't share it"), "{told}");
    // Its entry says what it is, and goes with the image.
    let entry = |reply: &str| reply.contains("Temporary entry") && reply.contains("Ann Example");
    let path = format!(
        "/marketplace/metadata/{identifier}/{}/{}",
        found[0]["endorser"].as_str().unwrap(),
        found[0]["created"].as_str().unwrap()
    );
    let page = cloud.api().get(&format!("{path}?media=html"));
    assert!(
        page.status == 200 && entry(&page.text()),
        "{path}: {}",
        page.text()
    );
    cloud.cli(&["image", "delete", image["id"].as_str().unwrap()]);
    wait_until("the entry to be withdrawn", LIMIT, || {
        let found = cloud.cli_json(&["image", "search", "by-command"]);
        (found == json!([])).then_some(())
    });
    let page = cloud.api().get(&format!("{path}?media=html")).text();
    assert!(page.contains("The image was deleted"), "{page}");
    cloud.assert_clean();
}

/// Whether an image is there of which nobody knows yet.
fn is_being_saved(cloud: &TestCloud) -> bool {
    let incoming = cloud.state_dir().join("cache/disks/incoming");
    let mut unfinished = std::fs::read_dir(incoming).into_iter().flatten().flatten();
    unfinished.any(|folder| folder.path().join("disk").exists())
}

#[test]
fn a_daemon_killed_while_it_saves_goes_on_and_a_kill_saves_nothing() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let killed = marked(&cloud, "killed");
    let machine = marked(&cloud, "crashed");
    killed.kill();
    let done = cloud
        .api()
        .post(&format!("{}/shutdown", machine.id), &json!({}));
    let job = done
        .job
        .clone()
        .unwrap_or_else(|| panic!("{}", done.text()));
    // It is looked at all the time from the shutdown on, so that the first kill comes while it saves; the next ones do if
    // starting takes less time than saving.
    let under_way = || is_being_saved(&cloud);
    let deadline = std::time::Instant::now() + LIMIT;
    while !under_way() {
        assert!(std::time::Instant::now() < deadline, "saving never began");
        std::thread::sleep(Duration::from_millis(2));
    }
    cloud.kill();
    for _ in 0..3 {
        cloud.start_again();
        wait_until("saving to go on", LIMIT, || {
            let image = image_named(&cloud, "crashed");
            let is_saved = || image.is_some_and(|image| image["state"] == "AVAILABLE");
            (under_way() || is_saved()).then_some(())
        });
        cloud.kill();
    }
    cloud.start_again();
    let image = wait_for_image(&cloud, "crashed");
    cloud.wait_for_job(&job);
    machine.wait_for_phase("Done");
    holds(&cloud, &image, "crashed");
    assert!(image_named(&cloud, "killed").is_none());
    cloud.assert_clean();
}

#[test]
fn a_machine_that_is_off_is_captured_and_starts_again() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let api = cloud.api();
    let machine = cloud.machine();
    let capture = json!({"name": "captured", "imageLocation": {"href": machine.id}});
    machine.wait_for_ssh();
    machine.ssh("echo captured > /etc/made-here && sync");
    let operations = |document: &Value| document["operations"].to_string().contains("/capture");
    assert!(!operations(&machine.document()));
    let refused = api.post("MachineImage", &capture);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("stop it first"),
        "{}",
        refused.text()
    );
    cloud.cli(&["stop-instance", &machine.vmid.to_string()]);
    machine.wait_for_phase("Stopped");
    assert!(operations(&machine.document()), "{}", machine.document());
    let stranger = cloud.user("mallory");
    let refused = stranger.post("MachineImage", &capture);
    assert_eq!(refused.status, 400, "{}", refused.text());
    let reply = api.post("MachineImage", &capture);
    let job = reply.job.clone();
    let made = reply.expect(201);
    cloud.wait_for_job(&job.unwrap());
    let image = api.get(made["id"].as_str().unwrap()).expect(200);
    assert_eq!(image["state"], "AVAILABLE", "{image}");
    cloud.cli(&["start-instance", &machine.vmid.to_string()]);
    machine.wait_for_ssh();
    holds(&cloud, &image, "captured");
    machine.kill();
    cloud.assert_clean();
}

/// A script as it would be written for an image.
fn script(cloud: &TestCloud, name: &str, text: &str) -> String {
    let path = cloud.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn creation<'a>(cloud_arguments: &[&'a str], base: &'a str) -> Vec<&'a str> {
    let mut arguments = vec![
        "create-image",
        "--ram",
        "128",
        "--title",
        "created",
        "--comment",
        "c",
        "--author",
        "Ann Example",
        "--author-email",
        "ann@example.org",
    ];
    arguments.extend(cloud_arguments);
    arguments.push(base);
    arguments
}

/// The files of a package, settings and others.
fn brought_by_greeting(version: &str) -> [(&str, &str); 2] {
    [("etc/greeting", version), ("usr/share/greeting", version)]
}

fn greeting<'a>(version: &'a str, files: &'a [(&'a str, &'a str)]) -> DebianPackage<'a> {
    DebianPackage {
        name: "greeting",
        version,
        files,
        // Nobody can be asked: what could be read here are the next lines of the caller's script.
        configured: "cat >>/etc/greeting-was-told",
    }
}

#[test]
fn an_image_is_created_from_packages_and_scripts_without_traces_of_its_builder() {
    if skip_unless(&[]) || skip_unless(&[Need::Program("apt-get"), Need::Program("dpkg-deb")]) {
        return;
    }
    let namespace = Namespace::new();
    let mut repository = PackageRepository::beside(&namespace);
    let cloud = TestCloud::start_in(namespace, &Options::default());
    let base = cloud.image().trim_start_matches("MachineImage/").to_owned();
    // The tiny appliance has no package manager: this one has, and an old package with settings that were changed.
    let [brought, brought_later] = ["1", "2"].map(brought_by_greeting);
    let (old, new) = (greeting("1", &brought), greeting("2", &brought_later));
    repository.keep(&old);
    repository.publish(&new);
    let with_apt = format!(
        "#!/bin/sh\nset -e\n{}wget -q -O /tmp/old.deb {}\ndpkg -i /tmp/old.deb\necho changed >/etc/greeting\n",
        repository.install_apt(),
        repository.url_of(&old)
    );
    let first = script(&cloud, "first.sh", &with_apt);
    let key = cloud.folder().join("key.pub").display().to_string();
    let log = cloud.folder().join("first.log").display().to_string();
    let made = cloud.cli_json(&creation(
        &["-k", &key, "--scripts", &first, "--log", &log],
        &base,
    ));
    let with_apt = made["identifier"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned();

    let setup = script(
        &cloud,
        "setup.sh",
        "#!/bin/sh\nset -e\necho \"asked for $1\"\necho $1 >/etc/made-here\necho secret-history >/root/.ash_history\necho secret-log >/var/log/mine.log\n\
         echo secret-deleted >/root/deleted; sync; rm /root/deleted\n",
    );
    let scripts = format!("{setup} by-script");
    let log = cloud.folder().join("second.log").display().to_string();
    let made = cloud.cli_json(&creation(
        &[
            "-k",
            &key,
            "--packages",
            "greeting",
            "--extra-os-repos",
            &repository.line(),
            "--scripts",
            &scripts,
            "--log",
            &log,
        ],
        &with_apt,
    ));
    let identifier = made["identifier"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"));
    let story = std::fs::read_to_string(&log).unwrap();
    for told in [
        "asked for by-script",
        "installing packages",
        "script setup.sh: exit status: 0",
        identifier,
    ] {
        assert!(story.contains(told), "{told}: {story}");
    }
    let machine = cloud.machine_of(
        &cloud.api(),
        &cloud.machine_document(&format!("MachineImage/{identifier}")),
    );
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /etc/made-here"), "by-script");
    assert_eq!(machine.ssh("cat /usr/share/greeting"), "2");
    assert_eq!(machine.ssh("cat /etc/greeting"), "changed");
    assert_eq!(machine.ssh("cat /etc/greeting-was-told"), "");
    assert_eq!(machine.ssh("ls /var/cache/apt/archives/*.deb | wc -l"), "0");
    assert_eq!(
        machine
            .ssh("cat /root/.ash_history /var/log/mine.log 2>/dev/null | grep -c secret || true"),
        "0"
    );
    machine.kill();

    // The content itself, as anybody could take it.
    let raw = cloud.folder().join("created.raw").display().to_string();
    cloud.cli(&["image", "export", "--as", "raw", "-o", &raw, identifier]);
    let has = |what: &str| {
        let found = Command::new("grep").args(["-qaF", what, &raw]).status();
        found.unwrap().success()
    };
    let public = std::fs::read_to_string(&key).unwrap();
    let public = public.split_whitespace().nth(1).unwrap().to_owned();
    assert!(has("by-script"), "the content is this image");
    for gone in [
        "secret-history",
        "secret-log",
        "secret-deleted",
        public.as_str(),
    ] {
        assert!(!has(gone), "{gone} is in the image");
    }
    std::fs::remove_file(&raw).unwrap();
    comes_out_in_every_form(&cloud, &base);
    cloud.assert_clean();
}

/// Every format and every compression of an image is the same disk, by the programs that everybody has.
fn comes_out_in_every_form(cloud: &TestCloud, identifier: &str) {
    let folder = cloud.folder();
    let kept = folder.join("kept.qcow2").display().to_string();
    cloud.cli(&["image", "export", "-o", &kept, identifier]);
    for (format, compression) in [
        ("raw", Some(("zstd", "zstd"))),
        ("qcow2", None),
        ("vdi", Some(("xz", "xz"))),
        ("vmdk", Some(("gz", "gzip"))),
        ("vpc", Some(("bz2", "bzip2"))),
    ] {
        let plain = folder.join(format!("out.{format}")).display().to_string();
        let packed = format!("{plain}.packed");
        let to = if compression.is_some() {
            &packed
        } else {
            &plain
        };
        let mut arguments = vec!["image", "export", "--format", format, "-o", to];
        if let Some((name, program)) = compression {
            arguments.extend(["--compression", name, identifier]);
            cloud.cli(&arguments);
            cloud.shell(&format!("{program} -dc {packed} >{plain}"));
        } else {
            arguments.push(identifier);
            cloud.cli(&arguments);
        }
        let same = cloud.shell(&format!(
            "qemu-img compare -f qcow2 -F {format} {kept} {plain}"
        ));
        assert!(same.contains("identical"), "{format}: {same}");
        let _ = std::fs::remove_file(&packed);
        std::fs::remove_file(&plain).unwrap();
    }
}

/// The process of a command, by what only it has among its arguments.
fn process_with(command: &str, mark: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&command.as_bytes()) && words.contains(&mark.as_bytes())
        })
}

#[test]
fn an_interrupted_creation_leaves_nothing() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let base = cloud.image().trim_start_matches("MachineImage/").to_owned();
    let key = cloud.folder().join("key.pub").display().to_string();
    let endless = script(
        &cloud,
        "endless.sh",
        "#!/bin/sh\necho has begun\nexec sleep 10000\n",
    );
    let log = cloud.folder().join("interrupted.log").display().to_string();
    let more = ["-k", &key, "--scripts", &endless, "--log", &log];
    let output = std::thread::scope(|scope| {
        let creating = scope.spawn(|| cloud.try_cli(&creation(&more, &base)));
        wait_until("the script in the machine", LIMIT, || {
            let story = std::fs::read_to_string(&log).unwrap_or_default();
            (story.lines().any(|line| line == "has begun") || creating.is_finished()).then_some(())
        });
        let pid = process_with("create-image", &log).unwrap();
        cloud.shell(&format!("kill -INT {pid}"));
        creating.join().unwrap()
    });
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    // A slow host may take longer than anybody waits who has pressed ctrl-C; then that is what is said.
    let machines = cloud.api().list("Machine");
    if told.contains("What was unfinished is removed") {
        assert!(machines.is_empty(), "{told}: {machines:?}");
    } else {
        assert!(told.contains("is being removed by the cloud"), "{told}");
    }
    wait_until("the machine to go", LIMIT, || {
        cloud.api().list("Machine").is_empty().then_some(())
    });
    assert!(image_named(&cloud, "created").is_none());
    cloud.assert_clean();
}

#[test]
fn a_guest_that_ignores_the_power_button_is_saved_all_the_same() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        power_button_seconds: Some(3),
        ..Options::default()
    });
    let machine = marked(&cloud, "stubborn");
    machine.ssh("killall -STOP acpid");
    cloud.cli(&["shutdown-instance", &machine.vmid.to_string()]);
    let image = wait_for_image(&cloud, "stubborn");
    machine.wait_for_phase("Done");
    holds(&cloud, &image, "stubborn");
    cloud.assert_clean();
}

#[test]
fn a_step_that_fails_saves_nothing_and_can_be_looked_into() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let base = cloud.image().trim_start_matches("MachineImage/").to_owned();
    let key = cloud.folder().join("key.pub").display().to_string();
    let bad = script(&cloud, "bad.sh", "#!/bin/sh\necho about to fail\nexit 3\n");
    let log = cloud.folder().join("bad.log").display().to_string();
    for keep in [false, true] {
        let mut more = vec!["-k", &key, "--scripts", &bad, "--log", &log];
        if keep {
            more.push("--keep-on-failure");
        }
        let output = cloud.try_cli(&creation(&more, &base));
        assert_eq!(output.status.code(), Some(255), "{output:?}");
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            told.contains("script bad.sh failed with status 3") && told.contains("about to fail"),
            "{told}"
        );
        assert!(
            std::fs::read_to_string(&log)
                .unwrap()
                .contains("about to fail")
        );
        let machines = cloud.api().list("Machine");
        if keep {
            assert!(told.contains("stratus connect-instance"), "{told}");
            let machine = cloud.known_machine(&cloud.api(), &machines[0]);
            assert_eq!(machine.ssh("ls /tmp/bad.sh"), "/tmp/bad.sh", "as it was");
            machine.kill();
        } else {
            wait_until("the machine to go", LIMIT, || {
                cloud.api().list("Machine").is_empty().then_some(())
            });
        }
    }
    assert!(image_named(&cloud, "created").is_none());
    let missing = cloud.try_cli(&["create-image", "--title", "t", &base]);
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("--comment"),
        "{missing:?}"
    );
    cloud.assert_clean();
}

#[test]
fn a_folder_becomes_a_data_image_that_machines_read() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let folder = cloud.folder().join("data");
    std::fs::create_dir_all(folder.join("sub folder")).unwrap();
    std::fs::write(
        folder.join("sub folder/A long name with Capitals.txt"),
        "content of a file\n",
    )
    .unwrap();
    let file = cloud.folder().join("data.iso").display().to_string();
    let folder = folder.display().to_string();
    let made = cloud.cli_json(&[
        "image",
        "from-folder",
        &folder,
        "--label",
        "GENOMES",
        "-o",
        &file,
        "--import",
    ]);
    let data = made["identifier"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned();
    let base = cloud.image().trim_start_matches("MachineImage/").to_owned();
    let started = cloud.cli_json(&[
        "run-instance",
        "--ram",
        "128",
        "--readonly-disk",
        &data,
        &base,
    ]);
    let machine = cloud.machine_by_number(started[0]["id"].as_u64().unwrap());
    machine.wait_for_ssh();
    let read = machine.ssh("mkdir -p /mnt/d && mount -t iso9660 -o ro /dev/$(grep -l data0 /sys/block/*/serial | cut -d/ -f4) /mnt/d && cat '/mnt/d/sub folder/A long name with Capitals.txt'");
    assert_eq!(read, "content of a file");
    machine.kill();
    cloud.assert_clean();
}
