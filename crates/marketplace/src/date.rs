//! Times as documents write them: `2030-01-15T08:00:00Z`, UTC, whole seconds.

use std::fmt;
use std::str::FromStr;

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A moment of a document: UTC, to the second. Sorts as its text does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UtcTime(civil::DateTime);

/// A text that is not a time of the one form there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTime {
    /// Other characters than `YYYY-MM-DDThh:mm:ssZ`.
    #[error("{0} is not a date of the form 2030-01-15T08:00:00Z")]
    Form(String),
    /// There is no such day or time of day.
    #[error("Unparseable date: {0}")]
    Impossible(String),
}

impl UtcTime {
    /// The moment of `timestamp`, without its fraction of a second.
    #[must_use]
    pub fn from_timestamp(timestamp: jiff::Timestamp) -> Self {
        let moment = TimeZone::UTC.to_datetime(timestamp);
        Self(
            moment
                .date()
                .at(moment.hour(), moment.minute(), moment.second(), 0),
        )
    }

    /// Seconds since 1970-01-01, negative before.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        // The first day of a `civil::DateTime` is in the range of timestamps but for time zones; UTC has no such edge.
        TimeZone::UTC
            .to_timestamp(self.0)
            .map_or(i64::MAX, jiff::Timestamp::as_second)
    }

    /// The moment so many seconds after 1970-01-01; `None` outside the years -9999 to 9999.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Option<Self> {
        jiff::Timestamp::from_second(seconds)
            .ok()
            .map(Self::from_timestamp)
    }

    /// So many days later, at most the end of the year 9999.
    #[must_use]
    pub fn plus_days(self, days: u32) -> Self {
        Self(
            self.0
                .saturating_add(jiff::Span::new().days(days.min(3_660_000))),
        )
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            date.year(),
            date.month(),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    }
}

impl fmt::Debug for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UtcTime {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(40).collect::<String>();
        let is_form = text.len() == 20
            && text
                .bytes()
                .zip(*b"dddd-dd-ddTdd:dd:ddZ")
                .all(|(byte, form)| match form {
                    b'd' => byte.is_ascii_digit(),
                    _ => byte == form,
                });
        if !is_form {
            return Err(InvalidTime::Form(shown()));
        }
        let impossible = || InvalidTime::Impossible(shown());
        // A leap second would be read as the second before it and written as that.
        if text.get(17..19) == Some("60") {
            return Err(impossible());
        }
        text.get(..19)
            .and_then(|text| text.parse::<civil::DateTime>().ok())
            .map(Self)
            .ok_or_else(impossible)
    }
}

impl Serialize for UtcTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_one_form_is_read_and_written() {
        for text in [
            "2030-01-15T08:00:00Z",
            "2024-02-29T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            let time: UtcTime = text.parse().unwrap();
            assert_eq!(time.to_string(), text);
        }
        let time: UtcTime = "2030-01-15T08:00:00Z".parse().unwrap();
        assert_eq!(time.unix_seconds(), 1_894_694_400);
        assert_eq!(UtcTime::from_unix_seconds(1_894_694_400), Some(time));
        assert_eq!(time.plus_days(178).to_string(), "2030-07-12T08:00:00Z");
        assert_eq!(time.plus_days(u32::MAX).to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn other_forms_and_impossible_days_are_not() {
        for text in [
            "",
            "2030-01-15",
            "2030-01-15T08:00:00",
            "2030-01-15t08:00:00Z",
            "2030-01-15T08:00:00z",
            "2030-01-15 08:00:00Z",
            " 2030-01-15T08:00:00Z",
            "+030-01-15T08:00:00Z",
            "2030-01-15T08:00:00.0Z",
            "2030-01-15T08:00:00+00:00",
            "٢٠٣٠-01-15T08:00",
        ] {
            assert!(
                matches!(text.parse::<UtcTime>(), Err(InvalidTime::Form(_))),
                "{text}"
            );
        }
        for text in [
            "2030-13-15T08:00:00Z",
            "2030-02-29T08:00:00Z",
            "2030-00-01T08:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T08:60:00Z",
            "2016-12-31T23:59:60Z",
        ] {
            assert!(
                matches!(text.parse::<UtcTime>(), Err(InvalidTime::Impossible(_))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_accepted_only_as_written(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z|\\PC{0,24}") {
            if let Ok(time) = text.parse::<UtcTime>() {
                prop_assert_eq!(time.to_string(), text);
                prop_assert_eq!(UtcTime::from_unix_seconds(time.unix_seconds()), Some(time));
            }
        }
    }
}
