//! Messages of any values in any order, with any descriptors, and bytes that are no messages: an answer or the end of the
//! connection, and neither the next VMM nor that of another port notices.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proptest::prelude::*;

use super::{
    FEATURES, GET_FEATURES, GET_INFLIGHT_FD, GET_VRING_BASE, GUEST, Grace, INFLIGHT_SHMFD, MEMORY, NEED_REPLY, Peer,
    REPLY_ACK, RX_RING, SET_FEATURES, SET_INFLIGHT_FD, SET_MEM_TABLE, SET_PROTOCOL_FEATURES, SET_VRING_ADDR,
    SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, Served, TX_RING,
    USER, addresses, event, inflight, longs, message, table, words,
};

const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
/// `VIRTIO_F_RING_PACKED`, and that a VMM may add memory by the region.
const PACKED: u64 = 1 << 34;
const MEM_SLOTS: u64 = 1 << 15;

/// A request, its body, and what descriptors come with it, by their kinds.
type Message = (u32, Vec<u8>, Vec<u8>);

const MEMORY_FD: u8 = 0;
const EVENT_FD: u8 = 1;

/// Numbers that are likely to matter, among any.
fn number() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![8 => 0u32..5, 2 => (0u32..17).prop_map(|n| 1 << n), 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

/// Which ring; one too high ends the connection, so most are there.
fn index() -> impl Strategy<Value = u32> {
    prop_oneof![40 => 0u32..2, 1 => number()]
}

/// A region of memory: guest address, size, the VMM's address, offset.
fn region() -> impl Strategy<Value = [u64; 4]> {
    let page = || 0u64..260;
    let any = prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)];
    prop_oneof![
        20 => Just([GUEST, MEMORY as u64, USER, 0]),
        20 => (0u64..128, 1u64..128).prop_map(|(at, len)| [GUEST + (at << 12), len << 12, USER + (at << 12), at << 12]),
        1 => (page(), page()).prop_map(|(at, len)| [GUEST + (at << 12), len << 12, USER + (at << 12), at << 12]),
        1 => prop::array::uniform4(any),
    ]
}

/// An address of a part of a ring; one that is aligned, for others end the connection.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        80 => prop_oneof![Just(TX_RING), Just(RX_RING)].prop_map(|at| USER + at as u64),
        60 => (0u64..0x800).prop_map(|n| USER + (n << 4)),
        8 => (0u64..0x10).prop_map(|n| USER + MEMORY as u64 - (n << 4)),
        1 => (0u64..0x8000).prop_map(|at| USER + at),
        1 => any::<u64>(),
    ]
}

/// A body such as its request wants, its values anything, with the descriptors that it wants.
fn fitting() -> impl Strategy<Value = Message> {
    let state = prop_oneof![
        1 => (Just(SET_VRING_NUM), prop_oneof![40 => (0u32..16).prop_map(|n| 1 << n), 1 => number()]),
        1 => (Just(SET_VRING_BASE), prop_oneof![40 => 0u32..0x1_0000, 1 => number()]),
        1 => (Just(GET_VRING_BASE), number()),
        2 => (Just(SET_VRING_ENABLE), prop_oneof![40 => 0u32..2, 1 => number()]),
    ];
    let with_fd = prop_oneof![Just(SET_VRING_KICK), Just(SET_VRING_CALL), Just(SET_VRING_ERR)];
    let features = prop_oneof![4 => Just(FEATURES), 4 => Just(FEATURES | PACKED), 2 => Just(0), 1 => any::<u64>()];
    let protocol = prop_oneof![3 => Just(REPLY_ACK | INFLIGHT_SHMFD | MEM_SLOTS), 1 => any::<u64>()];
    let memory = |count: usize| vec![MEMORY_FD; count];
    prop_oneof![
        32 => (index(), state).prop_map(|(index, (code, num))| (code, words(&[index, num]), vec![])),
        20 => (index(), prop::array::uniform3(place()))
            .prop_map(|(index, places)| (SET_VRING_ADDR, addresses(index, places), vec![])),
        20 => (with_fd, index(), any::<bool>()).prop_map(|(code, index, none)| {
            let body = longs(&[u64::from(index) | u64::from(none) << 8]);
            (code, body, if none { vec![] } else { vec![EVENT_FD] })
        }),
        8 => region().prop_map(move |region| (SET_MEM_TABLE, table(&[region]), memory(1))),
        1 => prop::collection::vec(region(), 0..4)
            .prop_map(move |regions| (SET_MEM_TABLE, table(&regions), memory(regions.len()))),
        // A table with places left over is read by another path.
        2 => (region(), prop::collection::vec(region(), 0..4), prop_oneof![12 => Just(1), 1 => number()])
            .prop_map(move |(first, rest, count)| {
                let mut body = table(&[vec![first], rest].concat());
                body[..4].copy_from_slice(&count.to_le_bytes());
                (SET_MEM_TABLE, body, memory(count.min(5) as usize))
            }),
        1 => (any::<bool>(), region()).prop_map(|(add, region)| {
            let body = [longs(&[0]), longs(&region)].concat();
            if add { (ADD_MEM_REG, body, vec![MEMORY_FD]) } else { (REM_MEM_REG, body, vec![]) }
        }),
        8 => features.prop_map(|features| (SET_FEATURES, longs(&[features]), vec![])),
        4 => protocol.prop_map(|features| (SET_PROTOCOL_FEATURES, longs(&[features]), vec![])),
        3 => (any::<bool>(), any_inflight(), any::<bool>()).prop_map(|(set, (len, page, rings, size), padded)| {
            let body = inflight(len, page << 12, rings, size)[..if padded { 24 } else { 20 }].to_vec();
            if set { (SET_INFLIGHT_FD, body, vec![MEMORY_FD]) } else { (GET_INFLIGHT_FD, body, vec![]) }
        }),
    ]
}

/// Of inflight memory: bytes, page it begins at, rings and descriptors.
fn any_inflight() -> impl Strategy<Value = (u64, u64, u16, u16)> {
    prop_oneof![
        6 => (0u64..200, 1u16..4, 1u16..300).prop_map(|(page, rings, size)| (1 << 18, page, rings, size)),
        1 => (0u64..1 << 17, 0u64..300, 0u16..5, 0u16..300),
    ]
}

/// Any request with any body; or one that fits, now and then with other descriptors.
fn any_message() -> impl Strategy<Value = (Message, u32)> {
    let body = prop_oneof![
        prop::collection::vec(number(), 0..12).prop_map(|fields| words(&fields)),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    let code = prop_oneof![9 => 0u32..46, 1 => any::<u32>()];
    let fds = || prop::collection::vec(0u8..5, 0..10);
    let flags = prop_oneof![30 => Just(NEED_REPLY), 30 => Just(0), 1 => any::<u32>().prop_map(|flags| flags & !3)];
    let message = prop_oneof![
        60 => fitting(),
        1 => (fitting(), fds()).prop_map(|((code, body, _), fds)| (code, body, fds)),
        1 => (code, body, fds()),
    ];
    (message, flags)
}

fn descriptors(kinds: &[u8], peer: &Peer) -> Vec<OwnedFd> {
    let one = |kind: &u8| match *kind {
        MEMORY_FD => peer.memory.try_clone().unwrap(),
        EVENT_FD => event(),
        2 => rustix::pipe::pipe().unwrap().1,
        3 => OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0),
        _ => OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
    };
    kinds.iter().map(one).collect()
}

/// Sends a message, and another whose answer ends the wait for this one's. True when the connection goes on: then there was
/// one answer to it or none.
fn say(peer: &mut Peer, code: u32, flags: u32, body: &[u8], fds: &[OwnedFd]) -> Result<bool, TestCaseError> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
    peer.send(&message(code, flags, body), &fds);
    peer.send(&message(GET_FEATURES, 0, &[]), &[]);
    let Some((first, body)) = peer.reply() else { return Ok(false) };
    if (first, body.len()) == (GET_FEATURES, 8) && code != GET_FEATURES {
        return Ok(true);
    }
    prop_assert_eq!(first, code, "an answer to what was asked");
    let Some((second, _)) = peer.reply() else { return Ok(false) };
    prop_assert_eq!(second, GET_FEATURES, "one answer");
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each message has one answer or none, or ends the connection, whatever went before; what the card does meanwhile with
    /// what it was told harms nobody.
    #[test]
    fn any_messages(
        messages in prop::collection::vec(any_message(), 1..40),
        begun in 0u8..3,
    ) {
        let served = Served::start(&Grace::new(0));
        let mut peer = Peer::connect(&served.path("a"));
        match begun {
            0 => {}
            1 => peer.negotiate(),
            _ => {
                peer.run();
                peer.post(5);
            }
        }
        let mut open = true;
        for ((code, body, kinds), flags) in messages {
            let fds = descriptors(&kinds, &peer);
            open = say(&mut peer, code, flags, &body, &fds)?;
            if !open {
                break;
            }
            served.poll();
            served.deliver();
        }
        if open {
            prop_assert!(served.connected[0].connected());
        } else {
            served.until("a VMM that has no answer is cut off", || !served.connected[0].connected());
        }
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }

    /// Bytes that are no protocol at all, cut anywhere, some of them after a proper beginning.
    #[test]
    fn any_bytes(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..200), prop::collection::vec(0u8..5, 0..3)), 1..20),
        begun in any::<bool>(),
        code in 0u32..46,
    ) {
        let served = Served::start(&Grace::new(0));
        let mut peer = Peer::connect(&served.path("a"));
        if begun {
            peer.negotiate();
            // The first bytes are a message's body, or part of it.
            let _ = peer.stream.write_all(&words(&[code, 1, 100]));
        }
        for (piece, kinds) in pieces {
            let fds = descriptors(&kinds, &peer);
            peer.send(&piece, &fds.iter().map(OwnedFd::as_fd).collect::<Vec<_>>());
        }
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }
}
