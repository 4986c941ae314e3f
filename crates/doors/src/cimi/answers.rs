//! What goes back: representations in the form that was asked for, and where things are.

use bytes::Bytes;
use cimi::{
    model::{self, Kind, Representation, describe, xml},
    query::{Query, Select},
};
use cloud::{Created, Done, Page, Rel, View};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::{
    Asked, Cimi,
    conditions::{self, Tag},
    expand::Expansion,
    handlers::Answer,
    negotiation::Format,
};
use crate::body::ResponseBody;

impl Cimi {
    /// An answer that shows one resource in full.
    pub(crate) fn show(
        &self,
        status: StatusCode,
        view: &View,
        format: Format,
    ) -> Response<ResponseBody> {
        let bytes = self.represent(view, &Select::All, format);
        let tag = Tag::of(view, conditions::form(format, &()), &bytes);
        answer(status, bytes, format, tag)
    }

    /// One resource as a `GET` asks for it.
    pub(super) async fn resource(&self, view: &View, asked: &Asked<'_>, query: &Query) -> Answer {
        let format = asked.format;
        if let Some(expand) = &query.expand {
            let mut attributes = view.document.attributes(view.right);
            let mut expansion = Expansion::of(expand);
            self.expand(asked, view, &mut attributes, &mut expansion)
                .await;
            let bytes = written(view, &attributes, &query.select, format);
            let tag = Tag::of_bytes(&bytes, conditions::form(format, &()));
            return Ok(fresh(asked, bytes, tag));
        }
        let form = match &query.select {
            Select::All => conditions::form(format, &()),
            Select::Only(names) => conditions::form(format, names),
        };
        let bytes = self.represent(view, &query.select, format);
        let tag = Tag::of(view, form, &bytes);
        Ok(fresh(asked, bytes, tag))
    }

    /// Names what a view shows, as the first part of its tags does.
    pub(super) fn content(&self, view: &View) -> u64 {
        conditions::content(view).unwrap_or_else(|| {
            let bytes = self.represent(view, &Select::All, Format::Json);
            conditions::hashed(&bytes)
        })
    }

    pub(super) fn represent(&self, view: &View, select: &Select, format: Format) -> Bytes {
        self.rendered.represent(view, select, format)
    }

    /// A list as a `GET` asks for it.
    pub(super) async fn collection(
        &self,
        kind: Kind,
        id: &str,
        page: &Page,
        asked: &Asked<'_>,
        query: &Query,
    ) -> Answer {
        let format = asked.format;
        let form = match &query.select {
            Select::All => conditions::form(format, &id),
            Select::Only(names) => conditions::form(format, &(id, names)),
        };
        let known = match query.expand {
            None => Tag::of_page(page, form),
            Some(_) => None,
        };
        if let Some(tag) = known
            && tag.is_known(asked.headers)
        {
            return Ok(not_modified(tag));
        }
        let mut members: Vec<Bytes> = Vec::with_capacity(page.members.len());
        match &query.expand {
            None => members.extend(
                page.members
                    .iter()
                    .map(|view| self.represent(view, &query.select, format)),
            ),
            Some(expand) => {
                let mut expansion = Expansion::of(expand);
                for view in &page.members {
                    let mut attributes = view.document.attributes(view.right);
                    self.expand(asked, view, &mut attributes, &mut expansion)
                        .await;
                    members.push(written(view, &attributes, &query.select, format));
                }
            }
        }
        let size: usize = members.iter().map(|bytes| bytes.len() + 1).sum();
        let mut out = Vec::with_capacity(size + 400);
        let slices = members.iter().map(AsRef::as_ref);
        let (count, can_add) = (page.count, page.can_add);
        match format {
            Format::Json => model::render_collection(kind, id, count, slices, can_add, &mut out),
            Format::Xml => xml::render_collection(kind, id, count, slices, can_add, &mut out),
        }
        let bytes = Bytes::from(out);
        let tag = known.unwrap_or_else(|| Tag::of_bytes(&bytes, form));
        Ok(fresh(asked, bytes, tag))
    }

    /// The CloudEntryPoint: what the cloud knows of it, `baseURI`, and a link to every collection
    /// that the caller may use.
    pub(super) async fn entry_point(&self, asked: &Asked<'_>, query: &Query) -> Answer {
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
        if let Some(expand) = &query.expand {
            let mut expansion = Expansion::of(expand);
            self.expand(asked, &view, &mut attributes, &mut expansion)
                .await;
        }
        let bytes = written(&view, &attributes, &query.select, asked.format);
        let tag = Tag::of_bytes(&bytes, conditions::form(asked.format, &()));
        Ok(fresh(asked, bytes, tag))
    }

    pub(super) fn edited(&self, done: &Done, asked: &Asked<'_>) -> Answer {
        let mut response = match (&done.view, &done.job) {
            (Some(view), None) => self.show(StatusCode::OK, view, asked.format),
            (Some(view), Some(_)) => self.show(StatusCode::ACCEPTED, view, asked.format),
            (None, Some(_)) => empty(StatusCode::ACCEPTED),
            (None, None) => empty(StatusCode::NO_CONTENT),
        };
        point_to_job(done.job.as_deref(), asked, &mut response);
        Ok(response)
    }

    pub(super) fn created(&self, created: &Created, asked: &Asked<'_>) -> Answer {
        let status = if created.existed {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        let mut response = self.show(status, &created.view, asked.format);
        let location = format!("{}{}", (asked.base_uri)(), created.view.id);
        insert(&mut response, header::LOCATION, &location);
        point_to_job(created.job.as_deref(), asked, &mut response);
        Ok(response)
    }
}

/// A view with these attributes.
pub(super) fn written(
    view: &View,
    attributes: &Map<String, Value>,
    select: &Select,
    format: Format,
) -> Bytes {
    let operations: Vec<(String, String)> = view
        .document
        .operations(view.right)
        .into_iter()
        .map(|rel| match rel {
            Rel::Add => ("add".to_owned(), view.id.to_string()),
            Rel::Edit => ("edit".to_owned(), view.id.to_string()),
            Rel::Delete => ("delete".to_owned(), view.id.to_string()),
            Rel::Capture => ("capture".to_owned(), "MachineImage".to_owned()),
            Rel::Action(name) => (name.to_owned(), format!("{}/{name}", view.id)),
        })
        .collect();
    if cfg!(debug_assertions) {
        for name in model::strangers(view.kind, attributes) {
            tracing::error!(kind = %view.kind, name, "this attribute is not in the table");
        }
    }
    let representation = Representation {
        kind: view.kind,
        id: &view.id,
        attributes,
        select,
        operations: &operations,
    };
    let mut out = Vec::with_capacity(1024);
    match format {
        Format::Json => model::render(&representation, &mut out),
        Format::Xml => xml::render(&representation, &mut out),
    }
    out.into()
}

/// A representation for who asked to read it; nothing if it is the one they have.
fn fresh(asked: &Asked<'_>, bytes: Bytes, tag: Tag) -> Response<ResponseBody> {
    if tag.is_known(asked.headers) {
        not_modified(tag)
    } else {
        answer(StatusCode::OK, bytes, asked.format, tag)
    }
}

fn answer(status: StatusCode, bytes: Bytes, format: Format, tag: Tag) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(bytes));
    *response.status_mut() = status;
    // Room for those that every answer gets, so that the map needn't grow.
    *response.headers_mut() = HeaderMap::with_capacity(12);
    let media = HeaderValue::from_static(match format {
        Format::Json => "application/json",
        Format::Xml => "application/xml",
    });
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    remember(&mut response, tag);
    response
}

fn not_modified(tag: Tag) -> Response<ResponseBody> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    remember(&mut response, tag);
    response
}

/// How an answer may be kept: asked for again each time it is used.
fn remember(response: &mut Response<ResponseBody>, tag: Tag) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Some(tag) = tag.header() {
        headers.insert(header::ETAG, tag);
    }
}

pub(super) fn deleted(done: &Done, asked: &Asked<'_>) -> Response<ResponseBody> {
    let mut response = empty(if done.job.is_some() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::NO_CONTENT
    });
    point_to_job(done.job.as_deref(), asked, &mut response);
    response
}

pub(super) fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

pub(super) fn point_to_job(
    job: Option<&str>,
    asked: &Asked<'_>,
    response: &mut Response<ResponseBody>,
) {
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
