//! Who is bounded together: the members of a group, and those of an organisation.
//!
//! Members of organisations have no accounts here. Who of them makes something is written down once, so that what all of
//! them have can be added up; it is bounded by the quota of the account that admits the organisation.

use std::sync::Arc;

use accounts::{Method, certified::ORGANISATION};
use cimi::{
    Acl, Common, OrganisationMemberId, Timestamp,
    resources::{Group, Most, OrganisationMember, User},
};
use documents::{Cached, Documents};
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::{Counted, Measure, PerUser};
use crate::{Cloud, CloudError, OpContext, Result, group};

/// What bounds them.
enum By {
    Group(Arc<Cached<Group>>),
    Organisation(Arc<Cached<User>>),
}

/// Some who are bounded together.
pub(super) struct Together {
    by: By,
    pub(super) members: Vec<Arc<str>>,
}

impl Together {
    /// Whose use is counted.
    pub(super) fn counted(&self) -> Counted {
        match &self.by {
            By::Group(group) => Counted::Group(group.groupname.as_str().into()),
            By::Organisation(account) => Counted::Organisation(account.username.as_str().into()),
        }
    }

    /// What they may have together, as people see it.
    pub(super) fn most(&self, measure: Measure, defaults: &PerUser) -> Most {
        match &self.by {
            By::Group(group) => measure.most_of_group(group),
            By::Organisation(account) => {
                measure.most_of_user(Some(&account.document.0), defaults).0
            }
        }
    }

    /// As refusals say it.
    pub(super) fn name(&self) -> String {
        match &self.by {
            By::Group(group) => format!("the group {}", group.groupname),
            By::Organisation(account) => {
                let name = account.username.trim_start_matches(ORGANISATION);
                format!("the organisation {name}")
            }
        }
    }
}

/// With whom somebody is bounded. Linear in the number of members.
pub(super) fn bounding(documents: &Documents, user: &str) -> Vec<Together> {
    let Some(account) = documents.users.get(user) else {
        return by_organisations(documents, user);
    };
    let groups = account.roles.iter().filter_map(|role| {
        let group = documents.groups.get(role)?;
        if group.quota.is_empty() {
            return None;
        }
        let members = group::members(documents, &group.groupname);
        Some(Together {
            by: By::Group(group),
            members: members.into_iter().map(Arc::from).collect(),
        })
    });
    groups.collect()
}

fn by_organisations(documents: &Documents, user: &str) -> Vec<Together> {
    let of = documents.organisation_members.by_index("member", user);
    let organisations = of.iter().filter_map(|member| {
        let name = &member.organisation;
        let account = documents.users.get(&format!("{ORGANISATION}{name}"))?;
        Some(Together {
            by: By::Organisation(account),
            members: members(documents, name),
        })
    });
    organisations.collect()
}

/// Who of an organisation has made something here.
pub(super) fn members(documents: &Documents, organisation: &str) -> Vec<Arc<str>> {
    let members = &documents.organisation_members;
    let found = members.by_index("organisation", organisation);
    let names = found.iter().map(|member| member.member.as_str().into());
    names.collect()
}

/// The organisations that the caller is here as a member of.
pub(super) fn organisations_of(context: &OpContext) -> Vec<&str> {
    if context.method() != Some(Method::Voms) {
        return Vec::new();
    }
    let mut found: Vec<&str> = context
        .roles()
        .iter()
        .filter_map(|fqan| fqan.strip_prefix('/')?.split('/').next())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

impl Cloud {
    /// Writes down, the first time, that the caller is a member of their organisations.
    pub(super) async fn note_member(&self, context: &OpContext) -> Result<()> {
        let documents = &self.0.documents;
        let Some(name) = context.user() else {
            return Ok(());
        };
        for organisation in organisations_of(context) {
            let digest = Sha256::digest(format!("{organisation}\n{name}").as_bytes());
            let id = OrganisationMemberId::from_local(&format!("{digest:x}"))
                .map_err(|error| CloudError::Internal(error.to_string()))?;
            if documents.organisation_members.get(id.local()).is_some() {
                continue;
            }
            let member = OrganisationMember {
                id,
                common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
                organisation: organisation.to_owned(),
                member: name.to_owned(),
                unknown: Map::new(),
            };
            match documents.changes().create(&member).commit().await {
                Ok(_) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
