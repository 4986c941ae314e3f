//! Every route that the router has, with every method it takes, asked by every kind of caller, in front of the real
//! rules. What is to come out is a table ([`rule`]); a route that it doesn't know fails the test.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use crate::support::client::{PATIENCE, Reply, login};
use accounts::{Accounts, Cost, Hashing};
use cimi::{
    Acl, AclRule, Common, PrincipalType, Right, Timestamp, common::Principal, lifecycle::Phase,
    model::Kind, resources::MachineRecord,
};
use cloud::{
    Cloud, NoServices,
    testing::{self, caller, object},
};
use documents::{Documents, OfType};
use doors::{Doors, Limits, Listed, Running, Server, Settings, all_routes};
use serde_json::{Map, Value, json};
use store::{Key, Range, SqliteStore, Transaction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Everybody there is. The resources belong to the owner; to the viewer and the editor it is granted to see and to
/// change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Nobody,
    /// Right name, wrong password.
    Guesser,
    /// Right password, but may not log in.
    Disabled,
    Stranger,
    Viewer,
    Editor,
    Owner,
    /// The owner by a token.
    Token,
    /// By a token that is for reading.
    ReadingToken,
    /// By tokens that are no more.
    ExpiredToken,
    RevokedToken,
    Administrator,
}

const EVERYBODY: [Who; 12] = [
    Who::Nobody,
    Who::Guesser,
    Who::Disabled,
    Who::Stranger,
    Who::Viewer,
    Who::Editor,
    Who::Owner,
    Who::Token,
    Who::ReadingToken,
    Who::ExpiredToken,
    Who::RevokedToken,
    Who::Administrator,
];

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "",
            Self::Disabled => "disabled",
            Self::Stranger => "stranger",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner
            | Self::Guesser
            | Self::Token
            | Self::ReadingToken
            | Self::ExpiredToken
            | Self::RevokedToken => "owner",
            Self::Administrator => "root",
        }
    }

    fn is_by_token(self) -> bool {
        matches!(
            self,
            Self::Token | Self::ReadingToken | Self::ExpiredToken | Self::RevokedToken
        )
    }

    fn headers(self, tokens: &BTreeMap<Self, String>) -> String {
        if let Some(token) = tokens.get(&self) {
            return format!("Authorization: Bearer {token}\r\n");
        }
        match self {
            Self::Nobody => String::new(),
            // `owner:guess`
            Self::Guesser => "Authorization: Basic b3duZXI6Z3Vlc3M=\r\n".to_owned(),
            known => login(known.name()),
        }
    }
}

/// Who gets how far.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Everybody, also who isn't logged in.
    Anybody,
    /// All users.
    Users,
    /// All users, but by their password only.
    Passwords,
    /// Administrators; all other users are told that it is not for them.
    Administrators,
    /// Administrators; for all other users it isn't there.
    HiddenButForAdministrators,
    /// No user at all: the cloud alone does it.
    NoUser,
    /// Who may see the resource. For others it isn't there.
    Viewers,
    /// Who may change the resource. Who may see it is told so, for others it isn't there.
    Editors,
    /// The user it is about, and administrators. For others it isn't there.
    Themselves,
    /// The same, the user by the password only.
    ThemselvesByPassword,
}

/// The table.
fn rule(route: &Listed, method: &str) -> Option<Rule> {
    use Rule::*;
    let writes_nobody = [
        Kind::ResourceMetadata,
        Kind::Network,
        Kind::Address,
        Kind::Host,
        Kind::MachineRecord,
    ];
    Some(match (route.template, route.kind, method) {
        ("/health", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        ("/cimi", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        ("/api/openapi.json", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        // What can be asked of a path is no secret among users.
        (_, _, "OPTIONS") if route.template != "/metrics" => Users,
        ("/cimi", None, "PUT") => NoUser,
        ("/cimi/authn", None, "GET" | "HEAD") => Users,
        ("/metrics" | "/stratus/status" | "/stratus/audit", None, _) => Administrators,
        ("/stratus/doctor", None, "POST") => Administrators,

        ("/cimi/{type}", Some(Kind::Host), "GET" | "HEAD") => Administrators,
        ("/cimi/{type}", Some(_), "GET" | "HEAD") => Users,
        ("/cimi/{type}", Some(Kind::User | Kind::Group), "POST") => Administrators,
        ("/cimi/{type}", Some(Kind::Token), "POST") => Passwords,
        ("/cimi/{type}", Some(_), "POST") => Users,

        ("/cimi/{type}/{id}", Some(Kind::Host), "GET" | "HEAD") => HiddenButForAdministrators,
        (
            "/cimi/{type}/{id}",
            Some(Kind::ResourceMetadata | Kind::Network | Kind::MachineConfiguration),
            "GET" | "HEAD",
        ) => Users,
        ("/cimi/{type}/{id}", Some(Kind::User), "GET" | "HEAD") => Themselves,
        ("/cimi/{type}/{id}", Some(Kind::User), "PUT") => ThemselvesByPassword,
        // Those that are offered are the administrators'.
        ("/cimi/{type}/{id}", Some(Kind::MachineConfiguration), "PUT" | "DELETE") => Administrators,
        ("/cimi/{type}/{id}", Some(Kind::User), "DELETE") => Administrators,
        ("/cimi/{type}/{id}", Some(_), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}", Some(Kind::Job | Kind::Event), "PUT") => NoUser,
        ("/cimi/{type}/{id}", Some(kind), "PUT" | "DELETE") if writes_nobody.contains(&kind) => {
            NoUser
        }
        ("/cimi/{type}/{id}", Some(Kind::Event), "DELETE") => Administrators,
        ("/cimi/{type}/{id}", Some(_), "PUT" | "DELETE") => Editors,
        ("/cimi/{type}/{id}", Some(Kind::Machine), "POST") => Editors,
        ("/cimi/{type}/{id}/{action}", Some(Kind::Machine), "POST") => Editors,
        ("/cimi/{type}/{id}" | "/cimi/{type}/{id}/{action}", Some(Kind::Job), "POST") => NoUser,

        ("/cimi/{type}/{id}/{collection}", Some(Kind::Machine), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}/{collection}", Some(Kind::Machine), "POST") => Editors,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::Machine), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::Machine), "DELETE") => Editors,
        ("/cimi/MachineImage/{id}/data", Some(Kind::MachineImage), "PUT") => Editors,
        ("/cimi/Machine/{id}/console", Some(Kind::Machine), "GET" | "HEAD") => Editors,
        _ => return None,
    })
}

/// What an answer says about access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// 401; or 429 once there were many.
    LogIn,
    /// 403
    Refused,
    /// 404
    NotThere,
    /// It came to the rules of the resource, whatever these said about the request.
    Reached,
    /// 4xx
    Anyhow,
}

impl Rule {
    fn outcome(self, who: Who, reads: bool) -> Outcome {
        use Outcome::*;
        match (self, who) {
            // Who says who they are must be right about it.
            (_, Who::Guesser | Who::Disabled | Who::ExpiredToken | Who::RevokedToken) => LogIn,
            (_, Who::ReadingToken) if !reads => Refused,
            // What a console says isn't for who may only look.
            (Self::Editors, Who::ReadingToken) => Refused,
            (Self::Passwords | Self::ThemselvesByPassword, Who::Token) => Refused,
            (Self::Anybody, _) => Reached,
            (_, Who::Nobody) => LogIn,
            (Self::NoUser, _) => Anyhow,
            (Self::Users | Self::Passwords, _) | (_, Who::Administrator) => Reached,
            (Self::Administrators, _) => Refused,
            (Self::HiddenButForAdministrators, _) => NotThere,
            (
                Self::Themselves | Self::ThemselvesByPassword,
                Who::Owner | Who::Token | Who::ReadingToken,
            ) => Reached,
            (Self::Themselves | Self::ThemselvesByPassword, _) => NotThere,
            (Self::Viewers | Self::Editors, Who::Stranger) => NotThere,
            (Self::Editors, Who::Viewer) => Refused,
            (Self::Viewers | Self::Editors, _) => Reached,
        }
    }
}

impl Outcome {
    fn allows(self, status: u16) -> bool {
        match self {
            Self::LogIn => [401, 429].contains(&status),
            Self::Refused => status == 403,
            Self::NotThere => status == 404,
            Self::Anyhow => (400..500).contains(&status) && status != 401,
            Self::Reached => ![401, 403, 404].contains(&status) && status != 500,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_with_every_method_is_asked_by_everybody() {
    let world = World::start().await;
    let before = world.all().await;
    let mut wrong = String::new();
    let mut asked = 0;
    for route in all_routes() {
        for method in route.methods.split(", ") {
            let Some(rule) = rule(&route, method) else {
                panic!("nothing says who may {method} {}", route.path);
            };
            let (path, body) = world.request(&route, method);
            for who in EVERYBODY {
                let reply = world.ask(who, method, &path, &body).await;
                asked += 1;
                let reads = ["GET", "HEAD", "OPTIONS"].contains(&method);
                let expected = rule.outcome(who, reads);
                if !expected.allows(reply.status) {
                    writeln!(
                        wrong,
                        "{who:?}: {method} {path}: {} instead of {expected:?}: {}",
                        reply.status,
                        String::from_utf8_lossy(&reply.body)
                    )
                    .unwrap();
                }
                if (200..300).contains(&reply.status)
                    && !["GET", "HEAD", "OPTIONS"].contains(&method)
                {
                    world.restore(&before).await;
                } else if world.all().await != before {
                    writeln!(
                        wrong,
                        "{who:?}: {method} {path}: {} changed something",
                        reply.status
                    )
                    .unwrap();
                    world.restore(&before).await;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(asked > 500, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_filters_hold_only_what_the_caller_may_see() {
    let world = World::start().await;
    for (kind, (id, _)) in &world.ids {
        if [
            Kind::ResourceMetadata,
            Kind::Network,
            Kind::MachineConfiguration,
        ]
        .contains(kind)
        {
            continue;
        }
        let gone = [Who::ExpiredToken, Who::RevokedToken];
        let known = EVERYBODY.into_iter().skip(3);
        for who in known.filter(|who| !gone.contains(who)) {
            let sees = match kind {
                Kind::Host => who == Who::Administrator,
                Kind::User => who >= Who::Owner,
                _ => who >= Who::Viewer,
            };
            let id = format!("{kind}/{id}");
            for query in [
                "",
                &format!("?$filter=id='{id}'"),
                &format!("?$select=id&$filter=id>='{id}'"),
            ] {
                let query = query.replace('\'', "%27").replace('>', "%3E");
                let reply = world
                    .ask(who, "GET", &format!("/cimi/{kind}{query}"), "")
                    .await;
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                let shown = reply.status == 200 && body.contains(&format!("\"id\":\"{id}\""));
                assert_eq!(
                    shown, sees,
                    "{who:?} {kind}{query}: {} {body}",
                    reply.status
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_is_written_down() {
    let world = World::start().await;
    let volume = &world.ids.get(&Kind::Volume).unwrap().1;
    let path = format!("/cimi/Volume/{volume}");
    for (who, method, path) in [
        (Who::Owner, "GET", path.as_str()),
        (Who::Nobody, "DELETE", &path),
        (Who::ReadingToken, "DELETE", &path),
        (Who::Guesser, "GET", &path),
        (Who::Owner, "GET", "/stratus/audit"),
        (Who::Stranger, "DELETE", &path),
        (Who::Token, "DELETE", &path),
        (Who::Owner, "POST", "/cimi/Token"),
        (Who::Administrator, "GET", "/stratus/audit"),
    ] {
        world.ask(who, method, path, "").await;
    }
    let entries = world.audit.0.lock().unwrap().clone();
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| (entry.user.as_deref(), entry.method.as_str(), entry.status))
        .collect();
    let (owner, stranger) = (Some("owner"), Some("stranger"));
    assert_eq!(
        shown,
        [
            (owner, "DELETE", 403),
            (None, "GET", 401),
            (owner, "GET", 403),
            (stranger, "DELETE", 404),
            (owner, "DELETE", 202),
            (owner, "POST", 201),
        ]
    );
    assert!(entries[0].token.is_some() && entries[2].token.is_none());
    assert_eq!(entries[1].claimed.as_deref(), Some("owner"));
    assert_eq!(entries[4].path, path);
    assert!(entries[4].address.is_loopback());
    let made = entries[5].made.as_deref().unwrap();
    assert!(made.starts_with("Token/"), "{made}");
}

/// Remembers what was written down.
#[derive(Default)]
struct Recorder(std::sync::Mutex<Vec<doors::Audited>>);

#[async_trait::async_trait]
impl doors::AuditLog for Recorder {
    async fn record(&self, what: doors::Audited) {
        self.0.lock().unwrap().push(what);
    }

    async fn last(&self, _most: usize, _user: Option<&str>) -> std::io::Result<Vec<Value>> {
        Ok(Vec::new())
    }
}

/// The rules over a real database, with one resource of each type, and a server in front.
struct World {
    running: Running,
    documents: Documents,
    /// Of each type: the id of the one there is, and of a member.
    ids: BTreeMap<Kind, (String, String)>,
    /// Of those who have one.
    tokens: BTreeMap<Who, String>,
    audit: Arc<Recorder>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let settings = cloud::Settings {
            passwords: hashing.clone(),
            ..testing::settings()
        };
        let cloud = Cloud::open(documents.clone(), settings, services.clone(), services)
            .await
            .unwrap();
        let mut ids = resources(&cloud, &documents).await;
        let tokens = tokens(&cloud, &documents, &mut ids).await;
        let accounts = Accounts::new(
            Arc::new(cloud.clone()),
            hashing,
            accounts::Settings {
                refused_after: Duration::ZERO,
                ..accounts::Settings::default()
            },
        );
        let audit = Arc::new(Recorder::default());
        let doors = Doors::new(Arc::new(cloud), Arc::new(accounts), Settings::default())
            .audited_by(audit.clone());
        let server = Server::new(Arc::new(doors), Limits::default(), None);
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            documents,
            ids,
            tokens,
            audit,
            _folder: folder,
        }
    }

    /// The path and body of a request that would do something, were it allowed.
    fn request(&self, route: &Listed, method: &str) -> (String, String) {
        let mut path = route.path.clone();
        if let Some((id, member)) = route.kind.and_then(|kind| self.ids.get(&kind)) {
            let member = match path.rsplit('/').nth(1) {
                Some("disks" | "networkInterfaces") => "0",
                _ => member,
            };
            path = path.replace("{id}", id).replace("{member}", member);
        }
        assert!(!path.contains('{'), "there is no example of {path}");
        let volume = self.ids.get(&Kind::Volume).unwrap();
        let body = match (route.kind, route.template, method) {
            (_, "/cimi/{type}/{id}/{collection}", "POST") => {
                json!({"volume": {"href": format!("Volume/{}", volume.1)}}).to_string()
            }
            (_, "/cimi/{type}/{id}", "POST") => json!({"action": "stop"}).to_string(),
            (Some(Kind::User), _, "POST") => {
                json!({"username": "new", "password": "correct horse"}).to_string()
            }
            (Some(Kind::Group), _, "POST") => json!({"groupname": "new"}).to_string(),
            (Some(Kind::User), _, "PUT") => json!({"email": "a@example.org"}).to_string(),
            (_, "/cimi/MachineImage/{id}/data", _) => "content".to_owned(),
            (_, _, "PUT") => json!({"name": "mine now"}).to_string(),
            (_, _, "POST") => "{}".to_owned(),
            _ => String::new(),
        };
        (path, body)
    }

    async fn ask(&self, who: Who, method: &str, path: &str, body: &str) -> Reply {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{body}",
            who.headers(&self.tokens),
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
    async fn all(&self) -> BTreeMap<String, Vec<u8>> {
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

    /// Makes everything as it was.
    async fn restore(&self, before: &BTreeMap<String, Vec<u8>>) {
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

/// The users, and one resource of each type.
async fn resources(cloud: &Cloud, documents: &Documents) -> BTreeMap<Kind, (String, String)> {
    let (root, owner) = (caller("root", &["::ADMIN"]), caller("owner", &[]));
    let known = EVERYBODY.into_iter().skip(2);
    for who in known.filter(|who| !who.is_by_token()) {
        let roles: &[&str] = if who == Who::Administrator {
            &["::ADMIN"]
        } else {
            &[]
        };
        let body = json!({"username": who.name(), "password": "correct horse", "roles": roles,
            "enabled": who != Who::Disabled});
        cloud.create(&root, Kind::User, object(body)).await.unwrap();
    }
    let mut ids = BTreeMap::new();
    let group = object(json!({"groupname": "physics"}));
    cloud.create(&root, Kind::Group, group).await.unwrap();
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
    ] {
        ids.insert(kind, (create(kind, body).await, String::new()));
    }
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
    ids.insert(Kind::Machine, (machine, attached));
    ids.insert(Kind::Volume, (free.clone(), free));
    ids.insert(Kind::MachineImage, (spare, nothing()));
    ids.insert(Kind::MachineRecord, first(record.id.local()));
    ids.insert(Kind::Host, first(host.id.local()));
    ids.insert(Kind::User, first("owner"));
    ids.insert(Kind::Group, first("physics"));
    ids.insert(Kind::Network, first("local"));
    ids.insert(Kind::ResourceMetadata, first("Machine"));
    ids.insert(Kind::MachineConfiguration, first("m1.tiny"));
    ids.insert(Kind::Address, first(documents.addresses.all()[0].id()));
    ids.insert(Kind::Job, first(documents.jobs.all()[0].id()));
    ids.insert(Kind::Event, first(documents.events.all()[0].id()));
    ids
}

/// Tokens of the owner: of all kinds, and one more that nobody uses.
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
        let body = object(json!({"scope": scope}));
        let made = cloud.create(&owner, Kind::Token, body).await.unwrap();
        let shown = made.view.document.attributes(made.view.right);
        tokens.insert(who, shown["token"].as_str().unwrap().to_owned());
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
    tokens
}

/// Grants to the viewer to see, and to the editor to change, all of a type.
async fn share<R: OfType>(documents: &Documents) {
    let rule = |name: &str, right| AclRule {
        who: Principal {
            principal: name.to_owned(),
            kind: PrincipalType::User,
        },
        right,
    };
    for document in documents.view::<R>().all() {
        let mut shared = document.document.0.clone();
        shared.common_mut().acl.rules =
            vec![rule("viewer", Right::View), rule("editor", Right::Modify)];
        documents
            .changes()
            .replace(&document, shared)
            .commit()
            .await
            .unwrap();
    }
}
