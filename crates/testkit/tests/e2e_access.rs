//! Every route, asked by everybody: nobody, a stranger, the owner, an administrator. The routes follow from the interface's own
//! table, so that a new type is asked, too.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::fmt::Write as _;

use cimi::model::{Kind, describe};
use serde_json::{Value, json};
use testkit::{Api, TestCloud, firmware_only_image, skip_unless};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Nobody,
    Stranger,
    Owner,
    Administrator,
}

const ROLES: [Role; 4] = [
    Role::Nobody,
    Role::Stranger,
    Role::Owner,
    Role::Administrator,
];

/// One of each type that belongs to the owner, or the type's collection only.
struct Owned {
    kind: Kind,
    id: Option<String>,
    /// Whether every user may see it.
    public: bool,
}

#[test]
fn everybody_sees_and_changes_only_what_is_theirs() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let (owner, stranger) = (cloud.user("owner"), cloud.user("stranger"));
    let as_role = |role: Role| -> Api {
        match role {
            Role::Nobody => cloud.api().anonymous(),
            Role::Stranger => stranger.clone(),
            Role::Owner => owner.clone(),
            Role::Administrator => cloud.api(),
        }
    };
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let machine = cloud.machine_of(&owner, &cloud.machine_document(&image));
    machine.wait_for_phase("Running");
    let volume = cloud.volume(&owner, 1);
    let owned = everything(&cloud, &owner, &machine.id, &volume, &image);

    let mut wrong = String::new();
    let mut check = |role: Role, what: &str, status: u16, expected: &[u16]| {
        if !expected.contains(&status) {
            writeln!(wrong, "{role:?} {what}: {status}, expected {expected:?}").unwrap();
        }
    };
    for one in &owned {
        let collection = one.kind.name();
        for role in ROLES {
            let api = as_role(role);
            let is_known = role != Role::Nobody;
            let listed = api.get(collection);
            // What the operators tell is for everybody.
            let open = one.kind == Kind::ServiceMessage;
            let listed_all = if is_known || open {
                &[200, 403][..]
            } else {
                &[401][..]
            };
            check(
                role,
                &format!("GET {collection}"),
                listed.status,
                listed_all,
            );
            let posted = api.post(collection, &json!({}));
            let refused = if is_known {
                &[400, 403, 405, 422][..]
            } else {
                &[401, 405][..]
            };
            // Types whose attributes may all be left out are made by an empty document.
            let made = if is_known && posted.status == 201 {
                posted.location.clone()
            } else {
                None
            };
            if let Some(made) = made {
                let _ = cloud.api().delete(&made);
            } else {
                check(role, &format!("POST {collection}"), posted.status, refused);
            }
            let Some(id) = &one.id else { continue };
            let sees = one.public || matches!(role, Role::Owner | Role::Administrator);
            if is_known && listed.status == 200 {
                let shown = listed.text().contains(id.as_str());
                check(
                    role,
                    &format!("{id} in the list of {collection}"),
                    u16::from(shown),
                    &[u16::from(sees)],
                );
            }
            let got = api.get(id).status;
            let expected: &[u16] = match (is_known, sees) {
                (false, _) => &[401],
                (true, true) => &[200],
                (true, false) => &[403, 404],
            };
            check(role, &format!("GET {id}"), got, expected);
            if matches!(role, Role::Nobody | Role::Stranger) {
                // What changes something is tried by those only who must not.
                let refused: &[u16] = if is_known {
                    &[403, 404, 405]
                } else {
                    &[401, 405]
                };
                check(
                    role,
                    &format!("PUT {id}"),
                    api.put(id, &json!({"name": "mine now"})).status,
                    refused,
                );
                check(
                    role,
                    &format!("DELETE {id}"),
                    api.delete(id).status,
                    refused,
                );
                for action in describe(one.kind).actions {
                    let path = format!("{id}/{action}");
                    check(
                        role,
                        &format!("POST {path}"),
                        api.post(&path, &json!({})).status,
                        if is_known {
                            &[400, 403, 404, 405]
                        } else {
                            refused
                        },
                    );
                }
            }
        }
    }
    beside_cimi(&cloud, &machine.id, &volume, &mut check, as_role);
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(
        machine.phase(),
        "Running",
        "nothing was changed by those who must not"
    );

    machine.kill();
    let record = format!("MachineRecord/{}", machine.vmid);
    assert_eq!(owner.get(&record).expect(200)["phase"], "Done");
    assert!([403, 404].contains(&stranger.get(&record).status));
    let _ = owner.delete(&volume).ok();
    cloud.assert_clean();
}

fn everything(
    cloud: &TestCloud,
    owner: &Api,
    machine: &str,
    volume: &str,
    image: &str,
) -> Vec<Owned> {
    let made = |kind: &str, document: &Value| {
        owner.post(kind, document).expect(201)["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = |kind: &str| {
        cloud
            .api()
            .list(kind)
            .first()
            .and_then(|member| Some(member["id"].as_str()?.to_owned()))
    };
    let mut all = Vec::new();
    for kind in Kind::ALL
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::CloudEntryPoint && describe(*kind).collection.is_some())
    {
        let (id, public) = match kind {
            Kind::Machine => (Some(machine.to_owned()), false),
            Kind::Volume => (Some(volume.to_owned()), false),
            Kind::Credential => (
                Some(made(
                    "Credential",
                    &json!({"name": "k", "publicKey": cloud.public_key()}),
                )),
                false,
            ),
            Kind::MachineTemplate => (
                Some(made(
                    "MachineTemplate",
                    &json!({"name": "t", "machineImage": {"href": image}}),
                )),
                false,
            ),
            Kind::VolumeTemplate => (
                Some(made(
                    "VolumeTemplate",
                    &json!({"name": "t", "volumeConfig": {"capacity": 1_000_000}}),
                )),
                false,
            ),
            Kind::MachineImage => (
                cloud.api().get(image).expect(200)["id"]
                    .as_str()
                    .map(str::to_owned),
                true,
            ),
            Kind::MachineConfiguration | Kind::Network => (first(kind.name()), true),
            Kind::Job | Kind::Address => (
                owner
                    .list(kind.name())
                    .iter()
                    // What became of a public image everybody may know.
                    .find(|member| member["acl"]["owner"]["principal"] == "owner")
                    .and_then(|member| Some(member["id"].as_str()?.to_owned())),
                false,
            ),
            Kind::User => (Some("User/owner".to_owned()), false),
            _ => (None, false),
        };
        all.push(Owned { kind, id, public });
    }
    all
}

fn beside_cimi(
    cloud: &TestCloud,
    machine: &str,
    volume: &str,
    check: &mut impl FnMut(Role, &str, u16, &[u16]),
    as_role: impl Fn(Role) -> Api,
) {
    let uuid = volume.trim_start_matches("Volume/");
    for role in ROLES {
        let api = as_role(role);
        let (owner, admin, nobody) = (
            matches!(role, Role::Owner | Role::Administrator),
            role == Role::Administrator,
            role == Role::Nobody,
        );
        let for_some = |may: bool| -> &'static [u16] {
            match (nobody, may) {
                (true, _) => &[401],
                (false, true) => &[200],
                (false, false) => &[403, 404],
            }
        };
        check(role, "GET /health", api.get("/health").status, &[200]);
        check(role, "GET /cimi", api.get("/cimi").status, &[200]);
        check(
            role,
            "GET /metrics",
            api.get("/metrics").status,
            for_some(admin),
        );
        check(
            role,
            "GET /stratus/status",
            api.get("/stratus/status").status,
            for_some(admin),
        );
        check(
            role,
            "POST /stratus/doctor",
            api.post("/stratus/doctor", &json!({})).status,
            for_some(admin),
        );
        check(role, "GET authn", api.get("authn").status, &[200]);
        check(
            role,
            "GET console",
            api.get(&format!("{machine}/console")).status,
            for_some(owner),
        );
        check(
            role,
            "GET volumes of a machine",
            api.get(&format!("{machine}/volumes")).status,
            for_some(owner),
        );
        if !owner {
            let attach = api
                .post(
                    &format!("{machine}/volumes"),
                    &json!({"volume": {"href": volume}}),
                )
                .status;
            check(
                role,
                "POST volumes of a machine",
                attach,
                if nobody { &[401] } else { &[403, 404] },
            );
            let detach = api.delete(&format!("{machine}/volumes/{uuid}")).status;
            check(
                role,
                "DELETE volume of a machine",
                detach,
                if nobody { &[401] } else { &[403, 404] },
            );
        }
    }
    // Details of health are the administrator's.
    let details = |api: &Api| {
        api.get("/health").expect(200)["checks"]
            .as_array()
            .map_or(0, Vec::len)
    };
    check(
        Role::Nobody,
        "details of /health",
        u16::try_from(details(&cloud.api().anonymous())).unwrap(),
        &[0],
    );
    // A wrong password is nobody, also for what anybody may see.
    let wrong = cloud.api().as_user("admin", "guess").get("Machine").status;
    check(
        Role::Nobody,
        "GET Machine with a wrong password",
        wrong,
        &[401],
    );
}
