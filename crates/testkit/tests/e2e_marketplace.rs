//! An appliance travels: described and signed by its builder, published in a Marketplace that asks the endorser by letter, and
//! started by its identifier in a cloud elsewhere; a machine there is saved, and its entry and the letter to its author arrive.
//! Two real daemons, a real mail conversation, the commands.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mail::testing::{Mood, Received, Sink};
use testkit::{
    Appliance, FileServer, Machine, Need, Options, TestCloud, TestMarketplace, certified,
    identifier_of, self_signed, skip_unless, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

/// Everything that takes part.
struct Site {
    runtime: tokio::runtime::Runtime,
    sink: Sink,
    market: TestMarketplace,
    files: FileServer,
    cloud: TestCloud,
    folder: PathBuf,
    /// Key and certificate of the builder.
    alice: PathBuf,
    _keys: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let sink = runtime.block_on(Sink::start(Mood::Takes));
        let mail = format!(
            "[mail]\nserver = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nfrom = \"Stratus <cloud@example.org>\"\n",
            sink.address.port()
        );
        let files = FileServer::serve();
        // The daemons are another user: what they are to read lies in a folder of its own.
        let keys = tempfile::Builder::new()
            .prefix("stratus-keys-")
            .tempdir()
            .unwrap();
        let folder = keys.path();
        let authority = certified(folder, "cloud", "/CN=Cloud", "cloud@example.org");
        fs::write(folder.join("endorsers"), "CN=Cloud\n").unwrap();
        open(folder);
        let market = TestMarketplace::start(
            &format!(
                "trusted_endorsers = \"{0}/endorsers\"\ntrusted_authorities = \"{1}\"",
                folder.display(),
                authority.display()
            ),
            &mail,
        );
        let ca = folder.join("market-ca.pem");
        fs::copy(market.ca(), &ca).unwrap();
        open(folder);
        let cloud = TestCloud::start_user_mode_with(&Options {
            tables: format!(
                "[images]\nallow_sources = [\"127.0.0.1/32\"]\n{mail}[saving]\nmarketplace = \"{url}\"\nca = \"{ca}\"\nkey = \"{keys}/cloud.pem\"\n\
                 [[catalogue]]\nname = \"central\"\nkind = \"marketplace\"\nurl = \"{url}\"\nca = \"{ca}\"\n",
                url = market.url(),
                ca = ca.display(),
                keys = folder.display(),
            ),
            ..Options::default()
        });
        let folder = cloud.folder().join("builder");
        fs::create_dir(&folder).unwrap();
        let alice = self_signed(&folder);
        Self {
            runtime,
            sink,
            market,
            files,
            cloud,
            folder,
            alice,
            _keys: keys,
        }
    }

    /// Describes a file of the builder's folder, and signs that.
    fn signed(&self, file: &str, title: &str, locations: &[String], more: &[&str]) -> PathBuf {
        let before = xml_files(&self.folder);
        let mut described = vec![
            "build-metadata",
            "--author",
            "Alice",
            "--os-version",
            "1",
            "--os-arch",
            "x86_64",
            "--image-version",
            "1.0",
            "--comment",
            title,
            "--title",
            title,
        ];
        for location in locations {
            described.extend(["--location", location]);
        }
        described.extend(more);
        described.push(file);
        self.cloud.cli_in(&self.folder, &described);
        let draft = xml_files(&self.folder)
            .into_iter()
            .find(|path| !before.contains(path))
            .unwrap();
        let signed = self.folder.join(format!("{title}.signed"));
        let [pem, to, draft] =
            [&self.alice, &signed, &draft].map(|path| path.display().to_string());
        let sign = ["sign-metadata", "--pem-cert", &pem, "--output", &to, &draft];
        self.cloud.cli_in(&self.folder, &sign);
        signed
    }

    /// Uploads an entry, and confirms it as its endorser is asked to; its identifier.
    fn published(&self, entry: &Path) -> String {
        let identifier = identifier_of(entry);
        let (url, ca) = (self.market.url(), self.market.ca().display().to_string());
        let known = self.sink.received().len();
        let file = entry.display().to_string();
        let uploaded = self.cloud.cli_json(&[
            "upload-metadata",
            "--marketplace-endpoint",
            url,
            "--ca",
            &ca,
            &file,
        ]);
        assert_eq!(uploaded["state"], "waiting", "{uploaded}");
        let letter = self
            .letters(known + 1)
            .into_iter()
            .skip(known)
            .find(|letter| letter.to == ["alice@example.org"])
            .unwrap();
        let text = letter.text();
        let link = text
            .split_whitespace()
            .find(|word| word.contains("/confirm"))
            .unwrap_or_else(|| panic!("no link: {text}"));
        assert_eq!(self.curl(&["-X", "POST", link]).0, 201);
        identifier
    }

    fn letters(&self, number: usize) -> Vec<Received> {
        self.runtime.block_on(self.sink.wait_for(number))
    }

    /// What curl gets from the Marketplace: status and body.
    fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-sS", "-m", "60", "-w", "\n%{http_code}", "--cacert"])
            .arg(self.market.ca())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn run(&self, arguments: &[&str]) -> Vec<Machine<'_>> {
        let all = [&["run-instance", "--ram", "96", "--swap", "0"], arguments].concat();
        let started = self.cloud.cli_json(&all);
        started
            .as_array()
            .unwrap()
            .iter()
            .map(|one| self.cloud.machine_by_number(one["id"].as_u64().unwrap()))
            .collect()
    }
}

/// Others may read what is in a folder.
fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

fn xml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|one| one.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "xml"))
        .collect()
}

#[test]
fn an_appliance_travels_from_its_builder_to_machines_elsewhere_and_on() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Ssh,
        Need::Program("setpriv"),
        Need::Program("openssl"),
        Need::Program("curl"),
        Need::Program("gzip"),
        Need::Program("xorriso"),
    ]) {
        return;
    }
    let site = Site::start();
    let identifier = appliance(&site);
    let data = data_image(&site);

    // Two machines share one disk of data; each image came once.
    let machines = site.run(&["-n", "2", "--readonly-disk", &data, &identifier]);
    for machine in &machines {
        machine.wait_for_ssh();
        let read = machine.ssh("mkdir -p /mnt/d && mount -t iso9660 -o ro /dev/$(grep -l data0 /sys/block/*/serial | cut -d/ -f4) /mnt/d && cat /mnt/d/genome.txt");
        assert_eq!(read, "ACGT");
    }
    assert_eq!(site.files.asked("/tiny.qcow2.gz"), 1);
    assert_eq!(site.files.asked("/data.iso"), 1);
    let image = site.cloud.cli_json(&["image", "show", &identifier]);
    assert_eq!(image["endorser"], "alice@example.org", "{image}");
    machines.iter().for_each(Machine::kill);

    by_tag(&site, &identifier);
    saved_and_announced(&site, &identifier);

    // Without its Marketplace the cloud starts what it has, and says why it doesn't have the rest.
    site.market.stop();
    let machines = site.run(&[&identifier]);
    machines[0].wait_for_phase("Running");
    machines[0].kill();
    let unknown = "MMZu9WvwKIro-rtBQfDk4PsKO7_";
    let told = site
        .cloud
        .try_cli(&["image", "fetch", "--timeout", "0", unknown]);
    assert!(told.status.success(), "{told:?}");
    wait_until("the reason", LIMIT, || {
        let images = site.cloud.api().list("MachineImage");
        let reasons = images.iter().filter_map(|image| image["reason"].as_str());
        reasons
            .into_iter()
            .any(|reason| reason.contains("Marketplace central") && reason.contains("tried again"))
            .then_some(())
    });
    site.cloud.assert_clean();
}

/// The same image by the tag that its builder gave it, in every form, and by a short URL; a tag goes on to the builder's next image.
fn by_tag(site: &Site, identifier: &str) {
    let market = site.market.url();
    site.files
        .redirect("/tiny", &format!("{market}/metadata/{identifier}"));
    site.files.redirect("/go", "/tiny");
    let short = format!("{}/go", site.files.url());
    for name in [
        "tiny@alice@example.org".to_owned(),
        format!("{market}/metadata/alice@example.org?tag=tiny"),
        format!("{market}/tag/alice@example.org/tiny"),
        short.clone(),
    ] {
        let told = site
            .cloud
            .cli(&["image", "fetch", "--timeout", "60", &name]);
        assert!(told.contains(&format!("IMAGE {identifier}")), "{told}");
    }
    for name in ["tiny@alice@example.org", &short] {
        let machines = site.run(&[name]);
        machines[0].wait_for_ssh();
        assert_eq!(machines[0].ssh("echo inside"), "inside", "{name}");
        machines[0].kill();
    }
    assert_eq!(
        site.files.asked("/tiny.qcow2.gz"),
        1,
        "one download for all"
    );
    // What a tag leads to is told.
    let key = site.cloud.public_key_file().display().to_string();
    let told = site.cloud.cli(&[
        "run-instance",
        "-k",
        &key,
        "--ram",
        "96",
        "--swap",
        "0",
        "tiny@alice@example.org",
    ]);
    let is = format!("tiny@alice@example.org is the image {identifier}");
    assert!(told.contains(&is), "{told}");
    let number = told.split("(vm ID: ").nth(1).unwrap();
    let number = number.split(')').next().unwrap();
    site.cloud.cli(&["kill-instance", number]);
    let refused = site
        .cloud
        .try_cli(&["run-instance", "other@alice@example.org"]);
    let told = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && told.contains("the tag `other` of alice@example.org"),
        "{refused:?}"
    );
    // The next image of that tag.
    let file = site.folder.join("next.raw");
    fs::write(&file, vec![7; 1 << 20]).unwrap();
    site.files.put("/next.raw", &file);
    let locations = [format!("{}/next.raw", site.files.url())];
    let more = ["--os", "next", "--tag", "tiny"];
    let entry = site.signed("next.raw", "Next", &locations, &more);
    let next = site.published(&entry);
    assert_ne!(next, identifier);
    let told = site
        .cloud
        .cli(&["image", "fetch", "tiny@alice@example.org"]);
    assert!(told.contains(&format!("IMAGE {next}")), "{told}");
}

/// The tiny appliance, compressed, at the second of its locations.
fn appliance(site: &Site) -> String {
    let file = site.folder.join("tiny.qcow2.gz");
    let packed = Command::new("gzip")
        .args(["-1", "-c"])
        .arg(Appliance::tiny().disk)
        .output()
        .unwrap();
    assert!(packed.status.success());
    fs::write(&file, packed.stdout).unwrap();
    site.files.put("/tiny.qcow2.gz", &file);
    let locations = [
        "ftp://127.0.0.1/tiny.qcow2.gz".to_owned(),
        format!("{}/tiny.qcow2.gz", site.files.url()),
    ];
    let more = [
        "--os",
        "tiny",
        "--format",
        "qcow2",
        "--disks-bus",
        "virtio",
        "--tag",
        "tiny",
    ];
    let entry = site.signed("tiny.qcow2.gz", "Tiny", &locations, &more);
    site.published(&entry)
}

/// A folder as a disk of data.
fn data_image(site: &Site) -> String {
    let folder = site.folder.join("data");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("genome.txt"), "ACGT\n").unwrap();
    let iso = site.folder.join("data.iso");
    let [from, to] = [&folder, &iso].map(|path| path.display().to_string());
    site.cloud.cli(&[
        "image",
        "from-folder",
        &from,
        "--label",
        "GENOMES",
        "-o",
        &to,
    ]);
    site.files.put("/data.iso", &iso);
    let locations = [format!("{}/data.iso", site.files.url())];
    let more = ["--os", "none", "--kind", "disk"];
    let entry = site.signed("data.iso", "Genomes", &locations, &more);
    site.published(&entry)
}

/// A machine becomes an image, for which nobody has to confirm anything: the Marketplace trusts the cloud.
fn saved_and_announced(site: &Site, identifier: &str) {
    let known = site.sink.received().len();
    let machines = site.run(&[
        "--save",
        "--author",
        "Bob Example",
        "--author-email",
        "bob@example.org",
        "--title",
        "Tiny with more",
        "--comment",
        "made by a test",
        "--image-version",
        "",
        identifier,
    ]);
    let machine = &machines[0];
    machine.wait_for_ssh();
    machine.ssh("echo more > /etc/made-here && sync");
    site.cloud
        .cli(&["shutdown-instance", &machine.vmid.to_string()]);
    let image = wait_until("the announced image", LIMIT, || {
        let images = site.cloud.api().list("MachineImage");
        images.into_iter().find(|image| {
            image["name"] == "Tiny with more" && image["announced"]["marketplace"].is_string()
        })
    });
    assert_eq!(
        image["announced"]["marketplace"],
        site.market.url(),
        "{image}"
    );
    let saved = image["identifier"].as_str().unwrap();

    // The entry, as everybody gets it.
    let url = format!("{}/marketplace/metadata/{saved}", site.market.url());
    let (status, list) = site.curl(&["-H", "Accept: application/json", &url]);
    assert_eq!(status, 200, "{list}");
    let (status, list) = site.curl(&["-H", "Accept: application/xml", &url]);
    assert_eq!(status, 200, "{list}");
    for part in [
        "<dcterms:title>Tiny with more</dcterms:title>",
        "<slterms:os>tiny</slterms:os>",
        "<slterms:os-version>1</slterms:os-version>",
        "<slterms:version>1.1</slterms:version>",
        "cloud@example.org",
        identifier,
    ] {
        assert!(list.contains(part), "{part} in {list}");
    }
    let valid = between(&list, "<dcterms:valid>", "</dcterms:valid>");
    let made = between(&list, "<dcterms:created>", "</dcterms:created>");
    let days = Command::new("sh")
        .args([
            "-c",
            "echo $(( ($(date -d \"$1\" +%s) - $(date -d \"$2\" +%s)) ))",
            "sh",
            &valid,
            &made,
        ])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&days.stdout).trim(),
        (2 * 24 * 3600).to_string(),
        "two days from {made} to {valid}"
    );

    // The letter, with the draft to go on with.
    let letters = site.letters(known + 1);
    let letter = letters[known..]
        .iter()
        .find(|letter| letter.to == ["bob@example.org"])
        .unwrap();
    let text = letter.text();
    for part in [saved, site.market.url(), "Bob Example"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let parts = letter.parts();
    let (_, draft) = &parts[1];
    let draft = String::from_utf8_lossy(draft);
    assert!(
        draft.contains(saved) && !draft.contains("SignatureValue"),
        "{draft}"
    );

    // Its owner starts it.
    let machines = site.run(&[saved]);
    machines[0].wait_for_ssh();
    assert_eq!(machines[0].ssh("cat /etc/made-here"), "more");
    machines[0].kill();
}

fn between(text: &str, from: &str, to: &str) -> String {
    let (_, rest) = text
        .split_once(from)
        .unwrap_or_else(|| panic!("{from} in {text}"));
    rest.split(to).next().unwrap().to_owned()
}
