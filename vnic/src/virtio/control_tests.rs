//! Commands, good and bad, over bytes and over rings in memory.

use std::sync::Arc;

use sharedmem::{DriverRing, PackedRing, SharedPage, Span, SplitRing};

use super::*;

const ALL: u64 = features::CTRL_VQ
    | features::CTRL_RX
    | features::CTRL_RX_EXTRA
    | features::CTRL_VLAN
    | features::CTRL_MAC_ADDR
    | features::MQ;
const OWN: Mac = Mac([0, 0x50, 0x56, 0, 0, 1]);
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 9];

fn quiet() -> Wishes {
    let mut wishes = Wishes::new(ALL, OWN, 4);
    assert!(wishes.command(&[0, 0, 0]) && wishes.command(&[0, 1, 0]));
    wishes
}

fn tables(unicast: &[[u8; 6]], groups: &[[u8; 6]]) -> Vec<u8> {
    let part = |macs: &[[u8; 6]]| [&(macs.len() as u32).to_le_bytes()[..], macs.as_flattened()].concat();
    [vec![1, 0], part(unicast), part(groups)].concat()
}

#[test]
fn a_driver_that_says_nothing_gets_everything() {
    for features in [0, ALL] {
        let filter = Wishes::new(features, OWN, 4).filter();
        assert!(filter.promiscuous && filter.all_multicast && filter.unicast && filter.broadcast);
        assert_eq!((filter.mac, filter.vlans), (Some(OWN), None));
    }
}

#[test]
fn receive_modes() {
    let mut wishes = quiet();
    let filter = wishes.filter();
    assert!(!filter.promiscuous && !filter.all_multicast && filter.unicast && filter.broadcast);
    assert!(wishes.command(&[0, 1, 1]) && wishes.filter().all_multicast);
    assert!(wishes.command(&[0, 2, 1]) && wishes.filter().promiscuous);
    assert!(wishes.command(&[0, 3, 1]) && !wishes.filter().all_multicast);
    assert!(wishes.command(&[0, 4, 1]) && !wishes.filter().unicast && !wishes.filter().promiscuous);
    assert!(wishes.command(&[0, 5, 1]) && !wishes.filter().broadcast);
    assert!(wishes.command(&[0, 0, 1]));
    let filter = wishes.filter();
    assert!(filter.promiscuous && filter.all_multicast && filter.unicast && filter.broadcast);
}

#[test]
fn tables_of_addresses() {
    let mut wishes = quiet();
    assert!(wishes.command(&tables(&[OWN.0], &[GROUP])));
    assert!(!wishes.filter().promiscuous, "its own address is no other");
    assert!(wishes.filter().wants_group(Mac(GROUP)) && !wishes.filter().wants_group(Mac([1, 0, 0x5e, 0, 0, 8])));
    assert!(wishes.command(&tables(&[[2, 0, 0, 0, 0, 7]], &[])));
    assert!(wishes.filter().promiscuous && !wishes.filter().wants_group(Mac(GROUP)));
    assert!(wishes.command(&tables(&[], &[GROUP; MAX_GROUPS + 1])));
    assert!(wishes.filter().all_multicast, "too many to look up");
}

#[test]
fn address_vlans_and_pairs() {
    let mut wishes = quiet();
    let tag = |vid| wire::Tag::new(vid, 0);
    assert!(!wishes.filter().wants_tag(Some(tag(7))));
    assert!(wishes.command(&[2, 0, 7, 0]) && wishes.filter().wants_tag(Some(tag(7))));
    assert!(wishes.command(&[2, 0, 0xff, 0x0f]) && wishes.filter().wants_tag(Some(tag(4095))));
    assert!(wishes.command(&[2, 1, 7, 0]) && !wishes.filter().wants_tag(Some(tag(7))));
    assert!(wishes.command(&[1, 1, 2, 0, 0, 0, 0, 5]));
    assert_eq!(wishes.filter().mac, Some(Mac([2, 0, 0, 0, 0, 5])));
    assert_eq!(wishes.pairs(), Some(1));
    assert!(wishes.command(&[4, 0, 4, 0]));
    assert_eq!(wishes.pairs(), Some(4));
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let mut wishes = quiet();
    assert!(wishes.command(&tables(&[], &[GROUP])));
    let before = (wishes.filter(), wishes.pairs());
    let mut long = tables(&[], &[GROUP]);
    long.push(0);
    let counts = [&[1, 0][..], &[0xff; 4], &[0; 12]].concat();
    let bad: [&[u8]; 16] = [
        &[],
        &[0],
        &[0, 0],
        &[0, 0, 1, 1],
        &[0, 6, 1],
        &[1, 0],
        &[1, 0, 1, 0, 0, 0],
        &counts,
        &long,
        &[1, 1, 2, 0, 0, 0, 0],
        &[1, 1, 1, 0, 0, 0, 0, 5],
        &[1, 1, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0x10],
        &[4, 0, 0, 0],
        &[4, 0, 5, 0],
        &[9, 0, 0],
    ];
    for command in bad {
        assert!(!wishes.command(command), "{command:?}");
        assert_eq!((wishes.filter(), wishes.pairs()), before, "{command:?}");
    }
    let mut without = Wishes::new(features::CTRL_VQ, OWN, 4);
    assert!(!without.command(&[0, 0, 0]) && !without.command(&[2, 0, 7, 0]) && !without.command(&[4, 0, 1, 0]));
}

const GUEST: u64 = 0x10_0000;
const SIZE: u16 = 8;

/// A split ring with a command at 4096, an answer at 8192 and a table at 12288.
struct Rig {
    page: SharedPage,
    driver: DriverRing,
    queue: Virtqueue,
    table: MemTable,
    next: u16,
}

impl Rig {
    fn new() -> Rig {
        let page = SharedPage::new("control", 16384).expect("memory");
        let region = page.region();
        let (driver, avail, used) = DriverRing::new(SIZE, (region, 0)).expect("a ring");
        let ring = SplitRing::new(SIZE, (region, 0), (region, avail), (region, used)).expect("a ring");
        let span = Span { guest: GUEST, len: 16384, user: GUEST, region: Arc::clone(region), offset: 0 };
        let table = MemTable::new().with(span).expect("a table");
        Rig { page, driver, queue: ring.into(), table, next: 0 }
    }

    /// Posts the chain that starts at descriptor 0, and has it served; returns what was done and the answer.
    fn serve(&mut self, wishes: &mut Wishes) -> (Served, u8) {
        self.page.slice().write_at(8192, &[0xee]);
        self.driver.set_avail(self.next, 0);
        self.driver.publish(self.next.wrapping_add(1));
        let served = serve(&self.queue, &self.table, self.next, wishes);
        self.next = served.next;
        let mut answer = [0];
        assert!(self.page.slice().read_at(8192, &mut answer));
        (served, answer[0])
    }

    fn command(&mut self, bytes: &[u8], wishes: &mut Wishes) -> (Served, u8) {
        assert!(self.page.slice().write_at(4096, bytes));
        self.driver.write_desc(0, GUEST + 4096, 2, 1, 1);
        self.driver.write_desc(1, GUEST + 4098, bytes.len() as u32 - 2, 1, 2);
        self.driver.write_desc(2, GUEST + 8192, 1, 2, 0);
        self.serve(wishes)
    }
}

#[test]
fn commands_come_by_the_ring() {
    let (mut rig, mut wishes) = (Rig::new(), quiet());
    let (served, answer) = rig.command(&[0, 1, 1], &mut wishes);
    assert_eq!((served, answer), (Served { next: 1, commands: 1, more: false, broken: false }, 0));
    assert!(wishes.filter().all_multicast);
    assert_eq!(rig.driver.used(0), (0, 1));
    let (served, answer) = rig.command(&[0, 9, 1], &mut wishes);
    assert_eq!((served.commands, answer), (1, 1), "refused");
    // By a table.
    let entry = |addr: u64, len: u32, flags: u16, next: u16| {
        [&addr.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let indirect = [entry(GUEST + 4096, 3, 1, 1), entry(GUEST + 8192, 1, 2, 0)].concat();
    assert!(rig.page.slice().write_at(12288, &indirect) && rig.page.slice().write_at(4096, &[0, 1, 0]));
    rig.driver.write_desc(0, GUEST + 12288, 32, 4, 0);
    assert_eq!(rig.serve(&mut wishes).1, 0);
    assert!(!wishes.filter().all_multicast);
}

#[test]
fn hostile_chains_are_given_back() {
    let (mut rig, mut wishes) = (Rig::new(), quiet());
    let before = wishes.filter();
    // (address, length, flags, next) of descriptors 0 and 1.
    type Desc = (u64, u32, u16, u16);
    let chains: [[Desc; 2]; 9] = [
        [(GUEST + 4096, 3, 1, 0), (0, 0, 0, 0)],                  // a loop
        [(GUEST + 4096, 3, 1, 99), (0, 0, 0, 0)],                 // out of the ring
        [(0xdead_0000, 3, 1, 1), (GUEST + 8192, 1, 2, 0)],        // command outside memory
        [(GUEST + 4096, 3, 1, 1), (0xdead_0000, 1, 2, 0)],        // answer outside memory
        [(GUEST + 4096, 3, 0, 0), (0, 0, 0, 0)],                  // no answer
        [(u64::MAX, 2, 1, 1), (GUEST + 8192, 1, 2, 0)],           // overflow
        [(GUEST + 12288, 32, 4 | 1, 1), (GUEST + 8192, 1, 2, 0)], // a table that goes on
        [(GUEST + 12288, 31 * 16, 4, 0), (0, 0, 0, 0)],           // a table of nothing
        [(GUEST + 4096, 3, 1, 1), (GUEST + 8192, 0, 2, 0)],       // room of no bytes
    ];
    for chain in chains {
        for (index, (addr, len, flags, next)) in chain.into_iter().enumerate() {
            rig.driver.write_desc(index as u16, addr, len, flags, next);
        }
        let (served, answer) = rig.serve(&mut wishes);
        assert_eq!((served.commands, served.broken, answer), (1, false, 0xee), "{chain:?}");
        assert_eq!(wishes.filter(), before);
    }
    // Too long: refused, not carried out.
    rig.driver.write_desc(0, GUEST, 16384, 1, 1);
    rig.driver.write_desc(1, GUEST, 16384, 1, 2);
    rig.driver.write_desc(2, GUEST + 8192, 1, 2, 0);
    assert_eq!(rig.serve(&mut wishes).1, 1);
    // An index far ahead.
    rig.driver.publish(rig.next.wrapping_add(SIZE + 1));
    assert!(serve(&rig.queue, &rig.table, rig.next, &mut wishes).broken);
}

/// The same in a packed ring: a chain of three descriptors, and a table.
#[test]
fn commands_come_by_a_packed_ring() {
    let page = SharedPage::new("control", 16384).expect("memory");
    let (region, memory) = (page.region(), page.slice());
    let ring = PackedRing::new(4, (region, 0), (region, 256), (region, 260)).expect("a ring");
    let queue = Virtqueue::from(ring);
    let span = Span { guest: GUEST, len: 16384, user: GUEST, region: Arc::clone(region), offset: 0 };
    let table = MemTable::new().with(span).expect("a table");
    let mut wishes = quiet();
    let entry = |addr: u64, len: u32, id: u16, flags: u16| {
        [&addr.to_le_bytes()[..], &len.to_le_bytes(), &id.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let (command, answer) = (GUEST + 4096, GUEST + 8192);
    // All multicast on, in the first round of the ring (wrap counter 1).
    assert!(memory.write_at(4096, &[0, 1, 1]) && memory.write_at(8192, &[0xee]));
    let chain = [entry(command, 2, 0, 0x81), entry(command + 2, 1, 0, 0x81), entry(answer, 1, 7, 0x82)].concat();
    assert!(memory.write_at(0, &chain));
    let served = serve(&queue, &table, 0, &mut wishes);
    assert_eq!(served, Served { next: 3, commands: 1, more: false, broken: false });
    assert!(wishes.filter().all_multicast);
    let (mut used, mut told) = ([0; 8], [0]);
    assert!(memory.read_at(8, &mut used) && memory.read_at(8192, &mut told));
    assert_eq!((used, told), ([1, 0, 0, 0, 7, 0, 0x80, 0x80], [0]));
    // Off, by a table at the ring's last place; its entries' identifiers and other flags mean nothing.
    assert!(memory.write_at(4096, &[0, 1, 0]) && memory.write_at(8192, &[0xee]));
    let indirect = [entry(command, 3, 0xffff, 0x8085), entry(answer, 1, 4, 2)].concat();
    assert!(memory.write_at(12288, &indirect) && memory.write_at(48, &entry(GUEST + 12288, 32, 9, 0x84)));
    let served = serve(&queue, &table, served.next, &mut wishes);
    assert_eq!((served.next, served.commands, served.broken), (4, 1, false));
    assert!(!wishes.filter().all_multicast && memory.read_at(8192, &mut told) && told == [0]);
    // A chain without an end.
    (0..4).for_each(|n| assert!(memory.write_at(16 * n, &entry(command, 1, 0, 0x8001))));
    assert!(serve(&queue, &table, served.next, &mut wishes).broken);
}
