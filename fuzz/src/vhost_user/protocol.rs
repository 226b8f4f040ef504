//! What the fuzz target says of the vhost-user protocol: numbers, and how bodies are put together.

/// Bytes of a message's header.
pub const HEADER: usize = 12;
/// The longest answer: a configuration space as long as a message may ask for it.
pub const LONGEST: usize = HEADER + 4096;

/// Request numbers of the specification.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// `VIRTIO_F_VERSION_1`, `VIRTIO_NET_F_MRG_RXBUF`, `VHOST_USER_F_PROTOCOL_FEATURES`; and `VIRTIO_F_RING_PACKED`.
pub const FEATURES: u64 = 1 << 32 | 1 << 15 | 1 << 30;
pub const PACKED: u64 = 1 << 34;
/// Answers to any message, configuration space, inflight memory, memory by the region.
pub const PROTOCOL: u64 = 1 << 3 | 1 << 9 | 1 << 12 | 1 << 15;

/// The numbers as they lie in a message.
pub fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_le_bytes()).collect()
}

/// 32-bit numbers, and 64-bit ones after them.
pub fn longs(head: &[u32], fields: &[u64]) -> Vec<u8> {
    let mut out = words(head);
    out.extend(fields.iter().flat_map(|f| f.to_le_bytes()));
    out
}
