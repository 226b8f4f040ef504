//! Which of several receive queues a frame goes to.

use dataplane::{Burst, Delivery};

/// A number that frames of one conversation have in common: from addresses, and for IP from what follows them.
pub fn queue_of(burst: &Burst<'_>, delivery: &Delivery) -> usize {
    let Some(frame) = burst.frames().get(usize::from(delivery.frame)) else { return 0 };
    let mut sum = frame.src().as_u64();
    // IPv4: addresses and ports. IPv6: the ends of the addresses and the ports.
    let at = match wire::be16(frame.head(), 12) {
        Some(0x0800) => 26..38,
        Some(wire::ETHERTYPE_IPV6) => 30..58,
        _ => 0..0,
    };
    for chunk in frame.head().get(at).unwrap_or(&[]).chunks_exact(4) {
        sum = sum.rotate_left(13) ^ u64::from(u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    // A product's bits know only of those below them: the upper half, where the ends of IPv4 addresses are, is folded in.
    ((sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use dataplane::Offload;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use sharedmem::Region;

    use super::*;

    /// Whatever byte of a conversation's addresses and ports differs, each of several queues gets some.
    #[test]
    fn conversations_are_spread() {
        let memory = memfd_create("frames", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memory, 4096).expect("a page");
        let region = Region::map(memory.as_fd(), 0, 4096, true).expect("a mapping");
        let mut frame = [0; 64];
        frame[..12].copy_from_slice(&[0, 0x50, 0x56, 0, 0, 1, 0, 0x50, 0x56, 0, 0, 2]);
        for (kind, bytes) in [([0x08, 0x00], 26..38), ([0x86, 0xdd], 30..58)] {
            for at in bytes {
                frame[12..14].copy_from_slice(&kind);
                let mut counts = [[0; 8]; 9];
                for value in 0..=255 {
                    let mut bytes = frame;
                    bytes[at] = value;
                    let slice = region.slice(0, 64).expect("a window");
                    assert!(slice.write_at(0, &bytes));
                    let mut burst = Burst::new();
                    burst.push(&[slice], None, Offload::default());
                    let queue = queue_of(&burst, &Delivery { frame: 0, tag: None });
                    (2..=8).for_each(|queues| counts[queues][queue % queues] += 1);
                }
                for queues in 2..=8 {
                    let least = counts[queues][..queues].iter().min().copied().unwrap_or(0);
                    assert!(least * queues > 64, "byte {at}, {queues} queues: {:?}", counts[queues]);
                }
            }
        }
    }
}
