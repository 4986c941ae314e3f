//! The cloud: documents, what is limited, and who does what isn't documents.

use std::sync::Arc;

use accounts::{Hashing, Methods};
use cimi::{
    Acl, PrincipalType, Right, Timestamp,
    common::{ANONYMOUS_ROLE, Principal, USER_ROLE},
};
use documents::{Documents, DocumentsError};
use parking_lot::Mutex;
use placement::Policy;
use store::{MAX_TRANSACTION_BYTES, TransactionError};
use tokio_util::task::TaskTracker;

use crate::{
    CloudError, HostServices, ImageIntake, NetworkSettings, OpContext, PerUser, Result,
    columns::Tables,
    leases::Leases,
    numbers::Numbers,
    people::{Pace, PeopleSettings},
    quota::Quotas,
    standing::Bells,
    watch::Watches,
};

/// How long the end waits for what goes on.
const ENDS_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A machine type that the cloud offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineType {
    /// Its name, e.g. `m1.small`.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Swap in MiB; 0: none.
    pub swap_mib: u64,
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Machine types; offered as `MachineConfiguration/<name>`.
    pub machine_types: Vec<MachineType>,
    /// The one used when none is asked for.
    pub default_machine_type: String,
    /// The network used when none is asked for.
    pub default_network: String,
    /// The networks there are.
    pub networks: Vec<NetworkSettings>,
    /// How much one user may have.
    pub per_user: PerUser,
    /// Most volumes that may be attached to a machine after it was made: its slots for hot-plugging.
    pub spare_ports: usize,
    /// How hosts are filled, which says how large a machine can be.
    pub placement: Policy,
    /// Largest volume in GiB.
    pub largest_volume_gib: u64,
    /// Who makes the hashes of new passwords.
    pub passwords: Hashing,
    /// Sessions of browsers, and registration.
    pub people: PeopleSettings,
}

pub(crate) struct Inner {
    pub(crate) documents: Documents,
    pub(crate) settings: Settings,
    pub(crate) numbers: Numbers,
    pub(crate) leases: Leases,
    pub(crate) quotas: Quotas,
    pub(crate) hosts: Arc<dyn HostServices>,
    pub(crate) intake: Arc<dyn ImageIntake>,
    pub(crate) started: Timestamp,
    pub(crate) watches: Watches,
    /// Who is woken when a right may have ended.
    pub(crate) bells: Bells,
    pub(crate) pace: Pace,
    /// What goes on though nobody waits for it.
    pub(crate) background: TaskTracker,
    pub(crate) tables: Tables,
    /// The ways to log in, as they were when they were last asked for.
    pub(crate) methods: Mutex<Arc<Methods>>,
}

/// The rules of the cloud. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Cloud(pub(crate) Arc<Inner>);

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cloud")
            .field("started", &self.0.started)
            .finish_non_exhaustive()
    }
}

impl Cloud {
    /// Over the given documents. Writes what the settings say there is (machine types, networks).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(
        documents: Documents,
        settings: Settings,
        hosts: Arc<dyn HostServices>,
        intake: Arc<dyn ImageIntake>,
    ) -> Result<Self> {
        let quotas = Quotas::new(documents.clone(), settings.per_user);
        let cloud = Self::open_counting(documents, settings, quotas, hosts, intake)?;
        cloud.seed().await?;
        Ok(cloud)
    }

    /// As [`Cloud::open`], with quotas that controllers of the same process ask, too, and nothing written.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub fn open_counting(
        documents: Documents,
        settings: Settings,
        quotas: Quotas,
        hosts: Arc<dyn HostServices>,
        intake: Arc<dyn ImageIntake>,
    ) -> Result<Self> {
        let numbers = Numbers::new()?;
        let started = Timestamp::now();
        let leases = Leases::default();
        Ok(Self(Arc::new(Inner {
            documents,
            settings,
            numbers,
            leases,
            quotas,
            hosts,
            intake,
            started,
            watches: Watches::default(),
            bells: Bells::default(),
            background: TaskTracker::new(),
            pace: Pace::new(std::time::Duration::from_secs(3600)),
            tables: Tables::default(),
            methods: Mutex::default(),
        })))
    }

    /// Writes what the settings say that there is: machine types, networks.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn seed(&self) -> Result<()> {
        self.seed_machine_types().await?;
        self.seed_networks().await
    }

    /// Waits for what goes on though nobody waits for it, for a while; nothing else may be asked of this cloud then.
    pub async fn finish(&self) {
        self.0.background.close();
        let ended = tokio::time::timeout(ENDS_WITHIN, self.0.background.wait()).await;
        if ended.is_err() {
            tracing::warn!(
                tasks = self.0.background.len(),
                "letters that were asked for are not sent: their askers have to ask again"
            );
        }
    }

    /// All documents, for reading.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.0.documents
    }

    /// Access of a new resource of the caller: theirs alone, or readable by all users.
    pub(crate) fn acl_for(context: &OpContext, public: bool) -> Result<Acl> {
        let user = crate::access::require_user(context)?;
        let acl = Acl::owned_by_user(user);
        Ok(if public {
            acl.allowing_role(USER_ROLE, Right::View)
        } else {
            acl
        })
    }
}

/// Whether everybody may see a resource.
pub(crate) fn is_public(acl: &Acl) -> bool {
    acl.right_of(Some("\u{0}nobody"), &[]).is_some()
}

/// `PUBLIC` or `PRIVATE`.
pub(crate) fn visibility(acl: &Acl) -> &'static str {
    if is_public(acl) { "PUBLIC" } else { "PRIVATE" }
}

/// Makes `acl` readable by all users, or gives nobody but its owner and those who are named a right.
pub(crate) fn set_public(acl: &mut Acl, public: bool) {
    if public {
        if !is_public(acl) {
            *acl = acl.clone().allowing_role(USER_ROLE, Right::View);
        }
        return;
    }
    let everybody = |who: &Principal| {
        who.kind == PrincipalType::Role
            && [USER_ROLE, ANONYMOUS_ROLE].contains(&who.principal.as_str())
    };
    acl.rules.retain(|rule| !everybody(&rule.who));
}

impl From<DocumentsError> for CloudError {
    fn from(error: DocumentsError) -> Self {
        match error {
            DocumentsError::Conflict { .. } => Self::Raced(error.to_string()),
            DocumentsError::Absent { key } => Self::not_found(key),
            // Where the database is, and what is wrong with it, is the operator's affair: the log and `/health` say it.
            DocumentsError::Store(
                store::StoreError::Full { .. } | store::StoreError::Quota { .. },
            ) => {
                tracing::warn!(%error, "a change was refused");
                Self::Exhausted(
                    "the cloud has no space left to write this down, and nothing was changed; tell its administrator"
                        .to_owned(),
                )
            }
            // Users' documents are bounded before: see `catalogue::check_size`.
            DocumentsError::Store(store::StoreError::Transaction(TransactionError::TooLarge(
                bytes,
            ))) => Self::TooLarge(format!(
                "this would write {bytes} bytes at once, and at most {MAX_TRANSACTION_BYTES} are possible: shorten \
                 texts, properties or user data"
            )),
            DocumentsError::Store(store::StoreError::Transaction(_)) => {
                Self::Internal(error.to_string())
            }
            DocumentsError::Store(_) | DocumentsError::Stopped(_) => {
                tracing::warn!(%error, "a change failed");
                Self::Unavailable("the cloud's database can't take this now; try again".to_owned())
            }
            DocumentsError::Key(_) | DocumentsError::Encode(_) => Self::Internal(error.to_string()),
        }
    }
}

/// Writes a document of the configuration if it isn't there as it should be; `keep` takes over what the configuration doesn't say.
pub(crate) async fn seed<R: documents::OfType>(
    documents: &Documents,
    wanted: R,
    keep: impl Fn(&mut R, &R),
) -> Result<()> {
    loop {
        let changes = match documents.view::<R>().get(wanted.local_id()) {
            None => documents.changes().create(&wanted),
            Some(read) => {
                let mut next = wanted.clone();
                let common = next.common_mut();
                common.created = read.common().created;
                common.updated = read.common().updated;
                keep(&mut next, &read.document.0);
                if serde_json::to_value(&next).ok() == serde_json::to_value(&read.document.0).ok() {
                    return Ok(());
                }
                documents.changes().replace(&read, next)
            }
        };
        match changes.commit().await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
}
