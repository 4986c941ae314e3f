//! What a URL names. Everything of CIMI follows from the table of [`cimi::model`].

use std::borrow::Cow;

use ::cimi::model::{Creation, Kind, describe};
use http::Method;
use percent_encoding::percent_decode_str;

use crate::{
    marketplace::place::Place,
    pages::assets::{self, Asset},
    people::Page,
};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'p> {
    /// `/`, `/cimi`
    EntryPoint,
    /// `/cimi/Machine`
    Collection(Kind),
    /// `/cimi/Machine/7`
    Resource(Kind, Cow<'p, str>),
    /// `/cimi/Machine/7/start`
    Action(Kind, Cow<'p, str>, &'static str),
    /// `/cimi/Machine/7/volumes`
    OwnCollection(Kind, Cow<'p, str>, &'static str, Kind),
    /// `/cimi/Machine/7/volumes/8`
    Member(Kind, Cow<'p, str>, &'static str, Kind, Cow<'p, str>),
    /// `/cimi/MachineImage/7/data`
    ImageData(Cow<'p, str>),
    /// `/cimi/Machine/7/console`
    Console(Cow<'p, str>),
    /// `/cimi/authn`
    Authentication,
    /// `/health`
    Health,
    /// `/load.txt`
    Load,
    /// `/metrics`
    Metrics,
    /// `/stratus/status`
    Status,
    /// `/stratus/doctor`
    Doctor,
    /// `/api/openapi.json`
    OpenApi,
    /// `/stratus/audit`
    Audit,
    /// `/cimi/login`, `/register/…`
    People(Page<'p>),
    /// `/stratus/catalogue`
    Catalogue,
    /// `/stratus/quota`
    Quota,
    /// `/stratus/accounting`
    Accounting,
    /// `/stratus/host-tokens`
    HostTokens,
    /// `/stratus/host-tokens/7`
    HostToken(Cow<'p, str>),
    /// `/api`
    Manual,
    /// `/assets/stratus.css`
    Asset(&'static Asset),
    /// `/marketplace/metadata`
    Marketplace(Place<'p>),
}

impl<'p> Route<'p> {
    /// What this path names, if anything. One slash at the end makes no difference.
    pub(crate) fn of(path: &'p str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let path = match path.strip_suffix('/') {
            Some("") | None => path,
            Some(shorter) => shorter,
        };
        if let Some(page) = Page::of(path) {
            return Some(Self::People(page));
        }
        let Some(path) = path.strip_prefix("cimi") else {
            return match path {
                "" => Some(Self::EntryPoint),
                "health" => Some(Self::Health),
                "load.txt" => Some(Self::Load),
                "metrics" => Some(Self::Metrics),
                "stratus/status" => Some(Self::Status),
                "stratus/doctor" => Some(Self::Doctor),
                "api/openapi.json" => Some(Self::OpenApi),
                "stratus/audit" => Some(Self::Audit),
                "stratus/catalogue" => Some(Self::Catalogue),
                "stratus/quota" => Some(Self::Quota),
                "stratus/accounting" => Some(Self::Accounting),
                "stratus/host-tokens" => Some(Self::HostTokens),
                "api" => Some(Self::Manual),
                _ => {
                    if let Some(id) = path.strip_prefix("stratus/host-tokens/") {
                        return local(id).map(Self::HostToken);
                    }
                    if let Some(below) = path.strip_prefix("marketplace")
                        && (below.is_empty() || below.starts_with('/'))
                    {
                        return Place::of(below).map(Self::Marketplace);
                    }
                    Asset::named(path.strip_prefix("assets/")?).map(Self::Asset)
                }
            };
        };
        if path.is_empty() {
            return Some(Self::EntryPoint);
        }
        let mut parts = path.strip_prefix('/')?.split('/');
        let name = parts.next()?;
        let (id, third, fourth) = (parts.next(), parts.next(), parts.next());
        if parts.next().is_some() {
            return None;
        }
        if name == "authn" && id.is_none() {
            return Some(Self::Authentication);
        }
        let kind = Kind::from_name(name)?;
        if kind == Kind::CloudEntryPoint && id.is_none() {
            return Some(Self::EntryPoint);
        }
        let described = describe(kind);
        described.collection?;
        let Some(id) = id else {
            return Some(Self::Collection(kind));
        };
        let id = local(id)?;
        let Some(third) = third else {
            return Some(Self::Resource(kind, id));
        };
        if let Some(members) = described.own_collection(third) {
            let name = described.attribute(third)?.name;
            return match fourth {
                None => Some(Self::OwnCollection(kind, id, name, members)),
                Some(member) => Some(Self::Member(kind, id, name, members, local(member)?)),
            };
        }
        if fourth.is_some() {
            return None;
        }
        match (kind, third) {
            (Kind::MachineImage, "data") => return Some(Self::ImageData(id)),
            (Kind::Machine, "console") => return Some(Self::Console(id)),
            _ => {}
        }
        let action = described
            .actions
            .iter()
            .find(|action| action.eq_ignore_ascii_case(third))?;
        Some(Self::Action(kind, id, action))
    }

    /// The type of the resources that it is about; none: of no resource.
    pub(crate) const fn kind(&self) -> Option<Kind> {
        match self {
            Self::EntryPoint => Some(Kind::CloudEntryPoint),
            Self::Collection(kind)
            | Self::Resource(kind, _)
            | Self::Action(kind, ..)
            | Self::OwnCollection(kind, ..)
            | Self::Member(kind, ..) => Some(*kind),
            Self::ImageData(_) => Some(Kind::MachineImage),
            Self::Console(_) => Some(Kind::Machine),
            _ => None,
        }
    }

    /// What this path names where the daemon is nothing but a Marketplace: that stands at the root, then, and there is no cloud.
    pub(crate) fn of_marketplace_alone(path: &'p str) -> Option<Self> {
        match Self::of(path) {
            Some(
                known @ (Self::Health
                | Self::Metrics
                | Self::Asset(_)
                | Self::Audit
                | Self::Marketplace(_)),
            ) => Some(known),
            _ => Place::of(path.strip_prefix('/')?).map(Self::Marketplace),
        }
    }

    /// What this path names where the daemon has nothing for users.
    pub(crate) fn of_hosts_alone(path: &'p str) -> Option<Self> {
        Self::of(path).filter(|known| matches!(known, Self::Health | Self::Metrics))
    }

    /// The methods that may be used on it, as for `Allow`.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            Self::EntryPoint => "GET, HEAD, OPTIONS",
            Self::Collection(kind) | Self::OwnCollection(_, _, _, kind) => {
                if matches!(describe(*kind).creation, Creation::Never) {
                    "GET, HEAD, OPTIONS"
                } else {
                    "GET, HEAD, POST, OPTIONS"
                }
            }
            Self::Resource(kind, _) => {
                if describe(*kind).actions.is_empty() {
                    "GET, HEAD, PUT, DELETE, OPTIONS"
                } else {
                    "GET, HEAD, PUT, DELETE, POST, OPTIONS"
                }
            }
            Self::Member(_, _, _, kind, _) => {
                if matches!(describe(*kind).creation, Creation::Never) {
                    "GET, HEAD, OPTIONS"
                } else {
                    "GET, HEAD, DELETE, OPTIONS"
                }
            }
            Self::Action(..) | Self::Doctor => "POST, OPTIONS",
            Self::HostTokens => "GET, HEAD, POST, OPTIONS",
            Self::HostToken(_) => "DELETE, OPTIONS",
            Self::Marketplace(place) => place.methods(),
            Self::ImageData(_) => "GET, HEAD, PUT, OPTIONS",
            Self::People(page) => page.methods(),
            Self::Console(_)
            | Self::Authentication
            | Self::Health
            | Self::Load
            | Self::Metrics
            | Self::OpenApi
            | Self::Status
            | Self::Catalogue
            | Self::Audit
            | Self::Quota
            | Self::Accounting
            | Self::Manual
            | Self::Asset(_) => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether a method may be used on it.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        self.methods()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }

    /// Which row of the metrics it belongs to: its position in [`TEMPLATES`].
    pub(crate) fn template(&self) -> usize {
        match self {
            Self::EntryPoint => 1,
            Self::Collection(_) => 2,
            Self::Resource(..) => 3,
            Self::Action(..) => 4,
            Self::OwnCollection(..) => 5,
            Self::Member(..) => 6,
            Self::ImageData(_) => 7,
            Self::Console(_) => 8,
            Self::Authentication => 9,
            Self::Health => 10,
            Self::Metrics => 11,
            Self::Status => 12,
            Self::Doctor => 13,
            Self::OpenApi => 14,
            Self::Audit => 15,
            Self::Quota => 16,
            Self::Accounting => 17,
            Self::Manual => 18,
            Self::Asset(_) => 19,
            Self::People(_) => 20,
            Self::Catalogue => 21,
            Self::Marketplace(_) => 22,
            Self::HostTokens => 23,
            Self::HostToken(_) => 24,
            Self::Load => 25,
        }
    }
}

/// A kind of path that the doors answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// With `{id}` for the part of a resource's id after its type, and `{member}` for that of a member.
    pub path: String,
    /// The kind of route, as metrics name it.
    pub template: &'static str,
    /// The type it belongs to.
    pub kind: Option<Kind>,
    /// What may be done with it, as in `Allow`.
    pub methods: &'static str,
}

/// All paths there are, for those who want to try each.
#[must_use]
pub fn all_routes() -> Vec<Listed> {
    let mut all = Vec::new();
    let mut list = |path: String, kind: Option<Kind>| {
        let example = path.replace("{id}", "7").replace("{member}", "8");
        if let Some(route) = Route::of(&example) {
            all.push(Listed {
                template: TEMPLATES.get(route.template()).copied().unwrap_or("none"),
                methods: route.methods(),
                path,
                kind,
            });
        }
    };
    for path in [
        "/cimi",
        "/cimi/authn",
        "/health",
        "/load.txt",
        "/metrics",
        "/stratus/status",
        "/stratus/doctor",
        "/api/openapi.json",
        "/stratus/audit",
        "/stratus/catalogue",
        "/stratus/quota",
        "/stratus/accounting",
        "/stratus/host-tokens",
        "/stratus/host-tokens/{id}",
        "/api",
    ] {
        list(path.to_owned(), None);
    }
    for path in Page::PATHS {
        list(path.to_owned(), None);
    }
    for asset in assets::ALL {
        list(asset.path(), None);
    }
    for path in Place::EXAMPLES {
        list(path.to_owned(), None);
    }
    let stored = |kind: &Kind| describe(*kind).collection.is_some();
    for kind in Kind::ALL.iter().copied().filter(stored) {
        let described = describe(kind);
        let resource = format!("/cimi/{kind}/{{id}}");
        list(format!("/cimi/{kind}"), Some(kind));
        list(resource.clone(), Some(kind));
        let own = described
            .attributes
            .iter()
            .filter(|attribute| described.own_collection(attribute.name).is_some());
        for attribute in own {
            list(format!("{resource}/{}", attribute.name), Some(kind));
            list(
                format!("{resource}/{}/{{member}}", attribute.name),
                Some(kind),
            );
        }
        for part in described.actions.iter().chain(&["data", "console"]) {
            list(format!("{resource}/{part}"), Some(kind));
        }
    }
    all
}

/// The routes as metrics name them; the first is every URL that names nothing.
pub(crate) const TEMPLATES: [&str; 26] = [
    "none",
    "/cimi",
    "/cimi/{type}",
    "/cimi/{type}/{id}",
    "/cimi/{type}/{id}/{action}",
    "/cimi/{type}/{id}/{collection}",
    "/cimi/{type}/{id}/{collection}/{id}",
    "/cimi/MachineImage/{id}/data",
    "/cimi/Machine/{id}/console",
    "/cimi/authn",
    "/health",
    "/metrics",
    "/stratus/status",
    "/stratus/doctor",
    "/api/openapi.json",
    "/stratus/audit",
    "/stratus/quota",
    "/stratus/accounting",
    "/api",
    "/assets/{name}",
    "/register/{page}",
    "/stratus/catalogue",
    "/marketplace",
    "/stratus/host-tokens",
    "/stratus/host-tokens/{id}",
    "/load.txt",
];

/// An id as it can be: what can't be one names nothing.
fn local(part: &str) -> Option<Cow<'_, str>> {
    let id = if part.contains('%') {
        percent_decode_str(part).decode_utf8().ok()?
    } else {
        Cow::Borrowed(part)
    };
    let valid = (1..=200).contains(&id.len())
        && !id.starts_with('.')
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.@:+=,~".contains(&b));
    valid.then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_name_what_the_table_has() {
        use Route::*;
        let id = || Cow::Borrowed("7");
        for (path, route) in [
            ("/", EntryPoint),
            ("/cimi", EntryPoint),
            ("/cimi/", EntryPoint),
            ("/cimi/CloudEntryPoint", EntryPoint),
            ("/cimi/Machine", Collection(Kind::Machine)),
            ("/cimi/Machine/", Collection(Kind::Machine)),
            ("/cimi/Machine/7", Resource(Kind::Machine, id())),
            ("/cimi/Machine/%37/", Resource(Kind::Machine, id())),
            (
                "/cimi/Machine/7/Start",
                Action(Kind::Machine, id(), "start"),
            ),
            (
                "/cimi/Machine/7/volumes",
                OwnCollection(Kind::Machine, id(), "volumes", Kind::MachineVolume),
            ),
            (
                "/cimi/Machine/7/volumes/7",
                Member(Kind::Machine, id(), "volumes", Kind::MachineVolume, id()),
            ),
            ("/cimi/MachineImage/7/data", ImageData(id())),
            ("/cimi/Machine/7/console", Console(id())),
            ("/cimi/authn", Authentication),
            ("/health", Health),
            ("/load.txt", Load),
            ("/metrics/", Metrics),
            ("/stratus/status", Status),
            ("/stratus/doctor", Doctor),
            ("/api/openapi.json", OpenApi),
            ("/stratus/audit", Audit),
            ("/cimi/login", People(Page::Login)),
            ("/register/", People(Page::Home)),
            ("/register/action/abc", People(Page::Action("abc"))),
            ("/stratus/catalogue", Catalogue),
            ("/stratus/quota", Quota),
            ("/stratus/accounting", Accounting),
            ("/stratus/host-tokens", HostTokens),
            ("/stratus/host-tokens/7/", HostToken(id())),
            ("/api/", Manual),
            ("/assets/stratus.css", Asset(&assets::STYLESHEET)),
            ("/marketplace/", Marketplace(Place::Home)),
            ("/marketplace//upload", Marketplace(Place::Upload)),
        ] {
            assert_eq!(Route::of(path), Some(route.clone()), "{path}");
            assert!(TEMPLATES.get(route.template()).is_some());
        }
    }

    #[test]
    fn other_urls_name_nothing() {
        for path in [
            "",
            "*",
            "//",
            "/cimi//",
            "/cimix",
            "/cimi/machine",
            "/cimi/Disk",
            "/cimi/MachineVolume/7",
            "/cimi/Machine//7",
            "/cimi/Machine/..",
            "/cimi/Machine/%2e%2e",
            "/cimi/Machine/%2F",
            "/cimi/Machine/%ff",
            "/cimi/Machine/7/nothing",
            "/cimi/Machine/7/data",
            "/cimi/Volume/7/start",
            "/cimi/Machine/7/start/now",
            "/cimi/Machine/7/volumes/8/9",
            "/cimi/CloudEntryPoint/7",
            "/cimi/authn/x",
            "/stratus",
            "/assets",
            "/assets/../stratus.css",
            "/marketplaces",
            "/marketplace/nothing",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn every_kind_of_route_is_listed() {
        let all = all_routes();
        for template in TEMPLATES.iter().skip(1) {
            assert!(
                all.iter().any(|listed| listed.template == *template),
                "{template}"
            );
        }
        let actions = |kind| describe(kind).actions.len();
        let listed = all
            .iter()
            .filter(|listed| listed.template == "/cimi/{type}/{id}/{action}");
        let there: usize = Kind::ALL.iter().copied().map(actions).sum();
        assert_eq!(listed.count(), there);
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "[/a-zA-Z0-9%.~é]{0,60}") {
            if let Some(route) = Route::of(&path) {
                prop_assert!(route.allows(&Method::OPTIONS));
            }
        }
    }
}
