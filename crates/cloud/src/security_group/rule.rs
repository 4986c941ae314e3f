//! What a rule may say, read from a request.

use cimi::{
    Ref,
    ids::SecurityGroupId,
    resources::{RuleDirection, SecurityGroup, SecurityRule},
};
use serde_json::{Map, Value};

use crate::{CloudError, Result, resolve};

/// A new rule.
///
/// # Errors
/// [`CloudError::Invalid`] for what doesn't go together.
pub(super) fn parse(body: &Map<String, Value>) -> Result<SecurityRule> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let direction = match text("direction") {
        Some("in") => RuleDirection::In,
        Some("out") => RuleDirection::Out,
        _ => return Err(CloudError::invalid("direction", "must be `in` or `out`")),
    };
    let protocol = protocol(text("protocol").unwrap_or("any"))?;
    let (first_port, last_port) = ports(body, &protocol)?;
    let (icmp_type, icmp_code) = messages(body, &protocol)?;
    let addresses = text("addresses").map(block).transpose()?;
    let group = match body.get("group").and_then(Value::as_object) {
        None => None,
        Some(named) => Some(group(named)?),
    };
    if addresses.is_some() && group.is_some() {
        return Err(CloudError::invalid(
            "group",
            "is given beside `addresses`: one rule is about one of them, so make two",
        ));
    }
    is_of_family(&protocol, addresses)?;
    Ok(SecurityRule {
        id: uuid::Uuid::now_v7().to_string(),
        direction,
        protocol,
        first_port,
        last_port,
        icmp_type,
        icmp_code,
        addresses: addresses.map(|block| block.to_string()),
        group,
        description: text("description").map(str::to_owned),
    })
}

fn protocol(given: &str) -> Result<String> {
    let number = given.parse::<u8>().ok();
    let name = match (given, number) {
        ("any" | "tcp" | "udp" | "icmp" | "icmpv6", _) => given,
        // The same by number.
        (_, Some(6)) => "tcp",
        (_, Some(17)) => "udp",
        (_, Some(1)) => "icmp",
        (_, Some(58)) => "icmpv6",
        (_, Some(number)) => return Ok(number.to_string()),
        _ => {
            return Err(CloudError::invalid(
                "protocol",
                format!(
                    "must be any, tcp, udp, icmp, icmpv6 or a number from 0 to 255, but is `{given}`"
                ),
            ));
        }
    };
    Ok(name.to_owned())
}

fn number<T: TryFrom<u64>>(body: &Map<String, Value>, name: &str) -> Result<Option<T>> {
    let Some(value) = body.get(name) else {
        return Ok(None);
    };
    let number = value.as_u64().and_then(|number| T::try_from(number).ok());
    let wrong = || CloudError::invalid(name, format!("can't be {value}"));
    Ok(Some(number.ok_or_else(wrong)?))
}

/// First and last, or neither: all of them.
fn ports(body: &Map<String, Value>, protocol: &str) -> Result<(Option<u16>, Option<u16>)> {
    let first: Option<u16> = number(body, "firstPort")?;
    let last: Option<u16> = number(body, "lastPort")?;
    let Some(first) = first else {
        return match last {
            None => Ok((None, None)),
            Some(_) => Err(CloudError::invalid(
                "lastPort",
                "is given without `firstPort`",
            )),
        };
    };
    if !["tcp", "udp"].contains(&protocol) {
        return Err(CloudError::invalid(
            "firstPort",
            format!("is for tcp and udp; `protocol` is {protocol}"),
        ));
    }
    let last = last.unwrap_or(first);
    if first > last {
        return Err(CloudError::invalid(
            "lastPort",
            format!("is {last}, below `firstPort`, which is {first}"),
        ));
    }
    Ok((Some(first), Some(last)))
}

fn messages(body: &Map<String, Value>, protocol: &str) -> Result<(Option<u8>, Option<u8>)> {
    let kind: Option<u8> = number(body, "icmpType")?;
    let code: Option<u8> = number(body, "icmpCode")?;
    if kind.is_some() && !["icmp", "icmpv6"].contains(&protocol) {
        return Err(CloudError::invalid(
            "icmpType",
            format!("is for icmp and icmpv6; `protocol` is {protocol}"),
        ));
    }
    if code.is_some() && kind.is_none() {
        return Err(CloudError::invalid(
            "icmpCode",
            "is given without `icmpType`",
        ));
    }
    Ok((kind, code))
}

fn block(given: &str) -> Result<ipnet::IpNet> {
    let single = |ip: std::net::IpAddr| ipnet::IpNet::from(ip);
    let block = given
        .parse::<ipnet::IpNet>()
        .or_else(|_| given.parse().map(single));
    // What is behind the prefix says nothing.
    block.map(|block| block.trunc()).map_err(|_| {
        CloudError::invalid(
            "addresses",
            format!("must be an address or a block such as 192.0.2.0/24 or 2001:db8::/32, but is `{given}`"),
        )
    })
}

fn group(named: &Map<String, Value>) -> Result<Ref<SecurityGroupId>> {
    let href = resolve::href_of(named)
        .ok_or_else(|| CloudError::invalid("group", "needs {\"href\": \"SecurityGroup/…\"}"))?;
    let local = resolve::local_part::<SecurityGroup>(href, "group")?;
    let id = format!("SecurityGroup/{local}").parse();
    let wrong = |_| CloudError::invalid("group", format!("can't be `{href}`"));
    Ok(Ref::to(id.map_err(wrong)?))
}

/// Messages of one family never come from addresses of the other.
fn is_of_family(protocol: &str, addresses: Option<ipnet::IpNet>) -> Result<()> {
    let other = match (protocol, addresses) {
        ("icmp", Some(ipnet::IpNet::V6(_))) => "icmpv6",
        ("icmpv6", Some(ipnet::IpNet::V4(_))) => "icmp",
        _ => return Ok(()),
    };
    Err(CloudError::invalid(
        "addresses",
        format!("are not those of {protocol}; {other} goes with them"),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(body: Value) -> Result<SecurityRule> {
        parse(body.as_object().unwrap())
    }

    #[test]
    fn what_is_left_out_is_everything() {
        let rule = parsed(json!({"direction": "in"})).unwrap();
        assert_eq!(rule.protocol, "any");
        assert_eq!(
            (rule.first_port, rule.addresses, rule.group),
            (None, None, None)
        );
        let rule = parsed(json!({"direction": "out", "protocol": "6", "firstPort": 22})).unwrap();
        assert_eq!(rule.protocol, "tcp");
        assert_eq!((rule.first_port, rule.last_port), (Some(22), Some(22)));
    }

    #[test]
    fn addresses_are_written_one_way() {
        let of = |text: &str| {
            let rule = parsed(json!({"direction": "in", "addresses": text})).unwrap();
            rule.addresses.unwrap()
        };
        assert_eq!(of("192.0.2.77/24"), "192.0.2.0/24");
        assert_eq!(of("192.0.2.77"), "192.0.2.77/32");
        assert_eq!(of("2001:DB8::1/32"), "2001:db8::/32");
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (body, path) in [
            (json!({"protocol": "tcp"}), "direction"),
            (json!({"direction": "in", "protocol": "tls"}), "protocol"),
            (json!({"direction": "in", "protocol": "256"}), "protocol"),
            (json!({"direction": "in", "firstPort": 22}), "firstPort"),
            (
                json!({"direction": "in", "protocol": "tcp", "lastPort": 22}),
                "lastPort",
            ),
            (
                json!({"direction": "in", "protocol": "tcp", "firstPort": 23, "lastPort": 22}),
                "lastPort",
            ),
            (
                json!({"direction": "in", "protocol": "tcp", "icmpType": 8}),
                "icmpType",
            ),
            (
                json!({"direction": "in", "protocol": "icmp", "icmpCode": 0}),
                "icmpCode",
            ),
            (
                json!({"direction": "in", "addresses": "192.0.2.0/33"}),
                "addresses",
            ),
            (
                json!({"direction": "in", "addresses": "drop; accept"}),
                "addresses",
            ),
            (
                json!({"direction": "in", "protocol": "icmpv6", "addresses": "192.0.2.1"}),
                "addresses",
            ),
            (
                json!({"direction": "in", "group": {"href": "Machine/x"}}),
                "group",
            ),
            (
                json!({"direction": "in", "group": {"href": "SecurityGroup/x"}, "addresses": "::/0"}),
                "group",
            ),
        ] {
            let refused = parsed(body.clone()).unwrap_err().to_string();
            assert!(refused.contains(path), "{body}: {refused}");
        }
    }
}
