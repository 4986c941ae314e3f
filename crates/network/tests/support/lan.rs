//! Several hosts on one network segment, each with the same cloud network, joined.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // as its parent

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use network::{
    BridgedConfig, Ipv6Prefix, MacPrefix, NetworkConfig, NetworkHost, Overlay, PlugRequest,
    VXLAN_PORT, Vni,
};
use tokio::runtime::Runtime;

use crate::support::{Namespace, TestHost, machine};

/// How long a connection may take that is not to come.
const LIMIT: Duration = Duration::from_secs(2);
/// How long what is to come may take.
const LATE: Duration = Duration::from_secs(20);

/// The address of the n-th host between the hosts.
pub fn underlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

/// The address of the n-th host on the network of the guests.
pub fn host_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, 200 + n)
}

/// A host joined with these.
pub fn overlay(n: u8, peers: &[u8]) -> Overlay {
    Overlay {
        vni: Vni::new(77).unwrap(),
        local: underlay(n),
        peers: peers.iter().map(|peer| underlay(*peer)).collect(),
        host_address: Some(host_address(n)),
    }
}

/// A switch between hosts, with a world behind it at [`Lan::WORLD`].
pub struct Lan(pub Namespace);

impl Lan {
    pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

    pub fn new() -> Self {
        let switch = Namespace::new();
        switch.ip("link add sw0 type bridge");
        switch.ip("addr add 192.0.2.254/24 dev sw0");
        switch.ip("link set sw0 up");
        Self(switch)
    }

    /// Gives a namespace an interface `up0` with the n-th address.
    pub fn plug_in(&self, namespace: &Namespace, n: u8) {
        let switch = &self.0.name;
        namespace.ip(&format!(
            "link add up0 type veth peer name port{n} netns {switch}"
        ));
        namespace.ip(&format!("addr add {}/24 dev up0", underlay(n)));
        namespace.ip("link set up0 up");
        self.0.ip(&format!("link set port{n} master sw0 up"));
    }
}

/// A host with its network open, until it is dropped. All hosts are of one test, each in its own namespace.
pub struct Site {
    host: Option<NetworkHost>,
    runtime: Runtime,
    pub test: TestHost,
}

impl Site {
    /// The n-th host, joined with these.
    pub fn new(lan: &Lan, n: u8, peers: &[u8]) -> Self {
        Self::of(TestHost::new(), lan, n, peers)
    }

    /// The same, made of what may be configured already.
    pub fn of(mut test: TestHost, lan: &Lan, n: u8, peers: &[u8]) -> Self {
        lan.plug_in(&test.namespace, n);
        test.config.mtu = 1450;
        test.config.overlay = Some(overlay(n, peers));
        // Its threads are made by one that lives in the namespace, so they do as well.
        let runtime = test.namespace.enter(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        });
        let mut site = Self {
            host: None,
            runtime,
            test,
        };
        site.restart();
        site
    }

    /// Opens the network as a new process does: with what stands, and nothing of the one before.
    pub fn restart(&mut self) {
        drop(self.host.take());
        let config = NetworkConfig::Bridged(self.test.config.clone());
        let (namespace, runtime) = (&self.test.namespace, &self.runtime);
        self.host = Some(namespace.enter(|| {
            let host = runtime.block_on(NetworkHost::open(config));
            host.unwrap()
        }));
    }

    /// Does something with the network, from within the namespace.
    pub fn on<T: Send>(&self, act: impl AsyncFnOnce(&NetworkHost) -> T + Send) -> T {
        let host = self.host.as_ref().unwrap();
        self.test
            .namespace
            .enter(|| self.runtime.block_on(act(host)))
    }

    /// Exactly these machines.
    pub fn has(&self, machines: &[PlugRequest]) {
        self.on(async |host| host.reconcile(machines).await.unwrap());
    }

    /// A guest with its address set, that the network is still to be told of.
    pub fn guest(&self, request: &PlugRequest) -> Namespace {
        let guest = self.test.guest(request);
        guest.ip("link set eth0 mtu 1450");
        guest.ip(&format!("addr add {}/24 dev eth0", request.ip));
        guest.ip("route add default via 172.16.0.1");
        guest
    }

    /// What a counter of its firewall says.
    pub fn counted(&self, counter: &str) -> u64 {
        let packets = self.on(async |host| host.audit().await.unwrap().packets);
        *packets.get(counter).unwrap()
    }

    /// What its network lacks.
    pub fn missing(&self) -> Vec<String> {
        self.on(async |host| host.audit().await.unwrap().missing)
    }

    /// Joins it with exactly these.
    pub fn join(&self, n: u8, peers: &[u8]) {
        self.on(async |host| host.set_overlay(Some(overlay(n, peers))).await.unwrap());
    }
}

/// A listener in a namespace; it keeps its namespace whatever thread uses it.
pub fn listen(namespace: &Namespace) -> (TcpListener, u16) {
    listen_at(namespace, Ipv4Addr::UNSPECIFIED)
}

/// As [`listen`], at any address of the family.
pub fn listen_at(namespace: &Namespace, any: impl Into<IpAddr>) -> (TcpListener, u16) {
    let any = any.into();
    let listener = namespace.enter(|| TcpListener::bind((any, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

pub fn connect(from: &Namespace, to: impl Into<IpAddr>, port: u16) -> Result<TcpStream, ErrorKind> {
    connect_within(LIMIT, from, to.into(), port)
}

fn connect_within(
    limit: Duration,
    from: &Namespace,
    to: IpAddr,
    port: u16,
) -> Result<TcpStream, ErrorKind> {
    let to = SocketAddr::from((to, port));
    from.enter(|| TcpStream::connect_timeout(&to, limit))
        .map_err(|error| error.kind())
}

/// Connects, and says from which address the other end sees it.
pub fn connection(
    from: &Namespace,
    to: impl Into<IpAddr>,
    listener: &(TcpListener, u16),
) -> (TcpStream, TcpStream, IpAddr) {
    let to = to.into();
    let here = connect_within(LATE, from, to, listener.1)
        .unwrap_or_else(|error| panic!("{to} is not reached: {error}"));
    let (there, seen) = listener.0.accept().unwrap();
    (here, there, seen.ip())
}

/// So much goes through that the largest packets are among it.
pub fn carries(mut from: &TcpStream, mut to: &TcpStream) {
    let sent = [7; 100_000];
    to.set_read_timeout(Some(LATE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(&sent).unwrap());
        let mut read = vec![0; sent.len()];
        to.read_exact(&mut read).unwrap();
    });
}

/// A frame as hosts of network 77 send it to each other (RFC 7348 §5).
pub fn in_tunnel(frame: &[u8]) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, 0, 0, 77, 0];
    packet.extend(frame);
    packet
}

/// Sends a frame through the tunnel of the n-th host, by whatever port.
pub fn send_in_tunnel(from: &Namespace, frame: &[u8], n: u8) {
    let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let to = SocketAddr::from((underlay(n), VXLAN_PORT));
    socket.send_to(&in_tunnel(frame), to).unwrap();
}

/// Somebody on the segment who hears VXLAN without being a host of ours.
pub struct Stranger {
    pub namespace: Namespace,
    pub socket: UdpSocket,
}

impl Stranger {
    pub fn new(lan: &Lan, n: u8) -> Self {
        let namespace = Namespace::new();
        lan.plug_in(&namespace, n);
        let socket =
            namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, VXLAN_PORT)).unwrap());
        socket.set_read_timeout(Some(LATE)).unwrap();
        Self { namespace, socket }
    }

    /// All frames that come through the tunnel until `last` does.
    pub fn received_until(&self, last: &[u8]) -> BTreeSet<Vec<u8>> {
        let mut all = BTreeSet::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap();
            let frame = &buffer[8..length];
            if frame == last {
                return all;
            }
            all.insert(frame.to_vec());
        }
    }
}

/// The other network of a group with that of the hosts, 172.17.0.0/24, on both of them; with a guest on the second one, which has its
/// card and no address yet.
pub struct OtherNetwork {
    pub machine: PlugRequest,
    pub guest: Namespace,
    _networks: [NetworkHost; 2],
}

impl OtherNetwork {
    pub fn new(sites: [&Site; 2], network6: Option<Ipv6Prefix>) -> Self {
        let ip = Ipv4Addr::new(172, 17, 0, 5);
        let machine = PlugRequest {
            ip,
            mac: MacPrefix::default().mac(ip),
            ..machine(5)
        };
        let networks = [(1, sites[0]), (2, sites[1])].map(|(n, site)| {
            let mut config = BridgedConfig::new(
                "u".parse().unwrap(),
                site.test.folder.path().join("other"),
                "172.17.0.0/24".parse().unwrap(),
                Ipv4Addr::new(172, 17, 0, 1),
                "other.test".parse().unwrap(),
            );
            config.mtu = 1450;
            config.network6 = network6;
            config.overlay = Some(Overlay {
                vni: Vni::new(78).unwrap(),
                host_address: Some(Ipv4Addr::new(172, 17, 0, 200 + n)),
                ..overlay(n, &[1, 2])
            });
            config.peers.insert(site.test.config.as_peer());
            site.on(async |host| {
                host.forward_to([config.as_peer()].into()).await.unwrap();
                let config = NetworkConfig::Bridged(config);
                NetworkHost::open(config).await.unwrap()
            })
        });
        let guest = Namespace::new();
        let second = sites[1];
        second.test.namespace.ip(&format!(
            "link add stu-5 type veth peer name eth0 netns {}",
            guest.name
        ));
        guest.ip(&format!(
            "link set eth0 address {} mtu 1450 up",
            machine.mac
        ));
        second.on(async |_| {
            let wanted = std::slice::from_ref(&machine);
            networks[1].reconcile(wanted).await.unwrap();
        });
        Self {
            machine,
            guest,
            _networks: networks,
        }
    }
}
