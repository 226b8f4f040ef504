use super::*;
use crate::lab::{frame, tagged, tcp4};

const MAC: usize = 76;

/// A slot as the kernel fills it, with what `change` does to the header's bytes.
fn slot(bytes: &[u8], vnet: [u8; 10], change: impl FnOnce(&mut [u8; 52]), body: impl FnOnce(&Burst<'_>)) {
    let page = sharedmem::SharedPage::new("slot", 128 << 10).unwrap();
    let slot = page.slice().sub(0, super::super::ring::SLOT).unwrap();
    let mut header = [0u8; 52];
    header[0] = 1;
    header[4..8].copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    header[8..12].copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    header[12..14].copy_from_slice(&(MAC as u16).to_ne_bytes());
    change(&mut header);
    assert!(slot.write_at(0, &header) && slot.write_at(MAC - 10, &vnet) && slot.write_at(MAC, bytes));
    let mut burst = Burst::new();
    harvest(&slot, &mut burst);
    body(&burst);
}

#[test]
fn truncated_frames_are_oversize_and_nonsense_is_a_bad_descriptor() {
    let bytes = frame(200, 1);
    let rejected = |want: &[(DropReason, u32)], change: fn(&mut [u8; 52])| {
        slot(&bytes, [0; 10], change, |burst| {
            assert_eq!((burst.rejected(), burst.frames().len()), (want, 0));
        });
    };
    rejected(&[(DropReason::Oversize, 201)], |h| h[4] = 201);
    rejected(&[(DropReason::BadDescriptor, 200)], |h| h[12..14].copy_from_slice(&u16::MAX.to_ne_bytes()));
    rejected(&[(DropReason::BadDescriptor, 200)], |h| h[12] = 9);
    rejected(&[(DropReason::BadDescriptor, u32::MAX)], |h| h[4..12].fill(0xff));
    rejected(&[(DropReason::Runt, 13)], |h| (h[4], h[8]) = (13, 13));
    rejected(&[], |h| h[PKTTYPE] = libc::PACKET_OUTGOING);
}

#[test]
fn tags_by_tpid() {
    let bytes = tcp4(100);
    let fill = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
    let with = |status: u8, tpid: u16, want_tag, want_fill, want: &[u8]| {
        let change = move |h: &mut [u8; 52]| {
            h[0] |= status;
            h[24..26].copy_from_slice(&0x2005u16.to_ne_bytes());
            h[26..28].copy_from_slice(&tpid.to_ne_bytes());
        };
        slot(&bytes, fill, change, |burst| {
            let frame = &burst.frames()[0];
            assert_eq!((frame.tag(), frame.offload().csum), (want_tag, want_fill));
            assert_eq!(frame.head(), &want[..frame.head().len()]);
            assert_eq!(frame.len(), want.len());
        });
    };
    let plain = Csum::Fill { start: 34, at: 50 };
    with(0, 0x8100, None, plain, &bytes);
    with(0x10, 0, Some(Tag(0x2005)), plain, &bytes);
    with(0x50, 0x8100, Some(Tag(0x2005)), plain, &bytes);
    with(0x50, 0x88a8, None, Csum::Fill { start: 38, at: 54 }, &tagged(&bytes, 0x88a8, 0x2005));
}
