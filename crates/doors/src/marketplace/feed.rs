//! Feeds of what came last: Atom (RFC 4287) and RSS 2.0.

use std::sync::Arc;

use http::{Response, StatusCode};
use marketplace::UtcTime;
use marketplace::catalogue::Record;
use marketplace_query::escaped;

use super::results::{DECLARATION, answer};
use crate::body::ResponseBody;

/// Entries of a feed.
pub(crate) const LENGTH: usize = 50;

fn title(record: &Record) -> String {
    let system = || {
        let os = record.os.as_deref()?;
        let os_version = record.os_version.as_deref().unwrap_or_default();
        Some(format!("{os} {os_version}").trim_end().to_owned())
    };
    let name = record.title.clone().or_else(system);
    let name = name.unwrap_or_else(|| "image".to_owned());
    let version = record.version.as_deref().unwrap_or_default();
    let deprecated = if record.deprecated.is_some() {
        "Deprecated: "
    } else {
        ""
    };
    format!("{deprecated}{name} {version}")
        .trim_end()
        .to_owned()
}

fn summary(record: &Record) -> String {
    match &record.deprecated {
        Some(reason) if !reason.is_empty() => reason.clone(),
        _ => record.description.clone().unwrap_or_default(),
    }
}

/// `base` is the address of the Marketplace, with a slash at its end.
pub(crate) fn atom(base: &str, site: &str, records: &[Arc<Record>]) -> Response<ResponseBody> {
    let updated = records.first().map_or_else(
        || "1970-01-01T00:00:00Z".to_owned(),
        |it| it.received.to_string(),
    );
    let base = escaped(base);
    let mut text = format!(
        "{DECLARATION}<feed xmlns=\"http://www.w3.org/2005/Atom\">\n<title>{}: new images</title>\n<id>{base}feed.atom</id>\n\
         <link rel=\"self\" type=\"application/atom+xml\" href=\"{base}feed.atom\"/>\n<link rel=\"alternate\" type=\"text/html\" href=\"{base}metadata\"/>\n\
         <updated>{updated}</updated>\n",
        escaped(site)
    );
    for record in records {
        let address = format!("{base}metadata/{}", escaped(&record.path()));
        text.push_str(&format!(
            "<entry>\n<title>{}</title>\n<id>{address}</id>\n<link rel=\"alternate\" href=\"{address}\"/>\n<updated>{}</updated>\n\
             <published>{}</published>\n<author><name>{}</name><email>{}</email></author>\n<summary>{}</summary>\n</entry>\n",
            escaped(&title(record)),
            record.received,
            record.created,
            escaped(&record.subject),
            escaped(&record.email),
            escaped(&summary(record)),
        ));
    }
    text.push_str("</feed>\n");
    answer(StatusCode::OK, "application/atom+xml; charset=utf-8", text)
}

/// `base` is the address of the Marketplace, with a slash at its end.
pub(crate) fn rss(base: &str, site: &str, records: &[Arc<Record>]) -> Response<ResponseBody> {
    let base = escaped(base);
    let site = escaped(site);
    let mut text = format!(
        "{DECLARATION}<rss version=\"2.0\"><channel>\n<title>{site}: new images</title>\n<link>{base}metadata</link>\n\
         <description>What was published or deprecated last</description>\n"
    );
    for record in records {
        let address = format!("{base}metadata/{}", escaped(&record.path()));
        text.push_str(&format!(
            "<item>\n<title>{}</title>\n<link>{address}</link>\n<guid>{address}</guid>\n<pubDate>{}</pubDate>\n<description>{}</description>\n</item>\n",
            escaped(&title(record)),
            rfc822(record.received),
            escaped(&summary(record)),
        ));
    }
    text.push_str("</channel></rss>\n");
    answer(StatusCode::OK, "application/rss+xml; charset=utf-8", text)
}

/// `Tue, 15 Jan 2030 08:00:00 GMT`
fn rfc822(time: UtcTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = time.to_string();
    // 1970-01-01 was a Thursday.
    let day = usize::try_from(time.unix_seconds().div_euclid(86_400).rem_euclid(7)).unwrap_or(0);
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().unwrap_or(1).saturating_sub(1);
    format!(
        "{}, {} {} {} {} GMT",
        DAYS.get(day).copied().unwrap_or_default(),
        part(8..10),
        MONTHS.get(month).copied().unwrap_or_default(),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_have_their_names() {
        let told = |text: &str| super::rfc822(text.parse().unwrap());
        assert_eq!(
            told("2030-01-15T08:00:00Z"),
            "Tue, 15 Jan 2030 08:00:00 GMT"
        );
        assert_eq!(
            told("1970-01-01T00:00:00Z"),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }
}
