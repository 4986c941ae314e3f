//! Two daemons, two processes, on one etcd: what users and groups may have is held by both together.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use serde_json::{Value, json};
use store::conformance::etcd_cluster::EtcdCluster;
use testkit::{Api, TestEntry};

const PASSWORD: &str = "correct horse";

/// Asks both daemons for volumes at the same moments, over and over; how many were made.
fn make_volumes(daemons: [&Api; 2]) -> usize {
    const ASKING: usize = 8;
    const EACH: usize = 6;
    let document = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
    let begin = std::sync::Barrier::new(ASKING);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..ASKING)
            .map(|number| {
                let (api, document, begin) = (daemons[number % 2].clone(), &document, &begin);
                scope.spawn(move || {
                    begin.wait();
                    let made = (0..EACH).filter(|_| {
                        let reply = api.post("/cimi/Volume", document);
                        assert!(matches!(reply.status, 201 | 409), "{}", reply.text());
                        if reply.status == 409 {
                            assert!(reply.text().contains("quota"), "{}", reply.text());
                        }
                        reply.status == 201
                    });
                    made.count()
                })
            })
            .collect();
        asking.into_iter().map(|made| made.join().unwrap()).sum()
    })
}

fn set_quota(admin: &Api, resource: &str, quota: &Value) {
    let path = format!("/cimi/{resource}?$select=quota");
    let _ = admin.put(&path, &json!({ "quota": quota })).ok();
}

#[test]
fn two_daemons_on_one_etcd_never_pass_a_quota_together() {
    if !EtcdCluster::possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(folder.path(), 1, None);
    let tables = format!(
        "[store]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = \"two\"\n",
        cluster.endpoints()
    );
    let first = TestEntry::start(&tables);
    let mut second = TestEntry::start(&tables);
    let admin = first.api("admin", &first.admin_password());
    let group = json!({"groupname": "physics", "quota": {"volumes": 20}});
    let _ = admin.post("/cimi/Group", &group).expect(201);
    for (user, volumes) in [("alice", 12), ("bob", -1)] {
        let document = json!({"username": user, "password": PASSWORD, "roles": ["physics"], "quota": {"volumes": volumes}});
        let _ = admin.post("/cimi/User", &document).expect(201);
    }
    let as_user =
        |second: &TestEntry, user: &str| [first.api(user, PASSWORD), second.api(user, PASSWORD)];
    let make = |second: &TestEntry, user: &str| {
        let [one, other] = as_user(second, user);
        make_volumes([&one, &other])
    };

    // The user's own bound, and what the group leaves to another member: reached, and not passed.
    assert_eq!(make(&second, "alice"), 12);
    assert_eq!(make(&second, "bob"), 8);
    for user in ["alice", "bob"] {
        for api in as_user(&second, user) {
            let refused = api.post(
                "/cimi/Volume",
                &json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}),
            );
            assert_eq!(refused.status, 409, "{}", refused.text());
            let whose = if user == "bob" {
                "of the group physics"
            } else {
                "(Quota: 12"
            };
            assert!(refused.text().contains(whose), "{}", refused.text());
        }
    }

    // A daemon that was killed while it counted for them is no obstacle, and forgets nothing.
    second.crash_and_restart();
    set_quota(&admin, "Group/physics", &json!({"volumes": 40}));
    set_quota(&admin, "User/alice", &json!({"volumes": 15}));
    assert_eq!(make(&second, "alice"), 3);
    let admins = [&admin, &second.api("admin", &first.admin_password())];
    for api in admins {
        let shown = api.get("/stratus/quota?group=physics").ok();
        let rows = shown["quota"].as_array().unwrap();
        let volumes = rows.iter().find(|row| row["measure"] == "volumes").unwrap();
        assert_eq!(volumes["used"], 23, "{shown}");
    }
}
