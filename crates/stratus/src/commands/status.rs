//! `stratus status`: is my cloud well?

use serde_json::Value;

use crate::cloud::text_of;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::printable;
use crate::session::Session;
use crate::table::shown_bytes;

/// Show on one screen whether the cloud is well
///
/// For administrators. The exit status is 0 when all is well and 1 when something is not.
///
/// JSON: {"status": "ok"|"degraded"|"failing", "version", "uptimeSeconds", "machines", "volumes", "images", "users", "openJobs", "hosts",
/// "checks": [{"name", "ok", "detail"}]}.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let status = api.get("/stratus/status").await?;
        if session.out.is_json() {
            session.out.json(&status)?;
        } else {
            session.out.line(printable(&screen(&status)))?;
        }
        if status.get("status").is_none_or(|status| status == "ok") { Ok(()) } else { Err(Failure::Exit(1)) }
    }
}

/// The whole screen, without a newline at the end.
fn screen(status: &Value) -> String {
    let text = |path: &str| status.pointer(path).map(text_of).unwrap_or_default();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut lines = vec![format!("cloud      {}, version {}, up {}", text("/status"), text("/version"), shown_seconds(number(status, "uptimeSeconds")))];
    let phases = status.pointer("/machines/byPhase").and_then(Value::as_object).into_iter().flatten();
    let phases: Vec<String> = phases.map(|(phase, count)| format!("{} {phase}", text_of(count))).collect();
    let phases = if phases.is_empty() { String::new() } else { format!(": {}", phases.join(", ")) };
    lines.push(format!("machines   {}{phases}", text("/machines/total")));
    let volumes = status.get("volumes").cloned().unwrap_or_default();
    lines.push(format!(
        "volumes    {}, {} attached, {}{}",
        number(&volumes, "total"),
        number(&volumes, "attached"),
        shown_bytes(number(&volumes, "bytes")),
        in_error(number(&volumes, "inError"))
    ));
    let images = status.get("images").cloned().unwrap_or_default();
    lines.push(format!("images     {}, {} available{}", number(&images, "total"), number(&images, "available"), in_error(number(&images, "inError"))));
    lines.push(format!("users      {}", text("/users")));
    lines.push(format!("open jobs  {}", text("/openJobs")));
    for host in status.get("hosts").and_then(Value::as_array).into_iter().flatten() {
        let member = |name: &str| host.get(name).map(text_of).unwrap_or_default();
        lines.push(format!(
            "host       {}: {}, {}, {} memory, {} of {} disk free, {} ({})",
            member("name"),
            counted(number(host, "machines"), "machine"),
            counted(number(host, "cpus"), "CPU"),
            shown_bytes(number(host, "memoryKib").saturating_mul(1024)),
            shown_bytes(number(host, "diskFreeBytes")),
            shown_bytes(number(host, "diskBytes")),
            member("accelerator"),
            member("acceleratorReason"),
        ));
    }
    for check in status.get("checks").and_then(Value::as_array).into_iter().flatten() {
        let is_ok = check.get("ok").and_then(Value::as_bool).unwrap_or(false);
        let member = |name: &str| check.get(name).map(text_of).unwrap_or_default();
        lines.push(format!("{}  {}: {}", if is_ok { "ok       " } else { "TROUBLE  " }, member("name"), member("detail")));
    }
    lines.join("\n")
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn in_error(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", {count} in error") }
}

fn shown_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} days {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen() {
        let status = serde_json::json!({
            "status": "degraded", "version": "0.1.0", "uptimeSeconds": 3700, "machines": {"total": 3, "byPhase": {"Running": 2, "Failed": 1}},
            "volumes": {"total": 2, "bytes": 2_147_483_648_u64, "attached": 1, "inError": 1}, "images": {"total": 1, "available": 1, "inError": 0},
            "users": 2, "openJobs": 0,
            "hosts": [{"name": "n1", "machines": 1, "cpus": 2, "memoryKib": 1_048_576, "diskBytes": 2048, "diskFreeBytes": 1024, "accelerator": "tcg", "acceleratorReason": "no /dev/kvm"}],
            "checks": [{"name": "dnsmasq", "ok": false, "detail": "not running"}]
        });
        let text = screen(&status);
        assert!(text.starts_with("cloud      degraded, version 0.1.0, up 1 h 1 min\nmachines   3: "), "{text}");
        assert!(text.contains("volumes    2, 1 attached, 2.00 GiB, 1 in error\n"), "{text}");
        assert!(text.contains("host       n1: 1 machine, 2 CPUs, "), "{text}");
        assert!(text.ends_with("tcg (no /dev/kvm)\nTROUBLE    dnsmasq: not running"), "{text}");
        assert!(!screen(&Value::Null).is_empty());
    }
}
