//! Why a frame was dropped.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Why a frame was dropped; one counter per port and reason, named alike in code, JSON,
        /// metrics and capture.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name),* }

        impl DropReason {
            /// All reasons, in order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name users see.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// No port of the VLAN has the destination address (the usual case on a promiscuous uplink).
    NoMatch = "no-match",
    /// The frame's tag is not one its port may use.
    VlanMismatch = "vlan-mismatch",
    /// A guest sent from an address that is not its own.
    ForgedTransmit = "forged-transmit",
    /// The guest changed its address and the policy rejects that.
    MacChanged = "mac-changed",
    /// Longer than the switch's MTU allows, or than the receiver's buffers.
    Oversize = "oversize",
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// A spanning-tree BPDU from a guest.
    Bpdu = "bpdu",
    /// A frame of one of our own guests, sent back in by the physical switch.
    Reflected = "reflected",
    /// A group frame on an uplink that is not the receiving port's designated one.
    NotDesignated = "not-designated",
    /// It came in by an uplink that no team uses.
    UplinkUnused = "uplink-unused",
    /// The team has no uplink that works.
    NoUplink = "no-uplink",
    /// The receiver's ring has no free descriptor.
    RingFull = "ring-full",
    /// No VMM is connected, or its guest's driver has not started the card.
    NotConnected = "not-connected",
    /// The port is administratively blocked, or its link is down.
    PortBlocked = "port-blocked",
    /// Over the port group's traffic shape.
    Shaped = "shaped",
    /// The guest's receive filter does not ask for it.
    Filtered = "filtered",
    /// A beacon: read by the switch itself, and never forwarded.
    Beacon = "beacon",
    /// A descriptor that points nowhere, or makes no sense.
    BadDescriptor = "bad-descriptor",
    /// A checksum or segmentation request that does not fit its frame.
    BadOffload = "bad-offload",
}
