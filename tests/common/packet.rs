//! Frames made by hand, right or wrong.

use wire::checksum::{pseudo_header, sum_be};
use wire::ip::TCP;

/// A UDP datagram or a TCP segment from the station whose addresses end in 3 to that whose end in 1.
#[derive(Clone, Copy)]
pub struct Packet {
    pub v6: bool,
    pub protocol: u8,
    /// From and to.
    pub ports: (u16, u16),
    /// Bytes.
    pub payload: usize,
    /// Its TCP or UDP checksum is right.
    pub right: bool,
}

impl Packet {
    /// Over IPv6 or not, and the protocol.
    pub fn new((v6, protocol): (bool, u8), ports: (u16, u16), payload: usize) -> Packet {
        Packet { v6, protocol, ports, payload, right: true }
    }

    /// Bytes of headers, IP's first.
    fn headers(&self) -> (usize, usize) {
        (if self.v6 { 40 } else { 20 }, if self.protocol == TCP { 20 } else { 8 })
    }

    /// Bytes without the Ethernet header.
    pub fn len(&self) -> usize {
        let (ip, l4) = self.headers();
        ip + l4 + self.payload
    }

    /// The frame without FCS, not padded.
    pub fn frame(&self) -> Vec<u8> {
        let (ip, l4) = self.headers();
        let len = self.len() as u16;
        let mut frame = vec![0, 0x50, 0x56, 0, 0, 1, 0, 0x50, 0x56, 0, 0, 3];
        let addresses = if self.v6 {
            let six = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((len - 40).to_be_bytes());
            frame.extend([self.protocol, 64]);
            [six(3), six(1)].concat()
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
            vec![10, 0, 0, 3, 10, 0, 0, 1]
        };
        frame.extend(&addresses);
        if !self.v6 {
            let sum = !sum_be(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend([self.ports.0, self.ports.1].map(u16::to_be_bytes).concat());
        let at = match self.protocol {
            // An acknowledgement of nothing.
            TCP => {
                frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
                16
            }
            _ => {
                frame.extend((len - ip as u16).to_be_bytes());
                frame.extend([0, 0]);
                6
            }
        };
        frame.extend((0..self.payload).map(|n| n as u8));
        let mut sum = pseudo_header(&addresses, self.protocol, (l4 + self.payload) as u32);
        sum.add(&frame[14 + ip..]);
        let wrong = if self.right { 0 } else { 0x0100 };
        frame[14 + ip + at..][..2].copy_from_slice(&(sum.finish() ^ wrong).to_be_bytes());
        frame
    }
}
