//! Hashes against Microsoft's published examples, and frames of every shape against a function written bit by bit.

use super::*;
use crate::vmxnet3::tests::driver::RSS_KEY;

const ALL_TYPES: u16 = 15;

fn rss(types: u16, fields: u32, table: &[u8]) -> Rss {
    Rss { parts: parts(&RSS_KEY), table: table.to_vec(), types, fields }
}

/// Toeplitz's function as it is defined: for each bit set, the 32 bits of key that start there.
fn by_definition(key: &[u8], input: &[u8]) -> u32 {
    let bit = |i: usize| key.get(i / 8).is_some_and(|byte| byte >> (7 - i % 8) & 1 == 1);
    let set = (0..input.len() * 8).filter(|i| input[i / 8] >> (7 - i % 8) & 1 == 1);
    set.fold(0, |hash, i| hash ^ (0..32).fold(0, |word, n| word << 1 | u32::from(bit(i + n))))
}

fn v4(protocol: u8, flags: u16, options: usize, src: [u8; 4], dst: [u8; 4], l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45 + options as u8 / 4, 0, 0, 0, 0, 0]);
    frame.extend(flags.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(src.into_iter().chain(dst));
    frame.extend(vec![1; options]);
    frame.extend(l4);
    frame
}

fn v6(next: u8, src: [u8; 16], dst: [u8; 16], l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, next, 64]);
    frame.extend(src.into_iter().chain(dst));
    frame.extend(l4);
    frame
}

/// Source and destination port.
fn ports(src: u16, dst: u16) -> [u8; 8] {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    [a, b, c, d, 9, 9, 9, 9]
}

#[test]
fn the_published_examples() {
    let table = [0, 1];
    let both = rss(ALL_TYPES, field::TCP, &table);
    let addresses_only = rss(hash_type::IPV4 | hash_type::IPV6, field::TCP, &table);
    let examples = [
        ([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766, 0x323e_8fc2, 0x51cc_c178),
        ([199, 92, 111, 2], [65, 69, 140, 83], 14230, 4739, 0xd718_262a, 0xc626_b0ea),
        ([24, 19, 198, 95], [12, 22, 207, 184], 12898, 38024, 0xd2d0_a5de, 0x5c2b_394a),
    ];
    for (src, dst, from, to, plain, tcp) in examples {
        let frame = v4(TCP, 0, 0, src, dst, &ports(from, to));
        assert_eq!(both.queue(&frame), ((tcp & 1) as u8, Mark { hash: tcp, kind: 2 }));
        assert_eq!(addresses_only.queue(&frame), ((plain & 1) as u8, Mark { hash: plain, kind: 1 }));
    }
    let src = [0x3f, 0xfe, 0x25, 1, 2, 0, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7];
    let dst = [0x3f, 0xfe, 0x25, 1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1];
    let frame = v6(TCP, src, dst, &ports(2794, 1766));
    assert_eq!(both.mark(&frame), Mark { hash: 0x4020_7d3d, kind: 4 });
    assert_eq!(addresses_only.mark(&frame), Mark { hash: 0x2cc1_8cd5, kind: 3 });
}

#[test]
fn what_is_hashed_by_what() {
    let (src, dst) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let l4 = ports(1000, 2000);
    let kind = |rss: &Rss, frame: &[u8]| rss.mark(frame).kind;
    let (few, all) = (rss(ALL_TYPES, field::TCP, &[0]), rss(ALL_TYPES, field::ALL, &[0]));
    let udp = v4(UDP, 0, 0, src, dst, &l4);
    assert_eq!((kind(&few, &udp), kind(&all, &udp)), (1, 5));
    let esp = v4(ESP, 0, 0, src, dst, &l4);
    assert_eq!((kind(&few, &esp), kind(&all, &esp)), (1, 7));
    for flags in [0x2000, 0x0005] {
        assert_eq!(kind(&all, &v4(TCP, flags, 0, src, dst, &l4)), 1, "a fragment goes by its addresses");
    }
    assert_eq!(kind(&all, &v4(TCP, 0x4000, 8, src, dst, &l4)), 2, "options are passed over");
    assert_eq!(all.mark(&v4(TCP, 0, 8, src, dst, &l4)).hash, all.mark(&v4(TCP, 0, 0, src, dst, &l4)).hash);
    let long = v4(TCP, 0, 40, src, dst, &l4);
    assert_eq!(kind(&all, &long[..64]), 1, "ports beyond what is read ahead do not count");
    assert_eq!(kind(&all, &v4(TCP, 0, 0, src, dst, &[1, 2])), 1, "nor such that are not there");
    let (src, dst) = ([1; 16], [2; 16]);
    assert_eq!([UDP, ESP, 59].map(|next| kind(&few, &v6(next, src, dst, &l4))), [3, 3, 3]);
    assert_eq!([UDP, ESP, 59].map(|next| kind(&all, &v6(next, src, dst, &l4))), [6, 8, 3]);
    let nothing = rss(0, 0, &[3]);
    for frame in [v4(TCP, 0, 0, [1; 4], [2; 4], &l4), v6(UDP, src, dst, &l4), vec![0; 60], vec![]] {
        assert_eq!(nothing.queue(&frame), (0, Mark::default()), "not hashed: the first queue");
    }
    assert_eq!(all.queue(&[0; 60]), (0, Mark::default()));
}

#[test]
fn keys_of_any_length_and_tables_of_any_size() {
    let mut noise = 1u32;
    let mut byte = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    };
    for len in [1, 7, 16, 39, 40] {
        let key: Vec<u8> = (0..len).map(|_| byte()).collect();
        let table: Vec<u8> = (0..len as u8).collect();
        let rss = Rss { parts: parts(&key), table, types: ALL_TYPES, fields: field::ALL };
        for _ in 0..50 {
            let l4: [u8; 8] = std::array::from_fn(|_| byte());
            let (src, dst): ([u8; 16], [u8; 16]) = (std::array::from_fn(|_| byte()), std::array::from_fn(|_| byte()));
            let input = [&src[..], &dst, &l4[..4]].concat();
            let (queue, mark) = rss.queue(&v6(UDP, src, dst, &l4));
            assert_eq!(mark, Mark { hash: by_definition(&key, &input), kind: 6 });
            assert_eq!(u32::from(queue), mark.hash % len as u32);
        }
    }
}
