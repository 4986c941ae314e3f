//! The entries of people, and the groups they are in.
//!
//! ```text
//! uid=alice,ou=users,o=cloud      inetOrgPerson: uid cn sn givenName mail userPassword [seeAlso]
//! cn=cloud-access,ou=groups,o=cloud   groupOfUniqueNames: uniqueMember = the person's DN
//! ```

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use cloud::people::{Directory, DirectoryEntry, DirectoryError};
use ldap3::{LdapError, LdapResult, Mod, Scope, SearchEntry, dn_escape, ldap_escape};
use rustls::ClientConfig;

use crate::{
    ConnectError, Server,
    connection::{Manager, unavailable},
    password,
};

/// Results of LDAP (RFC 4511 §4.1.9) that say that it is as it should be already.
const TYPE_OR_VALUE_EXISTS: u32 = 20;
const NO_SUCH_OBJECT: u32 = 32;
const ENTRY_ALREADY_EXISTS: u32 = 68;

/// People in an LDAP directory.
#[derive(Debug)]
pub struct LdapEntries {
    server: Server,
    tls: Arc<ClientConfig>,
}

impl LdapEntries {
    /// At a server, which is asked nothing yet.
    ///
    /// # Errors
    /// Certificates that can't be read.
    pub fn new(server: Server) -> Result<Self, ConnectError> {
        Ok(Self {
            tls: server.tls()?,
            server,
        })
    }

    async fn connect(&self) -> Result<Manager, DirectoryError> {
        self.server.connect(&self.tls).await
    }

    fn dn(&self, uid: &str) -> String {
        format!("uid={},{}", dn_escape(uid), self.server.users)
    }

    /// The entry of this name, with its DN.
    async fn entry(
        &self,
        manager: &mut Manager,
        uid: &str,
    ) -> Result<Option<SearchEntry>, DirectoryError> {
        let filter = format!("(&(objectClass=inetOrgPerson)(uid={}))", ldap_escape(uid));
        let attributes = vec!["uid", "givenName", "sn", "cn", "mail", "seeAlso"];
        let found = manager
            .operation()
            .search(&self.server.users, Scope::Subtree, &filter, attributes)
            .await
            .map_err(|error| unavailable(&error))?;
        if found.1.rc == NO_SUCH_OBJECT {
            return Ok(None);
        }
        let (entries, _) = found.success().map_err(|error| unavailable(&error))?;
        let first = entries.into_iter().find(|entry| !entry.is_ref());
        Ok(first.map(SearchEntry::construct))
    }

    /// Makes sure that a person is a member of a group, and that there is the group.
    async fn join(
        &self,
        manager: &mut Manager,
        dn: &str,
        group: &str,
    ) -> Result<(), DirectoryError> {
        let group_dn = format!("cn={},{}", dn_escape(group), self.server.groups);
        let member = vec![Mod::Add("uniqueMember", HashSet::from([dn]))];
        let joined = manager.operation().modify(&group_dn, member).await;
        if result_of(&joined) != Some(NO_SUCH_OBJECT) {
            return done(joined, TYPE_OR_VALUE_EXISTS);
        }
        let attributes = vec![
            ("objectClass", HashSet::from(["groupOfUniqueNames"])),
            ("cn", HashSet::from([group])),
            ("uniqueMember", HashSet::from([dn])),
        ];
        let made = manager.operation().add(&group_dn, attributes).await;
        if result_of(&made) == Some(ENTRY_ALREADY_EXISTS) {
            let member = vec![Mod::Add("uniqueMember", HashSet::from([dn]))];
            let joined = manager.operation().modify(&group_dn, member).await;
            return done(joined, TYPE_OR_VALUE_EXISTS);
        }
        done(made, 0)
    }
}

fn result_of(outcome: &Result<LdapResult, LdapError>) -> Option<u32> {
    outcome.as_ref().ok().map(|result| result.rc)
}

/// Whether it worked, or was so already.
fn done(outcome: Result<LdapResult, LdapError>, already: u32) -> Result<(), DirectoryError> {
    let result = outcome.map_err(|error| unavailable(&error))?;
    if result.rc == already {
        return Ok(());
    }
    result
        .success()
        .map(drop)
        .map_err(|error| unavailable(&error))
}

/// An attribute's first value.
fn first(entry: &SearchEntry, name: &str) -> Option<String> {
    let found = entry
        .attrs
        .iter()
        .find(|(given, _)| given.eq_ignore_ascii_case(name));
    found.and_then(|(_, values)| values.first().cloned())
}

#[async_trait]
impl Directory for LdapEntries {
    async fn find(&self, uid: &str) -> Result<Option<DirectoryEntry>, DirectoryError> {
        let mut manager = self.connect().await?;
        let found = self.entry(&mut manager, uid).await?;
        Ok(found.map(|entry| {
            let text = |name: &str| first(&entry, name).unwrap_or_default();
            DirectoryEntry {
                uid: text("uid"),
                given_name: text("givenName"),
                sn: text("sn"),
                mail: text("mail"),
                see_also: first(&entry, "seeAlso"),
            }
        }))
    }

    fn encode(&self, password: &str) -> String {
        password::encode(password)
    }

    async fn enter(
        &self,
        entry: &DirectoryEntry,
        password: &str,
        role: &str,
    ) -> Result<(), DirectoryError> {
        let mut manager = self.connect().await?;
        let dn = self.dn(&entry.uid);
        let cn = format!("{} {}", entry.given_name, entry.sn);
        let mut attributes = vec![
            ("objectClass", HashSet::from(["inetOrgPerson"])),
            ("uid", HashSet::from([entry.uid.as_str()])),
            ("cn", HashSet::from([cn.as_str()])),
            ("sn", HashSet::from([entry.sn.as_str()])),
            ("givenName", HashSet::from([entry.given_name.as_str()])),
            ("mail", HashSet::from([entry.mail.as_str()])),
            ("userPassword", HashSet::from([password])),
        ];
        if let Some(see_also) = &entry.see_also {
            attributes.push(("seeAlso", HashSet::from([see_also.as_str()])));
        }
        let added = manager.operation().add(&dn, attributes).await;
        if result_of(&added) == Some(ENTRY_ALREADY_EXISTS) {
            // Ours, from a time that ended half-way; or somebody else's.
            let there = self.entry(&mut manager, &entry.uid).await?;
            let is_same = there.as_ref().is_some_and(|there| {
                first(there, "mail").as_ref() == Some(&entry.mail)
                    && first(there, "sn").as_ref() == Some(&entry.sn)
            });
            if !is_same {
                return Err(DirectoryError::Taken);
            }
        } else {
            done(added, 0)?;
        }
        self.join(&mut manager, &dn, role).await
    }

    async fn set_password(&self, uid: &str, password: &str) -> Result<(), DirectoryError> {
        let mut manager = self.connect().await?;
        let entry = self
            .entry(&mut manager, uid)
            .await?
            .ok_or(DirectoryError::Unknown)?;
        let change = vec![Mod::Replace("userPassword", HashSet::from([password]))];
        done(manager.operation().modify(&entry.dn, change).await, 0)
    }

    async fn change(
        &self,
        uid: &str,
        given_name: Option<&str>,
        sn: Option<&str>,
        mail: Option<&str>,
    ) -> Result<(), DirectoryError> {
        let mut manager = self.connect().await?;
        let entry = self
            .entry(&mut manager, uid)
            .await?
            .ok_or(DirectoryError::Unknown)?;
        let text = |name: &str| first(&entry, name).unwrap_or_default();
        let (old_given, old_sn) = (text("givenName"), text("sn"));
        let cn = format!(
            "{} {}",
            given_name.unwrap_or(&old_given),
            sn.unwrap_or(&old_sn)
        );
        let mut changes = Vec::new();
        for (name, value) in [("givenName", given_name), ("sn", sn), ("mail", mail)] {
            changes.extend(value.map(|value| Mod::Replace(name, HashSet::from([value]))));
        }
        if given_name.is_some() || sn.is_some() {
            changes.push(Mod::Replace("cn", HashSet::from([cn.trim()])));
        }
        if changes.is_empty() {
            return Ok(());
        }
        done(manager.operation().modify(&entry.dn, changes).await, 0)
    }
}
