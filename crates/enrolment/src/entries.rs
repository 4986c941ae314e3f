//! The entries of people, and the groups they are in.
//!
//! ```text
//! uid=alice,ou=users,o=cloud      inetOrgPerson: uid cn sn givenName mail userPassword [seeAlso]
//! cn=cloud-access,ou=groups,o=cloud   groupOfUniqueNames: uniqueMember = the person's DN
//! ```

use async_trait::async_trait;
use cloud::people::{Directory, DirectoryEntry, DirectoryError};
use directory::{Change, Entry, Writable, WriteError, Writer};

use crate::{ConnectError, Server, connection::unavailable, name, password};

/// People in an LDAP directory.
#[derive(Debug)]
pub struct LdapEntries {
    server: Server,
    place: Writable,
}

impl LdapEntries {
    /// At a server, which is asked nothing yet.
    ///
    /// # Errors
    /// An address or certificates that can't be read.
    pub fn new(server: Server) -> Result<Self, ConnectError> {
        Ok(Self {
            place: server.place()?,
            server,
        })
    }

    async fn connect(&self) -> Result<Writer, DirectoryError> {
        self.server.log_in(&self.place).await
    }

    /// The entry of this name.
    async fn entry(
        &self,
        manager: &mut Writer,
        uid: &str,
    ) -> Result<Option<Entry>, DirectoryError> {
        let equal = [("objectClass", "inetOrgPerson"), ("uid", uid)];
        let attributes = ["uid", "givenName", "sn", "cn", "mail", "seeAlso"];
        let found = manager.find(&self.server.users, &equal, &attributes).await;
        let found = found.map_err(|error| unavailable(&error))?;
        Ok(found.into_iter().next())
    }

    /// Makes sure that a person is a member of a group, and that there is the group.
    async fn join(
        &self,
        manager: &mut Writer,
        dn: &str,
        group: &str,
    ) -> Result<(), DirectoryError> {
        let group_dn = name::below(&self.server.groups, "cn", group);
        let member = [Change::Add("uniqueMember", dn)];
        let joined = manager.modify(&group_dn, &member).await;
        if joined != Err(WriteError::Absent) {
            return or_already(joined);
        }
        let values = [
            ("objectClass", "groupOfUniqueNames"),
            ("cn", group),
            ("uniqueMember", dn),
        ];
        match manager.add(&group_dn, &values).await {
            // Somebody else has just made it.
            Err(WriteError::Exists) => or_already(manager.modify(&group_dn, &member).await),
            made => made.map_err(|error| unavailable(&error)),
        }
    }
}

/// Whether it worked, or was so already.
fn or_already(outcome: Result<(), WriteError>) -> Result<(), DirectoryError> {
    match outcome {
        Ok(()) | Err(WriteError::Exists) => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}

/// An attribute's first value.
fn first<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
    entry.values(name).next()
}

#[async_trait]
impl Directory for LdapEntries {
    async fn find(&self, uid: &str) -> Result<Option<DirectoryEntry>, DirectoryError> {
        let mut manager = self.connect().await?;
        let found = self.entry(&mut manager, uid).await?;
        manager.close().await;
        Ok(found.map(|entry| {
            let text = |name: &str| first(&entry, name).unwrap_or_default().to_owned();
            DirectoryEntry {
                uid: text("uid"),
                given_name: text("givenName"),
                sn: text("sn"),
                mail: text("mail"),
                see_also: first(&entry, "seeAlso").map(str::to_owned),
            }
        }))
    }

    async fn with_certificate(&self, name: &str) -> Result<Vec<String>, DirectoryError> {
        let mut manager = self.connect().await?;
        let equal = [("objectClass", "inetOrgPerson"), ("seeAlso", name)];
        let found = manager.find(&self.server.users, &equal, &["uid"]).await;
        manager.close().await;
        let found = found.map_err(|error| unavailable(&error))?;
        let uids = found.iter().filter_map(|entry| first(entry, "uid"));
        Ok(uids.map(str::to_owned).collect())
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
        let dn = name::below(&self.server.users, "uid", &entry.uid);
        let cn = format!("{} {}", entry.given_name, entry.sn);
        let mut values = vec![
            ("objectClass", "inetOrgPerson"),
            ("uid", entry.uid.as_str()),
            ("cn", cn.as_str()),
            ("sn", entry.sn.as_str()),
            ("givenName", entry.given_name.as_str()),
            ("mail", entry.mail.as_str()),
            ("userPassword", password),
        ];
        values.extend(entry.see_also.as_deref().map(|name| ("seeAlso", name)));
        match manager.add(&dn, &values).await {
            Ok(()) => {}
            // Ours, from a time that ended half-way; or somebody else's.
            Err(WriteError::Exists) => {
                let there = self.entry(&mut manager, &entry.uid).await?;
                let is_same = there.as_ref().is_some_and(|there| {
                    first(there, "mail") == Some(entry.mail.as_str())
                        && first(there, "sn") == Some(entry.sn.as_str())
                });
                if !is_same {
                    return Err(DirectoryError::Taken);
                }
            }
            Err(error) => return Err(unavailable(&error)),
        }
        self.join(&mut manager, &dn, role).await?;
        manager.close().await;
        Ok(())
    }

    async fn set_password(&self, uid: &str, password: &str) -> Result<(), DirectoryError> {
        let mut manager = self.connect().await?;
        let entry = self
            .entry(&mut manager, uid)
            .await?
            .ok_or(DirectoryError::Unknown)?;
        let change = [Change::Replace("userPassword", password)];
        let changed = manager.modify(&entry.dn, &change).await;
        manager.close().await;
        changed.map_err(|error| unavailable(&error))
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
        let new = |given: Option<&str>, name: &str| {
            given.or(first(&entry, name)).unwrap_or_default().to_owned()
        };
        let cn = format!("{} {}", new(given_name, "givenName"), new(sn, "sn"));
        let mut changes: Vec<_> = [("givenName", given_name), ("sn", sn), ("mail", mail)]
            .into_iter()
            .filter_map(|(name, value)| Some(Change::Replace(name, value?)))
            .collect();
        if given_name.is_some() || sn.is_some() {
            changes.push(Change::Replace("cn", cn.trim()));
        }
        let changed = if changes.is_empty() {
            Ok(())
        } else {
            manager.modify(&entry.dn, &changes).await
        };
        manager.close().await;
        changed.map_err(|error| unavailable(&error))
    }
}
