//! Who may go on to which route.

use std::sync::Arc;

use ::cimi::model::Kind;
use accounts::{ByToken, Identity};
use http::{HeaderMap, Method};

use super::{Doors, Exchange, Serving};
use crate::{auth, people, problem::Problem, routes::Route};

impl Doors {
    /// Whether this caller may go on to the route at all: the CloudEntryPoint, the health and the load are
    /// for everybody, the rest for those we know.
    pub(super) fn admit(
        &self,
        route: Option<&Route<'_>>,
        identity: Option<&Arc<Identity>>,
        exchange: &Exchange<'_>,
    ) -> Result<(), Problem> {
        let head = exchange.head;
        let reads = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !reads && is_cross_site(&head.headers) {
            return Err(Problem::new(
                403,
                "requests that change something are not taken from another site's pages",
            ));
        }
        let by_cookie = identity.is_some_and(|identity| identity.session.is_some());
        let is_page = matches!(route, Some(Route::People(_)));
        if !reads && (by_cookie || is_page) {
            let origin = exchange.origin();
            let is_ours = if by_cookie {
                people::is_same_origin(&head.method, &head.headers, &origin)
            } else {
                !people::is_from_elsewhere(&head.headers, &origin)
            };
            if !is_ours {
                return Err(Problem::new(
                    403,
                    "with a session, what changes something has to come from a page of this cloud: a program sends \
                     its content as application/json or application/xml, or logs in by HTTP Basic or a token",
                ));
            }
        }
        let may_only_look = identity
            .and_then(|identity| identity.token.as_ref())
            .is_some_and(|token| token.is_read_only);
        if may_only_look && !reads {
            return Err(Problem::new(
                403,
                "nothing can be changed with a token that is for reading only",
            ));
        }
        if let Some(token) = identity.and_then(|identity| identity.token.as_ref())
            && let Some(route) = route
            && !is_for(token, route)
        {
            return Err(Problem::new(403, token.refusal(head.uri.path())));
        }
        let known = identity.is_some();
        let admitted = match route {
            Some(Route::EntryPoint) => known || reads,
            // Messages of the operators are for everybody.
            Some(
                Route::Collection(Kind::ServiceMessage) | Route::Resource(Kind::ServiceMessage, _),
            ) => known || reads,
            Some(Route::Health | Route::Load | Route::People(_)) => true,
            Some(Route::OpenApi | Route::Manual | Route::Authentication | Route::Asset(_)) => {
                known || reads
            }
            // Of public images; of others the rules say that there is none.
            Some(Route::ImageData(_)) => known || (reads && self.settings.public_data),
            // What signatures and letters are for.
            Some(Route::Marketplace(_)) => true,
            // Nobody can log in to what isn't there.
            None if self.serving != Serving::Cloud => true,
            Some(Route::Metrics) => {
                let open = self.settings.metrics_open_to_loopback
                    && exchange.connection.client(&head.headers).is_loopback();
                if known && !open && !identity.is_some_and(|identity| identity.is_admin()) {
                    let text = "the metrics are for administrators";
                    return Err(Problem::new(403, text));
                }
                known || open
            }
            _ => known,
        };
        if admitted {
            return Ok(());
        }
        let text = exchange.refused.get().cloned().unwrap_or_else(|| {
            "log in first: send user name and password by HTTP Basic, or a token as Bearer"
                .to_owned()
        });
        Err(auth::unauthorized(&head.headers, text))
    }
}

/// Whether a token is for a route: for resources of its types, and for what is everybody's.
fn is_for(token: &ByToken, route: &Route<'_>) -> bool {
    match route {
        Route::Asset(_)
        | Route::Authentication
        | Route::Health
        | Route::Load
        | Route::Manual
        | Route::Marketplace(_)
        | Route::OpenApi => true,
        _ => route
            .kind()
            .map_or(!token.is_narrow(), |kind| token.is_for(kind)),
    }
}

/// Whether a browser says that the page of another site makes it send this. (Browsers attach Basic
/// credentials by themselves.)
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site" || site == "same-site")
}
