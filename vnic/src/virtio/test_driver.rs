//! The driver's side of a virtio queue, split or packed, in plain memory: chains of any shape, and what comes back of them.
//! For tests in which the switch dies.

use std::collections::VecDeque;
use std::sync::Arc;

use sharedmem::{Region, Slice};

/// Guest address of the first byte of memory, and bytes of it.
pub const BASE: u64 = 0x4000_0000;
pub const MEMORY: usize = 1 << 20;
/// The transmit and the receive queue: ring, buffers, indirect tables; and within a ring the areas behind descriptors.
pub const RINGS: [usize; 2] = [0, 0x4000];
pub const AREAS: [usize; 2] = [0x2000, 0x3000];
const TABLES: [usize; 2] = [0x8000, 0x1_0000];
const BUFFERS: [usize; 2] = [0x2_0000, 0x6_0000];
const SLOT: usize = 1024;
const SLOTS: usize = 256;
pub const TX: usize = 0;
pub const RX: usize = 1;
/// Bytes before each frame.
const HEADER: usize = 12;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % n
    }
}

/// A chain that the driver gave: its descriptors, or its identifier; positions; pieces (offset in memory, length).
pub struct Given {
    ids: Vec<u16>,
    slots: u16,
    pieces: Vec<(usize, usize)>,
}

/// The driver of one queue.
pub struct Driver {
    memory: Arc<Region>,
    which: usize,
    pub size: u16,
    packed: bool,
    /// Where the next chain goes, and where the next used one is looked for.
    next: u16,
    seen: u16,
    /// Descriptors that are free.
    room: u16,
    pub given: VecDeque<Given>,
    slot: usize,
}

impl Driver {
    fn new(memory: &Arc<Region>, which: usize, size: u16, packed: bool) -> Driver {
        let memory = memory.clone();
        Driver { memory, which, size, packed, next: 0, seen: 0, room: size, given: VecDeque::new(), slot: 0 }
    }

    /// Where descriptor `index` lies.
    fn place(&self, index: u16) -> usize {
        RINGS[self.which] + 16 * usize::from(index & (self.size - 1))
    }

    fn window(&self) -> Slice<'_> {
        self.memory.slice(0, MEMORY).expect("all of it")
    }

    fn word(&self, at: usize) -> u16 {
        self.window().load_u16(at).expect("in memory")
    }

    fn set_word(&self, at: usize, value: u16) {
        assert!(self.window().store_u16(at, value));
    }

    /// Writes a descriptor, or an entry of a table: fields in the order of the kind of ring, the flags last.
    fn describe(&self, at: usize, (offset, len): (usize, usize), flags: u16, other: u16) {
        let [f, o] = if self.packed { [14, 12] } else { [12, 14] };
        assert!(self.window().write_at(at, &(BASE + offset as u64).to_le_bytes()));
        assert!(self.window().write_at(at + 8, &(len as u32).to_le_bytes()));
        self.set_word(at + o, other);
        self.set_word(at + f, flags);
    }

    /// Makes a chain of `pieces` available, with a table if asked; false when there is no room.
    fn give(&mut self, pieces: &[(usize, usize)], table: bool) -> bool {
        let direction = if self.which == RX { WRITE } else { 0 };
        let (mut parts, mut flags) = (pieces.to_vec(), direction);
        if table {
            let at = TABLES[self.which] + self.slot * 64;
            for (n, piece) in pieces.iter().enumerate() {
                let more = if n + 1 < pieces.len() { NEXT } else { 0 };
                self.describe(at + n * 16, *piece, more | direction, n as u16 + 1);
            }
            (parts, flags) = (vec![(at, 16 * pieces.len())], INDIRECT);
        }
        let slots = parts.len() as u16;
        if slots > self.room {
            return false;
        }
        let outstanding = |id: &u16| self.given.iter().any(|given| given.ids.contains(id));
        let mut ids: Vec<u16> = (0..self.size).rev().filter(|id| !outstanding(id)).take(parts.len()).collect();
        for (n, piece) in parts.iter().enumerate().rev() {
            let more = if n + 1 < parts.len() { NEXT } else { 0 };
            if self.packed {
                let at = self.next.wrapping_add(n as u16);
                let mark = if at & self.size == 0 { AVAIL } else { USED };
                // Only the last need tell the identifier.
                let id = if more == 0 { ids[0] } else { 0xdead };
                self.describe(self.place(at), *piece, more | flags | mark, id);
            } else {
                self.describe(self.place(ids[n]), *piece, more | flags, ids.get(n + 1).copied().unwrap_or(0));
            }
        }
        if self.packed {
            ids.truncate(1);
            self.next = self.next.wrapping_add(slots);
        } else {
            self.set_word(RINGS[self.which] + AREAS[0] + 4 + 2 * usize::from(self.next & (self.size - 1)), ids[0]);
            self.next = self.next.wrapping_add(1);
            self.set_word(RINGS[self.which] + AREAS[0] + 2, self.next);
        }
        self.room -= slots;
        self.given.push_back(Given { ids, slots, pieces: pieces.to_vec() });
        self.slot = (self.slot + 1) % SLOTS;
        true
    }

    /// The next chain that was given back, and the bytes in it.
    pub fn take(&mut self) -> Option<(Given, usize)> {
        let (id, len) = if self.packed {
            let (at, wrap) = (self.place(self.seen), self.seen & self.size == 0);
            if self.word(at + 14) & (AVAIL | USED) != if wrap { AVAIL | USED } else { 0 } {
                return None;
            }
            (self.word(at + 12), self.word(at + 8))
        } else {
            let used = RINGS[self.which] + AREAS[1];
            if self.word(used + 2) == self.seen {
                return None;
            }
            let at = used + 4 + 8 * usize::from(self.seen & (self.size - 1));
            (self.word(at), self.word(at + 4))
        };
        let given = self.given.pop_front().expect("a chain that was given");
        assert_eq!(id, given.ids[0], "chains come back once, and in their order");
        self.seen = self.seen.wrapping_add(if self.packed { given.slots } else { 1 });
        self.room += given.slots;
        Some((given, usize::from(len)))
    }
}

/// A frame from 00:50:56:00:00:01 to 00:50:56:00:00:02 that tells its number in every byte behind its addresses.
pub fn frame(number: u32) -> Vec<u8> {
    let len = 60 + (number as usize * 37) % 340;
    let mut bytes = vec![0, 0x50, 0x56, 0, 0, 2, 0, 0x50, 0x56, 0, 0, 1, 0x88, 0xb6];
    bytes.extend(number.to_le_bytes());
    bytes.extend((bytes.len()..len).map(|i| (i as u32).wrapping_mul(7).wrapping_add(number * 13) as u8));
    bytes
}

/// The number of a frame that is whole.
pub fn number(bytes: &[u8]) -> u32 {
    let number = u32::from_le_bytes(bytes[14..18].try_into().expect("four bytes"));
    assert_eq!(bytes, frame(number), "a frame is whole");
    number
}

/// The driver of a card with a queue of each kind.
pub struct Guest {
    pub memory: Arc<Region>,
    pub drivers: [Driver; 2],
    pub dice: Dice,
    /// The number of the next frame to send, and those that were received.
    pub next: u32,
    pub received: Vec<u32>,
    /// A frame of which the driver has the first buffers: how many are to come, and its bytes.
    partial: (u16, Vec<u8>),
}

impl Guest {
    pub fn new(memory: Arc<Region>, sizes: [u16; 2], packed: bool, seed: u64) -> Guest {
        let drivers = [TX, RX].map(|which| Driver::new(&memory, which, sizes[which], packed));
        Guest { memory, drivers, dice: Dice(seed), next: 0, received: vec![], partial: (0, vec![]) }
    }

    /// Takes back what was sent.
    pub fn reap(&mut self) {
        while self.drivers[TX].take().is_some() {}
    }

    /// Sends a frame in some shape, if there is room.
    pub fn send(&mut self) {
        let dice = self.dice.below(8);
        let driver = &mut self.drivers[TX];
        let at = BUFFERS[TX] + driver.slot * SLOT;
        let bytes = [vec![0; HEADER], frame(self.next)].concat();
        assert!(driver.window().write_at(at, &bytes));
        let cut = |cuts: &[usize]| {
            let ends: Vec<usize> = [0].iter().chain(cuts).chain(&[bytes.len()]).copied().collect();
            ends.windows(2).map(|w| (at + w[0], w[1] - w[0])).collect::<Vec<_>>()
        };
        let (pieces, table) = match dice {
            0..3 => (cut(&[]), false),
            3 => (cut(&[HEADER]), false),
            4 => (cut(&[5, 40]), false),
            5 => (cut(&[]), true),
            _ => (cut(&[HEADER, 50]), true),
        };
        if driver.give(&pieces, table) {
            self.next += 1;
        }
    }

    /// Takes what was received, and gives buffers while there is room.
    pub fn receive(&mut self) {
        while let Some((given, len)) = self.drivers[RX].take() {
            let mut bytes = vec![];
            for (at, room) in &given.pieces {
                let mut part = vec![0; (len - bytes.len()).min(*room)];
                assert!(self.drivers[RX].window().read_at(*at, &mut part));
                bytes.extend(part);
            }
            assert_eq!(bytes.len(), len);
            if self.partial.0 == 0 {
                // Drivers drop what is no frame (Linux: "short packet").
                if len == 0 {
                    continue;
                }
                self.partial = (u16::from_le_bytes([bytes[10], bytes[11]]), bytes[HEADER..].to_vec());
            } else {
                assert!(len > 0, "no buffer of a frame is empty");
                self.partial.1.extend(bytes);
            }
            self.partial.0 -= 1;
            if self.partial.0 == 0 {
                self.received.push(number(&self.partial.1));
            }
        }
        assert_eq!(self.partial.0, 0, "who sees the first buffer of a frame sees all");
        loop {
            let (dice, len) = (self.dice.below(5), 128 + self.dice.below(700) as usize);
            let driver = &mut self.drivers[RX];
            let at = BUFFERS[RX] + driver.slot * SLOT;
            // What is in it is no frame.
            assert!(driver.window().write_at(at, &[0xee; SLOT]));
            let (pieces, table) = match dice {
                0..2 => (vec![(at, len)], false),
                2 => (vec![(at, 20), (at + 20, len)], false),
                3 => (vec![(at, 10), (at + 10, 64), (at + 74, len)], false),
                _ => (vec![(at, 100), (at + 100, len)], true),
            };
            if !driver.give(&pieces, table) {
                return;
            }
        }
    }
}
