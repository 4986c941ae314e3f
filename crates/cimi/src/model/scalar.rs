//! Single values as clients send them, brought to the kind that the table names.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Number, Value};

use super::{Attribute, Limit, Shape};
use crate::Timestamp;

/// Texts of attributes without another limit: one line of at most so many bytes.
const LINE_AT_MOST: usize = 255;

/// Brings a value to a single-valued shape, or says what is wrong with it. `Ok(None)` means that
/// there is no value: an empty text.
pub(super) fn normalise(
    attribute: &Attribute,
    shape: &Shape,
    value: &Value,
) -> Result<Option<Value>, String> {
    match shape {
        Shape::Boolean => boolean(value),
        Shape::Integer => integer(value, attribute.limit),
        Shape::Decimal => decimal(value),
        Shape::DateTime => date_time(value),
        Shape::Uri => match value.get("href") {
            Some(href) => text(href, attribute.limit),
            None => text(value, attribute.limit),
        },
        _ => text(value, attribute.limit),
    }
}

/// Whether a character can be written in XML 1.0 at all (§2.2): what is kept can be shown in both
/// representations.
pub(super) const fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// What a value is, for messages, with the value itself if it is short.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= 64 => format!("the text {value}"),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn boolean(value: &Value) -> Result<Option<Value>, String> {
    match value {
        Value::Bool(_) => return Ok(Some(value.clone())),
        Value::String(text) => match text.trim() {
            "" => return Ok(None),
            "true" => return Ok(Some(Value::Bool(true))),
            "false" => return Ok(Some(Value::Bool(false))),
            _ => {}
        },
        _ => {}
    }
    Err(format!("must be true or false, but is {}", found(value)))
}

fn integer(value: &Value, limit: Limit) -> Result<Option<Value>, String> {
    let number = match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number)),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let (low, high) = match limit {
        Limit::Range(low, high) => (low, high),
        _ => (0, i64::MAX),
    };
    match number {
        None => Err(format!("must be a whole number, but is {}", found(value))),
        Some(number) if number < low => Err(format!("must be at least {low}, but is {number}")),
        Some(number) if number > high => Err(format!("must be at most {high}, but is {number}")),
        Some(number) => Ok(Some(number.into())),
    }
}

/// `4.0` is a whole number, too.
fn whole(number: &Number) -> Option<i64> {
    let value = number.as_f64()?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the range below is exactly representable"
    )]
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i64)
}

fn decimal(value: &Value) -> Result<Option<Value>, String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
        .and_then(Number::from_f64)
        .map(|number| Some(Value::Number(number)))
        .ok_or_else(|| format!("must be a number from 0, but is {}", found(value)))
}

fn date_time(value: &Value) -> Result<Option<Value>, String> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => match text.trim().parse::<Timestamp>() {
            Ok(time) => Ok(Some(time.to_string().into())),
            Err(_) => Err(format!(
                "must be a time such as 2014-08-01T10:20:30Z, but is {}",
                found(value)
            )),
        },
        _ => Err(format!(
            "must be a time such as \"2014-08-01T10:20:30Z\", but is {}",
            found(value)
        )),
    }
}

/// A text within its limit; also the values of maps.
pub(super) fn text(value: &Value, limit: Limit) -> Result<Option<Value>, String> {
    let Value::String(text) = value else {
        return Err(format!("must be a text, but is {}", found(value)));
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let too_long = |most: usize| {
        Err(format!(
            "has {} bytes, at most {most} are allowed",
            text.len()
        ))
    };
    match limit {
        Limit::Usual | Limit::Range(..) => {
            if text.len() > LINE_AT_MOST {
                return too_long(LINE_AT_MOST);
            }
            if let Some(control) = text.chars().find(|c| c.is_control() || !is_character(*c)) {
                return Err(format!(
                    "must be one line of printable text, but has the control character U+{:04X}",
                    u32::from(control)
                ));
            }
        }
        Limit::OneOf(allowed) => {
            if !allowed.contains(&text.as_str()) {
                return Err(format!(
                    "must be one of {}, but is {}",
                    allowed.join(", "),
                    found(value)
                ));
            }
        }
        Limit::Text(most) => {
            if text.len() > most {
                return too_long(most);
            }
            if let Some(other) = text.chars().find(|c| !is_character(*c)) {
                return Err(format!(
                    "must not contain the character U+{:04X}",
                    u32::from(other)
                ));
            }
        }
        Limit::Base64(most) => {
            if text.len() > most {
                return too_long(most);
            }
            let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if BASE64_STANDARD.decode(&packed).is_err() {
                return Err("is not base64".to_owned());
            }
            return Ok(Some(Value::String(packed)));
        }
    }
    Ok(Some(value.clone()))
}
