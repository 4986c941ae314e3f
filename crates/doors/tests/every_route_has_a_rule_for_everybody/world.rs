//! The cloud that is asked: the rules over a real database, with a server in front.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing};
use cimi::{
    Acl, AclRule, Common, PrincipalType, Ref, Right, Timestamp,
    common::Principal,
    ids::{HostTokenId, SystemId, VolumeImageId},
    lifecycle::Phase,
    model::Kind,
    resources::{HostToken, ImageState, MachineRecord, Member, System, VolumeImage},
    size::ByteSize,
};
use cloud::{
    Cloud, NoServices,
    testing::{self, caller, object},
};
use documents::{Documents, OfType};
use doors::{Doors, Limits, Listed, Running, Server, Settings};
use marketplace_service::Marketplace;
use serde_json::{Map, Value, json};
use store::{Key, Range, Revision, SqliteStore, Transaction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{EVERYBODY, Who, callers};
use crate::support::{
    client::{PATIENCE, Reply},
    recorder::Recorder,
};

/// The id of a token that a host could join by.
const HOST_TOKEN: &str = "abc";

/// The rules over a real database, with one resource of each type, and a server in front.
pub struct World {
    running: Running,
    documents: Documents,
    /// Of each type: the id of the one there is, and of a member.
    pub ids: BTreeMap<Kind, (String, String)>,
    /// The header by which those are known who come another way than by the usual password.
    credentials: BTreeMap<Who, String>,
    pub audit: Arc<Recorder>,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let settings = cloud::Settings {
            passwords: hashing.clone(),
            people: cloud::people::PeopleSettings {
                registration: Some(cloud::people::RegistrationSettings::new(
                    "root@example.org",
                    "https://x",
                )),
                ..Default::default()
            },
            ..testing::settings()
        };
        let cloud = Cloud::open(documents.clone(), settings, services.clone(), services)
            .await
            .unwrap();
        let mut ids = resources(&cloud, &documents).await;
        host_token(&documents).await;
        let mut credentials = tokens(&cloud, &documents, &mut ids).await;
        let accounts = Accounts::new(
            Arc::new(cloud.clone()),
            hashing,
            accounts::Settings {
                refused_after: Duration::ZERO,
                ..accounts::Settings::default()
            },
        );
        let accounts = accounts.with_directory(Arc::new(callers::Department));
        credentials.extend(callers::certificates(&accounts));
        credentials.extend([callers::user_of_directory(&accounts).await]);
        let audit = Arc::new(Recorder::default());
        let settings = marketplace_service::Settings::default();
        let marketplace = Marketplace::open(documents.store().clone(), settings)
            .await
            .unwrap();
        let accounts = Arc::new(accounts);
        let people = doors::People::new(cloud.clone(), accounts.clone());
        let settings = Settings {
            certificate_header: Some("x-client-certificate".parse().unwrap()),
            ..Settings::default()
        };
        let doors = Doors::new(Arc::new(cloud), accounts, settings)
            .audited_by(audit.clone())
            .with_people(people)
            .with_marketplace(marketplace);
        // What is in front of the server and has seen the certificates is this test.
        let limits = Limits {
            trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
            ..Limits::default()
        };
        let server = Server::new(Arc::new(doors), limits, None);
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            documents,
            ids,
            credentials,
            audit,
            _folder: folder,
        }
    }

    /// All kinds of callers, but for those whose certificates can't be made here.
    pub fn everybody(&self) -> impl Iterator<Item = Who> + '_ {
        let is_there = |who: &Who| !who.is_by_certificate() || self.credentials.contains_key(who);
        EVERYBODY.into_iter().filter(is_there)
    }

    /// The path and body of a request that would do something, were it allowed.
    pub fn request(&self, route: &Listed, method: &str) -> (String, String) {
        let mut path = route.path.clone();
        if let Some((id, member)) = route.kind.and_then(|kind| self.ids.get(&kind)) {
            let of_system = path.starts_with("/cimi/System/") && path.ends_with("{member}");
            let member = match path.rsplit('/').nth(1) {
                Some(collection) if of_system => {
                    let (_, kind) = member_of(collection);
                    let other = &self.ids[&kind];
                    if kind == Kind::System {
                        &other.1
                    } else {
                        &other.0
                    }
                }
                Some("disks" | "networkInterfaces") => "0",
                Some("meters") => "cpu",
                _ => member,
            };
            path = path.replace("{id}", id).replace("{member}", member);
        }
        // The secret of a link that isn't there.
        let path = path.replace("/register/action/{id}", "/register/action/abc");
        let path = path.replace("/host-tokens/{id}", &format!("/host-tokens/{HOST_TOKEN}"));
        assert!(!path.contains('{'), "there is no example of {path}");
        let volume = self.ids.get(&Kind::Volume).unwrap();
        let body = match (route.kind, route.template, method) {
            (Some(Kind::System), "/cimi/{type}/{id}/{collection}", "POST") => {
                // One that isn't in it: of each type one that the caller may see is enough.
                let (_, collection) = path.rsplit_once('/').unwrap_or_default();
                let member = collection.strip_suffix('s').unwrap_or(collection);
                let member = if member == "addresse" {
                    "address"
                } else {
                    member
                };
                let kind = format!("{}{}", member[..1].to_uppercase(), &member[1..]);
                let kind = Kind::from_name(&kind).unwrap();
                let other = if kind == Kind::System {
                    "inner"
                } else {
                    &self.ids[&kind].0
                };
                json!({member: {"href": format!("{kind}/{other}")}}).to_string()
            }
            (Some(Kind::ForwardingGroup), "/cimi/{type}/{id}/{collection}", "POST") => {
                json!({"network": {"href": "Network/local"}}).to_string()
            }
            (Some(Kind::SecurityGroup), "/cimi/{type}/{id}/{collection}", "POST") => {
                json!({"direction": "in", "protocol": "udp"}).to_string()
            }
            (_, "/cimi/{type}/{id}/{collection}", "POST") => {
                json!({"volume": {"href": format!("Volume/{}", volume.1)}}).to_string()
            }
            (Some(Kind::Registration), "/cimi/{type}/{id}", "POST") => {
                json!({"action": "approve"}).to_string()
            }
            (Some(Kind::Host), "/cimi/{type}/{id}", "POST") => {
                json!({"action": "evacuate"}).to_string()
            }
            (_, "/cimi/{type}/{id}", "POST") => json!({"action": "stop"}).to_string(),
            // Of an image that isn't there: what is asked is whether one may ask.
            (Some(Kind::Machine), "/cimi/{type}", "POST") => {
                let image = json!({"href": "MachineImage/none"});
                json!({"machineTemplate": {"machineImage": image}}).to_string()
            }
            (Some(Kind::ForwardingGroup), _, "POST") => {
                json!({"forwardingGroupTemplate": {"networks": []}}).to_string()
            }
            (Some(Kind::User), _, "POST") => {
                json!({"username": "new", "password": "correct horse"}).to_string()
            }
            (Some(Kind::Group), _, "POST") => json!({"groupname": "new"}).to_string(),
            (Some(Kind::ServiceConfiguration), _, "POST") => json!({"service": "new"}).to_string(),
            (Some(Kind::User), _, "PUT") => json!({"email": "a@example.org"}).to_string(),
            (_, "/cimi/MachineImage/{id}/data", _) => "content".to_owned(),
            (_, _, "PUT") => json!({"name": "mine now"}).to_string(),
            (_, _, "POST") => "{}".to_owned(),
            _ => String::new(),
        };
        (path, body)
    }

    pub async fn ask(&self, who: Who, method: &str, path: &str, body: &str) -> Reply {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{body}",
            who.headers(&self.credentials),
            body.len()
        );
        let mut received = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(self.running.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.read_to_end(&mut received).await.unwrap();
        };
        timeout(PATIENCE, exchange).await.unwrap();
        Reply::parse(&received).unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    /// Everything in the database, but for what no request of this test makes by itself.
    pub async fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let page = self
            .documents
            .store()
            .range(Range::prefix(&store::Prefix::everything()))
            .await
            .unwrap();
        assert!(!page.more);
        page.entries
            .into_iter()
            .map(|entry| (entry.key.to_string(), entry.value.to_vec()))
            .collect()
    }

    /// How far the database has come: as long as this is the same, so is everything in it.
    pub async fn revision(&self) -> Revision {
        let everything = Range::prefix(&store::Prefix::everything()).limit(1);
        let page = self.documents.store().range(everything).await;
        page.unwrap().revision
    }

    /// Makes everything as it was.
    pub async fn restore(&self, before: &BTreeMap<String, Vec<u8>>) {
        let now = self.all().await;
        let mut transaction = Transaction::new();
        for (key, value) in before {
            if now.get(key) != Some(value) {
                transaction = transaction.put(key.parse::<Key>().unwrap(), value.clone());
            }
        }
        for key in now.keys().filter(|key| !before.contains_key(*key)) {
            transaction = transaction.delete(key.parse::<Key>().unwrap());
        }
        if let store::Outcome::Committed(revision) =
            self.documents.store().commit(transaction).await.unwrap()
        {
            self.documents.wait_for(revision).await.unwrap();
        }
    }
}

/// A token that a host could join by.
async fn host_token(documents: &Documents) {
    let now = Timestamp::now();
    let token = HostToken {
        id: HostTokenId::from_local(HOST_TOKEN).unwrap(),
        common: Common::new(Acl::owned_by_admin(), now),
        user: "root".to_owned(),
        generation: 0,
        host_name: None,
        expires: now.after(Duration::from_secs(3600)),
        used_by: None,
        unknown: Map::new(),
    };
    documents.changes().create(&token).commit().await.unwrap();
}

/// A system with these parts and with one more system; the ids of the two.
async fn systems(documents: &Documents, parts: &[String]) -> (String, String) {
    let system = |members: Vec<Member>| System {
        id: SystemId::generate(),
        common: Common::new(Acl::owned_by_user("owner"), Timestamp::now()),
        components: Vec::new(),
        members,
        creation: None,
        operation: None,
        trouble: None,
        deleted: false,
        unknown: Map::new(),
    };
    let inner = system(Vec::new());
    let parts = parts.iter().cloned().chain([inner.id.to_string()]);
    let member = |href: String| Member {
        key: href.rsplit('/').next().unwrap().to_owned(),
        href,
        made: false,
    };
    let outer = system(parts.map(member).collect());
    let changes = documents.changes().create(&inner).create(&outer);
    changes.commit().await.unwrap();
    (outer.id.local().to_owned(), inner.id.local().to_owned())
}

/// An image of a volume.
async fn volume_image(documents: &Documents, volume: &str) -> VolumeImage {
    let image = VolumeImage {
        id: VolumeImageId::generate(),
        common: Common::new(Acl::owned_by_user("owner"), Timestamp::now()),
        state: ImageState::Available,
        reason: None,
        volume: Ref::to(format!("Volume/{volume}").parse().unwrap()),
        size_bytes: ByteSize(1 << 20),
        bootable: false,
        deleted: false,
        kept_for: None,
        base: None,
        files: Vec::new(),
        used_since: None,
        unknown: Map::new(),
    };
    documents.changes().create(&image).commit().await.unwrap();
    image
}

/// The member of a system's own collection at the end of a path, and what it refers to.
fn member_of(path: &str) -> (&'static str, Kind) {
    match path.rsplit('/').next().unwrap_or_default() {
        "systems" => ("system", Kind::System),
        "machines" => ("machine", Kind::Machine),
        "credentials" => ("credential", Kind::Credential),
        "volumes" => ("volume", Kind::Volume),
        "networks" => ("network", Kind::Network),
        _ => ("address", Kind::Address),
    }
}

/// The users, and one resource of each type.
async fn resources(cloud: &Cloud, documents: &Documents) -> BTreeMap<Kind, (String, String)> {
    let (root, owner) = (caller("root", &["::ADMIN"]), caller("owner", &[]));
    // Before its members.
    let group = object(json!({"groupname": "physics"}));
    cloud.create(&root, Kind::Group, group).await.unwrap();
    let accounts = EVERYBODY.into_iter().skip(2);
    for who in accounts.filter(|who| who.is_by_password()) {
        let roles: &[&str] = match who {
            Who::Administrator => &["::ADMIN"],
            Who::Colleague => &["physics"],
            _ => &[],
        };
        let mut body = json!({"username": who.name(), "password": "correct horse", "roles": roles,
            "enabled": who != Who::Disabled});
        if who == Who::Owner {
            body["altnames"] = json!({"x500dn": callers::OWNER});
        }
        cloud.create(&root, Kind::User, object(body)).await.unwrap();
    }
    let mut ids = BTreeMap::new();
    let organisation = object(json!({"username": "vo:atlas"}));
    let organisation = cloud.create(&root, Kind::User, organisation);
    organisation.await.unwrap();
    let service = object(json!({"service": "pdisk", "iscsi": {"chap-password": "geheim"}}));
    for configuration in [service, callers::authn()] {
        cloud
            .create(&root, Kind::ServiceConfiguration, configuration)
            .await
            .unwrap();
    }
    let create = async |kind: Kind, body: Value| {
        let created = cloud.create(&owner, kind, object(body)).await.unwrap();
        created.view.id.split_once('/').unwrap().1.to_owned()
    };
    let volume = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
    let (attached, free) = (
        create(Kind::Volume, volume.clone()).await,
        create(Kind::Volume, volume).await,
    );
    let image = create(Kind::MachineImage, json!({"imageLocation": "upload:"})).await;
    let template = json!({"machineImage": {"href": format!("MachineImage/{image}")}});
    let machine = create(Kind::Machine, json!({"machineTemplate": template})).await;
    let body = json!({"volume": {"href": format!("Volume/{attached}")}});
    cloud
        .attach_volume(&owner, &machine, object(body))
        .await
        .unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a";
    let spare = create(Kind::MachineImage, json!({"imageLocation": "upload:"})).await;
    for (kind, body) in [
        (Kind::Credential, json!({"publicKey": key})),
        (Kind::MachineTemplate, template),
        (
            Kind::VolumeTemplate,
            json!({"volumeConfig": {"capacity": 1000}}),
        ),
        (Kind::VolumeConfiguration, json!({"capacity": 1000})),
        (Kind::CredentialTemplate, json!({"publicKey": key})),
        (
            Kind::AddressTemplate,
            json!({"network": {"href": "Network/local"}}),
        ),
        (
            Kind::ForwardingGroupTemplate,
            json!({"networks": [{"href": "Network/local"}]}),
        ),
        (
            Kind::NetworkPortTemplate,
            json!({"network": {"href": "Network/local"}}),
        ),
        (
            Kind::NetworkPortConfiguration,
            json!({"portType": "ACCESS"}),
        ),
        (Kind::SecurityGroup, json!({"name": "web"})),
        (
            Kind::NetworkPort,
            json!({"networkPortTemplate": {"network": {"href": "Network/local"}}}),
        ),
        (
            Kind::SystemTemplate,
            json!({"componentDescriptors": [{"type": "Volume",
                "volumeTemplate": {"volumeConfig": {"capacity": 1000}}}]}),
        ),
    ] {
        ids.insert(kind, (create(kind, body).await, String::new()));
    }
    let address = documents.addresses.all()[0].key.to_string();
    let credential = format!("Credential/{}", ids[&Kind::Credential].0);
    let parts = [
        format!("Machine/{machine}"),
        credential,
        format!("Volume/{free}"),
        "Network/local".to_owned(),
        address,
    ];
    let (system, inner) = systems(documents, &parts).await;
    let volume_image = volume_image(documents, &free).await;
    let read = documents.machines.get(&machine).unwrap();
    let record = MachineRecord {
        id: format!("MachineRecord/{}", read.vmid).parse().unwrap(),
        common: Common::new(Acl::owned_by_user("owner"), Timestamp::now()),
        machine: read.document.id.clone(),
        vmid: read.vmid,
        phase: Phase::Done,
        cpu: 1,
        memory: 1024,
        image: read.image.clone(),
        addresses: Vec::new(),
        host: None,
        first_started: None,
        ended: Timestamp::now(),
        unknown: Map::new(),
    };
    let host = cimi::testing::host();
    let changes = documents.changes().create(&record).create(&host);
    changes.commit().await.unwrap();
    share::<cimi::resources::Machine>(documents).await;
    share::<cimi::resources::Volume>(documents).await;
    share::<cimi::resources::Image>(documents).await;
    share::<cimi::resources::Credential>(documents).await;
    share::<cimi::resources::MachineTemplate>(documents).await;
    share::<cimi::resources::VolumeTemplate>(documents).await;
    share::<cimi::resources::VolumeConfiguration>(documents).await;
    share::<cimi::resources::Address>(documents).await;
    share::<cimi::resources::System>(documents).await;
    share::<cimi::resources::SystemTemplate>(documents).await;
    share::<cimi::resources::CredentialTemplate>(documents).await;
    share::<cimi::resources::AddressTemplate>(documents).await;
    share::<cimi::resources::ForwardingGroupTemplate>(documents).await;
    share::<cimi::resources::NetworkPort>(documents).await;
    share::<cimi::resources::SecurityGroup>(documents).await;
    share::<cimi::resources::NetworkPortTemplate>(documents).await;
    share::<cimi::resources::NetworkPortConfiguration>(documents).await;
    share::<cimi::resources::VolumeImage>(documents).await;
    share::<cimi::resources::Job>(documents).await;
    share::<cimi::resources::Event>(documents).await;
    share::<MachineRecord>(documents).await;
    share::<cimi::resources::Group>(documents).await;
    // Groups are the administrators' and nobody's else; here the owner has one.
    let owned = documents.update("physics", |group: &mut cimi::resources::Group| {
        group
            .common
            .acl
            .owner
            .clone_from(&Acl::owned_by_user("owner").owner);
        Ok::<_, documents::DocumentsError>(true)
    });
    owned.await.unwrap();
    let nothing = String::new;
    let first = |id: &str| (id.to_owned(), nothing());
    let about = format!("Machine/{machine}");
    let event = documents.events.by_index("about", &about).remove(0);
    let log = format!("Machine.{machine}");
    ids.insert(Kind::EventLog, (log, event.id().to_owned()));
    ids.insert(Kind::Machine, (machine, attached));
    let message = object(json!({"name": "Maintenance", "description": "Tonight."}));
    let message = cloud.create(&root, Kind::ServiceMessage, message).await;
    let message = message
        .unwrap()
        .view
        .id
        .split_once('/')
        .unwrap()
        .1
        .to_owned();
    ids.insert(Kind::ServiceMessage, first(&message));
    ids.insert(Kind::System, (system.clone(), inner));
    ids.insert(Kind::VolumeImage, first(volume_image.id.local()));
    ids.insert(Kind::Volume, (free, volume_image.id.local().to_owned()));
    ids.insert(Kind::MachineImage, (spare, nothing()));
    ids.insert(Kind::MachineRecord, first(record.id.local()));
    ids.insert(Kind::Host, first(host.id.local()));
    ids.insert(Kind::User, first("owner"));
    ids.insert(Kind::Group, first("physics"));
    ids.insert(Kind::ServiceConfiguration, first("pdisk"));
    let group = json!({"forwardingGroupTemplate": {"networks": [{"href": "Network/local"}]}});
    let group = cloud
        .create(&root, Kind::ForwardingGroup, object(group))
        .await;
    let group = group.unwrap().view.id.split_once('/').unwrap().1.to_owned();
    ids.insert(Kind::ForwardingGroup, (group, "local".to_owned()));
    let group = ids[&Kind::SecurityGroup].0.clone();
    let rule = object(json!({"direction": "in", "protocol": "tcp", "firstPort": 22}));
    let rule = cloud.add_member(&owner, Kind::SecurityGroup, &group, "rules", rule);
    let rule = rule.await.unwrap().view.id;
    let rule = rule.rsplit_once('/').unwrap().1.to_owned();
    ids.insert(Kind::SecurityGroup, (group, rule));
    let port = ids[&Kind::NetworkPort].0.clone();
    ids.insert(Kind::Network, ("local".to_owned(), port));
    ids.insert(Kind::ResourceMetadata, first("Machine"));
    ids.insert(Kind::MachineConfiguration, first("m1.tiny"));
    ids.insert(Kind::Address, first(documents.addresses.all()[0].id()));
    ids.insert(Kind::Job, first(documents.jobs.all()[0].id()));
    ids.insert(Kind::Event, first(documents.events.all()[0].id()));
    ids
}

/// Tokens and sessions: of the owner, of all kinds, and one more of each that nobody uses; of who comes from a provider, a
/// session.
async fn tokens(
    cloud: &Cloud,
    documents: &Documents,
    ids: &mut BTreeMap<Kind, (String, String)>,
) -> BTreeMap<Who, String> {
    let owner = caller("owner", &[]);
    let mut tokens = BTreeMap::new();
    for who in EVERYBODY.into_iter().filter(|who| who.is_by_token()) {
        let scope = if who == Who::ReadingToken {
            "read-only"
        } else {
            "full"
        };
        let mut body = object(json!({"scope": scope}));
        if who == Who::NarrowToken {
            body.insert("types".to_owned(), json!(["Volume"]));
        }
        let made = cloud.create(&owner, Kind::Token, body).await.unwrap();
        let shown = made.view.document.attributes(made.view.right);
        let secret = shown["token"].as_str().unwrap();
        tokens.insert(who, format!("Authorization: Bearer {secret}\r\n"));
        let id = made.view.id.split_once('/').unwrap().1;
        if who == Who::RevokedToken {
            cloud.delete(&owner, Kind::Token, id).await.unwrap();
            continue;
        }
        let changed = documents.update(id, |token: &mut cimi::resources::Token| {
            if who == Who::ExpiredToken {
                token.expires = Timestamp::now();
            }
            // So that its use writes nothing.
            token.last_used = Some(Timestamp::now().after(Duration::from_secs(3600)));
            token.last_address = Some("127.0.0.1".to_owned());
            Ok::<_, documents::DocumentsError>(true)
        });
        changed.await.unwrap();
    }
    let spare = cloud.create(&owner, Kind::Token, Map::new()).await.unwrap();
    let id = spare.view.id.split_once('/').unwrap().1.to_owned();
    ids.insert(Kind::Token, (id, String::new()));
    share::<cimi::resources::Token>(documents).await;
    let identity = accounts::Identity::of(&documents.users.get("owner").unwrap());
    let provided = callers::user_of_provider(cloud).await;
    let begin = async |identity, method| {
        let session = cloud::people::NewSession {
            identity,
            method,
            address: Some([127, 0, 0, 1].into()),
            agent: None,
            instead_of: None,
        };
        cloud.begin_session(&session).await.unwrap()
    };
    let (secret, _) = (
        begin(&identity, "password").await,
        begin(&identity, "password").await,
    );
    let visitors = begin(&provided, "oidc").await;
    let sent = |secret: &str, from: &str| {
        format!("Cookie: __Host-stratus-session={secret}\r\nOrigin: {from}\r\n")
    };
    tokens.insert(Who::Session, sent(&secret, "http://x"));
    tokens.insert(Who::Forger, sent(&secret, "https://elsewhere.example"));
    tokens.insert(Who::UserOfProvider, sent(&visitors, "http://x"));
    let used = accounts::token::digest(&secret);
    let sessions = documents.sessions.all();
    let other = sessions
        .iter()
        .find(|session| session.user == "owner" && session.digest != used)
        .unwrap();
    ids.insert(Kind::Session, (other.id().to_owned(), String::new()));
    for session in sessions {
        // So that its use writes nothing.
        let used = documents.update(session.id(), |session: &mut cimi::resources::Session| {
            session.last_used = Timestamp::now().after(Duration::from_secs(3600));
            Ok::<_, documents::DocumentsError>(true)
        });
        used.await.unwrap();
    }
    share::<cimi::resources::Session>(documents).await;
    let registration = cimi::testing::registration("joe");
    let changes = documents.changes().create(&registration);
    changes.commit().await.unwrap();
    ids.insert(Kind::Registration, ("joe".to_owned(), String::new()));
    tokens
}

/// Grants to the viewer and the colleagues to see, and to the others who stand for editors to change, all of a type.
async fn share<R: OfType>(documents: &Documents) {
    let rule = |(kind, name, right): (PrincipalType, &str, Right)| AclRule {
        who: Principal {
            principal: name.to_owned(),
            kind,
        },
        right,
    };
    let (user, role) = (PrincipalType::User, PrincipalType::Role);
    let rules = [
        (user, "viewer", Right::View),
        (role, "physics", Right::View),
        (user, "editor", Right::Modify),
        (role, callers::DEPARTMENT, Right::Modify),
        (role, callers::ORGANISATION, Right::Modify),
        (user, "visitor", Right::Modify),
    ];
    for document in documents.view::<R>().all() {
        let mut shared = document.document.0.clone();
        shared.common_mut().acl.rules = rules.map(rule).into();
        documents
            .changes()
            .replace(&document, shared)
            .commit()
            .await
            .unwrap();
    }
}
