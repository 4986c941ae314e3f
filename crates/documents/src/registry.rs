//! All caches of the cloud.

use std::{ops::Bound, sync::Arc};

use cimi::{
    PrincipalType,
    resources::{
        Address, AddressTemplate, Credential, CredentialTemplate, Event, ForwardingGroup,
        ForwardingGroupTemplate, Group, Host, HostAuthority, HostIdentity, HostPulse, HostToken,
        Image, Job, Machine, MachineConfiguration, MachineRecord, MachineTemplate, MailLink,
        Network, NetworkPort, NetworkPortConfiguration, NetworkPortTemplate, OrganisationMember,
        Registration, Resource, SecurityGroup, ServiceConfiguration, ServiceMessage, Session,
        StorageKeeper, System, SystemTemplate, Token, User, Volume, VolumeConfiguration,
        VolumeImage, VolumeTemplate,
    },
};
use store::{
    Revision, SharedStore, StoreError,
    cache::{Cache, CacheSet, CacheStopped, Direction, Following, Versioned},
};

use crate::{
    Changes, Doc,
    doc::{KEPT, OWNER, READERS, term_of},
};

/// A document as it was read, with its revision.
pub type Cached<R> = Versioned<Doc<R>>;

/// The cache of one type.
pub type View<R> = Cache<Doc<R>>;

macro_rules! registry {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// The caches; see [`Documents`], which dereferences to this.
        pub struct Registry {
            /// Whether all documents are there, to be read and written.
            whole: bool,
            set: CacheSet,
            $(
                #[doc = concat!("All documents of type [`", stringify!($type), "`].")]
                pub $field: View<$type>,
            )*
        }

        impl Documents {
            /// Read everything, and follow the store from then on.
            ///
            /// # Errors
            /// Those of the store.
            pub async fn open(store: SharedStore) -> Result<Self, StoreError> {
                Self::read(store, true).await
            }

            /// The same of a store that shows a part of itself ([`store::Gateway`]): what follows from a change in documents
            /// that aren't ours is written by whoever has all of them ([`step`](crate::step)).
            ///
            /// # Errors
            /// Those of the store.
            pub async fn open_part(store: SharedStore) -> Result<Self, StoreError> {
                Self::read(store, false).await
            }

            async fn read(store: SharedStore, whole: bool) -> Result<Self, StoreError> {
                let mut builder = CacheSet::builder();
                $(let $field = builder.cache::<Doc<$type>>();)*
                let set = builder.start(store.clone()).await?;
                let registry = Arc::new(Registry { whole, set, $($field),* });
                Ok(Self { registry, store })
            }
        }

        $(impl OfType for $type {
            fn view(documents: &Documents) -> &View<Self> {
                &documents.$field
            }
        })*
    };
}

registry! {
    machines: Machine,
    machine_records: MachineRecord,
    machine_configurations: MachineConfiguration,
    machine_templates: MachineTemplate,
    images: Image,
    credentials: Credential,
    volumes: Volume,
    volume_configurations: VolumeConfiguration,
    volume_templates: VolumeTemplate,
    networks: Network,
    addresses: Address,
    forwarding_groups: ForwardingGroup,
    forwarding_group_templates: ForwardingGroupTemplate,
    security_groups: SecurityGroup,
    network_ports: NetworkPort,
    network_port_templates: NetworkPortTemplate,
    network_port_configurations: NetworkPortConfiguration,
    jobs: Job,
    events: Event,
    users: User,
    tokens: Token,
    sessions: Session,
    registrations: Registration,
    mail_links: MailLink,
    organisation_members: OrganisationMember,
    service_configurations: ServiceConfiguration,
    groups: Group,
    hosts: Host,
    host_authorities: HostAuthority,
    host_tokens: HostToken,
    host_identities: HostIdentity,
    host_pulses: HostPulse,
    storage_keepers: StorageKeeper,
    systems: System,
    system_templates: SystemTemplate,
    credential_templates: CredentialTemplate,
    volume_images: VolumeImage,
    address_templates: AddressTemplate,
    service_messages: ServiceMessage,
}

/// A resource type that has a cache.
pub trait OfType: Resource {
    /// Its cache.
    fn view(documents: &Documents) -> &View<Self>;
}

/// The cache of every collection, and the store behind them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Documents {
    registry: Arc<Registry>,
    store: SharedStore,
}

impl std::ops::Deref for Documents {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Documents {
    /// The store itself.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// The same reads, and what is written goes by another way to the same store.
    #[must_use]
    pub fn written_by(&self, store: SharedStore) -> Self {
        let registry = Arc::clone(&self.registry);
        Self { registry, store }
    }

    /// Whether all documents are there. If not, what follows from a change is written elsewhere.
    pub(crate) fn are_whole(&self) -> bool {
        self.registry.whole
    }

    /// The cache of a type.
    #[must_use]
    pub fn view<R: OfType>(&self) -> &View<R> {
        R::view(self)
    }

    /// Begin a transaction.
    pub fn changes(&self) -> Changes<'_> {
        Changes::new(self)
    }

    /// The revision that reads show.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.registry.set.revision()
    }

    /// How well reads follow what is written.
    #[must_use]
    pub fn following(&self) -> Following {
        self.registry.set.following()
    }

    /// Wait until reads show at least `revision`.
    ///
    /// # Errors
    /// If they never will, because the daemon is going down.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), CacheStopped> {
        self.registry.set.wait_for(revision).await
    }

    /// A document as the store itself has it, for whoever must not be misled by a cache that is a moment behind.
    ///
    /// # Errors
    /// Those of the store; a document that can't be read.
    pub async fn stored<R: Resource>(&self, id: &str) -> Result<Option<R>, crate::DocumentsError> {
        let key = store::Key::new(R::COLLECTION, id)?;
        match self.store.get(&key).await? {
            None => Ok(None),
            Some(entry) => Ok(Some(serde_json::from_slice(&entry.value)?)),
        }
    }

    /// How many documents of a type belong to a user.
    #[must_use]
    pub fn count_owned<R: OfType>(&self, user: &str) -> usize {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().count_by_index(OWNER, &term)
    }

    /// The documents of a type that count for a user though they are theirs no more.
    #[must_use]
    pub fn kept_for<R: OfType>(&self, user: &str) -> Vec<Arc<Cached<R>>> {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().by_index(KEPT, &term)
    }

    /// How many these are.
    #[must_use]
    pub fn count_kept<R: OfType>(&self, user: &str) -> usize {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().count_by_index(KEPT, &term)
    }

    /// What they add up to, in a measure of their [weights](Resource::weights).
    #[must_use]
    pub fn sum_kept<R: OfType>(&self, user: &str, measure: &str) -> u64 {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().sum_by_index(KEPT, &term, measure)
    }

    /// What the documents of a type that belong to a user add up to, in a measure of their
    /// [weights](Resource::weights).
    #[must_use]
    pub fn sum_owned<R: OfType>(&self, user: &str, measure: &str) -> u64 {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().sum_by_index(OWNER, &term, measure)
    }

    /// The documents of a type that belong to a user, by id.
    #[must_use]
    pub fn owned<R: OfType>(&self, user: &str) -> Vec<Arc<Cached<R>>> {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().by_index(OWNER, &term)
    }

    /// At most `limit` documents of a type whose ids come after `after`, by id; with `user`, those that belong to that user.
    #[must_use]
    pub fn after<R: OfType>(
        &self,
        user: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Cached<R>>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let view = self.view::<R>();
        match user {
            None => view.page(start, Direction::Forward, limit),
            Some(user) => {
                let term = term_of(PrincipalType::User, user);
                view.page_by_index(OWNER, &term, start, Direction::Forward, limit)
            }
        }
    }

    /// How many documents of a type somebody may read at most: one that several rules let them read counts several times.
    #[must_use]
    pub fn readable_at_most<R: OfType>(&self, user: Option<&str>, roles: &[String]) -> usize {
        let view = self.view::<R>();
        if roles.iter().any(|role| role == cimi::common::ADMIN_ROLE) {
            return view.len();
        }
        let terms = reader_terms(user, roles).into_iter();
        terms.map(|term| view.count_by_index(READERS, &term)).sum()
    }

    /// The documents of a type that somebody who is `user` and holds `roles` may read, by id.
    #[must_use]
    pub fn readable<R: OfType>(&self, user: Option<&str>, roles: &[String]) -> Vec<Arc<Cached<R>>> {
        let view = self.view::<R>();
        if roles.iter().any(|role| role == cimi::common::ADMIN_ROLE) {
            return view.all();
        }
        let terms = reader_terms(user, roles);
        let mut lists: Vec<_> = terms
            .iter()
            .map(|term| view.by_index(READERS, term))
            .filter(|list| !list.is_empty())
            .collect();
        if lists.len() <= 1 {
            return lists.pop().unwrap_or_default();
        }
        let mut all: Vec<_> = lists.into_iter().flatten().collect();
        all.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        all.dedup_by(|a, b| a.id() == b.id());
        all
    }

    /// As [`readable`](Self::readable), at most `limit` of those whose ids come after `after`.
    #[must_use]
    pub fn readable_after<R: OfType>(
        &self,
        user: Option<&str>,
        roles: &[String],
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Cached<R>>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let view = self.view::<R>();
        if roles.iter().any(|role| role == cimi::common::ADMIN_ROLE) {
            return view.page(start, Direction::Forward, limit);
        }
        let page =
            |term: &String| view.page_by_index(READERS, term, start, Direction::Forward, limit);
        let mut all: Vec<_> = reader_terms(user, roles).iter().flat_map(page).collect();
        all.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        all.dedup_by(|a, b| a.id() == b.id());
        all.truncate(limit);
        all
    }
}

/// The terms under which a reader finds documents.
fn reader_terms(user: Option<&str>, roles: &[String]) -> Vec<String> {
    let mut terms = vec![term_of(PrincipalType::Role, cimi::common::ANONYMOUS_ROLE)];
    if let Some(user) = user {
        terms.push(term_of(PrincipalType::User, user));
        terms.push(term_of(PrincipalType::Role, cimi::common::USER_ROLE));
    }
    terms.extend(roles.iter().map(|role| term_of(PrincipalType::Role, role)));
    terms
}
