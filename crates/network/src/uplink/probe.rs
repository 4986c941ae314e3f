//! Who must answer: whoever did before the change. Gateways by ARP or neighbour discovery, since many answer nothing else; peers
//! that the operator names by TCP, of which a refusal is an answer, too; and the connection by which the operator is here by
//! what its other end acknowledges of what we print.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::holdings::Device;
use crate::error::Result;
use crate::links::{Links, within};

/// A port that hardly anybody listens at: what is sent there makes the kernel ask for the neighbour (RFC 863).
const DISCARD: u16 = 9;
/// How long one answer is waited for; and between two looks.
const ANSWER: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// One that may have to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    Gateway(IpAddr),
    Peer(SocketAddr),
    /// A connection of whoever started us, by its ends as `ss` names them.
    Connection {
        local: SocketAddr,
        remote: SocketAddr,
    },
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gateway(address) => write!(f, "the gateway {address}"),
            Self::Peer(address) => write!(f, "{address}"),
            Self::Connection { remote, .. } => {
                write!(f, "your connection from {remote}")
            }
        }
    }
}

impl Probe {
    /// Whether it answers by this interface, within a few seconds. What was known of it before the change counts with `known`.
    pub(super) async fn answers(
        &self,
        links: &Links,
        device: &Device,
        known: bool,
        print: &mut dyn FnMut(&str),
    ) -> Result<bool> {
        match self {
            Self::Gateway(gateway) => neighbour(links, device, *gateway, known).await,
            Self::Peer(peer) => Ok(match timeout(ANSWER, TcpStream::connect(peer)).await {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ),
                Err(_) => false,
            }),
            Self::Connection { local, remote } => Ok(is_acknowledged(*local, *remote, print).await),
        }
    }
}

async fn neighbour(links: &Links, device: &Device, ip: IpAddr, known: bool) -> Result<bool> {
    if !known && let Some(old) = entry(links, device, ip).await? {
        if old.header.state == NeighbourState::Permanent {
            return Ok(true);
        }
        // What was learnt before says nothing. It may go by itself meanwhile.
        let removal = links.handle.neighbours().del(old).execute();
        let _ = within("forgetting a gateway", removal).await;
    }
    let to = match ip {
        IpAddr::V4(ip) => SocketAddr::from((ip, DISCARD)),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, DISCARD, 0, device.index).into(),
    };
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let end = Instant::now() + ANSWER;
    let Ok(socket) = UdpSocket::bind((any, 0)).await else {
        return Ok(false);
    };
    loop {
        let _ = timeout(PAUSE, socket.send_to(&[0], to)).await;
        let state = entry(links, device, ip)
            .await?
            .map(|entry| entry.header.state);
        match state {
            Some(NeighbourState::Reachable | NeighbourState::Permanent) => return Ok(true),
            Some(NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe)
                if known =>
            {
                return Ok(true);
            }
            _ if Instant::now() >= end => return Ok(false),
            _ => sleep(PAUSE).await,
        }
    }
}

async fn entry(links: &Links, device: &Device, ip: IpAddr) -> Result<Option<NeighbourMessage>> {
    let wanted = NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    });
    let listing = links.handle.neighbours().get().execute();
    let all: Vec<NeighbourMessage> = within("listing neighbours", listing.try_collect()).await?;
    let is_it = |entry: &NeighbourMessage| {
        entry.header.ifindex == device.index && entry.attributes.contains(&wanted)
    };
    Ok(all.into_iter().find(is_it))
}

/// Whether the other end has what is printed now.
async fn is_acknowledged(
    local: SocketAddr,
    remote: SocketAddr,
    print: &mut dyn FnMut(&str),
) -> bool {
    let Some(before) = Traffic::of(local, remote).await else {
        return false;
    };
    print("…");
    let end = Instant::now() + ANSWER;
    while Instant::now() < end {
        match Traffic::of(local, remote).await {
            // All that had been written when we looked first, and more.
            Some(now) if now.acknowledged > before.acknowledged + before.under_way => return true,
            Some(_) => sleep(PAUSE).await,
            None => return false,
        }
    }
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traffic {
    acknowledged: u64,
    under_way: u64,
}

impl Traffic {
    async fn of(local: SocketAddr, remote: SocketAddr) -> Option<Self> {
        let mut command = Command::new("ss");
        command.args(["-tinHO", "state", "established", "src"]);
        command.arg(local.to_string());
        command
            .arg("dst")
            .arg(remote.to_string())
            .kill_on_drop(true);
        let output = timeout(ANSWER, command.output()).await.ok()?.ok()?;
        Self::read(&String::from_utf8_lossy(&output.stdout))
    }

    /// Of `ss`'s line: `RECV-Q SEND-Q LOCAL REMOTE … bytes_acked:N …`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let under_way = words.nth(1)?.parse().ok()?;
        let acknowledged = words.find_map(|word| word.strip_prefix("bytes_acked:"));
        Some(Self {
            // Not told as long as it is none.
            acknowledged: acknowledged.map_or(Some(0), |number| number.parse().ok())?,
            under_way,
        })
    }
}

/// Established connections of the processes that we descend from, with an end at one of these addresses.
pub(super) fn connections(own: &[IpAddr]) -> Vec<Probe> {
    let inodes: Vec<String> = ancestors().iter().flat_map(|pid| sockets(*pid)).collect();
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let lines = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let mut found = Vec::new();
    for line in lines.iter().flat_map(|table| table.lines()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(remote), Some(&"01"), Some(inode)) =
            (fields.get(1), fields.get(2), fields.get(3), fields.get(9))
        else {
            continue;
        };
        let (Some(local), Some(remote)) = (endpoint(local), endpoint(remote)) else {
            continue;
        };
        let is_ours = inodes.iter().any(|one| one == inode) && own.contains(&local.ip());
        let probe = Probe::Connection { local, remote };
        if is_ours && !found.contains(&probe) {
            found.push(probe);
        }
    }
    found
}

fn ancestors() -> Vec<u32> {
    let mut all = Vec::new();
    let mut pid = std::process::id();
    // `PID (NAME) STATE PARENT`, of which the name may contain anything.
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent > 1 && !all.contains(&parent) => {
                all.push(parent);
                pid = parent;
            }
            _ => break,
        }
    }
    all
}

fn sockets(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
    let links = entries.into_iter().flatten().flatten();
    links
        .filter_map(|entry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

/// `ADDRESS:PORT` of the kernel's tables: words of four bytes in the order of this computer, in hexadecimal.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_connections_are_read() {
        let read = |text: &str| endpoint(text).map(|end| end.to_string());
        assert_eq!(read("0100007F:0016").as_deref(), Some("127.0.0.1:22"));
        assert_eq!(
            read("0000000000000000FFFF00000100007F:0016").as_deref(),
            Some("127.0.0.1:22")
        );
        assert_eq!(
            read("B80D0120000000000000000001000000:0016").as_deref(),
            Some("[2001:db8::1]:22")
        );
        assert_eq!(read("01:0016"), None);
    }

    #[test]
    fn what_was_acknowledged_is_read() {
        let line = "0      36     192.0.2.5:22   192.0.2.9:50112 timer:(on,200ms,0) cubic wscale:7,7 bytes_sent:5000 bytes_acked:4965 segs_out:9";
        let read = Traffic::read(line).unwrap();
        assert_eq!((read.acknowledged, read.under_way), (4965, 36));
        assert_eq!(Traffic::read(""), None);
    }
}
