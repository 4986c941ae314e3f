//! What somebody has and may have, to be seen.

use accounts::certified::ORGANISATION;
use cimi::{
    Right,
    resources::{Group, Most, User},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use super::{Measure, together};
use crate::{Cloud, CloudError, OpContext, Result, access, group};

/// How much some users have together, by the attribute's name.
pub(crate) fn used_by<'u>(
    documents: &Documents,
    users: impl Iterator<Item = &'u str> + Clone,
) -> Map<String, Value> {
    let of = |measure: Measure| {
        let used: u64 = users
            .clone()
            .map(|user| measure.used(documents, user))
            .sum();
        (measure.attribute().to_owned(), measure.shown(used).into())
    };
    Measure::SETTABLE.into_iter().map(of).collect()
}

/// What somebody has of each measure, may have, and why.
fn table(used: &Map<String, Value>, most: impl Fn(Measure) -> (Most, &'static str)) -> Vec<Value> {
    let row = |measure: Measure| {
        let (most, from) = most(measure);
        let name = measure.attribute();
        json!({"measure": name, "used": used.get(name), "limit": most, "from": from})
    };
    Measure::SETTABLE.into_iter().map(row).collect()
}

impl Cloud {
    /// What a user has and may have, and the same of the groups the user is in. Everybody sees their own.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for users that aren't there or the caller may not see.
    pub fn quota_of_user(&self, context: &OpContext, user: Option<&str>) -> Result<Value> {
        let own = access::require_user(context)?;
        let name = user.unwrap_or(own);
        let documents = &self.0.documents;
        // Who logs in by other means than the cloud's database has an account here all the same; but not, say, a test's.
        let account = match access::find::<User>(documents, context, name, Right::View) {
            Ok(account) => Some(account),
            Err(CloudError::NotFound { .. }) if name == own => None,
            Err(error) => return Err(error),
        };
        let account = account.as_ref().map(|read| &read.document.0);
        let roles = account.map_or(&[][..], |account| &account.roles);
        let bounded = !roles.iter().any(|role| role == cimi::common::ADMIN_ROLE);
        let most = |measure: Measure| {
            if !bounded {
                return (Most::Unbounded, "administrator");
            }
            let (most, is_own) = measure.most_of_user(account, &self.0.settings.per_user);
            (most, if is_own { "user" } else { "default" })
        };
        // What an account that admits an organisation may have is what all members have.
        let members = match name.strip_prefix(ORGANISATION) {
            Some(organisation) => together::members(documents, organisation),
            None => Vec::new(),
        };
        let used = used_by(
            documents,
            std::iter::once(name).chain(members.iter().map(AsRef::as_ref)),
        );
        let groups = roles.iter().filter_map(|role| {
            let group = documents.groups.get(role)?;
            (!group.quota.is_empty()).then(|| self.table_of_group(&group.document.0))
        });
        let organisations = together::organisations_of(context)
            .into_iter()
            .filter(|_| name == own);
        let organisations = organisations.filter_map(|name| self.table_of_organisation(name));
        let groups: Vec<Value> = groups.chain(organisations).collect();
        Ok(json!({"user": name, "quota": table(&used, most), "groups": groups}))
    }

    /// What the members of a group have together, and may have.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for groups that aren't there or the caller may not see.
    pub fn quota_of_group(&self, context: &OpContext, group: &str) -> Result<Value> {
        access::require_user(context)?;
        let found = access::find::<Group>(&self.0.documents, context, group, Right::View)?;
        Ok(self.table_of_group(&found.document.0))
    }

    /// What all members of an organisation have here, and may have by the account that admits it.
    fn table_of_organisation(&self, organisation: &str) -> Option<Value> {
        let documents = &self.0.documents;
        let account = documents
            .users
            .get(&format!("{ORGANISATION}{organisation}"))?;
        let members = together::members(documents, organisation);
        let used = used_by(documents, members.iter().map(AsRef::as_ref));
        let most = |measure: Measure| {
            let defaults = &self.0.settings.per_user;
            let (most, is_own) = measure.most_of_user(Some(&account.document.0), defaults);
            (most, if is_own { "organisation" } else { "default" })
        };
        Some(json!({"group": account.username, "quota": table(&used, most)}))
    }

    fn table_of_group(&self, group: &Group) -> Value {
        let documents = &self.0.documents;
        let members = group::members(documents, &group.groupname);
        let used = used_by(documents, members.iter().map(String::as_str));
        let most = |measure: Measure| match measure.most_of_group(group) {
            Most::Unbounded => (Most::Unbounded, "default"),
            most @ Most::AtMost(_) => (most, "group"),
        };
        json!({"group": group.groupname, "quota": table(&used, most)})
    }
}
