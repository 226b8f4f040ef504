use dataplane::vnet::{DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM};
use dataplane::{Csum, DropReason, Gso, Offload, Plan, VnetHeader};

use super::tx::header_for;
use crate::lab::{all, tcp4, tcp6, with_burst};
use dataplane::Caps;
use wire::Tag;

fn decode(header: VnetHeader, bytes: &[u8]) -> Result<Offload, DropReason> {
    let page = sharedmem::SharedPage::new("frame", 1 << 20).unwrap();
    assert!(page.slice().write_at(0, bytes));
    header.offload(&[page.slice().sub(0, bytes.len()).unwrap()])
}

#[test]
fn bytes_are_those_of_struct_virtio_net_hdr() {
    let header = VnetHeader { flags: 1, gso_type: 0x81, hdr_len: 54, gso_size: 1460, csum_start: 34, csum_offset: 16 };
    let bytes = header.bytes();
    assert_eq!(bytes, [1, 0x81, 54, 0, 0xb4, 0x05, 34, 0, 16, 0]);
    assert_eq!(VnetHeader::from_bytes(bytes), header);
}

#[test]
fn what_a_received_header_says() {
    let none = VnetHeader::default();
    let bytes = tcp4(5000);
    assert_eq!(decode(none, &bytes), Ok(Offload::default()));
    let good = VnetHeader { flags: DATA_VALID, ..none };
    assert_eq!(decode(good, &bytes), Ok(Offload { csum: Csum::Good, gso: None }));
    let fill = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..none };
    assert_eq!(decode(fill, &bytes), Ok(Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None }));
    let wild = VnetHeader { flags: NEEDS_CSUM, csum_start: 65_535, csum_offset: 1, ..none };
    assert_eq!(decode(wild, &bytes), Err(DropReason::BadOffload));
    for (bytes, kind, header) in [(tcp4(5000), GSO_TCPV4, 54), (tcp6(5000), GSO_TCPV6 | GSO_ECN, 74)] {
        let gso = VnetHeader { gso_type: kind, gso_size: 1400, hdr_len: 1, ..fill };
        assert_eq!(decode(gso, &bytes).unwrap().gso, Some(Gso::tcp(1400, header)));
    }
}

#[test]
fn segments_of_another_kind_are_refused() {
    let gso = |gso_type| VnetHeader { gso_type, gso_size: 1000, ..VnetHeader::default() };
    for kind in [2, 3, 5, 6, 0x7f] {
        assert_eq!(decode(gso(kind), &tcp4(5000)), Err(DropReason::BadOffload), "type {kind}");
    }
    let mut udp = tcp4(5000);
    udp[23] = 17;
    assert_eq!(decode(gso(GSO_TCPV4), &udp), Err(DropReason::BadOffload));
    assert_eq!(decode(gso(GSO_TCPV4), &tcp4(0)[..40]), Err(DropReason::BadOffload), "no TCP header there");
    assert_eq!(decode(gso(GSO_TCPV4), &[]), Err(DropReason::BadOffload));
}

#[test]
fn what_a_sent_header_asks_for() {
    let caps = Caps { csum: true, tso: true, uso: true, tag: false, pad: true };
    let segments = |header| Offload { csum: Csum::AsIs, gso: Some(Gso::tcp(1000, header)) };
    let mut congested = tcp4(5000);
    congested[47] |= 0x80;
    let (v4, v6) = (tcp4(5000), tcp6(5000));
    let frames: [(&[u8], _, _); 5] = [
        (&v4, None, segments(54)),
        (&v6, Some(Tag(5)), segments(74)),
        (&congested, None, segments(54)),
        (&v4[..1000], None, Offload { csum: Csum::Fill { start: 34, at: 50 }, gso: None }),
        (&v4[..2500], None, Offload::default()),
    ];
    let ask = |kind, hdr_len, gso_size, csum_start| VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: kind,
        hdr_len,
        gso_size,
        csum_start,
        csum_offset: 16,
    };
    let want = [
        ask(GSO_TCPV4, 54, 1000, 34),
        ask(GSO_TCPV6, 78, 1000, 58),
        ask(GSO_TCPV4 | GSO_ECN, 54, 1000, 34),
        ask(GSO_NONE, 1000, 0, 34),
        VnetHeader::default(),
    ];
    with_burst(&frames, |burst| {
        for (delivery, want) in all(burst, None).iter().zip(want) {
            let plan = Plan::new(burst, delivery, caps).unwrap();
            assert_eq!(header_for(&plan, plan.len(0)), want, "frame {}", delivery.index());
        }
    });
}
