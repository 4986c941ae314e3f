//! Requests on CIMI resources, after authentication, as calls of the cloud.

use std::sync::Arc;

use cimi::{
    model::{self, Kind, describe, xml::Expected},
    query::Query,
    uri,
};
use cloud::{OpContext, Unchanged, View};
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

use super::{
    answers::{deleted, empty, point_to_job},
    conditions, fixed,
    negotiation::{Format, Parameters},
    rendered::Rendered,
    sent,
};
use crate::{body::ResponseBody, cloud_api::CloudApi, problem::Problem, routes::Route};

/// What the answering machinery has of a request.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'r> {
    pub(crate) context: &'r OpContext,
    pub(crate) method: &'r Method,
    pub(crate) headers: &'r HeaderMap,
    pub(crate) parameters: &'r Parameters<'r>,
    /// In which form the answer is wanted.
    pub(crate) format: Format,
    /// `https://HOST:PORT/cimi/`; made only when it is needed.
    pub(crate) base_uri: &'r (dyn Fn() -> String + Send + Sync),
    pub(crate) body: &'r [u8],
}

impl Asked<'_> {
    fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    pub(super) fn query(&self) -> Result<Query, Problem> {
        if self.parameters.is_empty() {
            return Ok(Query::default());
        }
        let pairs = self
            .parameters
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()));
        Query::from_parameters(pairs).map_err(|error| Problem::new(400, error.to_string()))
    }

    /// What is asked of a list of such resources.
    pub(super) fn query_of(&self, kind: Kind) -> Result<Query, Problem> {
        let query = self.query()?;
        model::check_query(kind, &query)?;
        Ok(query)
    }

    /// What is asked of one such resource: lists alone are filtered and sorted.
    fn query_of_one(&self, kind: Kind) -> Result<Query, Problem> {
        let query = Query {
            filter: None,
            order: Vec::new(),
            ..self.query()?
        };
        model::check_query(kind, &query)?;
        Ok(query)
    }

    fn sent(&self, expected: Expected) -> Result<Value, Problem> {
        sent::read(self.headers, self.body, expected)
    }
}

pub(super) type Answer = Result<Response<ResponseBody>, Problem>;

/// The CIMI door.
pub(crate) struct Cimi {
    pub(super) api: Arc<dyn CloudApi>,
    pub(super) rendered: Arc<Rendered>,
}

impl Cimi {
    /// In front of `api`; keeps about `cache_bytes` of rendered representations.
    pub(crate) fn new(api: Arc<dyn CloudApi>, cache_bytes: usize) -> Self {
        Self {
            api,
            rendered: Arc::new(Rendered::new(cache_bytes)),
        }
    }

    /// Answers a request whose method is one of the route's.
    pub(crate) async fn answer(&self, route: &Route<'_>, asked: &Asked<'_>) -> Answer {
        if asked.is_read() {
            return self.read(route, asked).await;
        }
        if !conditions::are_there(asked.headers) {
            return self.change(route, asked).await;
        }
        let mut context = asked.context.clone();
        context.unchanged = self.unchanged(route, asked).await?;
        let asked = Asked {
            context: &context,
            ..*asked
        };
        self.change(route, &asked).await
    }

    async fn read(&self, route: &Route<'_>, asked: &Asked<'_>) -> Answer {
        match route {
            Route::EntryPoint => {
                let query = asked.query_of_one(Kind::CloudEntryPoint)?;
                self.entry_point(asked, &query).await
            }
            Route::Collection(kind) => {
                let query = asked.query_of(*kind)?;
                let page = self.api.list(asked.context, *kind, &query).await?;
                self.collection(*kind, kind.name(), &page, asked, &query)
                    .await
            }
            Route::OwnCollection(parent, id, name, members) => {
                let query = asked.query_of(*members)?;
                let page = self
                    .api
                    .list_members(asked.context, *parent, id, name, &query)
                    .await?;
                let id = format!("{parent}/{id}/{name}");
                self.collection(*members, &id, &page, asked, &query).await
            }
            _ => match self.target(route, asked.context).await? {
                Some(view) => {
                    let query = asked.query_of_one(view.kind)?;
                    self.resource(&view, asked, &query).await
                }
                None => Err(Problem::internal("not a route of CIMI".to_owned())),
            },
        }
    }

    /// The one resource that a route leads to.
    async fn target(
        &self,
        route: &Route<'_>,
        context: &OpContext,
    ) -> Result<Option<View>, Problem> {
        Ok(match route {
            Route::Resource(kind, id) | Route::Action(kind, id, _) => {
                Some(self.api.get(context, *kind, id).await?)
            }
            Route::Member(parent, id, name, _, member) => {
                let found = self.api.get_member(context, *parent, id, name, member);
                Some(found.await?)
            }
            _ => None,
        })
    }

    /// What the conditions of a request that changes a resource say of it, if they hold. A member of a resource's own
    /// collection is changed by changing the resource: its tag counts, too, and nobody else may change it meanwhile.
    async fn unchanged(
        &self,
        route: &Route<'_>,
        asked: &Asked<'_>,
    ) -> Result<Option<Unchanged>, Problem> {
        let target = self.target(route, asked.context).await?;
        let owner = match route {
            Route::Member(parent, id, ..) => Some((parent, id)),
            Route::OwnCollection(parent, id, ..) if conditions::name_a_state(asked.headers) => {
                Some((parent, id))
            }
            _ => None,
        };
        let view = match (target, owner) {
            (None, None) => return Ok(None),
            (Some(target), None) => {
                conditions::allow(asked.headers, self.content(&target))?;
                target
            }
            (member, Some((parent, id))) => {
                let owner = self.api.get(asked.context, *parent, id).await?;
                let by_owner = conditions::allow(asked.headers, self.content(&owner));
                match (by_owner, member) {
                    (Err(_), Some(member)) => {
                        conditions::allow(asked.headers, self.content(&member))?;
                    }
                    (by_owner, _) => by_owner?,
                }
                owner
            }
        };
        Ok(match view.document.attribute("updated") {
            Some(::cimi::query::Scalar::Time(updated)) => Some(Unchanged {
                id: view.id,
                updated,
            }),
            _ => None,
        })
    }

    async fn change(&self, route: &Route<'_>, asked: &Asked<'_>) -> Answer {
        match route {
            Route::Collection(kind) => {
                let body = model::check(*kind, &asked.sent(Expected::Creation(*kind))?)?;
                let created = self.api.create(asked.context, *kind, body).await?;
                self.created(&created, asked)
            }
            Route::Resource(kind, id) => match *asked.method {
                Method::PUT => self.edit(*kind, id, asked).await,
                Method::DELETE => {
                    let done = self.api.delete(asked.context, *kind, id).await?;
                    Ok(deleted(&done, asked))
                }
                _ => self.act_by_body(*kind, id, asked).await,
            },
            Route::Action(kind, id, action) => {
                let body = asked.sent(Expected::Action)?;
                self.act(*kind, id, action, &body, asked).await
            }
            Route::OwnCollection(parent, id, name, members) => {
                let body = model::check(*members, &asked.sent(Expected::Creation(*members))?)?;
                let created = self
                    .api
                    .add_member(asked.context, *parent, id, name, body)
                    .await?;
                self.created(&created, asked)
            }
            Route::Member(parent, id, name, _, member) => {
                let done = self
                    .api
                    .delete_member(asked.context, *parent, id, name, member)
                    .await?;
                Ok(deleted(&done, asked))
            }
            _ => Err(Problem::internal("not a route of CIMI".to_owned())),
        }
    }

    async fn edit(&self, kind: Kind, id: &str, asked: &Asked<'_>) -> Answer {
        let select = asked.query()?.select;
        let body = asked.sent(Expected::Change(kind))?;
        let changes = model::check_changes(kind, &body, &select)?;
        let fixed = fixed::named(kind, &body, &select);
        if !fixed.is_empty() {
            let shown = self.api.get(asked.context, kind, id).await?;
            let shown = shown.document.attributes(shown.right);
            let differing = fixed::differing(kind, &fixed, &shown);
            if !differing.is_empty() {
                return Err(differing.into());
            }
        }
        let done = self.api.edit(asked.context, kind, id, changes).await?;
        self.edited(&done, asked)
    }

    async fn act(
        &self,
        kind: Kind,
        id: &str,
        action: &str,
        body: &Value,
        asked: &Asked<'_>,
    ) -> Answer {
        let body = model::check_action(action, body)?;
        let done = self.api.act(asked.context, kind, id, action, body).await?;
        let mut response = empty(if done.job.is_some() {
            StatusCode::ACCEPTED
        } else {
            StatusCode::NO_CONTENT
        });
        point_to_job(done.job.as_deref(), asked, &mut response);
        Ok(response)
    }

    /// An Action sent to the resource itself: the body alone says which.
    async fn act_by_body(&self, kind: Kind, id: &str, asked: &Asked<'_>) -> Answer {
        let body = asked.sent(Expected::Action)?;
        let Some(Value::String(named)) = body.get("action") else {
            let text = "`action` is missing; the body of a POST to a resource is an Action";
            return Err(Problem::new(400, text));
        };
        let name = uri::action_name(named);
        let known = describe(kind).actions;
        let Some(action) = known.iter().find(|known| **known == name) else {
            let shown: String = named.chars().take(100).collect();
            if uri::NOT_OFFERED_ACTIONS.contains(&name.as_str()) {
                let text = format!("`{shown}` is not implemented: this cloud doesn't offer it");
                return Err(Problem::new(501, text));
            }
            return Err(Problem::new(
                400,
                format!(
                    "there is no action `{shown}`; a {kind} has {}",
                    known.join(", ")
                ),
            ));
        };
        self.act(kind, id, action, &body, asked).await
    }
}
