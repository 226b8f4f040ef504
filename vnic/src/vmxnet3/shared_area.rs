//! The memory a driver describes itself in: the driver-shared area and the queue descriptors.
//!
//! Layout facts: `struct vmxnet3_driver_shared`, `vmxnet3_txq_shared` and `vmxnet3_rxq_shared` of FreeBSD's
//! `if_vmxreg.h`; the same structures in Linux's `vmxnet3_defs.h`. All little-endian, offsets in bytes.

use std::fmt;

use arrayvec::ArrayVec;
use sharedmem::{DmaError, DmaMap, Ring};

use super::rss::RssError;

/// Value of the first word of the driver-shared area (`VMXNET3_REV1_MAGIC`).
pub const MAGIC: u32 = 0xbabe_fee1;
/// Length of the driver-shared area in bytes.
pub const AREA_LEN: u32 = 720;
/// Length of one queue descriptor in bytes, for transmit and receive alike.
pub const QUEUE_LEN: u32 = 256;
/// Most transmit queues a driver may configure.
pub const MAX_TX_QUEUES: usize = 8;
/// Most receive queues a driver may configure.
pub const MAX_RX_QUEUES: usize = 16;
/// Interrupt vectors: one per queue and one for events.
pub const MAX_VECTORS: usize = MAX_TX_QUEUES + MAX_RX_QUEUES + 1;

/// Offsets in the driver-shared area.
pub mod at {
    /// Magic number.
    pub const MAGIC: u32 = 0;
    /// UPT features the driver wants, 64 bits.
    pub const FEATURES: u32 = 24;
    /// Address of the queue descriptors, 64 bits.
    pub const QUEUES: u32 = 40;
    /// Length of the queue descriptors in bytes.
    pub const QUEUES_LEN: u32 = 52;
    /// Payload size in bytes.
    pub const MTU: u32 = 56;
    /// 16 bits "most receive pieces", then a byte each: number of transmit and of receive queues.
    pub const QUEUE_COUNTS: u32 = 60;
    /// A byte each: auto-mask, number of interrupts, vector of events; then 25 moderation levels.
    pub const INTERRUPTS: u32 = 80;
    /// Interrupt control; bit 0 holds all interrupts back.
    pub const INTERRUPT_CONTROL: u32 = 108;
    /// Receive mode.
    pub const RX_MODE: u32 = 120;
    /// Length in bytes of the group address table (low 16 bits).
    pub const GROUPS_LEN: u32 = 124;
    /// Address of the group address table, 64 bits.
    pub const GROUPS: u32 = 128;
    /// VLAN filter, a bit per VLAN identifier: 128 words.
    pub const VLANS: u32 = 136;
    /// Receive side scaling: version, length (32 bits each) and address (64 bits) of its configuration.
    pub const RSS: u32 = 648;
    /// Events the device reports.
    pub const EVENTS: u32 = 696;
    /// What some commands are about, 16 bytes: a value, or version, length and address as at [`RSS`].
    pub const COMMAND: u32 = 704;
}

/// Offsets in a queue descriptor. Transmit and receive differ in the rings only.
pub mod queue {
    /// Transmit: ring, 64 bits. Receive: ring 1.
    pub const RING: u32 = 16;
    /// Receive: ring 2, 64 bits. (Transmit: the data ring, which the device needs not know.)
    pub const RING2: u32 = 24;
    /// Completion ring, 64 bits.
    pub const COMPLETIONS: u32 = 32;
    /// Descriptors in the transmit ring, or in receive ring 1.
    pub const RING_COUNT: u32 = 56;
    /// Descriptors in receive ring 2.
    pub const RING2_COUNT: u32 = 60;
    /// Descriptors in the completion ring.
    pub const COMPLETION_COUNT: u32 = 64;
    /// Receive, revision 3: address of the data ring, 64 bits.
    pub const DATA: u32 = 48;
    /// Interrupt vector (low byte); in the upper 16 bits, revision 3, the bytes of an entry of the data ring.
    pub const VECTOR: u32 = 72;
    /// Status written by the device: stopped (low byte).
    pub const STOPPED: u32 = 80;
    /// Why it stopped.
    pub const ERROR: u32 = 84;
    /// Ten 64-bit statistics counters written by the device.
    pub const STATS: u32 = 88;
}

/// UPT features (`UPT1_F_*`).
pub mod feature {
    /// Verify receive checksums.
    pub const RX_CSUM: u64 = 1;
    /// Spread what is received over the receive queues.
    pub const RSS: u64 = 2;
    /// Take 802.1Q tags out of received frames.
    pub const RX_VLAN: u64 = 4;
    /// Receive TCP segments larger than the wire's.
    pub const LRO: u64 = 8;
}

/// Ring sizes are a multiple of this (`VMXNET3_RING_SIZE_ALIGN`).
const SIZE_ALIGN: u32 = 32;
/// Most descriptors in a transmit, transmit completion or receive ring.
const MAX_RING: u32 = 4096;
/// Most descriptors in a receive completion ring.
const MAX_RX_COMPLETIONS: u32 = 8192;
/// Entries of a receive data ring are a multiple of this long, in bytes (`VMXNET3_RXDATA_DESC_SIZE_ALIGN`).
const DATA_ALIGN: u32 = 64;
/// Longest entry of a receive data ring in bytes (`VMXNET3_RXDATA_DESC_MAX_SIZE`).
const MAX_DATA: u32 = 2048;
/// The revision that has receive data rings.
const DATA_REVISION: u8 = 3;

/// A piece of guest memory as an array of words with byte offsets.
#[derive(Clone, Debug)]
pub struct Words(Ring<1>);

impl Words {
    /// The `len` bytes (a multiple of 4) at `iova`, which must lie in one writable mapping.
    pub fn new(map: &DmaMap, iova: u64, len: u32) -> Result<Words, DmaError> {
        map.ring::<1>(iova, len / 4).map(Words)
    }

    /// The word at byte offset `at`; 0 beyond the end.
    pub fn load(&self, at: u32) -> u32 {
        if at / 4 < self.0.count() { self.0.load(at / 4, 0) } else { 0 }
    }

    /// The byte at `at`; 0 beyond the end.
    pub fn load8(&self, at: u32) -> u8 {
        (self.load(at & !3) >> (at % 4 * 8)) as u8
    }

    /// The 64-bit value at `at`, as two words.
    pub fn load64(&self, at: u32) -> u64 {
        u64::from(self.load(at)) | u64::from(self.load(at + 4)) << 32
    }

    /// Stores a word; nothing beyond the end.
    pub fn store(&self, at: u32, value: u32) {
        if at / 4 < self.0.count() {
            self.0.store(at / 4, 0, value);
        }
    }

    /// Stores a 64-bit value as two words.
    pub fn store64(&self, at: u32, value: u64) {
        self.store(at, value as u32);
        self.store(at + 4, (value >> 32) as u32);
    }
}

/// A part of what the driver configured, for the sentence that says what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The driver-shared area.
    Area,
    /// The array of queue descriptors.
    Queues,
    /// The ring of a transmit queue.
    Tx(usize),
    /// The completion ring of a transmit queue.
    TxCompletions(usize),
    /// Ring 1 or 2 of a receive queue.
    Rx(usize, usize),
    /// The completion ring of a receive queue.
    RxCompletions(usize),
    /// The data ring of a receive queue.
    RxData(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Area => f.write_str("the driver-shared area"),
            Part::Queues => f.write_str("the queue descriptors"),
            Part::Tx(q) => write!(f, "the ring of TX queue {q}"),
            Part::TxCompletions(q) => write!(f, "the completion ring of TX queue {q}"),
            Part::Rx(q, ring) => write!(f, "ring {} of RX queue {q}", ring + 1),
            Part::RxCompletions(q) => write!(f, "the completion ring of RX queue {q}"),
            Part::RxData(q) => write!(f, "the data ring of RX queue {q}"),
        }
    }
}

/// Why a driver's configuration cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Memory that cannot be reached.
    #[error("{0}: {1}")]
    Memory(Part, DmaError),
    /// The driver-shared area does not start with [`MAGIC`].
    #[error("the driver-shared area starts with {0:#010x} instead of {MAGIC:#010x}")]
    Magic(u32),
    /// No queue, or too many.
    #[error("{0} TX and {1} RX queues; 1 to {MAX_TX_QUEUES} and 1 to {MAX_RX_QUEUES} are possible")]
    QueueCount(u8, u8),
    /// Less memory for queue descriptors than the queues need.
    #[error("{0} bytes of queue descriptors are too few for the queues")]
    QueuesLen(u32),
    /// A ring size that is zero, too large, or not a multiple of 32.
    #[error("{0} has {1} descriptors, not a multiple of {SIZE_ALIGN} within the limit")]
    RingSize(Part, u32),
    /// An interrupt vector the card does not have.
    #[error("{0} uses interrupt vector {1}; there are {MAX_VECTORS}")]
    Vector(Part, u8),
    /// Entries of a data ring that are too long, or not a multiple of 64.
    #[error("{0} has entries of {1} bytes, not a multiple of {DATA_ALIGN} up to {MAX_DATA}")]
    DataSize(Part, u32),
    /// The configuration of receive side scaling.
    #[error("receive side scaling: {0}")]
    Rss(#[from] RssError),
}

/// Where a ring lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Guest address.
    pub iova: u64,
    /// Number of descriptors.
    pub count: u32,
}

/// A transmit queue as the driver configured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxConf {
    /// Descriptors.
    pub ring: Place,
    /// Completions.
    pub completions: Place,
    /// Interrupt vector, below [`MAX_VECTORS`].
    pub vector: u8,
}

/// A receive data ring: an entry for each descriptor of ring 1, that short frames are copied into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRing {
    /// Guest address.
    pub iova: u64,
    /// Bytes of an entry.
    pub size: u32,
}

/// A receive queue as the driver configured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxConf {
    /// Ring 1: buffers a frame starts in.
    pub ring: Place,
    /// Ring 2: buffers for the rest of long frames; may be absent.
    pub ring2: Option<Place>,
    /// Completions.
    pub completions: Place,
    /// Where short frames go.
    pub data: Option<DataRing>,
    /// Interrupt vector, below [`MAX_VECTORS`].
    pub vector: u8,
}

/// What the driver configured, read once and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// Address of the driver-shared area.
    pub area: u64,
    /// Address of the queue descriptors.
    pub queues: u64,
    /// UPT features ([`feature`]).
    pub features: u64,
    /// Revision of the device that the driver chose, from 1 on.
    pub revision: u8,
    /// Payload size in bytes, as the driver wrote it.
    pub mtu: u32,
    /// Most buffers the driver takes for one large segment; 0 when it does not say.
    pub max_pieces: u16,
    /// True when the device masks a vector when it raises it.
    pub auto_mask: bool,
    /// Vector of link and error events.
    pub event_vector: u8,
    /// Transmit queues.
    pub tx: ArrayVec<TxConf, MAX_TX_QUEUES>,
    /// Receive queues.
    pub rx: ArrayVec<RxConf, MAX_RX_QUEUES>,
}

impl Conf {
    /// Reads the area at `area` and the queue descriptors it names, for a driver of `revision`.
    pub fn read(map: &DmaMap, area: u64, revision: u8) -> Result<Conf, StartError> {
        let words = Words::new(map, area, AREA_LEN).map_err(|e| StartError::Memory(Part::Area, e))?;
        let magic = words.load(at::MAGIC);
        if magic != MAGIC {
            return Err(StartError::Magic(magic));
        }
        let [pieces @ .., tx, rx] = words.load(at::QUEUE_COUNTS).to_le_bytes();
        if !(1..=MAX_TX_QUEUES).contains(&tx.into()) || !(1..=MAX_RX_QUEUES).contains(&rx.into()) {
            return Err(StartError::QueueCount(tx, rx));
        }
        let [auto_mask, _, event_vector, _] = words.load(at::INTERRUPTS).to_le_bytes();
        let mut conf = Conf {
            area,
            queues: words.load64(at::QUEUES),
            features: words.load64(at::FEATURES),
            revision,
            mtu: words.load(at::MTU),
            max_pieces: u16::from_le_bytes(pieces),
            auto_mask: auto_mask != 0,
            event_vector: vector(Part::Area, event_vector)?,
            tx: ArrayVec::new(),
            rx: ArrayVec::new(),
        };
        let given = words.load(at::QUEUES_LEN);
        if given < (u32::from(tx) + u32::from(rx)) * QUEUE_LEN {
            return Err(StartError::QueuesLen(given));
        }
        let queues = conf.queue_words(map, tx.into(), rx.into())?;
        for q in 0..usize::from(tx) {
            conf.tx.push(tx_queue(&queues, q)?);
        }
        for q in 0..usize::from(rx) {
            conf.rx.push(rx_queue(&queues, q, q + usize::from(tx), revision)?);
        }
        Ok(conf)
    }

    fn queue_words(&self, map: &DmaMap, tx: usize, rx: usize) -> Result<Words, StartError> {
        let len = (tx + rx) as u32 * QUEUE_LEN;
        Words::new(map, self.queues, len).map_err(|e| StartError::Memory(Part::Queues, e))
    }

    /// The memory of the driver-shared area and of the queue descriptors.
    pub fn memory(&self, map: &DmaMap) -> Result<(Words, Words), StartError> {
        let area = Words::new(map, self.area, AREA_LEN).map_err(|e| StartError::Memory(Part::Area, e))?;
        Ok((area, self.queue_words(map, self.tx.len(), self.rx.len())?))
    }
}

fn vector(part: Part, vector: u8) -> Result<u8, StartError> {
    if usize::from(vector) < MAX_VECTORS { Ok(vector) } else { Err(StartError::Vector(part, vector)) }
}

fn place(iova: u64, count: u32, max: u32, part: Part) -> Result<Place, StartError> {
    if count == 0 || count > max || !count.is_multiple_of(SIZE_ALIGN) {
        return Err(StartError::RingSize(part, count));
    }
    Ok(Place { iova, count })
}

fn tx_queue(queues: &Words, q: usize) -> Result<TxConf, StartError> {
    let base = q as u32 * QUEUE_LEN;
    let (word, wide) = (|at| queues.load(base + at), |at| queues.load64(base + at));
    Ok(TxConf {
        ring: place(wide(queue::RING), word(queue::RING_COUNT), MAX_RING, Part::Tx(q))?,
        completions: place(wide(queue::COMPLETIONS), word(queue::COMPLETION_COUNT), MAX_RING, Part::TxCompletions(q))?,
        vector: vector(Part::Tx(q), word(queue::VECTOR) as u8)?,
    })
}

/// The data ring of a receive queue, where its driver knows of such and has one.
fn data_ring(iova: u64, size: u32, revision: u8, part: Part) -> Result<Option<DataRing>, StartError> {
    if revision < DATA_REVISION || size == 0 {
        return Ok(None);
    }
    if size > MAX_DATA || !size.is_multiple_of(DATA_ALIGN) {
        return Err(StartError::DataSize(part, size));
    }
    Ok(Some(DataRing { iova, size }))
}

fn rx_queue(queues: &Words, q: usize, index: usize, revision: u8) -> Result<RxConf, StartError> {
    let base = index as u32 * QUEUE_LEN;
    let (word, wide) = (|at| queues.load(base + at), |at| queues.load64(base + at));
    let first = place(wide(queue::RING), word(queue::RING_COUNT), MAX_RING, Part::Rx(q, 0))?;
    // Drivers without jumbo frames leave ring 2 out.
    let second = match word(queue::RING2_COUNT) {
        0 => None,
        count => Some(place(wide(queue::RING2), count, MAX_RING, Part::Rx(q, 1))?),
    };
    Ok(RxConf {
        ring: first,
        ring2: second,
        completions: place(
            wide(queue::COMPLETIONS),
            word(queue::COMPLETION_COUNT),
            MAX_RX_COMPLETIONS,
            Part::RxCompletions(q),
        )?,
        data: data_ring(wide(queue::DATA), word(queue::VECTOR) >> 16, revision, Part::RxData(q))?,
        vector: vector(Part::Rx(q, 0), word(queue::VECTOR) as u8)?,
    })
}
