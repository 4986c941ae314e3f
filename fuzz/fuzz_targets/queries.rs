//! Parameters of lists: `$filter`, `$orderby`, `$select`, `$expand`, `$first`, `$last` of any text. What is read is applied to
//! some members, and a filter prints as one that means the same.
#![no_main]

use std::sync::LazyLock;

use cimi::query::{Attributes, Filter, Query, Scalar};
use libfuzzer_sys::fuzz_target;

struct Member(i64);

impl Attributes for Member {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        match name {
            "name" => Some(format!("n{}", self.0).into()),
            "cpu" => Some(self.0.into()),
            "enabled" => Some((self.0 % 2 == 0).into()),
            "created" => Some(cimi::Timestamp::from_millis(self.0 * 86_400_000).into()),
            _ => None,
        }
    }

    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        match name {
            "addresses" => vec!["192.0.2.1".into(), "192.0.2.2".into()],
            _ => Vec::new(),
        }
    }

    fn property(&self, key: &str) -> Option<&str> {
        (key == "k").then_some("v")
    }
}

static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| (0..9).map(Member).collect());

fuzz_target!(|text: &str| {
    for name in ["$orderby", "$first", "$last", "$select", "$expand"] {
        if let Ok(query) = Query::from_parameters([(name, text)]) {
            let (count, page) = query.page(MEMBERS.iter().map(|member| Member(member.0)));
            assert!(count == MEMBERS.len() && page.len() <= count);
            let _ = query.select.wants("name");
        }
    }
    if let Ok(filter) = Filter::parse(text) {
        let printed = filter.to_string();
        let again = Filter::parse(&printed);
        assert_eq!(again.as_ref(), Ok(&filter), "{text:?} prints as {printed:?}");
        for member in MEMBERS.iter() {
            let _ = filter.matches(member);
        }
    }
});
