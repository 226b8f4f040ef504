use super::*;
use crate::lab::{Netns, Tap, all, frame, sums_hold, udp4, udp6, with_burst};
use crate::netlink;

/// Headers the kernel refuses are never made (see `plan`); this makes some, to see that the ring lives on.
#[test]
fn a_refused_slot_is_put_right_and_counted() {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let link = netlink::query("tap0").unwrap();
        let ring = TxRing::open(&link).unwrap();
        let counts = Counts::default();
        let good = frame(100, 1);
        with_burst(&[(&good, None, crate::lab::PLAIN)], |burst| {
            let plan = plan(burst, &Delivery::new(0, None), 1500, true).unwrap();
            for wrong in 0..2 {
                let (first, got) = ring.reserve(3);
                assert_eq!(got, 3);
                assert!(ring.publish(first, &plan, 0, plan.len(0)));
                let slot = ring.slots.slot(first + 1).unwrap();
                assert!(slot.write_at(FRAME, &good));
                match wrong {
                    // The sum would start beyond the frame.
                    0 => publish(&slot, VnetHeader::from_bytes([1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0]), 100),
                    // A header longer than the frame.
                    _ => publish(&slot, VnetHeader::from_bytes([0, 0, 200, 0, 0, 0, 0, 0, 0, 0]), 100),
                }
                assert!(ring.publish(first + 2, &plan, 0, plan.len(0)));
                ring.notify(&counts);
                assert_eq!((tap.recv(), ring.waiting()), (good.clone(), 0));
                let filler = tap.recv();
                assert_eq!(
                    (&filler[..6], &filler[6..12], &filler[12..14]),
                    (&link.mac.0[..], &link.mac.0[..], &[0x90, 0][..])
                );
                assert_eq!(tap.recv(), good, "what came after it");
                assert_eq!(counts.tx_refused.load(Ordering::Relaxed), wrong + 1);
            }
        });
        assert_eq!(counts.tx_busy.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_reserved_slot_holds_up_those_behind_it_and_is_not_given_twice() {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let ring = TxRing::open(&netlink::query("tap0").unwrap()).unwrap();
        let counts = Counts::default();
        let bytes = frame(100, 1);
        with_burst(&[(&bytes, None, crate::lab::PLAIN)], |burst| {
            let plan = plan(burst, &Delivery::new(0, None), 1500, true).unwrap();
            let (slow, _) = ring.reserve(1);
            // A second worker overtakes the first, up to the whole ring.
            let count = ring.slots.count();
            let (first, got) = ring.reserve(count);
            assert_eq!((first, got), (slow + 1, count - 1), "not the one in use");
            for at in 0..got {
                assert!(ring.publish(ring.slots.after(first, at), &plan, 0, 100));
            }
            ring.notify(&counts);
            assert!(tap.try_recv().is_none());
            assert_eq!(ring.waiting(), got as u64);
            assert!(ring.publish(slow, &plan, 0, 100));
            ring.notify(&counts);
            assert_eq!((tap.drain().len(), ring.waiting()), (count, 0));
        });
    });
}

/// As with kernels before 6.2; with newer ones the kernel does the same.
#[test]
fn datagrams_are_cut_where_the_kernel_does_not() {
    Netns::new().run(|| {
        let tap = Tap::new("tap0");
        let mut ring = TxRing::open(&netlink::query("tap0").unwrap()).unwrap();
        let counts = Counts::default();
        for (bytes, header) in [(udp4(5500), 42), (udp6(5500), 62)] {
            for uso in [false, ring.uso] {
                ring.uso = uso;
                let offload = dataplane::Offload { csum: Csum::AsIs, gso: Some(dataplane::Gso::udp(1000, header)) };
                let plain = frame(100, 1);
                with_burst(&[(&bytes, None, offload), (&plain, None, crate::lab::PLAIN)], |burst| {
                    let mut tally = Tally::new();
                    deliver(&ring, burst, &all(burst, None), 1500, &counts, &mut tally);
                    assert_eq!(tally.frames(), if uso { 2 } else { 7 });
                });
                let mut payload = Vec::new();
                for len in [1000, 1000, 1000, 1000, 1000, 500] {
                    let got = tap.recv();
                    assert!(got.len() == usize::from(header) + len && sums_hold(&got), "{} bytes", got.len());
                    payload.extend_from_slice(&got[header.into()..]);
                }
                assert!(payload == bytes[header.into()..]);
                assert_eq!((tap.recv(), ring.waiting()), (plain, 0));
            }
        }
        assert_eq!(counts.tx_refused.load(Ordering::Relaxed), 0);
    });
}
