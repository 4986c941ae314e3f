//! The daemon, a real directory, and what the tools of a grid make: every way to log in, switched on and off while it runs.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

#[path = "../../certificates/tests/site.rs"]
#[allow(dead_code)]
mod site;
#[path = "../../directory/tests/slapd.rs"]
#[allow(dead_code)]
mod slapd;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use serde_json::{Value, json};
use site::Site;
use slapd::Slapd;
use testkit::{Need, Options, TestCloud, skip_unless, wait_until};

const SUBJECT: &str = "CN=Alice Endorser,OU=Images,O=Example Org,C=EU";

/// Makes a folder and all in it readable for the daemon, which is another user.
fn publish(folder: &std::path::Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            publish(&path);
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

struct Asked<'a> {
    cloud: &'a TestCloud,
    site: &'a Site,
    url: String,
}

impl Asked<'_> {
    /// What curl gets for a path, with these arguments: the status and the body.
    fn curl(&self, path: &str, arguments: &[&str]) -> (u16, Value) {
        let output = Command::new("curl")
            .args(["-sS", "-m", "60", "-w", "\n%{http_code}", "--cacert"])
            .arg(self.cloud.state_dir().join("tls/ca.pem"))
            .args(arguments)
            .arg(format!("{}{path}", self.url))
            .current_dir(self.site.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (
            status.parse().unwrap(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }

    /// Who the bearer of a file with certificate and key is.
    fn bearer(&self, file: &str) -> Value {
        self.curl("/cimi/authn", &["--cert", file, "--key", file]).1
    }

    /// Waits until the bearer of a file is, or isn't, known.
    fn until_known(&self, file: &str, known: bool) {
        let what = format!("{file} is known: {known}");
        wait_until(&what, Duration::from_secs(90), || {
            (self.bearer(file)["identity"].is_null() != known).then_some(())
        });
    }
}

#[test]
fn every_way_to_log_in_is_switched_on_and_off_while_the_cloud_runs() {
    let programs = [
        "setpriv",
        "curl",
        "openssl",
        "grid-proxy-init",
        "voms-proxy-fake",
    ];
    let needs: Vec<Need> = programs.into_iter().map(Need::Program).collect();
    if skip_unless(&needs) {
        return;
    }
    let Some(slapd) = Slapd::start("") else {
        return;
    };
    let site = Site::new();
    fs::create_dir_all(site.path().join("vomsdir/atlas")).unwrap();
    fs::write(
        site.path().join("vomsdir/atlas/voms.example.org.lsc"),
        "/C=EU/O=Example Org/CN=voms.example.org\n/C=EU/O=Example Org/CN=Test CA\n",
    )
    .unwrap();
    site.sign("bob", "/C=EU/O=Example Org/CN=Bob", "user");
    let both = |name: &str| {
        let read =
            |end: &str| fs::read_to_string(site.path().join(format!("{name}.{end}"))).unwrap();
        fs::write(
            site.path().join(format!("{name}.both")),
            read("pem") + &read("key"),
        )
        .unwrap();
    };
    both("alice");
    site.grid_proxy("alice", "proxy", &["-rfc"]);
    site.grid_proxy("alice", "limited", &["-rfc", "-limited"]);
    site.run(
        "voms-proxy-fake",
        &[
            "-q",
            "-rfc",
            "-hours",
            "1",
            "-bits",
            "2048",
            "-certdir",
            "trusted",
            "-uri",
            "voms.example.org:15000",
            "-cert",
            "bob.pem",
            "-key",
            "bob.key",
            "-hostcert",
            "host.pem",
            "-hostkey",
            "host.key",
            "-voms",
            "atlas",
            "-out",
            "voms",
            "-fqan",
            "/atlas/Role=NULL/Capability=NULL",
            "-fqan",
            "/atlas/analysis/Role=production/Capability=NULL",
        ],
    );
    let folder = site.path().display().to_string();
    let options = Options {
        tables: format!(
            "[certificates]\nauthorities = \"{folder}/trusted\"\norganisations = \"{folder}/vomsdir\"\n"
        ),
        ..Options::default()
    };
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755)).unwrap();
    publish(&site.path().join("trusted"));
    publish(&site.path().join("vomsdir"));
    let cloud = TestCloud::start_user_mode_with(&options);
    let asked = Asked {
        cloud: &cloud,
        site: &site,
        url: cloud.url(),
    };
    let admin = cloud.api();

    // As it is without a configuration.
    let alice = ["-u", "alice:correct horse"];
    assert_eq!(asked.curl("/cimi/Machine", &alice).0, 401);
    assert!(asked.bearer("alice.both")["identity"].is_null());
    assert_eq!(
        asked.curl("/cimi/authn", &[]).1["methods"],
        json!(["password", "token"])
    );

    admin
        .post(
            "ServiceConfiguration",
            &json!({"service": "authn", "localdb": {"password-enabled": true, "cert-enabled": true},
                "ldap": {"password-enabled": true, "cert-enabled": false, "cache-seconds": 1, "bind-dn": "cn=admin,o=cloud",
                    "bind-password": "geheim", "connection": {"host": {"address": "127.0.0.1", "port": slapd.port}}},
                "voms": {"enabled": true}}),
        )
        .ok();
    let shown = admin.get("ServiceConfiguration/authn").expect(200);
    assert!(!shown.to_string().contains("geheim"), "{shown}");

    // By the directory.
    let (status, body) = asked.curl("/cimi/authn", &alice);
    assert_eq!(
        (status, &body["identity"], &body["method"]),
        (200, &json!("alice"), &json!("ldap")),
        "{body}"
    );
    assert_eq!(admin.get("User/alice").expect(200)["origin"], "ldap");
    assert_eq!(asked.curl("/cimi/authn", &["-u", "alice:wrong"]).0, 401);

    // By a certificate, once there is a revocation list and somebody who has it.
    let change = json!({"altnames": {"x500dn": SUBJECT}});
    admin.put("User/alice", &change).ok();
    let refused = |file: &str| {
        let shown = ["--cert", file, "--key", file];
        let (status, body) = asked.curl("/cimi/Machine", &shown);
        assert_eq!(status, 401, "{body}");
        body["detail"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("the authorities are read", Duration::from_secs(30), || {
        refused("alice.both")
            .contains("revocation list")
            .then_some(())
    });
    site.revocation_list();
    publish(&site.path().join("trusted"));
    asked.until_known("alice.both", true);
    let by_certificate = asked.bearer("alice.both");
    assert_eq!(
        (&by_certificate["identity"], &by_certificate["method"]),
        (&json!("alice"), &json!("certificate"))
    );
    let by_proxy = asked.bearer("proxy");
    assert_eq!(
        (&by_proxy["identity"], &by_proxy["method"]),
        (&json!("alice"), &json!("proxy"))
    );
    let post = |file: &str, kind: &str, body: &str| {
        asked.curl(
            &format!("/cimi/{kind}"),
            &["--cert", file, "--key", file, "-d", body],
        )
    };
    // Proxies make volumes; limited ones no machines, and none of them tokens.
    let volume = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}).to_string();
    let (status, made) = post("limited", "Volume", &volume);
    assert_eq!(status, 201, "{made}");
    let machine =
        json!({"machineTemplate": {"machineImage": {"href": "MachineImage/none"}}}).to_string();
    let (status, body) = post("limited", "Machine", &machine);
    assert!(
        status == 403
            && body["detail"]
                .as_str()
                .unwrap_or_default()
                .contains("limited"),
        "{body}"
    );
    assert_eq!(post("proxy", "Machine", &machine).0, 400);
    assert_eq!(post("proxy", "Token", "{}").0, 403);

    // The commands, too.
    let proxy = site.path().join("limited").display().to_string();
    let listed = cloud.try_cli_as_told(&["describe-volumes", "--pem-cert", &proxy]);
    let (text, id) = (
        String::from_utf8_lossy(&listed.stdout),
        made["id"].as_str().unwrap(),
    );
    let uuid = id.trim_start_matches("Volume/");
    assert!(listed.status.success() && text.contains(uuid), "{listed:?}");

    // By an organisation, once it is admitted.
    assert!(refused("voms").contains("nobody here"));
    let organisation = json!({"username": "vo:atlas", "enabled": true});
    admin.post("User", &organisation).ok();
    let member = asked.bearer("voms");
    assert_eq!(member["identity"], "CN=Bob,O=Example Org,C=EU", "{member}");
    assert_eq!(
        member["roles"],
        json!(["/atlas", "/atlas/analysis/Role=production"])
    );
    assert_eq!(post("voms", "Volume", &volume).0, 201);
    let mine = asked
        .curl("/cimi/Volume", &["--cert", "voms", "--key", "voms"])
        .1;
    assert_eq!(mine["count"], 1, "{mine}");

    // Taken back, without a restart.
    site.openssl(&["ca", "-config", "x.cnf", "-revoke", "alice.pem"]);
    site.revocation_list();
    publish(&site.path().join("trusted"));
    asked.until_known("alice.both", false);
    assert!(refused("proxy").contains("revoked"));
    slapd.modify("dn: uid=alice,ou=users,o=cloud\nchangetype: delete\n");
    wait_until("alice is out", Duration::from_secs(30), || {
        (asked.curl("/cimi/authn", &alice).0 == 401).then_some(())
    });
    admin
        .put(
            "ServiceConfiguration/authn",
            &json!({"voms": {"enabled": false}}),
        )
        .ok();
    assert!(asked.bearer("voms")["identity"].is_null());

    let log = admin
        .get("/stratus/audit?last=1000")
        .expect(200)
        .to_string();
    for method in ["proxy", "voms", "password"] {
        assert!(
            log.contains(&format!("\"authenticatedBy\":\"{method}\"")),
            "{method}"
        );
    }
    assert!(!cloud.log().contains("geheim") && !log.contains("geheim"));
    for volume in admin.list("Volume") {
        admin.delete(volume["id"].as_str().unwrap()).ok();
    }
    cloud.assert_clean();
}
