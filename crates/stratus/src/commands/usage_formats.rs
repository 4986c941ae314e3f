//! The forms in which uses are written: CSV, and StratusLab's XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cimi::Timestamp;
use serde_json::Value;

use crate::cloud::text_of;

/// The columns of CSV: names of members.
const COLUMNS: [&str; 15] = [
    "user",
    "kind",
    "resource",
    "vmid",
    "name",
    "address",
    "cpus",
    "memoryKib",
    "bytes",
    "start",
    "end",
    "hours",
    "id",
    "receivedBytes",
    "sentBytes",
];

fn text(used: &Value, name: &str) -> String {
    used.get(name)
        .filter(|value| !value.is_null())
        .map(text_of)
        .unwrap_or_default()
}

fn number(used: &Value, name: &str) -> f64 {
    used.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// RFC 4180, with a line of titles.
pub(super) fn csv(uses: &[Value]) -> String {
    let mut out = format!("{}\r\n", COLUMNS.join(","));
    for used in uses {
        let fields: Vec<String> = COLUMNS
            .iter()
            .map(|name| field(&text(used, name)))
            .collect();
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

/// One field; what a spreadsheet would take for a formula is made text. Users choose the names of what they use.
fn field(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok();
    let text = match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') if !is_number => format!("'{text}"),
        _ => text.to_owned(),
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

const GIB: f64 = 1_073_741_824.0;

/// What StratusLab's accounting wrote, for each user a `usagerecord`: `total_time` in hours, `total_cpu` in CPU·h,
/// `total_ram` and `total_disk` in GB·h, `total_net_rx` and `total_net_tx` in GB, and a `vm` for each time a machine ran. Volumes, images and snapshots count in `total_disk`, too.
pub(super) fn xml(
    by_user: &BTreeMap<String, Vec<&Value>>,
    from: Timestamp,
    to: Timestamp,
) -> String {
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<usagerecords>\n".to_owned();
    for (user, uses) in by_user {
        let runs = || uses.iter().filter(|used| text(used, "kind") == "machine");
        let time: f64 = runs().map(|used| number(used, "hours")).sum();
        let cpu: f64 = runs()
            .map(|used| number(used, "hours") * number(used, "cpus"))
            .sum();
        let ram: f64 = runs()
            .map(|used| number(used, "hours") * number(used, "memoryKib") * 1024.0 / GIB)
            .sum();
        let stored = uses.iter().filter(|used| {
            matches!(
                text(used, "kind").as_str(),
                "disk" | "volume" | "image" | "snapshot"
            )
        });
        let disk: f64 = stored
            .map(|used| number(used, "hours") * number(used, "bytes") / GIB)
            .sum();
        let net = |name: &str| runs().map(|used| number(used, name)).sum::<f64>() / GIB;
        let (rx, tx) = (net("receivedBytes"), net("sentBytes"));
        let user = escaped(user);
        let _ = writeln!(
            out,
            "  <usagerecord userid=\"{user}\" username=\"{user}\" from=\"{from}\" to=\"{to}\" total_time=\"{time:.3}\" \
             total_cpu=\"{cpu:.3}\" total_ram=\"{ram:.3}\" total_disk=\"{disk:.3}\" total_net_rx=\"{rx:.6}\" total_net_tx=\"{tx:.6}\">"
        );
        for used in runs() {
            let (name, id) = (escaped(&text(used, "name")), escaped(&text(used, "vmid")));
            let (hours, cpus) = (number(used, "hours"), text(used, "cpus"));
            let (memory, gib) = (
                number(used, "memoryKib") / 1024.0 / 1024.0,
                number(used, "bytes") / GIB,
            );
            let net = net_of(used);
            let (start, end) = (escaped(&text(used, "start")), escaped(&text(used, "end")));
            let _ = writeln!(
                out,
                "    <vm id=\"{id}\"><name>{name}</name><time>{hours:.3}</time><cpu>{cpus}</cpu><mem>{memory:.3}</mem>\
                 <starttime>{start}</starttime><endtime>{end}</endtime><disk><size>{gib:.3}</size></disk>{net}</vm>"
            );
        }
        out.push_str("  </usagerecord>\n");
    }
    out.push_str("</usagerecords>\n");
    out
}

/// What went over a machine's network, in GB, if anybody counted it.
fn net_of(used: &Value) -> String {
    if used.get("receivedBytes").is_none() {
        return String::new();
    }
    let gib = |name: &str| number(used, name) / GIB;
    let (rx, tx) = (gib("receivedBytes"), gib("sentBytes"));
    format!("<net_rx>{rx:.6}</net_rx><net_tx>{tx:.6}</net_tx>")
}

/// As the content of an element or attribute; what XML can't hold is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => {
                out.push(character);
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uses() -> Vec<Value> {
        vec![
            json!({"user": "joe", "kind": "machine", "resource": "Machine/1", "vmid": 7, "name": "=1+1,<\"x\">", "cpus": 2,
                "memoryKib": 2_097_152, "bytes": 1_073_741_824, "receivedBytes": 2_147_483_648_u64, "sentBytes": 1_073_741_824, "start": "2026-01-01T00:00:00.000Z", "end": null, "hours": 1.5, "id": "a"}),
            json!({"user": "joe", "kind": "volume", "resource": "Volume/1", "bytes": 10_737_418_240_u64,
                "start": "2026-01-01T00:00:00.000Z", "end": "2026-01-01T02:00:00.000Z", "hours": 2.0, "id": "b"}),
        ]
    }

    #[test]
    fn csv_has_a_line_a_use_and_no_formulas() {
        let csv = csv(&uses());
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with(
                "joe,machine,Machine/1,7,\"'=1+1,<\"\"x\"\">\",,2,2097152,1073741824,2026-"
            ),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].ends_with(",2026-01-01T02:00:00.000Z,2.0,b,,"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn xml_sums_up_and_is_well_formed_whatever_things_are_called() {
        let uses = uses();
        let by_user = BTreeMap::from([("joe".to_owned(), uses.iter().collect())]);
        let xml = xml(
            &by_user,
            Timestamp::from_millis(0),
            Timestamp::from_millis(1),
        );
        for part in [
            "total_time=\"1.500\"",
            "total_cpu=\"3.000\"",
            "total_ram=\"3.000\"",
            "total_disk=\"20.000\"",
            "total_net_rx=\"2.000000\" total_net_tx=\"1.000000\"",
            "<net_rx>2.000000</net_rx>",
            "<name>=1+1,&lt;&quot;x&quot;&gt;</name>",
            "<endtime></endtime>",
        ] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
        assert_eq!(escaped("a\u{0}b"), "ab");
    }
}
