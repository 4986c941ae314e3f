//! Requests on CIMI resources, after authentication, as calls of the cloud.

use std::sync::Arc;

use bytes::Bytes;
use cimi::{
    model::{self, Kind, Representation, describe},
    query::{Query, Select},
    uri,
};
use cloud::{Created, Done, OpContext, Page, Rel, View};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::{
    negotiation::{Parameters, json_body},
    rendered::Rendered,
};
use crate::{body::ResponseBody, cloud_api::CloudApi, problem::Problem, routes::Route};

/// What the answering machinery has of a request.
pub(crate) struct Asked<'r> {
    pub(crate) context: &'r OpContext,
    pub(crate) method: &'r Method,
    pub(crate) headers: &'r HeaderMap,
    pub(crate) parameters: &'r Parameters<'r>,
    /// `https://HOST:PORT/cimi/`; made only when it is needed.
    pub(crate) base_uri: &'r (dyn Fn() -> String + Send + Sync),
    pub(crate) body: &'r [u8],
}

impl Asked<'_> {
    fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    fn query(&self) -> Result<Query, Problem> {
        if self.parameters.is_empty() {
            return Ok(Query::default());
        }
        let pairs = self
            .parameters
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()));
        Query::from_parameters(pairs).map_err(|error| Problem::new(400, error.to_string()))
    }

    fn json(&self) -> Result<Value, Problem> {
        json_body(self.headers, self.body)
    }
}

type Answer = Result<Response<ResponseBody>, Problem>;

/// The CIMI door.
pub(crate) struct Cimi {
    api: Arc<dyn CloudApi>,
    rendered: Rendered,
}

impl Cimi {
    /// In front of `api`; keeps about `cache_bytes` of rendered representations.
    pub(crate) fn new(api: Arc<dyn CloudApi>, cache_bytes: usize) -> Self {
        Self {
            api,
            rendered: Rendered::new(cache_bytes),
        }
    }

    /// Answers a request whose method is one of the route's.
    pub(crate) async fn answer(&self, route: &Route<'_>, asked: &Asked<'_>) -> Answer {
        match route {
            Route::Resource(kind, id) if asked.is_read() => {
                let view = self.api.get(asked.context, *kind, id).await?;
                self.show(StatusCode::OK, &view, &asked.query()?.select)
            }
            Route::EntryPoint if asked.is_read() => self.entry_point(asked).await,
            Route::Collection(kind) if asked.is_read() => {
                let query = asked.query()?;
                let page = self.api.list(asked.context, *kind, &query).await?;
                Ok(self.collection(*kind, kind.name(), &page, &query.select))
            }
            Route::Collection(kind) => {
                let body = model::check(*kind, &asked.json()?)?;
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
                self.act(*kind, id, action, &asked.json()?, asked).await
            }
            Route::OwnCollection(parent, id, name, members) if asked.is_read() => {
                let query = asked.query()?;
                let page = self
                    .api
                    .list_members(asked.context, *parent, id, name, &query)
                    .await?;
                let id = format!("{parent}/{id}/{name}");
                Ok(self.collection(*members, &id, &page, &query.select))
            }
            Route::OwnCollection(parent, id, name, members) => {
                let body = model::check(*members, &asked.json()?)?;
                let created = self
                    .api
                    .add_member(asked.context, *parent, id, name, body)
                    .await?;
                self.created(&created, asked)
            }
            Route::Member(parent, id, name, _, member) if asked.is_read() => {
                let view = self
                    .api
                    .get_member(asked.context, *parent, id, name, member)
                    .await?;
                self.show(StatusCode::OK, &view, &asked.query()?.select)
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

    /// An answer that shows one resource.
    pub(crate) fn show(&self, status: StatusCode, view: &View, select: &Select) -> Answer {
        Ok(json_bytes(status, self.represent(view, select)))
    }

    fn represent(&self, view: &View, select: &Select) -> Bytes {
        let whole = *select == Select::All;
        if whole && let Some(bytes) = self.rendered.get(view) {
            return bytes;
        }
        let attributes = view.document.attributes(view.right);
        let bytes = written(view, &attributes, select);
        if whole {
            self.rendered.insert(view, &bytes);
        }
        bytes
    }

    fn collection(
        &self,
        kind: Kind,
        id: &str,
        page: &Page,
        select: &Select,
    ) -> Response<ResponseBody> {
        let members: Vec<Bytes> = page
            .members
            .iter()
            .map(|view| self.represent(view, select))
            .collect();
        let size: usize = members.iter().map(|bytes| bytes.len() + 1).sum();
        let mut out = Vec::with_capacity(size + 400);
        let slices = members.iter().map(AsRef::as_ref);
        model::render_collection(kind, id, page.count, slices, page.can_add, &mut out);
        json_bytes(StatusCode::OK, out.into())
    }

    /// The CloudEntryPoint: what the cloud knows of it, `baseURI`, and a link to every collection
    /// that the caller may use.
    async fn entry_point(&self, asked: &Asked<'_>) -> Answer {
        let view = self
            .api
            .get(asked.context, Kind::CloudEntryPoint, "")
            .await?;
        let mut attributes = view.document.attributes(view.right);
        attributes.insert("baseURI".to_owned(), (asked.base_uri)().into());
        for kind in Kind::ALL {
            if let Some(collection) = describe(*kind).collection
                && self.api.can_list(asked.context, *kind)
            {
                let link = serde_json::json!({"href": kind.name()});
                attributes.insert(collection.entry_point.to_owned(), link);
            }
        }
        let select = asked.query()?.select;
        Ok(json_bytes(
            StatusCode::OK,
            written(&view, &attributes, &select),
        ))
    }

    async fn edit(&self, kind: Kind, id: &str, asked: &Asked<'_>) -> Answer {
        let select = asked.query()?.select;
        let changes = model::check_changes(kind, &asked.json()?, &select)?;
        let done = self.api.edit(asked.context, kind, id, changes).await?;
        let status = if done.job.is_some() {
            StatusCode::ACCEPTED
        } else {
            StatusCode::OK
        };
        let bytes = done
            .view
            .as_ref()
            .map(|view| self.represent(view, &Select::All));
        let mut response = match bytes {
            Some(bytes) => json_bytes(status, bytes),
            None if done.job.is_some() => empty(StatusCode::ACCEPTED),
            None => empty(StatusCode::NO_CONTENT),
        };
        point_to_job(done.job.as_deref(), asked, &mut response);
        Ok(response)
    }

    fn created(&self, created: &Created, asked: &Asked<'_>) -> Answer {
        let status = if created.existed {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let mut response = self.show(status, &created.view, &Select::All)?;
        let location = format!("{}{}", (asked.base_uri)(), created.view.id);
        insert(&mut response, header::LOCATION, &location);
        point_to_job(created.job.as_deref(), asked, &mut response);
        Ok(response)
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
        let body = asked.json()?;
        let Some(Value::String(named)) = body.get("action") else {
            let text = "`action` is missing; the body of a POST to a resource is an Action";
            return Err(Problem::new(400, text));
        };
        let name = uri::action_name(named);
        let known = describe(kind).actions;
        let Some(action) = known.iter().find(|known| **known == name) else {
            let shown: String = named.chars().take(100).collect();
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

/// The JSON form of a view with these attributes.
fn written(view: &View, attributes: &Map<String, Value>, select: &Select) -> Bytes {
    let operations: Vec<(String, String)> = view
        .document
        .operations(view.right)
        .into_iter()
        .map(|rel| match rel {
            Rel::Add => ("add".to_owned(), view.id.to_string()),
            Rel::Edit => ("edit".to_owned(), view.id.to_string()),
            Rel::Delete => ("delete".to_owned(), view.id.to_string()),
            Rel::Action(name) => (name.to_owned(), format!("{}/{name}", view.id)),
        })
        .collect();
    if cfg!(debug_assertions) {
        for name in model::strangers(view.kind, attributes) {
            tracing::error!(kind = %view.kind, name, "this attribute is not in the table");
        }
    }
    let mut out = Vec::with_capacity(1024);
    model::render(
        &Representation {
            kind: view.kind,
            id: &view.id,
            attributes,
            select,
            operations: &operations,
        },
        &mut out,
    );
    out.into()
}

fn deleted(done: &Done, asked: &Asked<'_>) -> Response<ResponseBody> {
    let mut response = empty(if done.job.is_some() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::NO_CONTENT
    });
    point_to_job(done.job.as_deref(), asked, &mut response);
    response
}

fn json_bytes(status: StatusCode, bytes: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn point_to_job(job: Option<&str>, asked: &Asked<'_>, response: &mut Response<ResponseBody>) {
    if let Some(job) = job {
        let location = format!("{}{job}", (asked.base_uri)());
        insert(response, HeaderName::from_static("cimi-job-uri"), &location);
    }
}

fn insert(response: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    // Ids and hosts have been checked: they hold nothing that a header can't.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
