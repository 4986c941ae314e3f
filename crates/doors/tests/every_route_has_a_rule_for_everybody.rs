//! Every route that the router has, with every method it takes, asked by every kind of caller, in front of the real
//! rules. What is to come out is a table ([`rule`]); a route that it doesn't know fails the test.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod callers;
mod world;

use std::{collections::BTreeMap, fmt::Write as _};

use crate::support::client::login;
use cimi::model::Kind;
use doors::{Listed, all_routes};
use world::World;

/// Everybody there is. The resources belong to the owner; to the viewer and the editor it is granted to see and to
/// change them. Who comes another way than by a password stands for one of these.
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
    Administrator,
    /// Of a group that may see what the viewer may.
    Colleague,
    /// Of the directory, by its password; what the editor may, a role from there may.
    UserOfDirectory,
    /// Without an account, by what an organisation says, which may what the editor may.
    Member,
    /// By a session that a provider of logins has led to; may what the editor may.
    UserOfProvider,
    /// The owner by a session, from a page of the cloud.
    Session,
    /// The owner's browser, made to by the page of another site.
    Forger,
    /// The owner by a token.
    Token,
    /// By a token that is for reading.
    ReadingToken,
    /// By a token that is for volumes.
    NarrowToken,
    /// By tokens that are no more.
    ExpiredToken,
    RevokedToken,
    /// The owner by the certificate.
    Certificate,
    /// What the owner has sent on with a proxy, and with one that starts nothing.
    Proxy,
    LimitedProxy,
}

/// In an order in which who stands for somebody comes after them.
const EVERYBODY: [Who; 22] = [
    Who::Nobody,
    Who::Guesser,
    Who::Disabled,
    Who::Stranger,
    Who::Viewer,
    Who::Editor,
    Who::Owner,
    Who::Administrator,
    Who::Colleague,
    Who::UserOfDirectory,
    Who::Member,
    Who::UserOfProvider,
    Who::Session,
    Who::Forger,
    Who::Token,
    Who::ReadingToken,
    Who::NarrowToken,
    Who::ExpiredToken,
    Who::RevokedToken,
    Who::Certificate,
    Who::Proxy,
    Who::LimitedProxy,
];

impl Who {
    /// The account whose password is sent, or who has what other credentials are.
    fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Stranger => "stranger",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Administrator => "root",
            Self::Colleague => "colleague",
            _ => "owner",
        }
    }

    /// Whether they have an account of the cloud's own, and send its password.
    fn is_by_password(self) -> bool {
        matches!(
            self,
            Self::Disabled
                | Self::Stranger
                | Self::Viewer
                | Self::Editor
                | Self::Owner
                | Self::Administrator
                | Self::Colleague
        )
    }

    fn is_by_token(self) -> bool {
        matches!(
            self,
            Self::Token
                | Self::ReadingToken
                | Self::NarrowToken
                | Self::ExpiredToken
                | Self::RevokedToken
        )
    }

    fn is_by_certificate(self) -> bool {
        matches!(
            self,
            Self::Certificate | Self::Proxy | Self::LimitedProxy | Self::Member
        )
    }

    /// Who is told the same of everything that is no matter of the way somebody came.
    fn stands_for(self) -> Self {
        match self {
            Self::Colleague => Self::Viewer,
            Self::UserOfDirectory | Self::Member | Self::UserOfProvider => Self::Editor,
            Self::Session
            | Self::Forger
            | Self::Token
            | Self::ReadingToken
            | Self::NarrowToken
            | Self::Certificate
            | Self::Proxy
            | Self::LimitedProxy => Self::Owner,
            other => other,
        }
    }

    fn headers(self, credentials: &BTreeMap<Self, String>) -> String {
        if let Some(header) = credentials.get(&self) {
            return header.clone();
        }
        match self {
            Self::Nobody => String::new(),
            // `owner:guess`
            Self::Guesser => "Authorization: Basic b3duZXI6Z3Vlc3M=\r\n".to_owned(),
            known => {
                assert!(known.is_by_password(), "{known:?} has nothing to show");
                login(known.name())
            }
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
    /// Pages that answer everybody, with whatever they say.
    Pages,
    /// Pages of users, which want more in their forms than the requests of this test have.
    PagesOfUsers,
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
        Kind::Host,
        Kind::MachineRecord,
        Kind::EventLog,
    ];
    let pages_of_users = ["/register/profile", "/register/sessions", "/cimi/command"];
    Some(match (route.template, route.kind, method) {
        ("/health" | "/load.txt", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        ("/cimi" | "/cimi/authn", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        ("/api/openapi.json" | "/api", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        ("/assets/{name}", None, "GET" | "HEAD" | "OPTIONS") => Anybody,
        // The signature and the endorser's confirmation are the authorization.
        ("/marketplace", None, "OPTIONS") => Anybody,
        ("/marketplace", None, "GET" | "HEAD" | "POST") => Pages,
        // What isn't allowed is refused by the page itself.
        ("/register/{page}", None, "OPTIONS") => Anybody,
        ("/register/{page}", None, _) if route.path == "/register/requests" => Administrators,
        ("/register/{page}", None, _) if pages_of_users.contains(&route.path.as_str()) => {
            // A profile is where the account is.
            if method == "POST" || method == "PUT" || route.path == "/register/profile" {
                PagesOfUsers
            } else {
                Users
            }
        }
        ("/register/{page}", None, _) => Pages,
        (
            "/cimi/{type}" | "/cimi/{type}/{id}",
            Some(Kind::ServiceMessage),
            "GET" | "HEAD" | "OPTIONS",
        ) => Anybody,
        (_, Some(Kind::ServiceMessage), _) => Administrators,
        // What can be asked of a path is no secret among users.
        (_, _, "OPTIONS") if route.template != "/metrics" => Users,
        ("/cimi", None, "PUT") => NoUser,
        // As the networks are: seen by all users, the administrators' to join.
        (_, Some(Kind::ForwardingGroup), "GET" | "HEAD") => Users,
        (_, Some(Kind::ForwardingGroup), _) => Administrators,
        ("/stratus/catalogue", None, "GET" | "HEAD") => Users,
        ("/metrics" | "/stratus/status" | "/stratus/audit", None, _) => Administrators,
        ("/stratus/doctor" | "/stratus/host-tokens", None, "POST") => Administrators,
        ("/stratus/host-tokens", None, "GET" | "HEAD") => Administrators,
        ("/stratus/host-tokens/{id}", None, "DELETE") => Administrators,
        // Of themselves, where nobody else is named.
        ("/stratus/quota" | "/stratus/accounting", None, "GET" | "HEAD") => Users,

        (
            "/cimi/{type}",
            Some(Kind::Host | Kind::Registration | Kind::ServiceConfiguration),
            "GET" | "HEAD",
        ) => Administrators,
        ("/cimi/{type}", Some(_), "GET" | "HEAD") => Users,
        ("/cimi/{type}", Some(Kind::User | Kind::Group | Kind::ServiceConfiguration), "POST") => {
            Administrators
        }
        ("/cimi/{type}", Some(Kind::Token), "POST") => Passwords,
        ("/cimi/{type}", Some(_), "POST") => Users,

        ("/cimi/{type}/{id}", Some(Kind::Host), "GET" | "HEAD") => HiddenButForAdministrators,
        ("/cimi/{type}/{id}", Some(Kind::Registration), "GET" | "HEAD") => {
            HiddenButForAdministrators
        }
        ("/cimi/{type}/{id}", Some(Kind::Registration), "DELETE" | "POST") => {
            HiddenButForAdministrators
        }
        ("/cimi/{type}/{id}/{action}", Some(Kind::Registration), "POST") => {
            HiddenButForAdministrators
        }
        ("/cimi/{type}/{id}", Some(Kind::Session | Kind::Registration), "PUT") => NoUser,
        (
            "/cimi/{type}/{id}",
            Some(Kind::ServiceConfiguration),
            "GET" | "HEAD" | "PUT" | "DELETE",
        ) => HiddenButForAdministrators,
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
        ("/cimi/{type}/{id}/{action}", Some(Kind::Machine), "POST")
            if route.path.ends_with("/migrate") =>
        {
            Administrators
        }
        ("/cimi/{type}/{id}/{action}", Some(Kind::Machine), "POST") => Editors,
        ("/cimi/{type}/{id}" | "/cimi/{type}/{id}/{action}", Some(Kind::Job), "POST") => Editors,

        ("/cimi/{type}/{id}" | "/cimi/{type}/{id}/{action}", Some(Kind::Host), "POST") => {
            Administrators
        }

        ("/cimi/{type}/{id}", Some(Kind::System), "POST") => Editors,
        ("/cimi/{type}/{id}/{action}", Some(Kind::System), "POST") => Editors,
        (
            "/cimi/{type}/{id}/{collection}" | "/cimi/{type}/{id}/{collection}/{id}",
            Some(Kind::System | Kind::Volume),
            "GET" | "HEAD",
        ) => Viewers,
        ("/cimi/{type}/{id}" | "/cimi/{type}/{id}/{action}", Some(Kind::NetworkPort), "POST") => {
            Editors
        }
        (
            "/cimi/{type}/{id}/{collection}" | "/cimi/{type}/{id}/{collection}/{id}",
            Some(Kind::SecurityGroup),
            "GET" | "HEAD",
        ) => Viewers,
        ("/cimi/{type}/{id}/{collection}", Some(Kind::SecurityGroup), "POST") => Editors,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::SecurityGroup), "DELETE") => Editors,
        // Whoever sees the network; of its ports, theirs are in it.
        ("/cimi/{type}/{id}/{collection}", Some(Kind::Network), "GET" | "HEAD") => Users,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::Network), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}/{collection}", Some(Kind::System), "POST") => Editors,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::System), "DELETE") => Editors,
        (
            "/cimi/{type}/{id}/{collection}" | "/cimi/{type}/{id}/{collection}/{id}",
            Some(Kind::Host),
            "GET" | "HEAD",
        ) => HiddenButForAdministrators,
        (
            "/cimi/{type}/{id}/{collection}" | "/cimi/{type}/{id}/{collection}/{id}",
            Some(Kind::EventLog),
            "GET" | "HEAD",
        ) => Viewers,
        ("/cimi/{type}/{id}/{collection}", Some(Kind::Machine), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}/{collection}", Some(Kind::Machine), "POST") => Editors,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::Machine), "GET" | "HEAD") => Viewers,
        ("/cimi/{type}/{id}/{collection}/{id}", Some(Kind::Machine), "DELETE") => Editors,
        ("/cimi/MachineImage/{id}/data", Some(Kind::MachineImage), "PUT") => Editors,
        ("/cimi/MachineImage/{id}/data", Some(Kind::MachineImage), "GET" | "HEAD") => Viewers,
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
    /// Neither a demand to log in nor a defect. (503: the provider of logins isn't there.)
    Answered,
}

impl Rule {
    fn outcome(self, who: Who, reads: bool) -> Outcome {
        use Outcome::*;
        match (self, who) {
            // Who says who they are must be right about it.
            (_, Who::Guesser | Who::Disabled | Who::ExpiredToken | Who::RevokedToken) => LogIn,
            (_, Who::Forger) if !reads => Refused,
            (_, Who::ReadingToken) if !reads => Refused,
            // What a console says isn't for who may only look.
            (Self::Editors, Who::ReadingToken) => Refused,
            (
                Self::Passwords | Self::ThemselvesByPassword,
                Who::Token | Who::NarrowToken | Who::Proxy | Who::LimitedProxy,
            ) => Refused,
            (Self::Passwords, Who::Member) => Refused,
            (Self::ThemselvesByPassword, Who::Session) => Refused,
            // From here on it makes no difference which way somebody came.
            (rule, who) => rule.outcome_by_password(who.stands_for()),
        }
    }

    /// What comes out for those who come by their password, or with nothing.
    fn outcome_by_password(self, who: Who) -> Outcome {
        use Outcome::*;
        match (self, who) {
            (Self::Pages, _) => Answered,
            (Self::PagesOfUsers, Who::Nobody) => LogIn,
            (Self::PagesOfUsers, _) => Answered,
            (Self::Anybody, _) => Reached,
            (_, Who::Nobody) => LogIn,
            (Self::NoUser, _) => Anyhow,
            (Self::Users | Self::Passwords, _) | (_, Who::Administrator) => Reached,
            (Self::Administrators, _) => Refused,
            (Self::HiddenButForAdministrators, _) => NotThere,
            (Self::Themselves | Self::ThemselvesByPassword, Who::Owner) => Reached,
            (Self::Themselves | Self::ThemselvesByPassword, _) => NotThere,
            (Self::Viewers | Self::Editors, Who::Stranger) => NotThere,
            (Self::Editors, Who::Viewer) => Refused,
            (Self::Viewers | Self::Editors, _) => Reached,
        }
    }
}

/// Whether a token for volumes is for a route: of them, and of what is everybody's.
fn is_of_volumes(route: &Listed, rule: Rule) -> bool {
    let is_everybodys = matches!(rule, Rule::Anybody) && route.kind != Some(Kind::ServiceMessage);
    let told = [Some(Kind::Volume), Some(Kind::ResourceMetadata)];
    let is_open = ["/cimi", "/marketplace"].contains(&route.template);
    told.contains(&route.kind) || is_open || is_everybodys && route.template != "/register/{page}"
}

/// Whether a request makes something run: what a limited proxy doesn't.
fn starts(route: &Listed, method: &str) -> bool {
    let acts = |what: &str| route.path.ends_with(&format!("/{what}"));
    method == "POST"
        && match route.kind {
            Some(Kind::Machine) => {
                route.path == "/cimi/Machine" || acts("start") || acts("restart")
            }
            Some(Kind::System) => acts("start") || acts("restart"),
            _ => false,
        }
}

impl Outcome {
    fn allows(self, status: u16) -> bool {
        match self {
            Self::LogIn => [401, 429].contains(&status),
            Self::Refused => status == 403,
            Self::NotThere => status == 404,
            Self::Answered => status != 401 && (status < 500 || status == 503),
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
            let mut by_password = BTreeMap::new();
            for who in world.everybody() {
                let revision = world.revision().await;
                let reply = world.ask(who, method, &path, &body).await;
                asked += 1;
                let reads = ["GET", "HEAD", "OPTIONS"].contains(&method);
                let is_refused = match who {
                    Who::LimitedProxy => starts(&route, method),
                    Who::NarrowToken => !is_of_volumes(&route, rule),
                    _ => false,
                };
                let expected = if is_refused {
                    Outcome::Refused
                } else {
                    rule.outcome(who, reads)
                };
                if !expected.allows(reply.status) {
                    writeln!(
                        wrong,
                        "{who:?}: {method} {path}: {} instead of {expected:?}: {}",
                        reply.status,
                        String::from_utf8_lossy(&reply.body)
                    )
                    .unwrap();
                }
                // The same account, or one with the same rights, is told the same.
                by_password.entry(who).or_insert(reply.status);
                let same = by_password[&who.stands_for()];
                if expected == Outcome::Reached && reply.status != same {
                    writeln!(
                        wrong,
                        "{who:?}: {method} {path}: {} but {same} to {:?}",
                        reply.status,
                        who.stands_for()
                    )
                    .unwrap();
                }
                // Clients of StratusLab's log out so.
                let may_change = !reads || route.path == "/cimi/logout";
                if world.revision().await == revision {
                    continue;
                }
                if (200..400).contains(&reply.status) && may_change {
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

/// Of every type: the editor may change it, but not who may do what with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editors_don_t_say_who_may_do_what() {
    let world = World::start().await;
    let before = world.all().await;
    let mut wrong = String::new();
    let mut asked = 0;
    for route in all_routes() {
        let edits = route.template == "/cimi/{type}/{id}" && route.methods.contains("PUT");
        if !edits || !matches!(rule(&route, "PUT"), Some(Rule::Editors)) {
            continue;
        }
        let (path, _) = world.request(&route, "PUT");
        let reply = world.ask(Who::Editor, "GET", &path, "").await;
        let shown: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let mut acl = shown["acl"].clone();
        acl["rules"] = serde_json::json!([{"principal": "editor", "type": "USER", "right": "ALL"}]);
        let mut bodies = vec![serde_json::json!({ "acl": acl })];
        if let Some(visibility) = shown["visibility"].as_str() {
            let other = if visibility == "PUBLIC" {
                "PRIVATE"
            } else {
                "PUBLIC"
            };
            bodies.push(serde_json::json!({ "visibility": other }));
        }
        for body in bodies {
            let reply = world
                .ask(Who::Editor, "PUT", &path, &body.to_string())
                .await;
            let text = String::from_utf8_lossy(&reply.body);
            // This address came with a machine: nobody changes it.
            let expected = if route.kind == Some(Kind::Address) {
                409
            } else {
                403
            };
            if reply.status != expected {
                writeln!(wrong, "{path} {body}: {} {text}", reply.status).unwrap();
            }
            asked += 1;
        }
        assert_eq!(world.all().await, before, "{path}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(asked > 10, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_filters_hold_only_what_the_caller_may_see() {
    let world = World::start().await;
    for (kind, (id, _)) in &world.ids {
        if [
            Kind::ResourceMetadata,
            Kind::Network,
            Kind::MachineConfiguration,
            // Everybody sees these.
            Kind::ForwardingGroup,
            Kind::ServiceMessage,
        ]
        .contains(kind)
        {
            continue;
        }
        let gone = [Who::ExpiredToken, Who::RevokedToken];
        let known = world.everybody().skip(3);
        for who in known.filter(|who| !gone.contains(who)) {
            let sees = match kind {
                Kind::Host | Kind::Registration | Kind::ServiceConfiguration => {
                    who == Who::Administrator
                }
                Kind::User => who.stands_for() >= Who::Owner,
                _ => who.stands_for() >= Who::Viewer,
            };
            let sees = sees && (who != Who::NarrowToken || *kind == Kind::Volume);
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
    let volume = &world.ids.get(&Kind::Volume).unwrap().0;
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
