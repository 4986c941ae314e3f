//! Groups and quotas are changed as they are at that moment, and it is told of each user what became of them.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Cloud, Reply, Seen};

/// A cloud with these resources, by their paths below the CloudEntryPoint. Whenever one is read for the first time, somebody
/// else changes it before its reader can: `others` says to what.
fn cloud_of(resources: Value, others: Value) -> (Cloud, Arc<Mutex<Value>>) {
    let state = Arc::new(Mutex::new(resources));
    let others = others.as_object().cloned().unwrap_or_default();
    let (there, others) = (Arc::clone(&state), Mutex::new(others));
    let cloud = Cloud::start(move |seen| {
        let (method, path) = seen.line.split_once(" /cimi/").unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let mut there = there.lock().unwrap();
        let Some(resource) = there.get_mut(path) else {
            return Reply::refusal(404, &format!("there is no {path}"));
        };
        let tag = format!("\"{resource}\"");
        if method == "GET" {
            let shown = Reply::json(200, resource).with("etag", &tag);
            if let Some(changed) = others.lock().unwrap().remove(path) {
                *resource = changed;
            }
            return shown;
        }
        put(seen, resource, &tag)
    });
    (cloud, state)
}

fn put(seen: &Seen, resource: &mut Value, tag: &str) -> Reply {
    if seen.headers.get("if-match").is_some_and(|seen| seen != tag) {
        return Reply::refusal(412, "somebody changed it since");
    }
    for (name, value) in seen.json().as_object().unwrap() {
        resource[name] = value.clone();
    }
    Reply::json(200, resource)
}

#[test]
fn what_somebody_else_sets_meanwhile_stays() {
    let quota = |cpus: Value| json!({"Group/physics": {"quota": {"machines": 1, "cpus": cpus}}});
    let (cloud, state) = cloud_of(quota(json!(2)), quota(json!(4)));
    cloud.run("group quota --machines 7 physics").success();
    let set = state.lock().unwrap()["Group/physics"]["quota"].take();
    assert_eq!(set, json!({"machines": 7, "cpus": 4}));

    let ann = |roles: Value| json!({"User/ann": {"roles": roles}, "Group/physics": {"groupname": "physics"}});
    let others = json!({"User/ann": {"roles": ["chemistry", "biology"]}});
    let (cloud, state) = cloud_of(ann(json!(["chemistry"])), others);
    cloud.run("group add physics ann").success();
    let set = state.lock().unwrap()["User/ann"]["roles"].take();
    assert_eq!(set, json!(["chemistry", "biology", "physics"]));
}

#[test]
fn it_is_told_who_is_in_a_group_and_who_is_not() {
    let people = json!({
        "Group/physics": {"groupname": "physics"},
        "User/ann": {"roles": ["chemistry"]},
        "User/bob": {"roles": ["physics"]},
        "User/zoe": {},
    });
    let (cloud, state) = cloud_of(people, json!({}));
    let roles = |name: &str| state.lock().unwrap()[format!("User/{name}")]["roles"].clone();
    let result = cloud.run("group add physics ann nobody bob zoe");
    assert_eq!(
        (
            result.status,
            result.stdout.as_str(),
            result.stderr.as_str()
        ),
        (
            255,
            "Error: nobody: there is no User/nobody\n",
            "It was done for: ann, bob, zoe.\n"
        )
    );
    assert_eq!(roles("ann"), json!(["chemistry", "physics"]));
    assert_eq!(roles("bob"), json!(["physics"]));
    assert_eq!(roles("zoe"), json!(["physics"]));

    // Whoever takes the wrong one out must not believe that somebody lost a right.
    let result = cloud.run("group remove chemistry bob");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: 'bob' is not a member of chemistry\n")
    );
    let result = cloud.run("group remove --format json physics ann bob");
    assert_eq!(
        serde_json::from_str::<Value>(&result.success()).unwrap(),
        json!(["ann", "bob"])
    );
    assert_eq!(roles("ann"), json!(["chemistry"]));
    // What is no name at all keeps nobody, either; it alone is refused before anything is asked.
    assert_eq!(cloud.run("group add physics bob ../x").status, 255);
    assert_eq!(roles("bob"), json!(["physics"]));
    assert_eq!(cloud.run("group add physics ../x").status, 1);
}

#[test]
fn who_is_not_there_keeps_nobody_from_being_enabled() {
    let people = json!({"User/ann": {"enabled": false}, "User/zoe": {"enabled": false}});
    let (cloud, state) = cloud_of(people, json!({}));
    let result = cloud.run("user enable ann nobody zoe");
    assert_eq!(
        (
            result.status,
            result.stdout.as_str(),
            result.stderr.as_str()
        ),
        (
            255,
            "Error: nobody: there is no User/nobody\n",
            "It was done for: ann, zoe.\n"
        )
    );
    for user in ["User/ann", "User/zoe"] {
        assert_eq!(state.lock().unwrap()[user]["enabled"], true, "{user}");
    }
}

#[test]
fn who_was_reached_before_the_cloud_went_away_is_told() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "DELETE /cimi/User/ann" => Reply(204, Vec::new(), Vec::new()),
        "DELETE /cimi/User/bob" => Reply::refusal(409, "User/bob still has 1 of Volume"),
        _ => Reply::refusal(401, "who is that?"),
    });
    let result = cloud.run("user delete ann bob zoe");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: Unauthorized\n")
    );
    let told = "\nbob: User/bob still has 1 of Volume\nIt was done for: ann.\n";
    assert!(result.stderr.ends_with(told), "{}", result.stderr);
}
