//! The message handler as a plain function: any bytes, in any order, with any descriptors; and what it
//! writes to the log.

mod vfio_user_support;

use std::fmt::Debug;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::Grace;
use proptest::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use vfio_user_support::{Raw, Served, bytes, card, event, memfd, write};
use vnic::vfio_user::{Header, Session};

/// Held by each test: whether a message is wanted at all is remembered for the whole process, and what a test without a
/// subscriber leaves behind there would silence the others.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A subscriber that keeps messages.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn send(session: &mut Session, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> u32 {
    let header = Header { id: 7, command, size: 16 + payload.len() as u32, flags: 0, error: 0 };
    let answer = session.handle(&header, payload, fds).unwrap();
    Header::decode(&answer.bytes).unwrap().error
}

fn map(iova: u64, len: u64) -> Vec<u8> {
    let mut out = bytes(&[32, 3]);
    for field in [0, iova, len] {
        out.extend_from_slice(&field.to_ne_bytes());
    }
    out
}

#[test]
fn memory_that_is_not_shared_is_told_once_per_connection() {
    let _alone = alone();
    let log = Log::default();
    let count = |log: &Log| log.0.lock().unwrap().iter().filter(|m| m.contains("share=on")).count();
    tracing::subscriber::with_default(log.clone(), || {
        let mut session = Session::new(card(Grace::new(0)).0);
        for round in 1..=2 {
            assert_eq!(send(&mut session, 1, &[0; 4], vec![]), 0);
            assert_eq!(send(&mut session, 2, &map(0xfffc_0000, 0x4_0000), vec![]), 0, "a ROM");
            assert_eq!(send(&mut session, 4, &bytes(&[16, 0, 0, 0]), vec![]), 0);
            assert_eq!(count(&log), round - 1, "a ROM alone is no reason");
            assert_eq!(send(&mut session, 2, &map(0, 64 << 20), vec![]), 0);
            for _ in 0..3 {
                assert_eq!(send(&mut session, 10, &write(1, 0, &[1]), vec![]), 0);
            }
            assert_eq!(count(&log), round);
            session.disconnect();
        }
        assert_eq!(send(&mut session, 1, &[0; 4], vec![]), 0);
        assert_eq!(send(&mut session, 2, &map(64 << 20, 64 << 20), vec![]), 0);
        assert_eq!(send(&mut session, 2, &map(0, 1 << 20), vec![memfd(1 << 20)]), 0);
        assert_eq!(send(&mut session, 4, &bytes(&[16, 0, 0, 0]), vec![]), 0);
        assert_eq!(count(&log), 2, "some of it is shared: ROMs and pflash never are");
    });
    assert!(log.0.lock().unwrap().iter().any(|m| m.starts_with("vNIC web1: the VMM does not share its memory")));
}

#[test]
fn complaints_are_bounded() {
    let _alone = alone();
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let mut session = Session::new(card(Grace::new(0)).0);
        assert_eq!(send(&mut session, 1, &[0; 4], vec![]), 0);
        for _ in 0..1000 {
            assert_eq!(send(&mut session, 2, &map(1, 0), vec![]), 22);
        }
    });
    let log = log.0.lock().unwrap();
    assert_eq!(log.len(), 16);
    assert!(log[15].contains("no more"), "{}", log[15]);
}

/// Numbers that are likely to matter, among any.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..40, Just(u32::MAX), Just(4096), any::<u32>()]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(number(), 0..12).prop_map(|fields| bytes(&fields)),
        proptest::collection::vec(any::<u8>(), 0..300),
        (number(), number(), number(), proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(low, region, count, data)| {
                let mut out = bytes(&[low, 0, region % 9, count]);
                out.extend(data);
                out
            }
        ),
        (0u64..64, 0u64..16, 0u32..4, 0u64..3).prop_map(|(page, pages, flags, offset)| {
            let mut out = bytes(&[32, flags]);
            for field in [offset << 12, page << 12, pages << 12] {
                out.extend_from_slice(&field.to_ne_bytes());
            }
            out
        }),
        (0u64..64, 0u64..16, 0u32..4).prop_map(|(page, pages, flags)| vfio_user_support::unmap(
            page << 12,
            pages << 12,
            flags
        )),
        (0u32..64, 0u32..5, 0u32..30, 0u32..30)
            .prop_map(|(flags, index, start, count)| vfio_user_support::irqs(flags, index, start, count, &[1; 30])),
    ]
}

fn descriptors(kinds: &[u8]) -> Vec<OwnedFd> {
    kinds
        .iter()
        .map(|kind| match kind % 3 {
            0 => event(),
            1 => memfd(0x4000),
            _ => OwnedFd::from(UnixStream::pair().unwrap().0),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each message gets one answer of its own id, with the error bit if and only if there is an errno, and
    /// a map without overlaps is all the card ever sees.
    #[test]
    fn any_messages(
        messages in proptest::collection::vec((0u16..20, payload(), 0u32..3, proptest::collection::vec(any::<u8>(), 0..4), any::<bool>()), 0..60),
    ) {
        let _alone = alone();
        let (card, _page, seen) = card(Grace::new(0));
        let (state, interrupts) = (card.state.clone(), card.interrupts.clone());
        let mut session = Session::new(card);
        send(&mut session, 1, &[0; 4], vec![]);
        for (n, (command, payload, flags, kinds, settle)) in messages.into_iter().enumerate() {
            let flags = if flags == 0 { Header::NO_REPLY } else { 0 };
            let header = Header { id: n as u16, command, size: 16 + payload.len() as u32, flags, error: 0 };
            match session.handle(&header, &payload, descriptors(&kinds)) {
                None => prop_assert_eq!(flags, Header::NO_REPLY),
                Some(answer) => {
                    let reply = Header::decode(&answer.bytes).unwrap();
                    prop_assert_eq!((reply.id, reply.command, reply.size as usize), (n as u16, command, answer.bytes.len()));
                    prop_assert_eq!(reply.flags & !Header::ERROR, Header::REPLY);
                    prop_assert_eq!(reply.flags & Header::ERROR != 0, reply.error != 0);
                    prop_assert!(reply.error < 134 && (reply.error == 0 || answer.bytes.len() == 16));
                }
            }
            if settle {
                session.settle();
            }
            interrupts.raise(n % 30);
            interrupts.set_level(settle);
        }
        session.disconnect();
        prop_assert!(!state.connected() && !interrupts.level());
        let seen = seen.lock().unwrap();
        prop_assert!(seen.map.as_ref().is_none_or(|map| map.is_empty()));
        prop_assert!(seen.map.as_ref().map_or(1, Arc::strong_count) <= 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Bytes that are no protocol at all, over the socket; afterwards a good VMM is served.
    #[test]
    fn any_bytes(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..20)) {
        let _alone = alone();
        let served = Served::start();
        let mut raw = Raw::connect(&served.path);
        for piece in pieces {
            if raw.stream.write_all(&piece).is_err() {
                break;
            }
        }
        drop(raw);
        let mut good = Raw::negotiated(&served.path);
        prop_assert_eq!(good.map(0, 4096, 0, 3, &[memfd(4096).as_fd()]), 0);
        prop_assert_eq!(good.read(1, 0, 4).unwrap(), vec![0; 4]);
    }
}
