//! What a receive completion says of a frame's checksums.
//!
//! Bits of `vmxnet3_rxcompdesc` in FreeBSD's `if_vmxreg.h`; how drivers read them: `vmxnet3_rx_csum` in Linux's
//! `vmxnet3_drv.c` (IPv4 needs both sums good, IPv6 the L4 one).

use dataplane::{Csum, Plan};
use wire::be16;
use wire::checksum::sum_be;
use wire::ip::{TCP, Transport, UDP};

/// Word 0: checksum not calculated.
pub const NO_CSUM: u32 = 1 << 30;
const L4_GOOD: u32 = 1 << 16;
const UDP_FRAME: u32 = 1 << 17;
const TCP_FRAME: u32 = 1 << 18;
const IP_GOOD: u32 = 1 << 19;
const V6: u32 = 1 << 20;
const V4: u32 = 1 << 21;

/// What the driver is told of the checksums: "not calculated" in word 0, or the bits of word 3. Only what is
/// known is claimed.
pub fn verdict(plan: &Plan<'_, '_>) -> (u32, u32) {
    const UNKNOWN: (u32, u32) = (NO_CSUM, 0);
    // What goes whole comes from a sender that left its sum to whoever cuts: nothing was on a wire yet.
    let whole = plan.gso().is_some();
    if plan.csum() != Csum::Good && !whole {
        return UNKNOWN;
    }
    let head = plan.head();
    let Some(t) = Transport::parse(head) else { return UNKNOWN };
    let (l4, field) = match t.protocol {
        TCP => (TCP_FRAME, t.l4 + 16),
        UDP => (UDP_FRAME, t.l4 + 6),
        _ => return UNKNOWN,
    };
    // A sender may have asked for a sum somewhere else in the frame.
    if let Csum::Fill { start, at } = plan.frame().offload().csum
        && (usize::from(start), usize::from(at)) != (t.l4, field)
    {
        return UNKNOWN;
    }
    if t.v6 {
        return (0, V6 | l4 | L4_GOOD);
    }
    // A first fragment has only part of what the checksum covers.
    if be16(head, t.l3 + 6).is_none_or(|flags| flags & 0x2000 != 0) {
        return UNKNOWN;
    }
    let ip = whole || plan.count() > 1 || head.get(t.l3..t.l4).is_some_and(|header| sum_be(header) == 0xffff);
    (0, V4 | l4 | L4_GOOD | if ip { IP_GOOD } else { 0 })
}
