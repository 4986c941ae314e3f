//! What logins ask a directory.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use accounts::{
    directory::{Directory, DirectoryError, Found},
    methods::{self, Host, Ldap},
};
use async_trait::async_trait;
use cimi::dn::DistinguishedName;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    connection::{Connection, Encryption},
    message::{Entry, Search},
    tls,
};

/// A server that failed is left alone for so long.
const REST: Duration = Duration::from_secs(5);
/// Groups of one user.
const GROUPS_AT_MOST: u32 = 500;
/// Bytes of a role.
const ROLE_AT_MOST: usize = 255;
/// A question takes no longer than so many of the answers that it consists of.
const ANSWERS: u32 = 6;
/// Bytes of the file of a password.
const PASSWORD_AT_MOST: usize = 1024;

/// Asks directories by LDAP, each question over a connection of its own.
#[derive(Default)]
pub struct LdapDirectory {
    /// Servers that failed a moment ago, and why.
    failed: Mutex<HashMap<(String, u16), (Instant, String)>>,
    /// How many questions there may be at once, of the configuration that was used last.
    turns: Mutex<Option<(usize, Arc<Semaphore>)>>,
    /// What TLS is spoken with, by the authorities that are trusted.
    encryption: Mutex<Option<(Option<String>, Arc<ClientConfig>)>>,
}

/// By what somebody is looked for.
#[derive(Clone, Copy)]
enum By<'a> {
    Login(&'a str),
    Password(&'a str, &'a str),
    Subject(&'a str),
}

#[async_trait]
impl Directory for LdapDirectory {
    async fn by_password(
        &self,
        ldap: &Ldap,
        login: &str,
        password: &str,
    ) -> Result<Option<Found>, DirectoryError> {
        // With an empty password, servers let everybody in as nobody (RFC 4513 §5.1.2).
        if password.is_empty() {
            return self.by_login(ldap, login).await.map(|_| None);
        }
        self.ask(ldap, By::Password(login, password)).await
    }

    async fn by_login(&self, ldap: &Ldap, login: &str) -> Result<Option<Found>, DirectoryError> {
        self.ask(ldap, By::Login(login)).await
    }

    async fn by_subject(
        &self,
        ldap: &Ldap,
        subject: &DistinguishedName,
    ) -> Result<Option<Found>, DirectoryError> {
        self.ask(ldap, By::Subject(&subject.to_string())).await
    }
}

impl LdapDirectory {
    async fn ask(&self, ldap: &Ldap, by: By<'_>) -> Result<Option<Found>, DirectoryError> {
        let connection = &ldap.connection;
        let patience = Duration::from_millis(connection.timeout_ms) * ANSWERS;
        let turns = self.turns(connection.num_connections);
        let Ok(Ok(_turn)) = timeout(patience, turns.acquire()).await else {
            return Err(DirectoryError("too many others are asking it".to_owned()));
        };
        let mut problems = Vec::new();
        for host in std::iter::once(&connection.host).chain(&connection.others) {
            if let Some(problem) = self.rests(host) {
                problems.push(problem);
                continue;
            }
            let answer = match timeout(patience, self.ask_one(ldap, host, by)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32())),
            };
            match answer {
                Ok(found) => {
                    self.failed.lock().remove(&key(host));
                    return Ok(found);
                }
                Err(problem) => {
                    let problem = format!("{}:{}: {problem}", host.address, host.port);
                    tracing::warn!(problem, "a directory can't be asked");
                    let entry = (Instant::now(), problem.clone());
                    self.failed.lock().insert(key(host), entry);
                    problems.push(problem);
                }
            }
        }
        Err(DirectoryError(problems.join("; ")))
    }

    /// Why a server isn't asked now, if so.
    fn rests(&self, host: &Host) -> Option<String> {
        let failed = self.failed.lock();
        let (when, problem) = failed.get(&key(host))?;
        (when.elapsed() < REST).then(|| problem.clone())
    }

    fn turns(&self, count: usize) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        match &*turns {
            Some((of, turns)) if *of == count => Arc::clone(turns),
            _ => {
                let new = Arc::new(Semaphore::new(count));
                *turns = Some((count, Arc::clone(&new)));
                new
            }
        }
    }

    fn encryption(&self, ldap: &Ldap) -> Result<Encryption, String> {
        let connection = &ldap.connection;
        Ok(match (connection.ssl, connection.start_tls) {
            (false, false) => Encryption::None,
            (_, true) => Encryption::StartTls(self.config(connection)?),
            (true, false) => Encryption::Tls(self.config(connection)?),
        })
    }

    fn config(&self, connection: &methods::Connection) -> Result<Arc<ClientConfig>, String> {
        let mut known = self.encryption.lock();
        if let Some((ca, config)) = &*known
            && *ca == connection.ca
        {
            return Ok(Arc::clone(config));
        }
        let config = tls::config(connection.ca.as_deref())?;
        *known = Some((connection.ca.clone(), Arc::clone(&config)));
        Ok(config)
    }

    async fn ask_one(&self, ldap: &Ldap, host: &Host, by: By<'_>) -> Result<Option<Found>, String> {
        let encryption = self.encryption(ldap)?;
        let patience = Duration::from_millis(ldap.connection.timeout_ms);
        let mut connection = Connection::open(host, encryption, patience).await?;
        if let Some(dn) = &ldap.bind_dn {
            let password = password(ldap).await?;
            if !connection.bind(dn, &password).await? {
                return Err(format!("it refuses the password of `bind-dn` {dn}"));
            }
        }
        let found = asked(&mut connection, ldap, by).await?;
        connection.close().await;
        Ok(found)
    }
}

fn key(host: &Host) -> (String, u16) {
    (host.address.clone(), host.port)
}

async fn password(ldap: &Ldap) -> Result<String, String> {
    let Some(file) = &ldap.bind_password_file else {
        return Ok(ldap.bind_password.clone().unwrap_or_default());
    };
    let read = tokio::fs::read_to_string(file).await;
    let text = read.map_err(|error| format!("`bind-password-file` {file}: {error}"))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > PASSWORD_AT_MOST {
        return Err(format!("`bind-password-file` {file} holds no password"));
    }
    Ok(password.to_owned())
}

/// The user and their roles, over a connection that may search.
async fn asked(
    connection: &mut Connection,
    ldap: &Ldap,
    by: By<'_>,
) -> Result<Option<Found>, String> {
    let (attribute, value) = match by {
        By::Login(login) | By::Password(login, _) => (&ldap.user_id_attr, login),
        By::Subject(subject) => (&ldap.user_cert_attr, subject),
    };
    let seconds_at_most = u32::try_from(ldap.connection.timeout_ms.div_ceil(1000)).unwrap_or(1);
    let search = Search {
        base: &ldap.user_base_dn,
        equal: &[("objectClass", &ldap.user_object_class), (attribute, value)],
        attributes: &[&ldap.user_id_attr, "givenName", "sn", "mail"],
        // One more than there may be.
        entries_at_most: 2,
        seconds_at_most,
    };
    let mut entries = connection.search(search).await?;
    if entries.len() > 1 {
        tracing::warn!(
            attribute,
            value,
            "the directory has several users for this: none counts"
        );
        return Ok(None);
    }
    let Some(entry) = entries.pop() else {
        return Ok(None);
    };
    if let By::Password(_, password) = by
        && (entry.dn.is_empty() || !connection.bind(&entry.dn, password).await?)
    {
        return Ok(None);
    }
    // With a password, over the user's own connection.
    let groups = connection
        .search(Search {
            base: &ldap.role_base_dn,
            equal: &[
                ("objectClass", &ldap.role_object_class),
                (&ldap.role_member_attr, &entry.dn),
            ],
            attributes: &[&ldap.role_name_attr],
            entries_at_most: GROUPS_AT_MOST,
            seconds_at_most,
        })
        .await?;
    Ok(found(ldap, &entry, &groups))
}

fn found(ldap: &Ldap, entry: &Entry, groups: &[Entry]) -> Option<Found> {
    let text = |name: &str| {
        let mut values = entry.values(name).map(str::trim);
        let value = values.find(|value| !value.is_empty() && !value.chars().any(char::is_control));
        value.map(|value| value.chars().take(200).collect::<String>())
    };
    let Some(login) = text(&ldap.user_id_attr) else {
        tracing::warn!(
            dn = entry.dn,
            attribute = ldap.user_id_attr,
            "a user of the directory has no name"
        );
        return None;
    };
    let mut roles: Vec<String> = groups
        .iter()
        .flat_map(|group| group.values(&ldap.role_name_attr))
        .filter_map(|name| role(ldap, name))
        .collect();
    roles.sort_unstable();
    roles.dedup();
    Some(Found {
        login,
        dn: entry.dn.clone(),
        first_name: text("givenName"),
        last_name: text("sn"),
        email: text("mail"),
        roles,
    })
}

/// The role that a group confers: what the configuration says, else its name, unless that is one of the cloud's own.
fn role(ldap: &Ldap, group: &str) -> Option<String> {
    if let Some(role) = ldap.role_map.get(group) {
        return Some(role.clone());
    }
    let is_role = !group.trim().is_empty()
        && group.len() <= ROLE_AT_MOST
        && !group.starts_with("::")
        && !group.chars().any(char::is_control);
    is_role.then(|| group.to_owned())
}
