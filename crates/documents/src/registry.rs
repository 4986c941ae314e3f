//! All caches of the cloud.

use std::sync::Arc;

use cimi::{
    PrincipalType,
    resources::{
        Address, AddressTemplate, Credential, CredentialTemplate, Event, ForwardingGroup,
        ForwardingGroupTemplate, Group, Host, Image, Job, Machine, MachineConfiguration,
        MachineRecord, MachineTemplate, Network, NetworkConfiguration, NetworkPort,
        NetworkPortConfiguration, NetworkPortTemplate, NetworkTemplate, Resource, ServiceMessage,
        System, SystemTemplate, Token, User, Volume, VolumeConfiguration, VolumeImage,
        VolumeTemplate,
    },
};
use store::{
    Revision, SharedStore, StoreError,
    cache::{Cache, CacheSet, CacheStopped, Following, Versioned},
};

use crate::{
    Changes, Doc,
    doc::{OWNER, READERS, term_of},
};

/// A document as it was read, with its revision.
pub type Cached<R> = Versioned<Doc<R>>;

/// The cache of one type.
pub type View<R> = Cache<Doc<R>>;

macro_rules! registry {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// The caches; see [`Documents`], which dereferences to this.
        pub struct Registry {
            store: SharedStore,
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
                let mut builder = CacheSet::builder();
                $(let $field = builder.cache::<Doc<$type>>();)*
                let set = builder.start(store.clone()).await?;
                Ok(Self(Arc::new(Registry { store, set, $($field),* })))
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
    jobs: Job,
    events: Event,
    users: User,
    tokens: Token,
    groups: Group,
    hosts: Host,
    systems: System,
    system_templates: SystemTemplate,
    credential_templates: CredentialTemplate,
    volume_images: VolumeImage,
    network_templates: NetworkTemplate,
    network_configurations: NetworkConfiguration,
    network_ports: NetworkPort,
    network_port_templates: NetworkPortTemplate,
    network_port_configurations: NetworkPortConfiguration,
    address_templates: AddressTemplate,
    forwarding_groups: ForwardingGroup,
    forwarding_group_templates: ForwardingGroupTemplate,
    service_messages: ServiceMessage,
}

/// A resource type that has a cache.
pub trait OfType: Resource {
    /// Its cache.
    fn view(documents: &Documents) -> &View<Self>;
}

/// The cache of every collection, and the store behind them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Documents(Arc<Registry>);

impl std::ops::Deref for Documents {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0
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
        &self.0.store
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
        self.0.set.revision()
    }

    /// How well reads follow what is written.
    #[must_use]
    pub fn following(&self) -> Following {
        self.0.set.following()
    }

    /// Wait until reads show at least `revision`.
    ///
    /// # Errors
    /// If they never will, because the daemon is going down.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), CacheStopped> {
        self.0.set.wait_for(revision).await
    }

    /// How many documents of a type belong to a user.
    #[must_use]
    pub fn count_owned<R: OfType>(&self, user: &str) -> usize {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().count_by_index(OWNER, &term)
    }

    /// The documents of a type that belong to a user, by id.
    #[must_use]
    pub fn owned<R: OfType>(&self, user: &str) -> Vec<Arc<Cached<R>>> {
        let term = term_of(PrincipalType::User, user);
        self.view::<R>().by_index(OWNER, &term)
    }

    /// The documents of a type that somebody who is `user` and holds `roles` may read, by id.
    #[must_use]
    pub fn readable<R: OfType>(&self, user: Option<&str>, roles: &[String]) -> Vec<Arc<Cached<R>>> {
        let view = self.view::<R>();
        if roles.iter().any(|role| role == cimi::common::ADMIN_ROLE) {
            return view.all();
        }
        let mut terms = vec![term_of(PrincipalType::Role, cimi::common::ANONYMOUS_ROLE)];
        if let Some(user) = user {
            terms.push(term_of(PrincipalType::User, user));
            terms.push(term_of(PrincipalType::Role, cimi::common::USER_ROLE));
        }
        terms.extend(roles.iter().map(|role| term_of(PrincipalType::Role, role)));
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
}
