//! From the parameters of a list to a query of the catalogue.

use marketplace::catalogue::{Column, Order, Place, Query, Status};
use marketplace::metadata::is_email;
use marketplace::{ImageIdentifier, UtcTime};

use crate::problem::Problem;

/// Rows of a page at most.
pub(crate) const ROWS_AT_MOST: usize = 1000;
/// Longest text that is searched for.
const TEXT_AT_MOST: usize = 500;

/// A list as it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) query: Query,
    pub(crate) order: Order,
    /// Where the page begins, if pages are asked for.
    pub(crate) offset: Option<usize>,
    pub(crate) limit: Option<usize>,
    /// `sEcho`.
    pub(crate) echo: i64,
    /// Whether it is the plain list of names and values rather than the table of DataTables.
    pub(crate) is_plain: bool,
    /// A part that can't be one of any entry: nothing is found.
    pub(crate) finds_nothing: bool,
}

impl Asked {
    /// By the parts of the path, which say what they are by their form, and the parameters.
    ///
    /// # Errors
    /// 400 for a value that can't be.
    pub(crate) fn of<'q>(
        path: impl IntoIterator<Item = &'q str>,
        parameters: impl IntoIterator<Item = (&'q str, &'q str)>,
    ) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for part in path {
            asked.part(part);
        }
        let (mut column, mut direction) = (None, None);
        for (name, value) in parameters {
            if value.len() > TEXT_AT_MOST {
                return Err(Problem::new(
                    400,
                    format!("`{name}` is longer than {TEXT_AT_MOST} bytes"),
                ));
            }
            let value = value.trim();
            match name {
                "sEcho" => asked.echo = value.parse().unwrap_or(0),
                "iDisplayStart" => asked.offset = value.parse().ok(),
                "iDisplayLength" => asked.limit = value.parse().ok(),
                "offset" => {
                    asked.offset = Some(number(name, value)?);
                    asked.is_plain = true;
                }
                "limit" => {
                    asked.limit = Some(number(name, value)?);
                    asked.is_plain = true;
                }
                "iSortCol_0" => column = value.parse().ok().and_then(Column::numbered),
                "sSortDir_0" | "order" => direction = Some(value == "desc"),
                "sort" if !value.is_empty() => {
                    column = Some(column_named(value).ok_or_else(|| {
                        Problem::new(
                            400,
                            format!("`sort` can't be `{value}`; it is one of {COLUMNS}"),
                        )
                    })?);
                }
                _ if value.is_empty() => {}
                "status" => asked.query.status = Status::of(value),
                "location" => {
                    asked.query.place = Place::of(value).ok_or_else(|| {
                        Problem::new(
                            400,
                            format!("`location` can't be `{value}`; it is all, web or pdisk"),
                        )
                    })?;
                }
                "identifier" => asked.identifier(value),
                "email" => asked.query.email = Some(value.to_owned()),
                "created" => match value.parse() {
                    Ok(time) => asked.query.created = Some(time),
                    Err(_) => asked.finds_nothing = true,
                },
                "endorsed-from" => asked.query.endorsed.from = Some(time(name, value, "00:00:00")?),
                "endorsed-to" => asked.query.endorsed.to = Some(time(name, value, "23:59:59")?),
                "sSearch" | "search" => {
                    asked
                        .query
                        .words
                        .extend(value.split_whitespace().map(str::to_owned));
                }
                "tag" => asked.query.tag = Some(value.trim_matches('"').to_owned()),
                "endorser" => asked.within(Column::Email, value),
                _ => {
                    if let Some(column) = name
                        .strip_prefix("sSearch_")
                        .and_then(|number| number.parse().ok())
                        .and_then(Column::numbered)
                    {
                        for word in value.split_whitespace() {
                            asked.within(column, word);
                        }
                    } else if let Some(column) = column_named(name) {
                        asked.query.equal.push((column, value.to_owned()));
                    }
                }
            }
        }
        if let Some(column) = column {
            asked.order = Order {
                column,
                descending: direction.unwrap_or(column == Column::Created),
            };
        } else if let Some(descending) = direction {
            asked.order.descending = descending;
        }
        Ok(asked)
    }

    fn part(&mut self, part: &str) {
        if part.contains('@') {
            self.query.email = Some(part.to_owned());
            self.finds_nothing |= !is_email(part);
        } else if let Ok(time) = part.parse() {
            self.query.created = Some(time);
        } else {
            self.identifier(part);
        }
    }

    fn identifier(&mut self, text: &str) {
        match text.parse::<ImageIdentifier>() {
            Ok(identifier) => self.query.identifier = Some(identifier),
            Err(_) => self.finds_nothing = true,
        }
    }

    fn within(&mut self, column: Column, word: &str) {
        self.query.within.push((column, word.to_owned()));
    }

    /// First and last number of the page.
    pub(crate) fn page(&self) -> (usize, usize) {
        match (self.offset, self.limit) {
            (offset, Some(limit)) => (offset.unwrap_or(0), limit.clamp(1, ROWS_AT_MOST)),
            (offset, None) => (offset.unwrap_or(0), ROWS_AT_MOST),
        }
    }
}

const COLUMNS: &str =
    "os, os-version, arch, email, kind, created, identifier, location, description, title";

fn column_named(name: &str) -> Option<Column> {
    let place = COLUMNS.split(", ").position(|column| column == name)?;
    Column::ALL.get(place).copied()
}

fn number(name: &str, value: &str) -> Result<usize, Problem> {
    value
        .parse()
        .map_err(|_| Problem::new(400, format!("`{name}` can't be `{value}`; it is a number")))
}

/// A time, or a day with the time of day that completes it.
fn time(name: &str, value: &str, rest: &str) -> Result<UtcTime, Problem> {
    value
        .parse()
        .or_else(|_| format!("{value}T{rest}Z").parse())
        .map_err(|_| {
            Problem::new(
                400,
                format!("`{name}` can't be `{value}`; write 2030-01-15 or 2030-01-15T08:00:00Z"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_paths_are_told_by_their_form() {
        let id = "MMZu9WvwKIro-rtBQfDk4PsKO7_";
        let asked = Asked::of([id, "a@x.org", "2030-01-15T08:05:00Z"], []).unwrap();
        assert_eq!(asked.query.identifier.unwrap().to_string(), id);
        assert_eq!(asked.query.email.as_deref(), Some("a@x.org"));
        assert!(asked.query.created.is_some() && !asked.finds_nothing);
        assert!(Asked::of(["nonsense"], []).unwrap().finds_nothing);
        assert!(Asked::of(["../x@y"], []).unwrap().finds_nothing);
    }

    #[test]
    fn tables_and_plain_lists_are_asked_by_their_own_words() {
        let asked = Asked::of(
            [],
            [
                ("sEcho", "3"),
                ("iDisplayStart", "20"),
                ("iDisplayLength", "10"),
                ("iSortCol_0", "1"),
                ("sSortDir_0", "asc"),
                ("sSearch", "ubuntu base"),
                ("sSearch_3", "x86"),
                ("bRegex", "false"),
            ],
        )
        .unwrap();
        assert_eq!(
            (asked.echo, asked.page(), asked.is_plain),
            (3, (20, 10), false)
        );
        assert_eq!(asked.query.words, ["ubuntu", "base"]);
        assert_eq!(asked.query.within, [(Column::Arch, "x86".to_owned())]);
        assert_eq!(
            (asked.order.column, asked.order.descending),
            (Column::Os, false)
        );
        let asked = Asked::of(
            [],
            [
                ("limit", "100000"),
                ("os", "debian"),
                ("endorsed-from", "2030-01-01"),
            ],
        )
        .unwrap();
        assert!(asked.is_plain && asked.page() == (0, ROWS_AT_MOST));
        assert_eq!(asked.query.equal, [(Column::Os, "debian".to_owned())]);
        for wrong in [
            ("limit", "x"),
            ("location", "moon"),
            ("endorsed-to", "soon"),
            ("sort", "colour"),
        ] {
            assert!(Asked::of([], [wrong]).is_err(), "{wrong:?}");
        }
    }
}
