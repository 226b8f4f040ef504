//! What a guest's kernel says of the frames that its driver hands it.

/// A frame as the driver handed it to its kernel (`netif_receive_skb_entry` and `napi_gro_receive_entry` of its trace).
#[derive(Debug)]
pub struct Seen {
    pub queue: usize,
    /// Its Ethernet type.
    pub protocol: usize,
    /// `CHECKSUM_NONE` (0): the kernel sums by itself; `CHECKSUM_UNNECESSARY` (1): it takes the card's word.
    pub summed: usize,
    pub hash: usize,
    /// Ports were hashed too.
    pub ports: bool,
    /// Bytes of the packet, without the Ethernet header.
    pub len: usize,
    /// Bytes of memory it holds.
    pub memory: usize,
}

impl Seen {
    /// From a line of the trace.
    pub fn parse(line: &str) -> Option<Seen> {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let number = |key: &str| match word(key)?.strip_prefix("0x") {
            Some(hex) => usize::from_str_radix(hex, 16).ok(),
            None => word(key)?.parse().ok(),
        };
        Some(Seen {
            // The kernel counts from one: none is told by nought.
            queue: number("queue_mapping")?.checked_sub(1)?,
            protocol: number("protocol")?,
            summed: number("ip_summed")?,
            hash: number("hash")?,
            ports: number("l4_hash")? == 1,
            len: number("len")?,
            memory: number("truesize")?,
        })
    }
}
