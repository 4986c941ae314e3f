//! OpenLDAP's server with the tree of StratusLab, on a port of its own, ended with the test.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = "/usr/sbin/slapd";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Slapd {
    process: Option<Child>,
    pub port: u16,
    folder: tempfile::TempDir,
}

const TREE: &str = "dn: o=cloud
objectClass: organization
o: cloud

dn: ou=users,o=cloud
objectClass: organizationalUnit
ou: users

dn: ou=groups,o=cloud
objectClass: organizationalUnit
ou: groups

dn: uid=alice,ou=users,o=cloud
objectClass: inetOrgPerson
uid: alice
cn: Alice Endorser
givenName: Alice
sn: Endorser
mail: alice@example.org
userPassword: correct horse
seeAlso: CN=Alice Endorser,OU=Images,O=Example Org,C=EU

dn: cn=\\2Aodd\\28x\\29\\, y,ou=users,o=cloud
objectClass: inetOrgPerson
uid: odd(*)name
cn: *odd(x), y
sn: y
userPassword: correct horse

dn: uid=bob,ou=users,o=cloud
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
userPassword: correct horse

dn: uid=twin,ou=users,o=cloud
objectClass: inetOrgPerson
uid: twin
cn: T
sn: T
userPassword: correct horse

dn: cn=other twin,ou=users,o=cloud
objectClass: inetOrgPerson
uid: twin
cn: other twin
sn: T
userPassword: correct horse

dn: cn=cloud-access,ou=groups,o=cloud
objectClass: groupOfUniqueNames
cn: cloud-access
uniqueMember: uid=alice,ou=users,o=cloud
uniqueMember: cn=\\2Aodd\\28x\\29\\, y,ou=users,o=cloud

dn: cn=operators,ou=groups,o=cloud
objectClass: groupOfUniqueNames
cn: operators
uniqueMember: uid=alice,ou=users,o=cloud

dn: cn=::ADMIN,ou=groups,o=cloud
objectClass: groupOfUniqueNames
cn: ::ADMIN
uniqueMember: uid=alice,ou=users,o=cloud
";

impl Slapd {
    /// `None`, with the reason printed, where there is none.
    pub fn start(more: &str) -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            assert!(
                std::env::var_os("STRATUS_REQUIRE_ALL").is_none(),
                "{PROGRAM} is missing (package slapd)"
            );
            println!("skipped: {PROGRAM} is missing (package slapd)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let configuration = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\npidfile {folder}/pid\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\n{more}\n\
             database mdb\nmaxsize 10485760\nsuffix o=cloud\nrootdn cn=admin,o=cloud\nrootpw geheim\n\
             directory {data}\nindex objectClass eq\n\
             access to attrs=userPassword by self write by anonymous auth by * none\n\
             access to * by dn.exact=cn=reader,o=cloud read by * read\n",
            folder = folder.path().display(),
            data = data.display(),
        );
        let file = folder.path().join("slapd.conf");
        fs::write(&file, configuration).unwrap();
        let tree = folder.path().join("tree.ldif");
        fs::write(&tree, TREE).unwrap();
        let added = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(&file)
            .arg("-l")
            .arg(&tree)
            .output()
            .unwrap();
        assert!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
        let mut slapd = Self {
            process: None,
            port: testkit::free_port(),
            folder,
        };
        slapd.run();
        Some(slapd)
    }

    /// Starts it, or starts it again.
    pub fn run(&mut self) {
        let process = Command::new(PROGRAM)
            .arg("-f")
            .arg(self.folder.path().join("slapd.conf"))
            .args(["-h", &format!("ldap://127.0.0.1:{}", self.port), "-d", "0"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "slapd doesn't listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes entries as the administrator.
    pub fn modify(&self, ldif: &str) {
        let file = self.path("change.ldif");
        fs::write(&file, ldif).unwrap();
        let done = Command::new("ldapmodify")
            .args(["-x", "-D", "cn=admin,o=cloud", "-w", "geheim", "-H"])
            .arg(format!("ldap://127.0.0.1:{}", self.port))
            .arg("-f")
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}
