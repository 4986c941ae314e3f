//! What is counted of what users have, how much of it there is, and how much there may be.

use cimi::resources::{
    Address, AddressTemplate, Credential, CredentialTemplate, ForwardingGroupTemplate, Group,
    Image, Machine, MachineConfiguration, MachineTemplate, Most, NetworkPort,
    NetworkPortConfiguration, NetworkPortTemplate, Quota, Resource as _, SecurityGroup, System,
    SystemTemplate, Token, User, Volume, VolumeConfiguration, VolumeImage, VolumeTemplate,
    weight::{BYTES, CPUS, LOCAL_BYTES, MEMORY_KIB},
};
use cimi::size::GIBIBYTE;
use documents::Documents;

/// The most that one user may have of what users make, where administrators set nothing else. Administrators themselves
/// are not bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerUser {
    /// Machines.
    pub machines: usize,
    /// Virtual CPUs of all machines.
    pub cpus: u64,
    /// Memory of all machines.
    pub memory_gib: u64,
    /// Volumes, whoever has them attached.
    pub volumes: usize,
    /// Capacity of all volumes.
    pub volume_gib: u64,
    /// Images, those that are still to be sent included.
    pub images: usize,
    /// Size of all images.
    pub image_gib: u64,
    /// Space of the disks that live and die with machines.
    pub local_gib: u64,
    /// Size of all images of volumes; there may be as many of these as volumes.
    pub volume_image_gib: u64,
    /// Network addresses.
    pub addresses: u64,
    /// Credentials, and as many tokens.
    pub credentials: usize,
    /// Machine templates, and as many volume templates, machine configurations and volume configurations.
    pub templates: usize,
}

impl Default for PerUser {
    fn default() -> Self {
        Self {
            machines: 1000,
            cpus: 4_000,
            memory_gib: 16_000,
            volumes: 1000,
            volume_gib: 100_000,
            images: 200,
            image_gib: 10_000,
            local_gib: 100_000,
            volume_image_gib: 100_000,
            addresses: 1000,
            credentials: 100,
            templates: 100,
        }
    }
}

/// Something that is counted. Amounts are in the unit of the documents: KiB of memory, bytes of space, else pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Measure {
    Machines,
    Cpus,
    Memory,
    Volumes,
    VolumeSpace,
    Images,
    ImageSpace,
    LocalSpace,
    VolumeImageSpace,
    Addresses,
    Credentials,
    Tokens,
    MachineTemplates,
    VolumeTemplates,
    MachineConfigurations,
    VolumeConfigurations,
    VolumeImages,
    Systems,
    SystemTemplates,
    CredentialTemplates,
    AddressTemplates,
    NetworkPorts,
    NetworkPortTemplates,
    NetworkPortConfigurations,
    ForwardingGroupTemplates,
    SecurityGroups,
}

use Measure::{
    AddressTemplates, Addresses, Cpus, CredentialTemplates, Credentials, ForwardingGroupTemplates,
    ImageSpace, Images, LocalSpace, MachineConfigurations, MachineTemplates, Machines, Memory,
    NetworkPortConfigurations, NetworkPortTemplates, NetworkPorts, SecurityGroups, SystemTemplates,
    Systems, Tokens, VolumeConfigurations, VolumeImageSpace, VolumeImages, VolumeSpace,
    VolumeTemplates, Volumes,
};

impl Measure {
    /// Those that administrators set for a user or a group, in the order they are shown.
    pub(crate) const SETTABLE: [Self; 11] = [
        Machines,
        Cpus,
        Memory,
        LocalSpace,
        Volumes,
        VolumeSpace,
        VolumeImages,
        VolumeImageSpace,
        Images,
        ImageSpace,
        Addresses,
    ];

    /// What counts one resource of a collection, if it is counted.
    pub(crate) fn of(collection: &str) -> Option<Self> {
        Some(match collection {
            Machine::COLLECTION => Machines,
            Volume::COLLECTION => Volumes,
            Image::COLLECTION => Images,
            Credential::COLLECTION => Credentials,
            Token::COLLECTION => Tokens,
            MachineTemplate::COLLECTION => MachineTemplates,
            VolumeTemplate::COLLECTION => VolumeTemplates,
            MachineConfiguration::COLLECTION => MachineConfigurations,
            VolumeConfiguration::COLLECTION => VolumeConfigurations,
            VolumeImage::COLLECTION => VolumeImages,
            System::COLLECTION => Systems,
            SystemTemplate::COLLECTION => SystemTemplates,
            CredentialTemplate::COLLECTION => CredentialTemplates,
            AddressTemplate::COLLECTION => AddressTemplates,
            ForwardingGroupTemplate::COLLECTION => ForwardingGroupTemplates,
            NetworkPort::COLLECTION => NetworkPorts,
            SecurityGroup::COLLECTION => SecurityGroups,
            NetworkPortTemplate::COLLECTION => NetworkPortTemplates,
            NetworkPortConfiguration::COLLECTION => NetworkPortConfigurations,
            Address::COLLECTION => Addresses,
            _ => return None,
        })
    }

    /// As messages call it, with the unit of what is shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Machines => "machines",
            Cpus => "CPU",
            Memory => "memory in MiB",
            Volumes => "volumes",
            VolumeSpace => "volume space in GiB",
            Images => "images",
            ImageSpace => "image space in GiB",
            LocalSpace => "space of machines' own disks in GiB",
            VolumeImageSpace => "space of volume images in GiB",
            Addresses => "addresses",
            Credentials => "credentials",
            Tokens => "tokens",
            MachineTemplates => "machine templates",
            VolumeTemplates => "volume templates",
            MachineConfigurations => "machine configurations",
            VolumeConfigurations => "volume configurations",
            VolumeImages => "volume images",
            Systems => "systems",
            SystemTemplates => "system templates",
            CredentialTemplates => "credential templates",
            AddressTemplates => "address templates",
            ForwardingGroupTemplates => "forwarding group templates",
            NetworkPorts => "network ports",
            SecurityGroups => "security groups",
            NetworkPortTemplates => "network port templates",
            NetworkPortConfigurations => "network port configurations",
        }
    }

    /// The attribute of `quota` and `used` that holds it.
    pub(crate) const fn attribute(self) -> &'static str {
        match self {
            Machines => "machines",
            Cpus => "cpus",
            Memory => "memoryMib",
            Volumes => "volumes",
            VolumeSpace => "volumeGib",
            Images => "images",
            ImageSpace => "imageGib",
            LocalSpace => "localGib",
            VolumeImages => "volumeImages",
            VolumeImageSpace => "volumeImageGib",
            Addresses => "addresses",
            _ => "",
        }
    }

    /// What is removed to have room.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Machines | Cpus | Memory | LocalSpace | Addresses => "remove machines",
            VolumeImages | VolumeImageSpace => "remove volume images, and what was made of them",
            Volumes | VolumeSpace => "remove volumes",
            Images | ImageSpace => "remove images",
            _ => "remove some",
        }
    }

    /// How many of the documents' units are one of those that people see.
    pub(crate) const fn unit(self) -> u64 {
        match self {
            Memory => 1024,
            VolumeSpace | ImageSpace | LocalSpace | VolumeImageSpace => GIBIBYTE,
            _ => 1,
        }
    }

    /// How much a user has, in the documents' unit. Costs the same whatever that is.
    pub(crate) fn used(self, documents: &Documents, user: &str) -> u64 {
        let pieces = match self {
            Cpus => return documents.sum_owned::<Machine>(user, CPUS),
            Memory => return documents.sum_owned::<Machine>(user, MEMORY_KIB),
            VolumeSpace => return documents.sum_owned::<Volume>(user, BYTES),
            ImageSpace => return documents.sum_owned::<Image>(user, BYTES),
            LocalSpace => return documents.sum_owned::<Machine>(user, LOCAL_BYTES),
            VolumeImageSpace => {
                let own = documents.sum_owned::<VolumeImage>(user, BYTES);
                return own.saturating_add(documents.sum_kept::<VolumeImage>(user, BYTES));
            }
            Machines => documents.count_owned::<Machine>(user),
            Volumes => documents.count_owned::<Volume>(user),
            Images => documents.count_owned::<Image>(user),
            Addresses => documents.count_owned::<Address>(user),
            Credentials => documents.count_owned::<Credential>(user),
            Tokens => documents.count_owned::<Token>(user),
            MachineTemplates => documents.count_owned::<MachineTemplate>(user),
            VolumeTemplates => documents.count_owned::<VolumeTemplate>(user),
            MachineConfigurations => documents.count_owned::<MachineConfiguration>(user),
            VolumeConfigurations => documents.count_owned::<VolumeConfiguration>(user),
            VolumeImages => {
                documents.count_owned::<VolumeImage>(user)
                    + documents.count_kept::<VolumeImage>(user)
            }
            Systems => documents.count_owned::<System>(user),
            SystemTemplates => documents.count_owned::<SystemTemplate>(user),
            CredentialTemplates => documents.count_owned::<CredentialTemplate>(user),
            AddressTemplates => documents.count_owned::<AddressTemplate>(user),
            ForwardingGroupTemplates => documents.count_owned::<ForwardingGroupTemplate>(user),
            NetworkPorts => documents.count_owned::<NetworkPort>(user),
            SecurityGroups => documents.count_owned::<SecurityGroup>(user),
            NetworkPortTemplates => documents.count_owned::<NetworkPortTemplate>(user),
            NetworkPortConfigurations => documents.count_owned::<NetworkPortConfiguration>(user),
        };
        pieces as u64
    }

    /// What a quota says of it.
    const fn of_quota(self, quota: &Quota) -> Option<Most> {
        match self {
            Machines => quota.machines,
            Cpus => quota.cpus,
            Memory => quota.memory_mib,
            Volumes => quota.volumes,
            VolumeSpace => quota.volume_gib,
            Images => quota.images,
            ImageSpace => quota.image_gib,
            LocalSpace => quota.local_gib,
            VolumeImages => quota.volume_images,
            VolumeImageSpace => quota.volume_image_gib,
            Addresses => quota.addresses,
            _ => None,
        }
    }

    /// The most that one user may have, as people see it, and whether it was set for this user alone.
    pub(crate) fn most_of_user(self, user: Option<&User>, defaults: &PerUser) -> (Most, bool) {
        if let Some(set) = user.and_then(|user| self.of_quota(&user.quota)) {
            return (set, true);
        }
        let default = match self {
            Machines => defaults.machines as u64,
            Cpus => defaults.cpus,
            Memory => defaults.memory_gib.saturating_mul(1024),
            Volumes => defaults.volumes as u64,
            VolumeSpace => defaults.volume_gib,
            Images => defaults.images as u64,
            ImageSpace => defaults.image_gib,
            LocalSpace => defaults.local_gib,
            VolumeImageSpace => defaults.volume_image_gib,
            Addresses => defaults.addresses,
            Credentials | Tokens | CredentialTemplates => defaults.credentials as u64,
            VolumeImages => defaults.volumes as u64,
            // Where a machine may have an address, it may have a port.
            NetworkPorts => defaults.addresses,
            Systems
            | SystemTemplates
            | AddressTemplates
            | ForwardingGroupTemplates
            | SecurityGroups
            | NetworkPortTemplates
            | NetworkPortConfigurations
            | MachineTemplates
            | VolumeTemplates
            | MachineConfigurations
            | VolumeConfigurations => defaults.templates as u64,
        };
        (Most::AtMost(default), false)
    }

    /// The most that the members of a group may have together, as people see it.
    pub(crate) fn most_of_group(self, group: &Group) -> Most {
        self.of_quota(&group.quota).unwrap_or(Most::Unbounded)
    }

    /// An amount as people see it: never less than there is.
    pub(crate) const fn shown(self, amount: u64) -> u64 {
        amount.div_ceil(self.unit())
    }
}
