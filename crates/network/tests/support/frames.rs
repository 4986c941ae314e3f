//! Ethernet frames, as guests make them or forge them, sent and received at a real tap.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // as its parent

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use network::{Attachment, MacAddr, NetworkHost, PlugRequest};

pub const VNET_HEADER: usize = 10;
pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

pub fn ethernet(to: MacAddr, from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.octets(), from.octets()].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

pub fn arp(from: MacAddr, sender: MacAddr, sender_ip: Ipv4Addr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
    payload.extend(sender.octets());
    payload.extend(sender_ip.octets());
    payload.extend([0; 6]);
    payload.extend([172, 16, 0, 99]);
    ethernet(BROADCAST, from, 0x0806, &payload)
}

/// What QEMU says for a guest that has come from another host.
pub fn rarp(from: MacAddr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 3];
    payload.extend(from.octets());
    payload.extend([0; 4]);
    payload.extend(from.octets());
    // To the least that Ethernet carries.
    payload.extend([0; 22]);
    ethernet(BROADCAST, from, 0x8035, &payload)
}

pub fn udp(from: MacAddr, source: (Ipv4Addr, u16), port: u16, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((28 + data.len() as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(source.0.octets());
    header.extend([255, 255, 255, 255]);
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(source.1.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend((8 + data.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(data);
    ethernet(BROADCAST, from, 0x0800, &header)
}

pub fn dhcp_discover(from: MacAddr, chaddr: MacAddr) -> Vec<u8> {
    let mut data = vec![1, 1, 6, 0];
    data.resize(28, 0);
    data.extend(chaddr.octets());
    data.resize(300, 0);
    udp(from, (Ipv4Addr::UNSPECIFIED, 68), 67, &data)
}

pub fn router_advertisement(from: MacAddr) -> Vec<u8> {
    let mut packet = vec![
        0x60, 0, 0, 0, 0, 16, 58, 255, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ];
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    ethernet(MacAddr([0x33, 0x33, 0, 0, 0, 1]), from, 0x86dd, &packet)
}

pub fn send(tap: &OwnedFd, frame: &[u8]) {
    let whole = [&[0; VNET_HEADER], frame].concat();
    assert_eq!(rustix::io::write(tap, &whole).unwrap(), whole.len());
}

/// Everything that arrives until `last` does.
pub fn received_until(tap: &OwnedFd, last: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match rustix::io::read(tap, &mut buffer) {
            Ok(length) if &buffer[VNET_HEADER..length] == last => return all,
            Ok(length) => all.push(buffer[VNET_HEADER..length].to_vec()),
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the last frame never arrived; before it {all:?}");
}

pub async fn plugged(host: &NetworkHost, request: &PlugRequest) -> OwnedFd {
    let plugged = host.plug(request).await.unwrap();
    plugged.ready.wait().await.unwrap();
    match plugged.attachment {
        Attachment::Tap(fd) => fd,
        Attachment::User(_) => panic!("no tap"),
    }
}
