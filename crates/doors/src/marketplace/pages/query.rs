//! The page to ask what lists can't answer.

use askama::Template;
use http::{Response, StatusCode};
use marketplace_query::{Table, Value};

use super::Pages;
use crate::{
    body::ResponseBody,
    pages::{Page, html},
    problem::Problem,
};

/// What names of entries begin with; the rest is their path below `metadata`.
const SUBJECT: &str = "http://mp.stratuslab.eu/#";

/// A query to begin with.
const EXAMPLE: &str = "SELECT ?identifier ?title ?created WHERE {
  ?image dcterms:identifier ?identifier ;
         slterms:tag \"latest\" ;
         slreq:endorsement [ dcterms:created ?created ] .
  OPTIONAL { ?image dcterms:title ?title }
  FILTER NOT EXISTS { ?image slterms:deprecated ?reason }
}
ORDER BY DESC(?created)
LIMIT 25";

#[derive(Template)]
#[template(path = "marketplace/query.html")]
struct QueryPage {
    page: Page,
    root: &'static str,
    query: String,
    error: Option<String>,
    answer: Option<Answer>,
}

/// An answer as it is shown.
struct Answer {
    variables: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A value; where it leads, if it is an entry or an identifier.
struct Cell {
    text: String,
    href: Option<String>,
}

impl Pages<'_> {
    /// The form with a query, and what came of it.
    pub(crate) fn query(
        &self,
        query: &str,
        answer: Option<Result<&Table, Problem>>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (status, error, answer) = match answer {
            None => (StatusCode::OK, None, None),
            Some(Ok(table)) => (StatusCode::OK, None, Some(self.shown(table))),
            Some(Err(problem)) if problem.internal_text().is_some() => return Err(problem),
            Some(Err(problem)) => (problem.status(), Some(problem.detail().to_owned()), None),
        };
        html(
            status,
            &QueryPage {
                page: self.page("Query", "query"),
                root: self.root,
                query: if query.is_empty() { EXAMPLE } else { query }.to_owned(),
                error,
                answer,
            },
        )
    }

    fn shown(&self, table: &Table) -> Answer {
        let cell = |value: &Option<Value>| {
            let text = value.as_ref().map_or("", Value::text).to_owned();
            let path = match value {
                Some(Value::Iri(name)) => name.strip_prefix(SUBJECT),
                Some(Value::Literal(text)) => {
                    Some(text.as_str()).filter(|text| is_identifier(text))
                }
                _ => None,
            };
            // Whatever became of it.
            let href = path.map(|path| format!("{}/metadata/{path}?status=all", self.root));
            Cell { text, href }
        };
        let rows = table.rows.iter();
        Answer {
            variables: table.variables.clone(),
            rows: rows.map(|row| row.iter().map(cell).collect()).collect(),
        }
    }
}

fn is_identifier(text: &str) -> bool {
    text.parse::<marketplace::ImageIdentifier>().is_ok()
}
