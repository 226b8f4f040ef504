//! What chance sends: whole messages of any kind with any body and any descriptors, and bytes that are no message.

use proptest::prelude::*;

use super::*;

/// Requests of the protocol and beyond its last.
fn request() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 1u32..45, 1 => any::<u32>()]
}

/// Numbers that matter, and others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..4,
        2 => Just(u64::from(SIZE)),
        2 => (0u64..64).prop_map(|bit| 1 << bit),
        2 => (0..MEMORY as u64).prop_map(|at| USER + (at & !15)),
        1 => (0..MEMORY as u64).prop_map(|at| GUEST + at),
        1 => Just(FEATURES),
        1 => any::<u64>(),
    ]
}

/// A body: as the protocol has them, with what it should not hold; or anything.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        number().prop_map(|n| longs(&[n])),
        (number(), number()).prop_map(|(index, n)| words(&[index as u32, n as u32])),
        (0u32..3, number(), number(), number()).prop_map(|(index, a, b, c)| addresses(index, [a, b, c])),
        proptest::collection::vec((number(), number(), number(), number()), 0..10)
            .prop_map(|regions| table(&regions.iter().map(|r| [r.0, r.1, r.2, r.3]).collect::<Vec<_>>())),
        (number(), number(), number())
            .prop_map(|(size, offset, counts)| { [longs(&[size, offset]), words(&[counts as u32, 0])].concat() }),
        proptest::collection::vec(any::<u8>(), 0..300),
    ]
}

/// One of: an event, memory, a socket.
fn descriptor(kind: u8) -> OwnedFd {
    match kind % 3 {
        0 => event(),
        1 => memfd(MEMORY as u64),
        _ => OwnedFd::from(UnixStream::pair().unwrap().0),
    }
}

#[derive(Clone, Debug)]
struct Message {
    request: u32,
    need_reply: bool,
    body: Vec<u8>,
    descriptors: Vec<u8>,
}

fn any_message() -> impl Strategy<Value = Message> {
    let descriptors = proptest::collection::vec(any::<u8>(), 0..4);
    (request(), any::<bool>(), body(), descriptors).prop_map(|(request, need_reply, body, descriptors)| Message {
        request,
        need_reply,
        body,
        descriptors,
    })
}

/// What a peer does.
#[derive(Clone, Debug)]
enum Step {
    Message(Message),
    /// The driver makes something available, and the worker looks at it.
    Traffic,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![5 => any_message().prop_map(Step::Message), 1 => Just(Step::Traffic)]
}

/// Takes what the other end answered, so that it does not end the connection for answers left unread. Answers to requests
/// that hostile messages made are of any form.
fn read_some(peer: &mut Peer) {
    let mut bytes = [0; 4096];
    while rustix::net::recv(&peer.stream, &mut bytes[..], RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0) {}
}

fn play(served: &Served, peer: &mut Peer, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Message(Message { request, need_reply, body, descriptors }) => {
                let descriptors: Vec<OwnedFd> = descriptors.iter().map(|kind| descriptor(*kind)).collect();
                let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                peer.send(&message(request, if need_reply { NEED_REPLY } else { 0 }, &body), &borrowed);
            }
            Step::Traffic => {
                peer.post(2);
                // The card may serve it or not by now; it must come back from it.
                let mut sink = Count(0);
                let mut queues = served.queues[0].lock().unwrap();
                (0..4).for_each(|_| _ = queues.0.poll(&mut sink));
                deliver(&*queues.1);
            }
        }
        read_some(peer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any messages, to a card that is as it was made, or negotiated with, or running: the other port answers, and when the
    /// peer is gone a good one gets on with this port.
    #[test]
    fn any_messages(
        prepared in 0u8..3,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let served = Served::start(&Grace::new(0));
        let mut peer = Peer::connect(&served.path("a"));
        match prepared {
            0 => {}
            1 => peer.negotiate(),
            _ => peer.run(),
        }
        play(&served, &mut peer, steps);
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }

    /// Bytes that are no protocol at all.
    #[test]
    fn any_bytes(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..20)) {
        let served = Served::start(&Grace::new(0));
        let mut peer = Peer::connect(&served.path("a"));
        for piece in pieces {
            peer.send(&piece, &[]);
        }
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }
}
