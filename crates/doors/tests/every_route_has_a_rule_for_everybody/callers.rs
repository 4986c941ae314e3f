//! Those who come another way than by a password of the cloud's own, as a login makes them: certificates and proxies by the
//! tools of grids, sessions by what a provider said, users of a directory by its password. (What providers and directories
//! themselves say is tested with real ones, elsewhere.)

use std::{collections::BTreeMap, fs};

use accounts::{
    Accounts, Authorities, Directory, DirectoryError, Identity,
    directory::Found,
    methods::Ldap,
    oidc::{OidcSettings, Person},
};
use certificates::{Revocation, voms::Servers};
use cimi::dn::DistinguishedName;
use cloud::Cloud;
use serde_json::{Map, Value, json};

use super::Who;
use crate::{
    certificates_log_in::site::{Site, needs},
    support::client::login,
};

/// Whose name the owner's certificate has.
pub const OWNER: &str = "CN=Alice Endorser,OU=Images,O=Example Org,C=EU";
/// The organisation that is admitted, as a role.
pub const ORGANISATION: &str = "/atlas";
/// The role of the directory's user.
pub const DEPARTMENT: &str = "department";
/// The user of the directory.
const USER_OF_DIRECTORY: &str = "dora";

/// All ways to log in.
pub fn authn() -> Map<String, Value> {
    let provider = OidcSettings {
        // Nobody is there: who is logged in already needs no provider.
        issuer: "http://127.0.0.1:1".to_owned(),
        client_id: "stratus".to_owned(),
        client_secret: "open sesame".to_owned(),
        redirect_url: "http://localhost/cimi/oidc/callback".to_owned(),
        ..OidcSettings::default()
    };
    let ways = json!({
        "service": "authn",
        "localdb": {"password-enabled": true, "cert-enabled": true},
        "ldap": {"password-enabled": true, "cert-enabled": false,
            "connection": {"host": {"address": "ldap.example.org", "port": 636}, "ssl?": true}},
        "voms": {"enabled": true},
        "oidc": provider,
    });
    ways.as_object().unwrap().clone()
}

/// A directory with one user.
pub struct Department;

#[async_trait::async_trait]
impl Directory for Department {
    async fn by_password(
        &self,
        ldap: &Ldap,
        login: &str,
        password: &str,
    ) -> Result<Option<Found>, DirectoryError> {
        let found = self.by_login(ldap, login).await?;
        Ok(found.filter(|_| password == "correct horse"))
    }

    async fn by_login(&self, _ldap: &Ldap, login: &str) -> Result<Option<Found>, DirectoryError> {
        Ok((login == USER_OF_DIRECTORY).then(|| Found {
            login: login.to_owned(),
            dn: format!("uid={login},ou=users,o=cloud"),
            first_name: None,
            last_name: None,
            email: None,
            roles: vec!["cloud-access".to_owned(), DEPARTMENT.to_owned()],
        }))
    }

    async fn by_subject(
        &self,
        _ldap: &Ldap,
        _subject: &DistinguishedName,
    ) -> Result<Option<Found>, DirectoryError> {
        Ok(None)
    }
}

/// What the directory's user sends. The account is made here, by the first login.
pub async fn user_of_directory(accounts: &Accounts) -> (Who, String) {
    let made = accounts.verify(USER_OF_DIRECTORY, "correct horse", None);
    assert_eq!(made.await.unwrap().method.name(), "ldap");
    (Who::UserOfDirectory, login(USER_OF_DIRECTORY))
}

/// Who the provider says somebody is, who may have the account `visitor`.
pub async fn user_of_provider(cloud: &Cloud) -> Identity {
    let person = Person {
        subject: "http://127.0.0.1:1 sub-of-visitor".to_owned(),
        username: Some("visitor".to_owned()),
        first_name: None,
        last_name: None,
        email: None,
        roles: Vec::new(),
        next: "/".to_owned(),
    };
    cloud.provided(&person, true).await.unwrap()
}

/// What is shown, as a proxy passes it on: the owner's certificate, one that speaks for it, one that does and is limited,
/// and what an organisation says of a member who has no account. Those that can't be made here are missing.
pub fn certificates(accounts: &Accounts) -> BTreeMap<Who, String> {
    let Some(site) = needs(&["openssl", "grid-proxy-init"]).map(|()| Site::new()) else {
        return BTreeMap::new();
    };
    let pem = fs::read(site.path().join("ca.pem")).unwrap();
    let mut servers = Servers::default();
    let server = "/C=EU/O=Example Org/CN=voms.example.org\n/C=EU/O=Example Org/CN=Test CA\n";
    servers.add("atlas", server).unwrap();
    let files = [("ca.pem", pem.as_slice())];
    let (authorities, problems) = Authorities::read(files, Revocation::IfPresent, servers);
    assert_eq!(problems, []);
    accounts.trust(authorities.into());

    site.grid_proxy("alice", "proxy", &["-rfc"]);
    site.grid_proxy("alice", "limited", &["-rfc", "-limited"]);
    let mut shown: BTreeMap<_, _> = [
        (Who::Certificate, passed_on(&site, "alice.pem")),
        (Who::Proxy, passed_on(&site, "proxy")),
        (Who::LimitedProxy, passed_on(&site, "limited")),
    ]
    .into();
    if needs(&["voms-proxy-fake"]).is_some() {
        site.sign("bob", "/C=EU/O=Example Org/CN=Bob", "user");
        let arguments = "-q -rfc -hours 1 -bits 2048 -certdir trusted -uri voms.example.org:15000 -cert bob.pem \
            -key bob.key -hostcert host.pem -hostkey host.key -voms atlas -out voms -fqan /atlas/Role=NULL/Capability=NULL";
        site.run("voms-proxy-fake", &arguments.split(' ').collect::<Vec<_>>());
        shown.insert(Who::Member, passed_on(&site, "voms"));
    }
    shown
        .into_iter()
        .map(|(who, chain)| (who, format!("X-Client-Certificate: {chain}\r\n")))
        .collect()
}

/// The certificates of a file, without the key.
fn passed_on(site: &Site, file: &str) -> String {
    let pem = fs::read_to_string(site.path().join(file)).unwrap();
    let chain: String = (pem.split_inclusive("-----END "))
        .filter_map(|piece| piece.split_once("-----BEGIN CERTIFICATE-----"))
        .map(|(_, content)| format!("-----BEGIN CERTIFICATE-----{content}CERTIFICATE-----\n"))
        .collect();
    percent_encoding::utf8_percent_encode(&chain, percent_encoding::NON_ALPHANUMERIC).to_string()
}
