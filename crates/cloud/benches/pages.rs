//! Pages of 100 out of 100,000 machines, filtered and ordered in many ways, first and last; and creations within quotas.
//!
//! `cargo bench -p cloud --bench pages`. The budget: a page in 3 ms.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark that panics has failed, and prints"
)]

#[path = "../tests/bare_cloud/mod.rs"]
mod bare_cloud;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bare_cloud::{World, user};
use cimi::{
    Acl, AddressId, HostId, ImageId, NetworkId, Ref, Right,
    lifecycle::Power,
    model::Kind,
    query::Query,
    resources::{Machine, Nic},
};
use cloud::{OpContext, PerUser};
use serde_json::json;

const MACHINES: u32 = 100_000;
/// What one list is asked for, one time after the other.
const ROUNDS: usize = 21;
/// Users who create at the same time.
const CLIENTS: usize = 64;
const CREATIONS: usize = 200;

const IMAGES: u32 = 50;
const HOSTS: u32 = 1_000;

fn image(number: u32) -> ImageId {
    let id = format!(
        "MachineImage/00000000-0000-7000-8000-{:012}",
        number % IMAGES
    );
    id.parse().unwrap()
}

fn host(number: u32) -> HostId {
    let id = format!("Host/00000000-0000-7000-8000-{:012}", number % HOSTS);
    id.parse().unwrap()
}

fn nic(network: &str, number: u32) -> Nic {
    let network = NetworkId::from_local(network).unwrap();
    let ip = std::net::IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    Nic {
        address: AddressId::of(&network, ip),
        network,
        ip,
        mac: "0a:0a:0a:4d:00:02".to_owned(),
        model: None,
        port: None,
    }
}

/// Machines that differ in what they are asked for below.
fn machine(number: u32) -> Machine {
    let mut machine = cimi::testing::machine(number);
    machine.common.acl = Acl::owned_by_user(if number.is_multiple_of(5) {
        "bob"
    } else {
        "alice"
    });
    if number.is_multiple_of(7) {
        machine.common.acl = machine.common.acl.allowing_role("physics", Right::View);
    }
    machine.common.name = Some(format!("m{}", number.wrapping_mul(2_654_435_761) % 5000));
    let properties = &mut machine.common.properties;
    properties.insert("colour".into(), ["red", "blue"][number as usize % 2].into());
    machine.image = Some(Ref::to(image(number)));
    machine.host = Some(host(number));
    machine.nics = ["public", "local"][..number as usize % 3 % 2 + 1]
        .iter()
        .map(|network| nic(network, number))
        .collect();
    machine.cpu = number % 6 + 1;
    machine.desired.power = if number.is_multiple_of(4) {
        Power::Off
    } else {
        Power::On
    };
    machine.settle();
    machine
}

const QUERIES: &[&str] = &[
    "$last:100",
    "$first:79000&$last:79100",
    "$filter:cpu>3&$last:100",
    "$filter:cpu>3&$first:30000&$last:30099",
    "$filter:state='STOPPED'&$last:100",
    "$filter:state='CREATING' and cpu<=2&$orderby:name&$last:100",
    "$filter:cpu>3&$orderby:name:desc,vmid&$first:20000&$last:20099",
    "$orderby:name&$first:70000&$last:70099",
    "$filter:name='m7'",
    "$filter:property['colour']='red'&$orderby:cpu&$last:100",
    "$filter:vmid>=50000 and vmid<50100",
    // What a view makes of other documents.
    "$filter:hostname='nowhere'",
    "$filter:imageIdentifier='nothing'&$last:100",
    "$orderby:hostname,vmid:desc&$first:30000&$last:30099",
    "$orderby:imageIdentifier:desc&$last:100",
    // Lists.
    "$filter:networks='local' and cpu>3&$orderby:name&$last:100",
    "$filter:started>'2020-01-01T00:00:00Z'&$last:100",
    "$filter:nothing='x'",
    "$filter:nothing!='x' or cpu=1&$first:50000&$last:50099",
];

/// Of the logs of the same machines.
const OF_LOGS: &[&str] = &[
    "$last:100",
    "$first:60000&$last:60099",
    "$filter:name='m7'&$last:100",
    "$filter:targetResource='Machine/00000000-0000-7000-8000-000000000000'",
    "$filter:created>'2020-01-01T00:00:00Z'&$last:100",
];
/// What is still looked at one by one.
const ORDERED_LOGS: &[&str] = &["$orderby:name&$last:100"];

fn query(text: &str) -> Query {
    let parameters = text.split('&').filter_map(|part| part.split_once(':'));
    Query::from_parameters(parameters).unwrap()
}

fn pages(world: &World, who: &OpContext, name: &str, kind: Kind, queries: &[&str]) -> Duration {
    let mut slowest = Duration::ZERO;
    for text in queries {
        let query = query(text);
        let mut all: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                let page = world.cloud.list(who, kind, &query).unwrap();
                assert!(page.members.len() <= 101, "{text}");
                begun.elapsed()
            })
            .collect();
        let first = all[0];
        all.sort_unstable();
        let (median, most) = (all[ROUNDS / 2], all[ROUNDS - 1]);
        println!(
            "{name:<10} {text:<78} first {first:>8.1?}   median {median:>8.1?}   most {most:>8.1?}"
        );
        slowest = slowest.max(median);
    }
    slowest
}

async fn write(world: &World) {
    let mut changes = world.documents.changes();
    for number in 0..IMAGES {
        let mut document = cimi::testing::image();
        document.id = image(number);
        document.desired.expected.identifier = Some(format!("{number:027}"));
        changes = changes.create(&document);
    }
    changes.commit().await.unwrap();
    for some in (0..HOSTS).collect::<Vec<_>>().chunks(50) {
        let mut changes = world.documents.changes();
        for number in some {
            let mut document = cimi::testing::host();
            document.id = host(*number);
            document.common.name = Some(format!("h{:04}", number.wrapping_mul(7919) % HOSTS));
            changes = changes.create(&document);
        }
        changes.commit().await.unwrap();
    }
    let all: Vec<Machine> = (0..MACHINES).map(machine).collect();
    for some in all.chunks(50) {
        let mut changes = world.documents.changes();
        for machine in some {
            changes = changes.create(machine);
        }
        changes.commit().await.unwrap();
    }
}

/// Volumes are counted and measured within what each user may have.
async fn creations() -> f64 {
    let limited = PerUser {
        volumes: CREATIONS + 1,
        ..PerUser::default()
    };
    let world = Arc::new(World::with(limited, Default::default()).await);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let world = world.clone();
            tokio::spawn(async move {
                let who = user(&format!("user{number}"));
                for _ in 0..CREATIONS {
                    let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
                    world.create(&who, Kind::Volume, body).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (CLIENTS * CREATIONS) as f64 / begun.elapsed().as_secs_f64()
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rate = runtime.block_on(creations());
    println!("volumes within quotas, {CLIENTS} clients: {rate:.0}/s");
    let world = runtime.block_on(async {
        let world = World::start().await;
        write(&world).await;
        world
    });
    let member = cloud::testing::caller("carol", &["physics"]);
    let administrator = bare_cloud::admin();
    let rows = [
        ("everything", &administrator),
        ("own", &user("alice")),
        ("shared", &member),
    ];
    let slowest = rows.map(|(name, who)| {
        let machines = pages(&world, who, name, Kind::Machine, QUERIES);
        machines.max(pages(&world, who, name, Kind::EventLog, OF_LOGS))
    });
    for (name, who) in rows {
        pages(&world, who, name, Kind::EventLog, ORDERED_LOGS);
    }
    println!(
        "slowest median of {MACHINES} machines: {:.1?}",
        slowest.into_iter().max().unwrap_or_default()
    );
}
