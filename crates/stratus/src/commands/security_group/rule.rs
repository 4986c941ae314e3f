//! Rules as users write and read them.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloud::Reference;
use crate::failure::{Failure, Result};

/// `tcp/22`, `udp/6000-6010`, `icmp/8/0`, `any`, `47`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    protocol: String,
    /// Ports, or type and code.
    bounds: Option<(u64, Option<u64>)>,
}

impl Traffic {
    pub(super) fn read(text: &str) -> Result<Self> {
        let wrong = |why: &str| Failure::Check(format!("'{text}' is no traffic to allow: {why}"));
        let lower = text.trim().to_lowercase();
        let (protocol, rest) = lower.split_once('/').map_or((lower.as_str(), None), |(protocol, rest)| (protocol, Some(rest)));
        let is_known = ["any", "tcp", "udp", "icmp", "icmpv6"].contains(&protocol) || protocol.parse::<u8>().is_ok();
        if !is_known {
            return Err(wrong("write any, tcp, udp, icmp, icmpv6 or the number of a protocol, such as tcp/22"));
        }
        let (mark, most) = match protocol {
            "tcp" | "udp" => ('-', u64::from(u16::MAX)),
            "icmp" | "icmpv6" => ('/', u64::from(u8::MAX)),
            _ if rest.is_some() => return Err(wrong("only tcp and udp have ports, and icmp and icmpv6 types")),
            _ => ('-', 0),
        };
        let number = |text: &str| {
            let number = text.parse::<u64>().ok().filter(|number| *number <= most);
            number.ok_or_else(|| wrong(&format!("'{text}' must be a number from 0 to {most}")))
        };
        let bounds = match rest.map(|rest| rest.split_once(mark).map_or((rest, None), |(first, last)| (first, Some(last)))) {
            None => None,
            Some((first, last)) => Some((number(first)?, last.map(number).transpose()?)),
        };
        if mark == '-' && bounds.is_some_and(|(first, last)| last.is_some_and(|last| last < first)) {
            return Err(wrong("the first port is above the last"));
        }
        Ok(Self { protocol: protocol.to_owned(), bounds })
    }

    pub(super) fn tell(&self, body: &mut Value) {
        body["protocol"] = json!(self.protocol);
        let Some((first, second)) = self.bounds else { return };
        if ["tcp", "udp"].contains(&self.protocol.as_str()) {
            body["firstPort"] = json!(first);
            body["lastPort"] = json!(second.unwrap_or(first));
        } else {
            body["icmpType"] = json!(first);
            if let Some(code) = second {
                body["icmpCode"] = json!(code);
            }
        }
    }
}

/// Who is at the other end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Addresses(String),
    Group(String),
}

impl Peer {
    /// What has an address before the slash is one; the cloud says whether the rest is right.
    pub(super) fn read(text: &str) -> Self {
        let address = text.split('/').next().unwrap_or_default();
        match address.parse::<IpAddr>() {
            Ok(_) => Self::Addresses(text.to_owned()),
            Err(_) => Self::Group(text.to_owned()),
        }
    }
}

/// A rule as the cloud shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RuleView {
    id: String,
    direction: String,
    protocol: String,
    first_port: Option<u64>,
    last_port: Option<u64>,
    icmp_type: Option<u64>,
    icmp_code: Option<u64>,
    addresses: Option<String>,
    group: Option<Reference>,
    description: Option<String>,
}

impl RuleView {
    pub(super) fn uuid(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or_default()
    }

    fn group_uuid(&self) -> Option<&str> {
        self.group.as_ref()?.href.rsplit('/').next()
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "id": self.uuid(), "direction": self.direction, "protocol": self.protocol, "firstPort": self.first_port, "lastPort": self.last_port,
            "icmpType": self.icmp_type, "icmpCode": self.icmp_code, "addresses": self.addresses, "group": self.group_uuid(),
            "description": self.description,
        })
    }

    fn what(&self) -> String {
        let mut text = self.protocol.clone();
        match (self.first_port, self.last_port) {
            (Some(first), Some(last)) if first != last => text += &format!("/{first}-{last}"),
            (Some(port), _) => text += &format!("/{port}"),
            _ => {}
        }
        for part in self.icmp_type.iter().chain(&self.icmp_code) {
            text += &format!("/{part}");
        }
        text
    }

    pub(super) fn row(&self, name_of: impl Fn(&str) -> String) -> Vec<String> {
        let peer = self.addresses.clone().or_else(|| self.group_uuid().map(name_of));
        vec![
            self.uuid().to_owned(),
            self.direction.clone(),
            self.what(),
            peer.unwrap_or_else(|| "anybody".to_owned()),
            self.description.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in ["any", "tcp", "tcp/22", "udp/6000-6010", "icmp", "icmp/8", "icmpv6/128/0", "47"] {
            let mut body = json!({});
            Traffic::read(text).unwrap().tell(&mut body);
            let view: RuleView = serde_json::from_value(body).unwrap();
            assert_eq!(view.what(), text);
        }
    }

    #[test]
    fn what_is_no_traffic_is_refused() {
        for text in ["", "ssh", "tcp/", "tcp/65536", "tcp/9-8", "udp/a", "any/22", "47/1", "icmp/256", "icmp/8/", "256"] {
            assert!(Traffic::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_told_from_names() {
        for text in ["192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "192.0.2.0/99"] {
            assert_eq!(Peer::read(text), Peer::Addresses(text.to_owned()));
        }
        for text in ["web", "10", "a/b", "01a1fbbd-a13f-756b-b6c8-e2ed8234f161"] {
            assert_eq!(Peer::read(text), Peer::Group(text.to_owned()));
        }
    }
}
