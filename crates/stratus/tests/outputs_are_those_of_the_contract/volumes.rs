//! Volumes, called disks by StratusLab.

use serde_json::{Value, json};

use super::{U, V};
use crate::support::{Cloud, Reply, collection, machine, volume};

fn job(state: &str, message: &str) -> Reply {
    Reply::json(
        200,
        &json!({ "id": "Job/1", "state": state, "statusMessage": message }),
    )
}

#[test]
fn volumes_are_created_shown_changed_and_deleted() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "POST /cimi/Volume" => {
            Reply::json(201, &volume(U, "HELLO")).with("cimi-job-uri", "/cimi/Job/1")
        }
        "GET /cimi/Job/1" => job("SUCCESS", ""),
        "GET /cimi/Volume" => Reply::json(
            200,
            &collection("volumes", &[volume(U, "mydisk"), volume(V, "other")]),
        ),
        line if line.starts_with(&format!("PUT /cimi/Volume/{U}")) => {
            Reply::json(200, &volume(U, "new tag"))
        }
        line if line == format!("GET /cimi/Volume/{U}") => Reply::json(200, &volume(U, "mydisk")),
        line if line == format!("DELETE /cimi/Volume/{U}") => {
            Reply(202, vec![("cimi-job-uri", "Job/1".to_owned())], Vec::new())
        }
        _ => Reply::refusal(403, "Not enough rights to delete disk"),
    });
    assert_eq!(
        cloud.run("create-volume -s 1 -t HELLO").success(),
        format!("DISK {U}\n")
    );
    assert_eq!(
        cloud.requests()[0].json()["volumeTemplate"]["volumeConfig"]["capacity"],
        1_073_742
    );
    assert_eq!(
        cloud.run(&format!("describe-volumes {U}")).success(),
        format!(
            ":: DISK {U}\n\tcount: 0\n\towner: joe\n\ttag: mydisk\n\tsize: 1\n\tvisibility: PRIVATE\n"
        )
    );
    let both = cloud.run(&format!("describe-volumes {U} {V}")).success();
    assert_eq!(
        both.matches(":: DISK ").count(),
        2,
        "several UUIDs are alternatives: {both}"
    );
    assert_eq!(
        cloud
            .run("describe-volumes -f tag:^oth -f count:0")
            .success()
            .lines()
            .next(),
        Some(format!(":: DISK {V}").as_str())
    );
    assert_eq!(
        cloud.run("describe-volumes --filter tag:nothing").success(),
        "No disk to show\n"
    );
    let before = cloud.lines().len();
    let said = cloud.run(&format!("update-volume {U}")).success();
    assert!(
        said.starts_with("  [WARNING] Nothing to change: "),
        "{said}"
    );
    assert_eq!(cloud.lines().len(), before, "nothing is asked of the cloud");
    assert_eq!(
        cloud
            .run(&format!(
                "update-volume --tag=new --public --machine-image-live {U}"
            ))
            .success(),
        ""
    );
    let last = cloud.requests().last().unwrap().clone();
    assert_eq!(
        last.line,
        format!("PUT /cimi/Volume/{U}?$select=name,properties,visibility")
    );
    assert_eq!(
        last.json(),
        json!({ "name": "new", "visibility": "PUBLIC", "properties": { "type": "MACHINE_IMAGE_LIVE" } })
    );
    let result = cloud.run(&format!("delete-volume {V} x {U}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!(
                "DELETED {U}\nError: {V}: Not enough rights to delete disk; x: Invalid UUID x\n"
            )
        )
    );
    let both = cloud.run(&format!("update-volume --public --private {U}"));
    assert_eq!(both.status, 2, "{both:?}");
}

#[test]
fn volumes_are_attached_and_detached() {
    let cloud = Cloud::start(|seen| {
        let member = |target: &str| json!({ "volume": { "href": format!("Volume/{U}") }, "state": "ATTACHED", "target": target });
        match seen.line.as_str() {
            "GET /cimi/Machine/7" => Reply::json(200, &machine(7)),
            "GET /cimi/Machine/8" => {
                let mut booting = machine(8);
                booting["phase"] = json!("Boot");
                Reply::json(200, &booting)
            }
            "POST /cimi/Machine/7/volumes"
                if seen.json()["volume"]["href"] == format!("Volume/{U}") =>
            {
                Reply::json(201, &member("vdc"))
                    .with("location", &format!("https://x/cimi/Machine/7/volumes/{U}"))
                    .with("cimi-job-uri", "https://x/cimi/Job/1")
            }
            "POST /cimi/Machine/7/volumes" => Reply::refusal(409, "Disk not available"),
            "GET /cimi/Job/1" => job("SUCCESS", ""),
            "GET /cimi/Job/2" => job("RUNNING", ""),
            line if line == format!("GET /cimi/Volume/{U}") => {
                let mut attached = volume(U, "data");
                attached["attachedTo"] = json!({ "href": "https://x/cimi/Machine/7" });
                Reply::json(200, &attached)
            }
            line if line == format!("GET /cimi/Volume/{V}") => Reply::json(200, &volume(V, "data")),
            line if line == format!("GET /cimi/Machine/7/volumes/{U}") => {
                Reply::json(200, &member("vdc"))
            }
            line if line == format!("DELETE /cimi/Machine/7/volumes/{U}") => {
                Reply(202, vec![("cimi-job-uri", "Job/1".to_owned())], Vec::new())
            }
            line if line == format!("GET /cimi/Machine/7/volumes/{V}") => {
                Reply::json(200, &member("vdd"))
            }
            line if line == format!("DELETE /cimi/Machine/7/volumes/{V}") => {
                Reply::refusal(409, "Disk have not been hot-plugged")
            }
            "DELETE /cimi/Machine/7/volumes/00000000-0000-0000-0000-000000000000" => {
                Reply(202, vec![("cimi-job-uri", "Job/2".to_owned())], Vec::new())
            }
            line if line.ends_with("000000000000") => Reply::json(200, &member("vde")),
            _ => Reply::refusal(404, "Error getting virtual machine [0]."),
        }
    });
    let result = cloud.run(&format!("attach-volume -i 7 {V} {U}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!("DISK {V}: Disk not available\n\nATTACHED {U} in VM 7 on /dev/vdc\n")
        )
    );
    assert_eq!(
        cloud.run(&format!("attach-volume -i7 {U}")).success(),
        format!("ATTACHED {U} in VM 7 on /dev/vdc\n")
    );
    let result = cloud.run(&format!("attach-volume -i 8 {U}"));
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (1, "  [ERROR] VM 8 is not in running state\n")
    );
    let result = cloud.run(&format!("attach-volume {U}"));
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (
            1,
            "  [ERROR] Please provide the machine to attach to (-i/--instance)\n"
        )
    );
    // Without a number it is taken from the machine that has it.
    let result = cloud.run(&format!("detach-volume {U} {V}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!("DETACHED {U} from VM 7 on /dev/vdc\nDISK {V}: no machine has it\n")
        )
    );
    let result = cloud.run(&format!("detach-volume {V} -i 7 {U}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!(
                "DISK {V}: Disk have not been hot-plugged\nDETACHED {U} from VM 7 on /dev/vdc\n"
            )
        )
    );
    let result = cloud.run("detach-volume -i 7 --timeout 1 00000000-0000-0000-0000-000000000000");
    assert!(
        result.status == 255 && result.stdout.contains("has not given it up after 1 s"),
        "{result:?}"
    );
}

#[test]
fn what_was_done_is_told_when_the_cloud_goes_away() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Machine/7" => Reply::json(200, &machine(7)),
        "POST /cimi/Machine/7/volumes"
            if seen.json()["volume"]["href"] == format!("Volume/{U}") =>
        {
            Reply::json(201, &json!({}))
        }
        line if line == format!("GET /cimi/Machine/7/volumes/{U}") => {
            Reply::json(200, &json!({ "target": "vdc" }))
        }
        _ => Reply(200, Vec::new(), b"this is no cloud".to_vec()),
    });
    let result = cloud.run(&format!("attach-volume --format json -i 7 {U} {V}"));
    assert!(result.status != 0, "{result:?}");
    let told = result.stdout.split("Error").next().unwrap();
    let told = told.split("Network").next().unwrap();
    let told: Value = serde_json::from_str(told).unwrap_or_else(|_| panic!("{result:?}"));
    assert_eq!(told[0]["device"], "/dev/vdc");
}

/// Its owner sees the volume, and not the machine of somebody else who has it.
#[test]
fn a_volume_is_taken_back_from_a_machine_that_one_does_not_see() {
    const OTHERS: &str = "0190a5c8-5f6e-7000-8000-00000000abcd";
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        line if line == format!("GET /cimi/Volume/{U}") => {
            let mut attached = volume(U, "data");
            attached["attachedTo"] = json!({ "href": format!("https://x/cimi/Machine/{OTHERS}") });
            Reply::json(200, &attached)
        }
        line if line == format!("DELETE /cimi/Machine/{OTHERS}/volumes/{U}") => {
            Reply(202, vec![("cimi-job-uri", "Job/1".to_owned())], Vec::new())
        }
        "GET /cimi/Job/1" => job("SUCCESS", ""),
        line => Reply::refusal(404, &format!("there is no {line}")),
    });
    assert_eq!(
        cloud.run(&format!("detach-volume {U}")).success(),
        format!("DETACHED {U} from a machine that is not yours\n")
    );
}
