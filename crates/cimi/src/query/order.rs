//! `$orderby`: by which attributes a list is sorted.

use std::cmp::Ordering;

use super::{Attributes, Scalar};

/// One attribute to sort by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Its name.
    pub name: String,
    /// Greatest first.
    pub descending: bool,
}

/// A text that is not an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "$orderby has `{part}`; it is a list such as `name,created:desc`, of at most {KEYS_AT_MOST} attributes"
)]
pub struct OrderSyntax {
    part: String,
}

const KEYS_AT_MOST: usize = 8;

impl OrderKey {
    /// Reads `a[:asc|desc],…`.
    ///
    /// # Errors
    /// If a part is no attribute name, a direction is neither `asc` nor `desc`, or there are too many.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, OrderSyntax> {
        let mut keys = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let error = || OrderSyntax {
                part: part.chars().take(64).collect(),
            };
            let (name, direction) = part.split_once(':').unwrap_or((part, "asc"));
            let name = name.trim();
            let descending = match direction.trim() {
                "asc" => false,
                "desc" => true,
                _ => return Err(error()),
            };
            let is_name = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if name.is_empty() || !is_name || keys.len() == KEYS_AT_MOST {
                return Err(error());
            }
            keys.push(Self {
                name: name.to_owned(),
                descending,
            });
        }
        Ok(keys)
    }

    /// The value that a document is sorted by.
    pub(super) fn of<'d, D: Attributes + ?Sized>(&self, document: &'d D) -> Option<Scalar<'d>> {
        document.attribute(&self.name)
    }

    /// Compares two values in this key's direction; documents without the attribute come last.
    #[must_use]
    pub fn compare(&self, a: Option<&Scalar<'_>>, b: Option<&Scalar<'_>>) -> Ordering {
        match (a, b) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => {
                let ordering = natural(a, b);
                if self.descending {
                    ordering.reverse()
                } else {
                    ordering
                }
            }
        }
    }
}

/// Values of one sort by their value, of different sorts by their sort (documents of one type have
/// values of one sort, so this only has to be some total order).
fn natural(a: &Scalar<'_>, b: &Scalar<'_>) -> Ordering {
    let rank = |scalar: &Scalar<'_>| match scalar {
        Scalar::Boolean(_) => 0,
        Scalar::Integer(_) => 1,
        Scalar::Time(_) => 2,
        Scalar::Text(_) => 3,
    };
    match (a, b) {
        (Scalar::Boolean(a), Scalar::Boolean(b)) => a.cmp(b),
        (Scalar::Integer(a), Scalar::Integer(b)) => a.cmp(b),
        (Scalar::Time(a), Scalar::Time(b)) => a.cmp(b),
        (Scalar::Text(a), Scalar::Text(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_and_names_are_read() {
        let keys = OrderKey::parse_list("name, created:desc,").unwrap();
        assert_eq!(keys.len(), 2);
        assert!(!keys[0].descending && keys[1].descending);
        for text in ["name:down", "na me", ":desc", "a,b,c,d,e,f,g,h,i"] {
            assert!(OrderKey::parse_list(text).is_err(), "{text}");
        }
    }
}
