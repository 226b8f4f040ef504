use proptest::prelude::*;

use super::*;

fn key() -> Key {
    Key::new(SwitchId([0xa5; 16]), &[3; 32], DEFAULT_ETHERTYPE)
}

fn beacon() -> Beacon {
    let source = key().switch().source_mac(0x0102);
    Beacon { source, uplink: 0x0102, nonce: 0x1122_3344_5566_7788, sequence: 77, vlan: 4094, hears: 0b1010 }
}

#[test]
fn bytes_are_where_the_table_says() {
    let frame = encode(&beacon(), &key());
    assert!(frame.len() >= wire::MIN_FRAME);
    assert_eq!(Mac::read(&frame), Some(Mac::BROADCAST));
    assert_eq!(frame[6..12], [0x02, 0xa5, 0xa5, 0xa5, 1, 2]);
    assert_eq!(frame[12..20], [0x88, 0xb5, b'v', b'S', b'W', b'b', 1, 0]);
    assert_eq!(frame[20..22], [1, 2]);
    assert_eq!(frame[22..38], [0xa5; 16]);
    assert_eq!(frame[38..46], [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    assert_eq!(frame[46..56], [0, 0, 0, 0, 0, 0, 0, 77, 0x0f, 0xfe]);
    assert_eq!(frame[56..64], [0, 0, 0, 0, 0, 0, 0, 0b1010]);
    assert_eq!(decode(&frame, &key()), Ok(beacon()));
    assert!(is_beacon(&frame, DEFAULT_ETHERTYPE) && !is_beacon(&frame, 0x88b6) && !is_beacon(&frame[..17], 0x88b5));
}

#[test]
fn the_authenticator_is_hmac_sha256_of_rfc_4231() {
    // Test case 2: key "Jefe", data "what do ya want for nothing?".
    let mut secret = [0; 32];
    secret[..4].copy_from_slice(b"Jefe");
    let key = Key::new(SwitchId([0; 16]), &secret, DEFAULT_ETHERTYPE);
    let tag = key.keyed.chain_update(b"what do ya want for nothing?").finalize().into_bytes();
    assert_eq!(tag[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
}

#[test]
fn each_reason_of_refusal() {
    let whole = encode(&beacon(), &key());
    let with = |at: usize, value: u8| {
        let mut frame = whole.to_vec();
        frame[at] = value;
        frame
    };
    let other = |id: u8, secret: u8| Key::new(SwitchId([id; 16]), &[secret; 32], DEFAULT_ETHERTYPE);
    let cases: &[(&str, Vec<u8>, Reject)] = &[
        ("empty", vec![], Reject::NotABeacon),
        ("cut in the EtherType", whole[..13].to_vec(), Reject::NotABeacon),
        ("another EtherType", with(13, 0xb6), Reject::NotABeacon),
        ("cut in the magic", whole[..17].to_vec(), Reject::Truncated),
        ("another magic", with(14, 0), Reject::NotABeacon),
        ("another version", with(18, 2), Reject::Version),
        ("cut in the authenticator", whole[..79].to_vec(), Reject::Truncated),
        ("another switch", encode(&beacon(), &other(1, 3)).to_vec(), Reject::Foreign),
        ("another secret", encode(&beacon(), &other(0xa5, 4)).to_vec(), Reject::Forged),
        ("another source", with(11, 9), Reject::Forged),
        ("another authenticator", with(79, whole[79] ^ 1), Reject::Forged),
    ];
    for (name, frame, reject) in cases {
        assert_eq!(decode(frame, &key()), Err(*reject), "{name}");
    }
}

#[test]
fn the_secret_is_not_printed() {
    let key = Key::new(SwitchId([1; 16]), b"a secret of thirty-two bytes !!!", DEFAULT_ETHERTYPE);
    assert_eq!(format!("{key:?}"), format!("Key {{ ethertype: 34997, switch: {}, .. }}", "01".repeat(16)));
}

proptest! {
    #[test]
    fn what_is_sent_is_read(uplink: u16, nonce: u64, sequence: u64, vlan: u16, hears: u64, mac: [u8; 6],
                            rest in proptest::collection::vec(any::<u8>(), 0..9)) {
        let beacon = Beacon { source: Mac(mac), uplink, nonce, sequence, vlan, hears };
        let mut frame = encode(&beacon, &key()).to_vec();
        frame.extend(rest);
        prop_assert_eq!(decode(&frame, &key()), Ok(beacon));
    }

    #[test]
    fn any_bytes_are_refused_or_ours(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz::run(&bytes);
        prop_assert!(decode(&bytes, &key()).is_err());
    }

    #[test]
    fn any_change_is_refused(at in 0..BEACON_LEN, flip in 1u8.., cut in 0..BEACON_LEN) {
        let mut frame = encode(&beacon(), &key());
        prop_assert!(decode(&frame[..cut], &key()).is_err());
        frame[at] ^= flip;
        prop_assert!(decode(&frame, &key()).is_err());
    }
}
