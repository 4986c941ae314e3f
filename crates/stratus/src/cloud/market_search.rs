//! What Marketplaces find: the table of DataTables 1.x, which StratusLab's answer, or the list with names, which Stratus's do.

use serde::Serialize;
use serde_json::Value;

/// What is looked for in a Marketplace.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Words that all occur, anywhere.
    pub words: Vec<String>,
    /// Part of the operating system's name.
    pub os: Option<String>,
    /// Part of the architecture.
    pub arch: Option<String>,
    /// Part of the endorser's address.
    pub endorser: Option<String>,
    /// Also what is deprecated or past its end.
    pub all: bool,
    /// At most so many.
    pub limit: usize,
}

impl Search {
    /// The parameters, for both kinds of Marketplaces: each leaves alone what it doesn't know.
    #[must_use]
    pub fn parameters(&self) -> String {
        let words = self.words.join(" ");
        let limit = self.limit.to_string();
        let pairs = [
            ("status", Some(if self.all { "all" } else { "valid" })),
            ("sSearch", Some(&*words)),
            ("sSearch_1", self.os.as_deref()),
            ("sSearch_3", self.arch.as_deref()),
            ("sSearch_4", self.endorser.as_deref()),
            ("sEcho", Some("1")),
            ("iDisplayStart", Some("0")),
            ("iDisplayLength", Some(&*limit)),
            ("iSortCol_0", Some("6")),
            ("sSortDir_0", Some("desc")),
            ("limit", Some(&*limit)),
        ];
        let pair = |(name, value): (&str, Option<&str>)| {
            let value = value.filter(|value| !value.is_empty())?;
            let value =
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            Some(format!("{name}={value}"))
        };
        pairs
            .into_iter()
            .filter_map(pair)
            .collect::<Vec<_>>()
            .join("&")
    }
}

/// An image as a Marketplace lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the elements of a description of these names")]
pub struct Found {
    pub identifier: String,
    pub title: Option<String>,
    pub description: Option<String>,
    pub os: Option<String>,
    pub os_version: Option<String>,
    pub os_arch: Option<String>,
    pub kind: Option<String>,
    /// Address of the endorser.
    pub endorser: String,
    /// When it was endorsed.
    pub created: String,
    /// Until when it may be started; Marketplaces of StratusLab don't list it.
    pub valid: Option<String>,
    /// Why it should not be started any more.
    pub deprecated: Option<String>,
    pub bytes: Option<u64>,
    pub locations: Vec<String>,
}

/// What was found, and how many there are altogether; `None` if it is neither of the two forms. Rows that can't be read count as
/// not there.
#[must_use]
pub fn parse(answer: &[u8], limit: usize) -> Option<(Vec<Found>, u64)> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    let (rows, count, read): (_, _, fn(&Value) -> Option<Found>) =
        if let Some(rows) = value.get("entries") {
            (rows, "count", named)
        } else {
            (value.get("aaData")?, "iTotalDisplayRecords", listed)
        };
    let rows = rows.as_array()?;
    let found: Vec<_> = rows.iter().take(limit).filter_map(read).collect();
    let unreadable = rows.len().min(limit) - found.len();
    let count = value
        .get(count)
        .and_then(Value::as_u64)
        .unwrap_or(rows.len() as u64);
    Some((found, count.saturating_sub(unreadable as u64)))
}

fn named(row: &Value) -> Option<Found> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    let locations = row.get("locations").and_then(Value::as_array);
    Some(Found {
        identifier: identifier(text("identifier")?)?,
        title: text("title"),
        description: text("description"),
        os: text("os"),
        os_version: text("osVersion"),
        os_arch: text("osArch"),
        kind: text("kind"),
        endorser: text("email")?,
        created: text("created")?,
        valid: text("valid"),
        deprecated: text("deprecated"),
        bytes: row.get("bytes").and_then(Value::as_u64),
        locations: locations
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    })
}

/// A row of eleven texts, where `null` stands for nothing.
fn listed(row: &Value) -> Option<Found> {
    let text = |column: usize| {
        let text = row.get(column)?.as_str()?;
        (!text.is_empty() && text != "null").then(|| text.to_owned())
    };
    Some(Found {
        os: text(1),
        os_version: text(2),
        os_arch: text(3),
        endorser: text(4)?,
        kind: text(5),
        created: text(6)?,
        identifier: identifier(text(7)?)?,
        locations: text(8).into_iter().collect(),
        description: text(9),
        title: text(10),
        ..Found::default()
    })
}

/// What is started by being copied from the screen is an identifier, and nothing else.
fn identifier(text: String) -> Option<String> {
    super::is_image_identifier(&text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nonsense_is_not() {
        let table = br#"{"sEcho":1,"iTotalRecords":9,"iTotalDisplayRecords":3,"rMsg":"","aaData":[
            ["","debian","12","x86_64","a@example.org","machine","2030-01-15T08:05:00Z","MMZu9WvwKIro-rtBQfDk4PsKO7_","null","A base","Debian"],
            ["","debian","12","x86_64","a@example.org","machine","2030-01-15T08:05:00Z","; rm -rf /","null","A base","Debian"],
            ["short"]]}"#;
        let (found, count) = parse(table, 10).unwrap();
        assert_eq!((found.len(), count), (1, 1));
        assert_eq!(found[0].title.as_deref(), Some("Debian"));
        assert!(found[0].locations.is_empty());
        let list = br#"{"count":1,"offset":0,"limit":10,"entries":[{"identifier":"MMZu9WvwKIro-rtBQfDk4PsKO7_",
            "email":"a@example.org","created":"2030-01-15T08:05:00Z","bytes":5,"locations":["https://x/y"],"deprecated":"old"}]}"#;
        let (found, count) = parse(list, 10).unwrap();
        assert_eq!((found[0].bytes, count), (Some(5), 1));
        assert_eq!(found[0].deprecated.as_deref(), Some("old"));
        for nonsense in [&b"<html>"[..], b"{}", b"[]", br#"{"aaData":5}"#] {
            assert_eq!(parse(nonsense, 10), None);
        }
        assert_eq!(parse(table, 0).unwrap().0, []);
    }

    #[test]
    fn values_are_encoded() {
        let search = Search {
            words: vec!["a&b".to_owned(), "c".to_owned()],
            os: Some("x=y".to_owned()),
            limit: 7,
            ..Search::default()
        };
        let text = search.parameters();
        assert!(text.starts_with("status=valid&sSearch=a%26b%20c&sSearch_1=x%3Dy&sEcho=1"));
        assert!(text.ends_with("&limit=7"));
    }
}
