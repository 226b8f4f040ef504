//! What is sent.

use std::str::FromStr;

use wire::Mac;
use wire::checksum::sum_be;

/// Bytes of the FCS, which frame sizes count and memory does not hold.
pub const FCS: usize = 4;

/// Frame sizes, FCS included, in the order they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(pub Vec<usize>);

/// "Simple IMIX": seven of 64, four of 594, one of 1518 bytes.
const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        if text == "imix" {
            return Ok(Sizes(IMIX.to_vec()));
        }
        let size = |word: &str| match word.trim().parse() {
            Ok(n) if (64..=1522).contains(&n) => Ok(n),
            _ => Err(format!("a frame size is 64 to 1522 bytes, or imix; \"{word}\" is neither")),
        };
        text.split(',').map(size).collect::<Result<_, _>>().map(Sizes)
    }
}

/// The frames of one direction.
#[derive(Clone, Debug)]
pub struct Load {
    /// Their sizes.
    pub sizes: Sizes,
    /// Different UDP conversations.
    pub flows: usize,
    /// Different addresses on each side, the stations' own the first.
    pub macs: usize,
    /// Percent of frames that go to everybody.
    pub broadcast: u32,
}

impl Load {
    /// How many different frames there are before they repeat: as many as it takes for each size, conversation,
    /// address and share to have met every other that it ever meets.
    pub fn variety(&self) -> usize {
        let broadcasts = if self.broadcast > 0 { 100 } else { 1 };
        [self.sizes.0.len(), self.flows, self.macs, broadcasts].into_iter().fold(1, |all, n| lcm(all, n.max(1)))
    }

    /// Frame number `n` from `from` to `to`, without FCS.
    pub fn frame(&self, n: usize, from: Mac, to: Mac) -> Vec<u8> {
        let size = self.sizes.0.get(n % self.sizes.0.len().max(1)).copied().unwrap_or(64);
        let (src, dst) = (nth(from, n % self.macs.max(1)), nth(to, n % self.macs.max(1)));
        let everybody = (n % 100) < self.broadcast as usize;
        let dst = if everybody { Mac::BROADCAST } else { dst };
        udp(size - FCS, src, dst, (n % self.flows.max(1)) as u16)
    }

    /// The longest frame, without FCS, in bytes.
    pub fn longest(&self) -> usize {
        self.sizes.0.iter().max().map_or(0, |size| size - FCS)
    }
}

/// The least common multiple; `usize::MAX` when it is beyond that.
fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}

/// The `n`th address behind a station.
pub fn nth(mac: Mac, n: usize) -> Mac {
    if n == 0 {
        return mac;
    }
    // Locally administered, and still told apart by the station's own last byte.
    let [a, .., last] = mac.0;
    let [.., high, low] = (n as u32).to_be_bytes();
    Mac([a | 0x02, 0x51, last, 0x01, high, low])
}

/// A UDP packet of `len` bytes from port 1024 + `flow`.
fn udp(len: usize, src: Mac, dst: Mac, flow: u16) -> Vec<u8> {
    let mut frame = vec![0x5a; len];
    let ip_len = (len - 14) as u16;
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip: [u8; 12] = [0x45, 0, (ip_len >> 8) as u8, ip_len as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    frame[14..26].copy_from_slice(&ip);
    frame[26..34].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
    let sum = !sum_be(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let udp_len = ip_len - 20;
    let ports: [u16; 4] = [1024 + flow, 4789, udp_len, 0];
    for (at, word) in ports.into_iter().enumerate() {
        frame[34 + 2 * at..36 + 2 * at].copy_from_slice(&word.to_be_bytes());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_of_the_kind_asked_for() {
        let load = Load { sizes: "64,128".parse().unwrap(), flows: 4, macs: 2, broadcast: 0 };
        let (a, b) = (Mac([0, 0x50, 0x56, 0, 0, 1]), Mac([0, 0x50, 0x56, 0, 0, 2]));
        assert_eq!(load.variety(), 4);
        assert_eq!(
            Load { flows: 9, macs: 6, ..load.clone() }.variety(),
            18,
            "each address with each conversation it meets"
        );
        let frames: Vec<Vec<u8>> = (0..4).map(|n| load.frame(n, a, b)).collect();
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [60, 124, 60, 124]);
        assert_eq!((&frames[0][..6], &frames[0][6..12]), (&b.0[..], &a.0[..]));
        assert_ne!(frames[1][..12], frames[0][..12]);
        assert_eq!(frames[2][..12], frames[0][..12]);
        assert_ne!(frames[2][34..36], frames[0][34..36]);
        assert_eq!(sum_be(&frames[3][14..34]), 0xffff, "the IP header's sum holds");
        assert!("63".parse::<Sizes>().is_err() && "imix".parse::<Sizes>().unwrap().0.len() == 12);
        let shout = Load { broadcast: 10, ..load };
        let shouted = (0..100).filter(|n| shout.frame(*n, a, b)[..6] == [0xff; 6]).count();
        assert_eq!(shouted, 10);
    }
}
