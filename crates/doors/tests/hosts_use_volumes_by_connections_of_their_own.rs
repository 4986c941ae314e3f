//! The protocol for volumes behind the door for hosts: who asks for which attachment, and when that ends.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::sync::Arc;

use cimi::{HostId, MachineId, Timestamp, VolumeId, resources::VolumeUse};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trust::{SERVER_NAME, VOLUME_PROTOCOL, VolumeRequest};

use crate::{
    hosts_come_in_by_their_own_door::world::{World, config},
    support::client::PATIENCE,
};

async fn connect(world: &World, mut config: ClientConfig) -> TlsStream<TcpStream> {
    config.alpn_protocols = vec![VOLUME_PROTOCOL.to_vec()];
    let stream = TcpStream::connect(world.running.address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    stream.await.unwrap()
}

/// Everything that is said until the connection ends.
async fn rest(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut said = Vec::new();
    // Closed without a word of TLS, it is an error.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said))
        .await
        .unwrap();
    said
}

fn some_volume() -> VolumeUse {
    VolumeUse {
        volume: VolumeId::generate(),
        machine: MachineId::generate(),
        taken: Some(Timestamp::now()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_asks_as_itself_until_it_is_none_any_more() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let key = key.to_pem();
    let own = || config(&token, Some((&joined.certificate, &key)));
    let host: HostId = joined.host.parse().unwrap();
    let (one, other) = (some_volume(), some_volume());
    let mut streams = Vec::new();
    for of in [&one, &other] {
        let mut stream = connect(&world, own()).await;
        let request = VolumeRequest(of.clone()).to_bytes().unwrap();
        // In pieces, as it may come.
        stream.write_all(&request[..40]).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(&request[40..]).await.unwrap();
        let mut said = [0; 8];
        let greeted = timeout(PATIENCE, stream.read_exact(&mut said)).await;
        greeted.unwrap().unwrap();
        assert_eq!(&said, b"NBDMAGIC");
        streams.push(stream);
    }
    let (first, second) = ((host.clone(), one), (host, other));
    world.volumes.are_had_by(&[first, second.clone()]).await;
    drop(streams.remove(0));
    world.volumes.are_had_by(&[second]).await;
    world.remove(&joined).await;
    world.volumes.are_had_by(&[]).await;
    rest(&mut streams[0]).await;
    let mut late = connect(&world, own()).await;
    let request = VolumeRequest(some_volume()).to_bytes().unwrap();
    let _ = late.write_all(&request).await;
    assert_eq!(rest(&mut late).await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_host_or_asks_for_nothing_gets_nothing() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let key = key.to_pem();
    let request = VolumeRequest(some_volume()).to_bytes().unwrap();
    let mut stranger = connect(&world, config(&token, None)).await;
    let _ = stranger.write_all(&request).await;
    assert_eq!(rest(&mut stranger).await, b"");
    let mut host = connect(&world, config(&token, Some((&joined.certificate, &key)))).await;
    host.write_all(&[b'/'; trust::VOLUME_REQUEST_BYTES])
        .await
        .unwrap();
    assert_eq!(rest(&mut host).await, b"");
    world.volumes.are_had_by(&[]).await;
}
