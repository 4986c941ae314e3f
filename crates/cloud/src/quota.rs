//! How much one user may have, and how much the members of a group.
//!
//! What counts is who owns a document, as the index of the cache knows it, and what is on its way: a creation holds its
//! [`Place`] until the cache shows what it made, so that creations at the same moment don't all take the last one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cimi::resources::{
    AddressTemplate, Credential, CredentialTemplate, ForwardingGroup, ForwardingGroupTemplate,
    Image, Machine, MachineConfiguration, MachineTemplate, Network, NetworkConfiguration,
    NetworkPort, NetworkPortConfiguration, NetworkPortTemplate, NetworkTemplate, Resource, System,
    SystemTemplate, Token, Volume, VolumeConfiguration, VolumeImage, VolumeTemplate,
};
use documents::OfType;
use parking_lot::Mutex;

use crate::{Cloud, CloudError, OpContext, Result, access, group};

/// The most that one user may have of each type that users make. Administrators are not bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerUser {
    /// Machines.
    pub machines: usize,
    /// Volumes, whoever has them attached.
    pub volumes: usize,
    /// Images, those that are still to be sent included.
    pub images: usize,
    /// Credentials, and as many tokens.
    pub credentials: usize,
    /// Machine templates, and as many volume templates, machine configurations and volume configurations.
    pub templates: usize,
    /// Networks, and as many forwarding groups.
    pub networks: usize,
}

impl Default for PerUser {
    fn default() -> Self {
        Self {
            machines: 1000,
            volumes: 1000,
            images: 200,
            credentials: 100,
            templates: 100,
            networks: 10,
        }
    }
}

impl PerUser {
    /// What the resources of a collection are called, and the most of them.
    fn of(&self, collection: &str) -> Option<(&'static str, usize)> {
        [
            (Machine::COLLECTION, "machines", self.machines),
            (Volume::COLLECTION, "volumes", self.volumes),
            (Image::COLLECTION, "images", self.images),
            (Credential::COLLECTION, "credentials", self.credentials),
            (Token::COLLECTION, "tokens", self.credentials),
            (
                MachineTemplate::COLLECTION,
                "machine templates",
                self.templates,
            ),
            (
                VolumeTemplate::COLLECTION,
                "volume templates",
                self.templates,
            ),
            (
                MachineConfiguration::COLLECTION,
                "machine configurations",
                self.templates,
            ),
            (
                VolumeConfiguration::COLLECTION,
                "volume configurations",
                self.templates,
            ),
            (VolumeImage::COLLECTION, "volume images", self.volumes),
            (System::COLLECTION, "systems", self.templates),
            (
                SystemTemplate::COLLECTION,
                "system templates",
                self.templates,
            ),
            (
                CredentialTemplate::COLLECTION,
                "credential templates",
                self.credentials,
            ),
            (Network::COLLECTION, "networks", self.networks),
            (NetworkPort::COLLECTION, "network ports", self.machines),
            (
                ForwardingGroup::COLLECTION,
                "forwarding groups",
                self.networks,
            ),
            (
                NetworkTemplate::COLLECTION,
                "network templates",
                self.templates,
            ),
            (
                NetworkConfiguration::COLLECTION,
                "network configurations",
                self.templates,
            ),
            (
                NetworkPortTemplate::COLLECTION,
                "network port templates",
                self.templates,
            ),
            (
                NetworkPortConfiguration::COLLECTION,
                "network port configurations",
                self.templates,
            ),
            (
                AddressTemplate::COLLECTION,
                "address templates",
                self.templates,
            ),
            (
                ForwardingGroupTemplate::COLLECTION,
                "forwarding group templates",
                self.templates,
            ),
        ]
        .into_iter()
        .find_map(|(of, name, most)| (of == collection).then_some((name, most)))
    }
}

/// What is on its way.
#[derive(Debug, Default)]
struct Coming {
    /// By user and collection.
    places: HashMap<(Arc<str>, &'static str), usize>,
    /// Users who are about to be removed: nothing more comes to them.
    leaving: HashSet<Arc<str>>,
}

/// Who is making how much.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas(Arc<Mutex<Coming>>);

/// Room for what is about to be made; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    coming: Quotas,
    user: Arc<str>,
    collection: &'static str,
    count: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut coming = self.coming.0.lock();
        let key = (Arc::clone(&self.user), self.collection);
        if let Some(held) = coming.places.get_mut(&key) {
            *held = held.saturating_sub(self.count);
            if *held == 0 {
                coming.places.remove(&key);
            }
        }
    }
}

/// While it lives, nothing can be made for the user.
#[derive(Debug)]
pub(crate) struct Leaving {
    quotas: Quotas,
    user: Arc<str>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.quotas.0.lock().leaving.remove(&self.user);
    }
}

impl Cloud {
    /// Room for `count` more resources of a type that will belong to the caller. To be held until they are made.
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] if the caller has too many; [`CloudError::Conflict`] if the caller is being removed.
    pub(crate) fn place<R: OfType>(&self, context: &OpContext, count: usize) -> Result<Place> {
        let user = access::require_user(context)?;
        let mut coming = self.0.quotas.0.lock();
        if coming.leaving.contains(user) {
            return Err(CloudError::Conflict(format!(
                "User/{user} is being removed"
            )));
        }
        let key = (Arc::<str>::from(user), R::COLLECTION);
        let held = coming.places.get(&key).copied().unwrap_or(0);
        let have = self.0.documents.count_owned::<R>(user) + held;
        if let Some((name, most)) = self.0.settings.per_user.of(R::COLLECTION)
            && have.saturating_add(count) > most
            && count > 0
            && !context.is_admin()
        {
            return Err(CloudError::Exhausted(format!(
                "you have {have} {name}, and {most} is the most one user may have: remove some, or ask the \
                 administrator"
            )));
        }
        if count > 0 && !context.is_admin() {
            self.room_in_groups::<R>(&coming, user, count)?;
        }
        *coming.places.entry(key.clone()).or_default() += count;
        Ok(Place {
            coming: self.0.quotas.clone(),
            user: key.0,
            collection: R::COLLECTION,
            count,
        })
    }

    /// Refuses what would be too much for one of the user's groups: what counts is what all its members own.
    fn room_in_groups<R: OfType>(&self, coming: &Coming, user: &str, count: usize) -> Result<()> {
        let documents = &self.0.documents;
        for (group, most) in group::bounds::<R>(documents, user) {
            let of_member = |member: String| {
                let have = documents.count_owned::<R>(&member);
                let key = (Arc::<str>::from(member), R::COLLECTION);
                have + coming.places.get(&key).copied().unwrap_or(0)
            };
            let members = group::members(documents, &group).into_iter();
            let have: usize = members.map(of_member).sum();
            if have.saturating_add(count) > most {
                let name = self.0.settings.per_user.of(R::COLLECTION);
                let name = name.map_or("resources", |(name, _)| name);
                return Err(CloudError::Exhausted(format!(
                    "the members of the group {group} have {have} {name}, and {most} is the most they may have together"
                )));
            }
        }
        Ok(())
    }

    /// Lets nothing more be made for a user; refused while something is.
    pub(crate) fn leaving(&self, user: &str) -> Result<Leaving> {
        let mut coming = self.0.quotas.0.lock();
        let user = Arc::<str>::from(user);
        let making = coming
            .places
            .iter()
            .any(|((of, _), count)| *of == user && *count > 0);
        if making || !coming.leaving.insert(Arc::clone(&user)) {
            return Err(CloudError::Conflict(format!(
                "something is being done for User/{user} at this moment: try again"
            )));
        }
        Ok(Leaving {
            quotas: self.0.quotas.clone(),
            user,
        })
    }
}
