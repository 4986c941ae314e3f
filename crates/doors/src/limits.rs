//! What `/stratus/quota` and `/stratus/accounting` are asked.

use ::cimi::Timestamp;
use cloud::UsageQuery;

use crate::problem::Problem;

/// `user=NAME` or `group=NAME`, or neither.
pub(crate) fn whose<'q>(
    parameters: impl Iterator<Item = (&'q str, &'q str)>,
) -> Result<(Option<&'q str>, Option<&'q str>), Problem> {
    let (mut user, mut group) = (None, None);
    for (name, value) in parameters {
        match name {
            "user" => user = Some(value),
            "group" => group = Some(value),
            _ => return Err(Problem::new(400, "quotas are asked by `user` or `group`")),
        }
    }
    if user.is_some() && group.is_some() {
        return Err(Problem::new(400, "give `user` or `group`, not both"));
    }
    Ok((user, group))
}

/// `from`, `to`, `user` or `group`, `limit`, `after`.
pub(crate) fn period<'q>(
    parameters: impl Iterator<Item = (&'q str, &'q str)>,
) -> Result<UsageQuery, Problem> {
    let mut query = UsageQuery::default();
    for (name, value) in parameters {
        match name {
            "from" => query.from = Some(time(name, value)?),
            "to" => query.to = Some(time(name, value)?),
            "user" => query.user = Some(value.to_owned()),
            "group" => query.group = Some(value.to_owned()),
            "after" => query.after = Some(value.to_owned()),
            "limit" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                let wrong = || Problem::new(400, "`limit` is a number above 0");
                query.limit = Some(number.ok_or_else(wrong)?);
            }
            _ => {
                return Err(Problem::new(
                    400,
                    "accounting is asked by `from`, `to`, `user` or `group`, `limit` and `after`",
                ));
            }
        }
    }
    Ok(query)
}

fn time(name: &str, value: &str) -> Result<Timestamp, Problem> {
    // A `+` of an offset that wasn't encoded has become a space.
    let value = value.replace(' ', "+");
    value.parse().map_err(|_| {
        let text = format!("`{name}` is a time such as 2026-01-31T00:00:00Z");
        Problem::new(400, text)
    })
}
