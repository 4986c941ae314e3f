//! An image that somebody described and signed elsewhere starts by its identifier: looked up, judged, fetched once, checked,
//! and gone again on the operator's wish. The commands sign, a plain file server stands for the Marketplace.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use testkit::{Appliance, Need, Options, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

/// Files by their paths, over HTTP, and how often each was asked for. Ends with the process of the test.
#[derive(Clone)]
struct Files {
    address: String,
    pages: Arc<Mutex<BTreeMap<String, PathBuf>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Files {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            pages: Arc::default(),
            asked: Arc::default(),
        };
        let served = files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                // Whoever hangs up early is not our affair.
                std::thread::spawn(move || drop(served.answer(stream)));
            }
        });
        files
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let path = first.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default().to_owned();
        *self.asked.lock().unwrap().entry(path.clone()).or_default() += 1;
        let file = self.pages.lock().unwrap().get(&path).cloned();
        let mut stream = stream;
        let Some(file) = file else {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        };
        let mut file = fs::File::open(file)?;
        let length = file.metadata()?.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        std::io::copy(&mut file, &mut stream).map(drop)
    }

    fn put(&self, path: &str, file: &Path) {
        self.pages
            .lock()
            .unwrap()
            .insert(path.to_owned(), file.to_owned());
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// Key and certificate of an endorser.
fn endorser(folder: &Path) -> PathBuf {
    let (key, pem) = (folder.join("key.pem"), folder.join("me.pem"));
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Alice",
        ])
        .args([
            "-addext",
            "subjectAltName=email:alice@example.org",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let both = format!(
        "{}{}",
        fs::read_to_string(&pem).unwrap(),
        fs::read_to_string(&key).unwrap()
    );
    fs::write(&pem, both).unwrap();
    pem
}

#[test]
fn an_identifier_is_all_that_it_takes() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Ssh,
        Need::Program("setpriv"),
        Need::Program("openssl"),
    ]) {
        return;
    }
    let site = Files::serve();
    let work = tempfile::tempdir().unwrap();
    let policy = work.path().join("policy.cfg");
    fs::write(
        &policy,
        "[endorsers]\nwhitelistendorsers = alice@example.org\n",
    )
    .unwrap();
    let cloud = TestCloud::start_user_mode_with(&Options {
        tables: format!(
            "[images]\nallow_sources = [\"127.0.0.1/32\"]\npolicy = \"{}\"\n[[catalogue]]\nname = \"test\"\nkind = \"marketplace\"\nurl = \"{}\"\n",
            readable(&policy).display(),
            site.address
        ),
        ..Options::default()
    });
    let folder = cloud.folder().to_owned();
    let disk = Appliance::tiny().disk;
    site.put("/tiny.qcow2", &disk);
    let location = format!("{}/tiny.qcow2", site.address);
    let entry = signed(&cloud, &folder, &disk, &location);
    let identifier = identifier_of(&entry);
    let page = format!("/metadata/{identifier}");

    // Nobody knows it yet.
    let refused = cloud.try_cli(&["image", "fetch", "--timeout", "60", &identifier]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("no Marketplace of this cloud (test)"),
        "{told}"
    );

    // Ten users at once.
    site.put(&page, &entry);
    let users: Vec<String> = (0..10).map(|number| format!("user{number}")).collect();
    for user in &users {
        cloud.user(user);
    }
    std::thread::scope(|scope| {
        for user in &users {
            let (cloud, identifier) = (&cloud, &identifier);
            scope.spawn(move || {
                let password = format!("{user}-password");
                let key = cloud.public_key_file().display().to_string();
                let output = cloud.try_cli_as(
                    user,
                    &password,
                    &[
                        "run-instance",
                        "-k",
                        &key,
                        "--ram",
                        "96",
                        "--swap",
                        "0",
                        identifier,
                    ],
                );
                assert!(output.status.success(), "{output:?}");
            });
        }
    });
    let image = cloud.cli_json(&["image", "show", &identifier]);
    let path = image["id"].as_str().unwrap().to_owned();
    wait_until("the image", LIMIT, || {
        let image = cloud.cli_json(&["image", "show", &identifier]);
        (image["state"] == "AVAILABLE").then_some(())
    });
    let image = cloud.cli_json(&["image", "show", &identifier]);
    assert_eq!(image["endorser"], "alice@example.org", "{image}");
    assert_eq!(
        image["imageLocation"],
        format!("marketplace:{identifier}"),
        "{image}"
    );
    assert_eq!(site.asked("/tiny.qcow2"), 1, "ten machines, one download");
    let numbers: Vec<String> = cloud
        .cli_json(&["describe-instance"])
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| machine["id"].to_string())
        .collect();
    assert_eq!(numbers.len(), 10);
    // One of them is looked into; ten guests at once are too much for a small host.
    for number in &numbers[1..] {
        cloud.cli(&["kill-instance", number]);
    }
    let machine = cloud.machine_by_number(numbers[0].parse().unwrap());
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("echo inside"), "inside");

    // It is the cloud's: users can't remove it, and it stays while somebody needs it.
    let user = cloud.user("user0");
    let _ = user.delete(&format!("/cimi/{path}")).expect(403);
    let _ = cloud.api().delete(&format!("/cimi/{path}")).expect(409);
    for number in &numbers {
        cloud.cli(&["kill-instance", number]);
    }
    cloud.assert_clean();
}

/// Its folder can be passed by the daemon, which is somebody else here.
fn readable(path: &Path) -> &Path {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The appliance described and signed by the commands.
fn signed(cloud: &TestCloud, folder: &Path, disk: &Path, location: &str) -> PathBuf {
    let pem = endorser(folder).display().to_string();
    let image = folder.join("tiny.qcow2");
    std::os::unix::fs::symlink(disk, &image).unwrap();
    let out = folder.join("entry.xml");
    let described = [
        "build-metadata",
        "--author",
        "Alice",
        "--os",
        "tiny",
        "--os-version",
        "1",
        "--os-arch",
        "x86_64",
        "--image-version",
        "1.0",
        "--format",
        "qcow2",
        "--comment",
        "Tiny",
        "--title",
        "Tiny",
        "--location",
        location,
        "tiny.qcow2",
    ];
    cloud.cli_in(folder, &described);
    let to = out.display().to_string();
    cloud.cli_in(
        folder,
        &[
            "sign-metadata",
            "--pem-cert",
            &pem,
            "--output",
            &to,
            "tiny-1-x86_64-base-1.0.xml",
        ],
    );
    out
}

fn identifier_of(entry: &Path) -> String {
    let text = fs::read_to_string(entry).unwrap();
    let (_, rest) = text.split_once("rdf:about=\"#").unwrap();
    rest.chars().take(27).collect()
}
