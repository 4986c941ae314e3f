//! Entries in a real slapd: written, found, changed, written again; a server that is down, slow or talks nonsense.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cloud::people::{Directory, DirectoryEntry, DirectoryError};
use enrolment::{LdapEntries, Server};
use tokio::{io::AsyncWriteExt, net::TcpListener};

const TREE: &str = "dn: o=cloud\nobjectClass: organization\no: cloud\n\n\
    dn: ou=users,o=cloud\nobjectClass: organizationalUnit\nou: users\n\n\
    dn: ou=groups,o=cloud\nobjectClass: organizationalUnit\nou: groups\n";

/// slapd, on a port of its own; ends with this.
struct Slapd {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Slapd {
    async fn start() -> Option<Self> {
        if !Path::new("/usr/sbin/slapd").exists() {
            assert!(
                std::env::var_os("STRATUS_REQUIRE_ALL").is_none(),
                "slapd is missing"
            );
            eprintln!("skipped: there is no slapd (Debian: slapd)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display();
        let configuration = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {here}/pid\n\
             database mdb\nmaxsize 10485760\nsuffix \"o=cloud\"\nrootdn \"cn=admin,o=cloud\"\nrootpw secret\ndirectory {here}/db\n\
             access to attrs=userPassword by self write by anonymous auth by * none\naccess to * by * read\n"
        );
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("slapd.conf"), configuration).unwrap();
        std::fs::write(folder.path().join("tree.ldif"), TREE).unwrap();
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(folder.path().join("slapd.conf"))
            .arg("-l")
            .arg(folder.path().join("tree.ldif"))
            .status();
        assert!(added.unwrap().success());
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("/usr/sbin/slapd")
            .arg("-f")
            .arg(folder.path().join("slapd.conf"))
            .args(["-h", &format!("ldap://127.0.0.1:{port}"), "-d", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let slapd = Self {
            child,
            port,
            folder,
        };
        let until = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(Instant::now() < until, "slapd doesn't answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(slapd)
    }

    fn entries(&self) -> LdapEntries {
        entries(self.port)
    }

    /// Whether somebody can log in there, by a client that isn't ours.
    fn takes(&self, uid: &str, password: &str) -> bool {
        let url = format!("ldap://127.0.0.1:{}", self.port);
        let who = format!("uid={uid},ou=users,o=cloud");
        let asked = Command::new("ldapwhoami")
            .args(["-x", "-H", &url, "-D", &who, "-w", password])
            .output();
        asked.unwrap().status.success()
    }

    fn search(&self, filter: &str) -> String {
        let url = format!("ldap://127.0.0.1:{}", self.port);
        let found = Command::new("ldapsearch")
            .args(["-x", "-LLL", "-H", &url, "-b", "o=cloud", filter])
            .output();
        String::from_utf8(found.unwrap().stdout).unwrap()
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.folder;
    }
}

fn entries(port: u16) -> LdapEntries {
    LdapEntries::new(Server {
        manager_password: "secret".to_owned(),
        ..server_of(port)
    })
    .unwrap()
}

fn alice() -> DirectoryEntry {
    DirectoryEntry {
        uid: "alice".to_owned(),
        given_name: "Alice".to_owned(),
        sn: "Endorser".to_owned(),
        mail: "alice@example.org".to_owned(),
        see_also: Some("CN=Alice Endorser,O=Example Org,C=EU".to_owned()),
    }
}

#[tokio::test]
async fn people_are_entered_once_however_often_it_is_tried_and_can_log_in() {
    let Some(slapd) = Slapd::start().await else {
        return;
    };
    let entries = slapd.entries();
    assert_eq!(entries.find("alice").await, Ok(None));
    let password = entries.encode("correct horse");
    for _ in 0..3 {
        entries
            .enter(&alice(), &password, "cloud-access")
            .await
            .unwrap();
    }
    let mut found = entries.find("alice").await.unwrap().unwrap();
    assert!(
        found
            .see_also
            .take()
            .unwrap()
            .eq_ignore_ascii_case("CN=Alice Endorser,O=Example Org,C=EU")
    );
    assert_eq!(
        found,
        DirectoryEntry {
            see_also: None,
            ..alice()
        }
    );
    // However it is written: the directory compares names, not texts.
    for name in [
        "CN=Alice Endorser,O=Example Org,C=EU",
        "cn=alice endorser, o=example org, c=eu",
    ] {
        let holders = entries.with_certificate(name).await;
        assert_eq!(holders, Ok(vec!["alice".to_owned()]), "{name}");
    }
    let nobody = entries.with_certificate("CN=Bob,O=Example Org,C=EU").await;
    assert_eq!(nobody, Ok(Vec::new()));
    assert!(slapd.takes("alice", "correct horse") && !slapd.takes("alice", "wrong"));
    let group = slapd.search("(cn=cloud-access)");
    assert_eq!(
        group
            .matches("uniqueMember: uid=alice,ou=users,o=cloud")
            .count(),
        1,
        "{group}"
    );
    // The group is there: another one joins it.
    let bob = DirectoryEntry {
        uid: "bob".to_owned(),
        mail: "bob@example.org".to_owned(),
        see_also: None,
        ..alice()
    };
    entries
        .enter(&bob, &password, "cloud-access")
        .await
        .unwrap();
    assert!(slapd.search("(cn=cloud-access)").contains("uid=bob"));
    // Somebody else's name.
    let other = DirectoryEntry {
        mail: "mallory@example.org".to_owned(),
        ..alice()
    };
    assert_eq!(
        entries.enter(&other, &password, "cloud-access").await,
        Err(DirectoryError::Taken)
    );

    entries
        .set_password("alice", &entries.encode("battery staple"))
        .await
        .unwrap();
    assert!(slapd.takes("alice", "battery staple") && !slapd.takes("alice", "correct horse"));
    entries
        .change("alice", None, Some("Other"), Some("new@example.org"))
        .await
        .unwrap();
    let changed = slapd.search("(uid=alice)");
    for line in [
        "cn: Alice Other",
        "sn: Other",
        "mail: new@example.org",
        "givenName: Alice",
    ] {
        assert!(changed.contains(line), "{changed}");
    }
    assert_eq!(
        entries.set_password("carol", "x").await,
        Err(DirectoryError::Unknown)
    );
    // A name that would be a filter or a DN.
    for name in ["*", "a)(uid=*", "alice,ou=users", "al*", ""] {
        assert_eq!(entries.find(name).await, Ok(None), "{name}");
    }
}

#[tokio::test]
async fn a_directory_that_is_down_or_slow_or_talks_nonsense_is_said_to_be_so_in_time() {
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let down = entries(port).find("alice").await;
    assert!(
        matches!(down, Err(DirectoryError::Unavailable(_))),
        "{down:?}"
    );
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n\r\n",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x02],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                held.push(stream);
            }
        });
        let begun = Instant::now();
        let asked = entries(port).find("alice").await;
        assert!(
            matches!(asked, Err(DirectoryError::Unavailable(_))),
            "{asked:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(12),
            "{:?}",
            begun.elapsed()
        );
        server.abort();
    }
    let Some(slapd) = Slapd::start().await else {
        return;
    };
    let wrong = LdapEntries::new(Server {
        manager_password: "wrong".to_owned(),
        ..server_of(slapd.port)
    })
    .unwrap();
    let refused = wrong.find("alice").await.unwrap_err().to_string();
    assert!(
        refused.contains("49") && !refused.contains("wrong"),
        "{refused}"
    );
}

fn server_of(port: u16) -> Server {
    Server {
        url: format!("ldap://127.0.0.1:{port}"),
        start_tls: false,
        authorities: None,
        manager_dn: "cn=admin,o=cloud".to_owned(),
        manager_password: String::new(),
        users: "ou=users,o=cloud".to_owned(),
        groups: "ou=groups,o=cloud".to_owned(),
    }
}
