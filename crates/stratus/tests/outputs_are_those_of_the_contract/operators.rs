//! What administrators and operators do and see.

use serde_json::json;

use super::unknown;
use crate::support::{Cloud, Reply, collection, ended_with_input};

#[test]
fn users_are_managed_and_passwords_never_on_the_command_line() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "POST /cimi/User" => Reply::json(
            201,
            &json!({ "id": "User/ann", "username": "ann", "roles": ["::ADMIN"], "enabled": true }),
        ),
        "GET /cimi/User" => Reply::json(
            200,
            &collection(
                "users",
                &[
                    json!({ "username": "ann", "roles": ["::ADMIN"], "enabled": true }),
                    json!({ "username": "zoe", "enabled": false }),
                ],
            ),
        ),
        "DELETE /cimi/User/zoe" => Reply::json(200, &json!({})),
        line if line.starts_with("PUT /cimi/User/") => Reply::json(200, &json!({})),
        _ => unknown(seen),
    });
    let mut command = cloud.command();
    command.args([
        "user",
        "add",
        "--admin",
        "--password-stdin",
        "ann",
        "--ca",
        "ca.pem",
    ]);
    assert_eq!(
        ended_with_input(command, "s3cret\n").success(),
        "USER ann\n"
    );
    assert_eq!(
        cloud.requests()[0].json(),
        json!({ "username": "ann", "password": "s3cret", "enabled": true, "roles": ["::ADMIN"] })
    );
    assert_eq!(
        cloud.run("user list").success(),
        "NAME  STATE     ROLES    EMAIL\nann   enabled   ::ADMIN\nzoe   disabled\n"
    );
    cloud.run("user disable zoe").success();
    let last = cloud.requests().last().unwrap().clone();
    assert_eq!(
        (last.line.as_str(), last.json()),
        (
            "PUT /cimi/User/zoe?$select=enabled",
            json!({ "enabled": false })
        )
    );
    for (command, status) in [("disable", 1), ("delete zoe", 255)] {
        let result = cloud.run(&format!("user {command} ../x"));
        assert_eq!(result.status, status, "{result:?}");
    }
    assert_eq!(cloud.run("user delete zoe").success(), "");
    assert_eq!(cloud.lines().last().unwrap(), "DELETE /cimi/User/zoe");
}

#[test]
fn operators_see_troubles_in_the_exit_status() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /stratus/status" => Reply::json(
            200,
            &json!({ "status": "degraded", "version": "0.1.0", "checks": [{ "name": "dhcp", "ok": false, "detail": "gone" }] }),
        ),
        "POST /stratus/doctor" => Reply::json(
            200,
            &json!({ "findings": [{ "kind": "tap", "what": "st7", "detail": "of no machine", "repair": "delete it", "severity": "low" }] }),
        ),
        "POST /stratus/doctor?repair=true" => Reply::json(200, &json!({ "findings": [] })),
        "GET /cimi/Host" => Reply::json(
            200,
            &collection(
                "hosts",
                &[
                    json!({ "id": "Host/1", "name": "n1", "cpuFlags": ["fpu", "avx2"], "state": "OK", "machines": 2, "cpu": 4, "cpuUsed": 2, "memory": 1024, "memoryUsed": 512, "accelerator": "kvm" }),
                ],
            ),
        ),
        "GET /cimi/Machine?$filter=host=%27Host/1%27" => Reply::json(
            200,
            &collection(
                "machines",
                &[
                    json!({ "id": "Machine/7", "vmid": 7, "name": "web", "phase": "Running", "owner": "ann" }),
                ],
            ),
        ),
        "PUT /cimi/Host/1?$select=maintenance" => {
            Reply::json(200, &json!({ "id": "Host/1", "name": "n1" }))
        }
        _ => unknown(seen),
    });
    let result = cloud.run("status");
    assert!(
        result.status == 1 && result.stdout.contains("TROUBLE    dhcp: gone\n"),
        "{result:?}"
    );
    let result = cloud.run("doctor");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (1, "low tap: st7: of no machine\n\trepair: delete it\n")
    );
    assert_eq!(
        cloud.run("doctor --repair").success(),
        "Nothing lost, nothing left over.\n"
    );
    let hosts = cloud.run("host list").success();
    assert!(
        hosts.contains("n1    OK     2         2/4       512.00 KiB/1.00 MiB"),
        "{hosts}"
    );
    let shown = cloud.run("host show n1").success();
    assert!(
        shown.contains("cpuFlags           fpu,avx2\n")
            && shown.contains("name               n1\n")
            && shown.contains("cpu promised       2 of 4, 2 free\n")
            && shown.contains("memory promised    512.00 KiB of 1.00 MiB, 512.00 KiB free\n"),
        "{shown}"
    );
    for (options, on) in [("n1", true), ("n1 --off", false)] {
        assert_eq!(
            cloud.run(&format!("host maintenance {options}")).success(),
            ""
        );
        let sent = cloud.requests().last().unwrap().json();
        assert_eq!(sent, json!({ "maintenance": on }));
    }
    assert_eq!(
        cloud.run("host drain n1").success(),
        "ID  STATE    OWNER  NAME\n7   Running  ann    web\n"
    );
    let sent: Vec<_> = cloud.lines().into_iter().rev().take(2).collect();
    let order = [
        "GET /cimi/Machine?$filter=host=%27Host/1%27",
        "PUT /cimi/Host/1?$select=maintenance",
    ];
    assert_eq!(sent, order);
    let result = cloud.run("host maintenance n2");
    assert!(
        result.status == 255 && result.stdout == "Error: there is no host 'n2'; there are: n1\n",
        "{result:?}"
    );
}
