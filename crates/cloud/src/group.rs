//! Groups: a name that access lists know, and what its members may have together.
//!
//! A user is a member by having the group's name among the roles, which administrators write.

use cimi::{
    Acl, Common, GroupId, Right, Timestamp,
    model::Kind,
    resources::{Group, Quota},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public, object},
    error::unreadable,
    quota::used_by,
};

impl Cloud {
    /// Makes a group.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if the name is taken, [`CloudError::Invalid`].
    pub async fn create_group(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_admin(context, "make groups")?;
        let name = body.get("groupname").and_then(Value::as_str);
        let name = name.ok_or_else(|| CloudError::invalid("groupname", "is missing"))?;
        let id = GroupId::from_local(name)
            .ok()
            .filter(|_| !name.starts_with(':'));
        let id = id.ok_or_else(|| {
            let text = format!(
                "`{name}` may hold letters, digits and -_.@+=,~: only, and not begin with a colon or a dot"
            );
            CloudError::invalid("groupname", text)
        })?;
        // Members see what they may have.
        let acl = Acl::owned_by_admin().allowing_role(name, Right::View);
        let mut group = Group {
            id,
            common: Common::new(acl, Timestamp::now()),
            groupname: name.to_owned(),
            quota: Quota::default(),
            unknown: Map::new(),
        };
        for (name, value) in &body {
            match name.as_str() {
                "groupname" => {}
                "name" | "description" | "properties" => {
                    catalogue::edit_common(&mut group.common, name, Some(value))?;
                }
                _ => group.edit(name, Some(value))?,
            }
        }
        catalogue::check_size(&group)?;
        let documents = &self.0.documents;
        match documents.changes().create(&group).commit().await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {
                let text = format!("there is a group `{}` already", group.groupname);
                return Err(CloudError::Conflict(text));
            }
            Err(error) => return Err(error.into()),
        }
        let read = access::find::<Group>(documents, context, group.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Removes a group without members.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while it has members: they would keep what is shared with the name.
    pub async fn delete_group(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        let read = access::find::<Group>(documents, context, local, Right::Modify)?;
        let members = members(documents, &read.groupname);
        let id = &read.document.id;
        match members.as_slice() {
            [] => catalogue::delete::<Group>(documents, context, local).await,
            [one] => Err(CloudError::Conflict(format!(
                "{id} still has a member: take {one} out first"
            ))),
            many => Err(CloudError::Conflict(format!(
                "{id} still has {} members: take them out first",
                many.len()
            ))),
        }
    }
}

/// The users who are in a group, by name.
pub(crate) fn members(documents: &Documents, group: &str) -> Vec<String> {
    let members = documents.users.by_index("role", group);
    members.iter().map(|user| user.username.clone()).collect()
}

/// A quota that a client sent; none: nothing is set.
pub(crate) fn quota(value: Option<&Value>) -> Result<Quota> {
    let Some(value) = value else {
        return Ok(Quota::default());
    };
    serde_json::from_value(value.clone()).map_err(|error| unreadable("quota", &error))
}

impl Public for Group {
    const KIND: Kind = Kind::Group;

    /// Its members are the users'.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let members = members(documents, &self.groupname);
        object(json!({
            "groupname": self.groupname,
            "quota": self.quota,
            "used": used_by(documents, members.iter().map(String::as_str)),
            "members": members,
        }))
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        if name != "quota" {
            return Err(CloudError::invalid(name, "of a group can't be changed"));
        }
        self.quota = quota(value)?;
        Ok(())
    }
}
