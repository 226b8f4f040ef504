//! A host without a kernel: answers ARP and pings from this process, with or without a tag.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pnet::packet::MutablePacket;
use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::EtherTypes;
use pnet::packet::icmp::echo_request::MutableEchoRequestPacket;
use pnet::packet::icmp::{self, IcmpPacket, IcmpTypes, MutableIcmpPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::util::MacAddr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use wire::{ETHERTYPE_VLAN, Mac, Tag, be16};

use super::Tap;
use super::tap::MAX_FRAME;

const ECHO: usize = 56;

/// What the host's thread tells: whose address was resolved, whose ping answered.
enum Event {
    Arp(Ipv4Addr, Mac),
    Echo(Ipv4Addr, u16),
}

/// An IPv4 host on a tap. Ends on drop.
pub struct TaggedHost {
    core: Arc<Core>,
    events: Mutex<Receiver<Event>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    sequence: u16,
}

struct Core {
    tap: Tap,
    mac: Mac,
    ip: Ipv4Addr,
    vlan: Option<u16>,
}

impl TaggedHost {
    /// A host at `tap` with this address, on `vlan` (`None`: untagged).
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start(tap: Tap, mac: Mac, ip: Ipv4Addr, vlan: Option<u16>) -> Result<TaggedHost> {
        let core = Arc::new(Core { tap, mac, ip, vlan });
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (sender, receiver) = channel();
        let (theirs, stopped) = (core.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("tagged-host".into());
        let thread = thread.spawn(move || theirs.serve(&stopped, &sender))?;
        Ok(TaggedHost { core, events: Mutex::new(receiver), stop, thread: Some(thread), sequence: 0 })
    }

    /// Resolves `to` and pings it; the time from the request to the answer, or `None` when there is none.
    ///
    /// # Errors
    /// When the host's thread is gone or the frame cannot be written.
    pub fn ping(&mut self, to: Ipv4Addr, timeout: Duration) -> Result<Option<Duration>> {
        let deadline = Instant::now() + timeout;
        self.core.send(Mac::BROADCAST, EtherTypes::Arp.0, &self.core.arp(ArpOperations::Request.0, Mac([0; 6]), to))?;
        let resolved = self.wait(deadline, |event| match event {
            Event::Arp(ip, mac) if ip == to => Some(mac),
            _ => None,
        })?;
        let Some(mac) = resolved else { return Ok(None) };
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let start = Instant::now();
        self.core.send(mac, EtherTypes::Ipv4.0, &self.core.echo_request(to, sequence).context("a short buffer")?)?;
        let answer = self
            .wait(deadline, |event| matches!(event, Event::Echo(ip, s) if ip == to && s == sequence).then_some(()))?;
        Ok(answer.map(|()| start.elapsed()))
    }

    fn wait<T>(&self, deadline: Instant, wanted: impl Fn(Event) -> Option<T>) -> Result<Option<T>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(event) => {
                    if let Some(found) = wanted(event) {
                        return Ok(Some(found));
                    }
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Drop for TaggedHost {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Core {
    fn serve(&self, stop: &OwnedFd, events: &Sender<Event>) {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let mut fds = [self.tap.as_fd(), stop.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            if fds[1].revents().contains(PollFlags::IN) {
                return;
            }
            while let Ok(Some(len)) = self.tap.try_recv(&mut buffer) {
                if let Some(event) = self.answer(&buffer[..len]) {
                    // Nobody waiting is fine: the answer is what counts.
                    let _ = events.send(event);
                }
            }
        }
    }

    /// Takes the frame apart, if it is for this host on its VLAN, and answers it.
    fn answer(&self, frame: &[u8]) -> Option<Event> {
        let (to, from) = (Mac::read(frame)?, Mac::read(frame.get(6..)?)?);
        if to != self.mac && to != Mac::BROADCAST {
            return None;
        }
        let tag = (be16(frame, 12)? == ETHERTYPE_VLAN).then(|| be16(frame, 14).map(|tci| Tag(tci).vid())).flatten();
        if tag != self.vlan {
            return None;
        }
        let at = if tag.is_some() { 16 } else { 12 };
        let payload = frame.get(at + 2..)?;
        match be16(frame, at)? {
            kind if kind == EtherTypes::Arp.0 => self.answer_arp(payload),
            kind if kind == EtherTypes::Ipv4.0 => self.answer_ip(from, payload),
            _ => None,
        }
    }

    fn answer_arp(&self, payload: &[u8]) -> Option<Event> {
        let arp = ArpPacket::new(payload)?;
        if arp.get_target_proto_addr() != self.ip {
            return None;
        }
        let peer = Mac(arp.get_sender_hw_addr().octets());
        if arp.get_operation() == ArpOperations::Request {
            let reply = self.arp(ArpOperations::Reply.0, peer, arp.get_sender_proto_addr());
            // A frame that cannot be sent is lost, as on a cable.
            let _ = self.send(peer, EtherTypes::Arp.0, &reply);
            return None;
        }
        Some(Event::Arp(arp.get_sender_proto_addr(), peer))
    }

    fn answer_ip(&self, peer: Mac, payload: &[u8]) -> Option<Event> {
        let ip = Ipv4Packet::new(payload)?;
        let header = usize::from(ip.get_header_length()) * 4;
        let total = usize::from(ip.get_total_length());
        let ours = ip.get_destination() == self.ip && ip.get_next_level_protocol() == IpNextHeaderProtocols::Icmp;
        let body = payload.get(header..total)?;
        let message = IcmpPacket::new(body)?;
        if !ours || icmp::checksum(&message) != message.get_checksum() {
            return None;
        }
        match message.get_icmp_type() {
            IcmpTypes::EchoRequest => {
                let mut reply = payload.get(..total)?.to_vec();
                let mut packet = MutableIpv4Packet::new(&mut reply)?;
                packet.set_source(self.ip);
                packet.set_destination(ip.get_source());
                packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
                let mut echo = MutableIcmpPacket::new(packet.payload_mut())?;
                echo.set_icmp_type(IcmpTypes::EchoReply);
                echo.set_checksum(icmp::checksum(&echo.to_immutable()));
                let _ = self.send(peer, EtherTypes::Ipv4.0, &reply);
                None
            }
            IcmpTypes::EchoReply => Some(Event::Echo(ip.get_source(), be16(message.packet(), 6)?)),
            _ => None,
        }
    }

    fn arp(&self, operation: u16, target: Mac, target_ip: Ipv4Addr) -> [u8; 28] {
        let mut bytes = [0; 28];
        if let Some(mut arp) = MutableArpPacket::new(&mut bytes) {
            let mac = |m: Mac| MacAddr::from(m.0);
            arp.set_hardware_type(ArpHardwareTypes::Ethernet);
            arp.set_protocol_type(EtherTypes::Ipv4);
            arp.set_hw_addr_len(6);
            arp.set_proto_addr_len(4);
            arp.set_operation(pnet::packet::arp::ArpOperation(operation));
            arp.set_sender_hw_addr(mac(self.mac));
            arp.set_sender_proto_addr(self.ip);
            arp.set_target_hw_addr(mac(target));
            arp.set_target_proto_addr(target_ip);
        }
        bytes
    }

    fn echo_request(&self, to: Ipv4Addr, sequence: u16) -> Option<Vec<u8>> {
        let mut bytes = vec![0x5a; 28 + ECHO];
        let mut echo = MutableEchoRequestPacket::new(&mut bytes[20..])?;
        echo.set_icmp_type(IcmpTypes::EchoRequest);
        echo.set_icmp_code(icmp::IcmpCode(0));
        echo.set_identifier(0x7677);
        echo.set_sequence_number(sequence);
        let sum = icmp::checksum(&IcmpPacket::new(echo.packet())?);
        echo.set_checksum(sum);
        let mut ip = MutableIpv4Packet::new(&mut bytes[..])?;
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_dscp(0);
        ip.set_ecn(0);
        ip.set_total_length((28 + ECHO) as u16);
        ip.set_identification(sequence);
        ip.set_flags(0);
        ip.set_fragment_offset(0);
        ip.set_ttl(64);
        ip.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
        ip.set_source(self.ip);
        ip.set_destination(to);
        ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
        Some(bytes)
    }

    fn send(&self, to: Mac, kind: u16, payload: &[u8]) -> std::io::Result<()> {
        let mut frame = [to.0, self.mac.0].concat();
        if let Some(vlan) = self.vlan {
            frame.extend(Tag::new(vlan, 0).bytes());
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        self.tap.send(&frame)
    }
}
