//! Lists of very many, which are answered from columns, show what a look at each member would.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)] // a test that panics has failed

use crate::bare_cloud::{World, admin, user};
use cimi::{
    Acl, AddressId, NetworkId, Ref, Right,
    lifecycle::Power,
    model::Kind,
    query::Query,
    resources::{Host, Image, Machine, Nic, Resource as _},
};
use cloud::{OpContext, View};

fn query(text: &str) -> Query {
    let parameters = text.split('&').filter_map(|part| part.split_once(':'));
    Query::from_parameters(parameters).unwrap()
}

/// What some of the machines have from others.
fn host(number: usize) -> Host {
    let mut host = cimi::testing::host();
    host.id = format!("Host/00000000-0000-7000-8000-{number:012}")
        .parse()
        .unwrap();
    host.common.name = Some(HOSTS[number].to_owned());
    host
}

/// Two of them have one name, and the third one comes before them by its name.
const HOSTS: [&str; 3] = ["here", "here", "elsewhere"];

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

fn image() -> Image {
    let mut image = cimi::testing::image();
    image.id = "MachineImage/00000000-0000-7000-8000-000000000002"
        .parse()
        .unwrap();
    image.desired.expected.identifier = Some("MMZu9WvwKIro-rtBQfDk4PsKO7_".to_owned());
    image
}

/// Machines that differ in what they are asked for below; every fifth is somebody else's, every seventh shared.
fn machine(number: u32) -> Machine {
    let mut machine = cimi::testing::machine(number);
    let owner = if number.is_multiple_of(5) {
        "bob"
    } else {
        "alice"
    };
    machine.common.acl = Acl::owned_by_user(owner);
    if number.is_multiple_of(7) {
        machine.common.acl = machine.common.acl.allowing_role("physics", Right::View);
    }
    machine.common.name = (!number.is_multiple_of(11)).then(|| {
        let text = ["a long common beginning ", "", "é"][number as usize % 3];
        format!("{text}{}", number.wrapping_mul(2_654_435_761) % 500)
    });
    if number.is_multiple_of(3) {
        let properties = &mut machine.common.properties;
        properties.insert("colour".into(), ["red", "blue"][number as usize % 2].into());
    }
    let on = [0, 1, 2, 3].get(number as usize % 5).filter(|on| **on < 3);
    machine.host = on.map(|on| host(*on).id);
    machine.nics = match number % 4 {
        0 => Vec::new(),
        1 => vec![nic("public", number)],
        _ => vec![nic("public", number), nic("local", number)],
    };
    if number.is_multiple_of(6) {
        machine.placement.together = vec!["web".to_owned(), format!("group{}", number % 9)];
    }
    if number.is_multiple_of(4) {
        machine.image = Some(Ref::to(image().id));
    }
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
    "$last:20",
    "$first:700&$last:720",
    "$filter:cpu>3",
    "$filter:cpu>3&$orderby:name&$last:50",
    "$filter:cpu>3 and (state='CREATING' or state='STOPPED')&$orderby:name:desc,vmid&$first:200&$last:260",
    "$orderby:cpu:desc,name,created&$first:990&$last:1010",
    "$orderby:name&$first:5&$last:1500",
    "$orderby:name:desc&$last:5000",
    "$filter:name='a long common beginning 7' or name='é9'",
    "$filter:name!='x'&$orderby:vmid:desc&$last:3",
    "$filter:property['colour']='red'&$orderby:cpu",
    "$filter:property['colour']!='red' and cpu<=2&$last:7",
    "$filter:nothing='x'",
    "$filter:nothing!='x'&$orderby:nothing,name&$last:9",
    "$filter:addresses='10.0.0.1'",
    "$filter:addresses!='10.0.0.1'&$last:4",
    "$filter:owner='bob'&$orderby:owner,vmid&$last:1000",
    "$filter:created>'2000-01-01T00:00:00Z' and cpu='3'&$last:10",
    "$filter:vmid>=100 and vmid<200&$orderby:name,id:desc",
    "$filter:vmid<=100 and vmid>7 and vmid!=50&$orderby:vmid:desc",
    "$filter:name<'b' and name>'a long common beginning 3'&$orderby:name,cpu:desc&$first:3&$last:30",
    "$filter:name>='é' or name<='' or name='changed 13'&$orderby:name:desc",
    "$filter:created>2000-01-01 and created<=2100-01-01T00:00:00Z&$last:10",
    "$filter:vmid='7' or cpu='x' or name=7&$last:10",
    "$orderby:name:desc,cpu:desc,vmid:desc&$first:2400&$last:2450",
    "$filter:hostname='none' or cpu=1&$last:10",
    "$filter:hostname='here' and cpu>3&$orderby:name&$last:50",
    "$filter:hostname!='here'&$last:40",
    "$filter:networks='local' and cpu>2&$orderby:name&$first:7&$last:50",
    "$filter:networks!='local'&$last:40",
    "$filter:placementTogether='group3' or networks='nowhere'",
    "$filter:addresses='10.0.0.9'",
    "$orderby:hostname,vmid:desc&$first:500&$last:560",
    "$orderby:hostname:desc&$first:1000&$last:1040",
    "$orderby:imageIdentifier,hostname:desc,name&$first:300&$last:420",
    "$filter:hostname='here'&$orderby:cpu:desc,hostname,networks&$last:300",
    "$filter:imageIdentifier='MMZu9WvwKIro-rtBQfDk4PsKO7_'&$first:3&$last:40",
    "$filter:id!='x'&$orderby:id:desc&$last:2",
    "$first:100000",
];

fn ids(views: &[View]) -> Vec<String> {
    views.iter().map(|view| view.id.to_string()).collect()
}

fn compare(world: &World, who: &OpContext, expected: usize) {
    let list = |query: &Query| world.cloud.list(who, Kind::Machine, query).unwrap();
    let whole = list(&Query::default());
    assert_eq!((whole.count, whole.members.len()), (expected, expected));
    for text in QUERIES {
        let query = query(text);
        let (count, members) = query.page(whole.members.clone());
        let page = list(&query);
        assert_eq!(page.count, count, "{text}");
        assert_eq!(ids(&page.members), ids(&members), "{text}");
    }
}

#[tokio::test]
async fn whatever_is_asked_and_whoever_asks() {
    let world = World::start().await;
    let documents = &world.documents;
    let write = async |machines: Vec<Machine>| {
        for some in machines.chunks(50) {
            let mut changes = documents.changes();
            for machine in some {
                changes = changes.create(machine);
            }
            changes.commit().await.unwrap();
        }
    };
    let others = documents.changes().create(&image());
    let others = (0..HOSTS.len()).fold(others, |changes, number| changes.create(&host(number)));
    others.commit().await.unwrap();
    write((0..2_800).map(machine).collect()).await;
    let member = cloud::testing::caller("carol", &["physics"]);
    let compare_all = |machines: &[u32]| {
        let count = |of: fn(&u32) -> bool| machines.iter().copied().filter(of).count();
        compare(&world, &admin(), machines.len());
        compare(&world, &user("alice"), count(|n| !n.is_multiple_of(5)));
        compare(&world, &member, count(|n| n.is_multiple_of(7)));
        compare(&world, &user("nobody"), 0);
    };
    let all: Vec<u32> = (0..2_800).collect();
    compare_all(&all);
    let here = query("$filter:hostname='here'");
    let page = world.cloud.list(&admin(), Kind::Machine, &here).unwrap();
    assert_eq!(page.count, 2_800 / 5 * 2);

    // Some change, many go, and some come: in the order of their identifiers and out of it.
    for read in documents.machines.all() {
        let number = read.vmid.0;
        if number.is_multiple_of(13) {
            let mut next = read.document.0.clone();
            next.common.name = Some(format!("changed {number}"));
            next.cpu = 9;
            documents
                .changes()
                .replace(&read, next)
                .commit()
                .await
                .unwrap();
        } else if number.is_multiple_of(2) {
            documents.changes().remove(&read).commit().await.unwrap();
        }
    }
    let mut late: Vec<Machine> = (3_000..3_100).map(machine).collect();
    for (number, machine) in late.iter_mut().enumerate() {
        if number % 2 == 0 {
            machine.id = format!("Machine/00000000-0000-7000-8000-{number:012}")
                .parse()
                .unwrap();
        }
    }
    write(late).await;
    let mut left: Vec<u32> = (0..2_800)
        .filter(|number: &u32| number.is_multiple_of(13) || !number.is_multiple_of(2))
        .collect();
    left.extend(3_000..3_100);
    compare_all(&left);
    // A few more, with names of their own in between.
    write((4_000..4_003).map(machine).collect()).await;
    left.extend(4_000..4_003);
    compare_all(&left);
    assert_eq!(
        documents.machines.all().first().unwrap().local_id().len(),
        36
    );
}

const OF_LOGS: &[&str] = &[
    "$last:20",
    "$first:1190&$last:1230",
    "$first:1201&$last:1202",
    "$first:1203",
    "$first:9&$last:3",
    "$filter:name='m7'",
    "$filter:name!='m7' and name!='data'&$first:1190",
    "$filter:name='data' or name='m7'&$last:2",
    "$filter:created>'2000-01-01T00:00:00Z'&$first:700&$last:720",
    "$filter:updated<'2000-01-01T00:00:00Z'",
    "$filter:property['colour']='red'",
    "$filter:summary='x'",
    "$filter:nothing!='x'&$last:7",
    "$orderby:name:desc,created&$first:3&$last:40",
    "$orderby:targetResource:desc&$last:40",
    "$filter:name!='m7'&$orderby:id:desc,name&$first:1100&$last:1140",
];

#[tokio::test]
async fn logs_are_found_without_their_events() {
    let world = World::start().await;
    let documents = &world.documents;
    let machines: Vec<Machine> = (0..1_200)
        .map(|number| {
            let mut machine = machine(number);
            machine.common.name = Some(format!("m{}", number % 300));
            machine.common.acl = Acl::owned_by_user("alice");
            machine
        })
        .collect();
    for some in machines.chunks(50) {
        let changes = some
            .iter()
            .fold(documents.changes(), documents::Changes::create);
        changes.commit().await.unwrap();
    }
    let alice = user("alice");
    for _ in 0..2 {
        let volume = world.volume(&alice).await;
        let named = serde_json::json!({"name": "data"});
        world
            .edit(&alice, Kind::Volume, &volume, named)
            .await
            .unwrap();
    }
    world.volume(&user("bob")).await;
    let list = |query: &Query| world.cloud.list(&alice, Kind::EventLog, query).unwrap();
    let whole = list(&Query::default());
    assert_eq!((whole.count, whole.members.len()), (1_202, 1_202));
    let one = |view: &View| {
        let about = view.id.split_once('/').unwrap().1.replacen('.', "/", 1);
        [
            format!("$filter:targetResource='{about}'"),
            format!("$filter:targetResource!='{about}'&$last:3"),
            format!("$filter:id='{}'", view.id),
            format!("$filter:events='{}/events' and name!='x'", view.id),
        ]
    };
    let (first, last) = (&whole.members[3], whole.members.last().unwrap());
    let of_one = [one(first), one(last)].concat();
    for text in OF_LOGS
        .iter()
        .copied()
        .chain(of_one.iter().map(String::as_str))
    {
        let query = query(text);
        let (count, members) = query.page(whole.members.clone());
        let page = list(&query);
        assert_eq!(page.count, count, "{text}");
        assert_eq!(ids(&page.members), ids(&members), "{text}");
    }
    assert_eq!(list(&query(&of_one[0])).count, 1);
}
