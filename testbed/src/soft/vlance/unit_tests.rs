use super::*;

fn bytes(ram: &Ram, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    ram.read(at, &mut out).unwrap();
    out
}

#[test]
fn initialization_blocks() {
    let mac = Mac([0, 0x50, 0x56, 1, 2, 3]);
    for (style, want) in [
        (Style::Lance, vec![0u8, 0x80, 0, 0x50, 0x56, 1, 2, 3, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        (Style::Pcnet32, vec![0, 0x80, 0x50, 0x40, 0, 0x50, 0x56, 1, 2, 3, 0, 0, 0x88, 0x77, 0x66, 0x55]),
    ] {
        let mut ram = Ram::new(0x10_0000, 1 << 20).unwrap();
        let at = ram.alloc(64, 16).unwrap();
        let rings = Rings::new(&mut ram, style, 4, 5).unwrap();
        rings.write_init_block(&ram, at, 0x8000, mac, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(bytes(&ram, at, 16), want);
        let tail = if style == Style::Lance { 16 } else { 20 };
        let rx = u32::from_le_bytes(bytes(&ram, at + tail, 4).try_into().unwrap());
        let logs = if style == Style::Lance { 5 << 29 } else { 0 };
        assert_eq!(rx, 0x10_0040 | logs);
    }
}

/// The card's part, by the data sheet's words: where owner, address and length stand in each layout.
#[test]
fn descriptors_in_three_layouts() {
    for style in [Style::Lance, Style::Pcnet32, Style::Pcnet32Burst] {
        let mut ram = Ram::new(0x10_0000, 1 << 20).unwrap();
        let mut rings = Rings::new(&mut ram, style, 1, 1).unwrap();
        rings.init(&ram).unwrap();
        let size = if style == Style::Lance { 8 } else { 16 };
        let (rx, tx) = (0x10_0000, (0x10_0000u64 + 2 * size).next_multiple_of(16) + 2 * 2048);
        assert!(rings.push(&ram, &[&[1; 40], &[2; 30]]).unwrap());
        assert!(!rings.push(&ram, &[&[3; 60]]).unwrap());
        let (address, flags, length, message) = match style {
            Style::Lance => (0, 3, 4, 6),
            Style::Pcnet32 => (0, 7, 4, 8),
            Style::Pcnet32Burst => (8, 7, 4, 0),
        };
        let second = bytes(&ram, tx + size, size as usize);
        assert_eq!(second[flags], 0x81, "owned, end of frame");
        assert_eq!(i16::from_le_bytes([second[length], second[length + 1]]), -30);
        let buffer = u32::from_le_bytes([second[address], second[address + 1], second[address + 2], 0]);
        assert_eq!(bytes(&ram, buffer.into(), 2), [2, 2]);
        assert_eq!(bytes(&ram, tx + flags as u64, 1), [0x82], "owned, start of frame");
        ram.write(tx + size + flags as u64, &[0x01]).unwrap();
        rings.reap().unwrap();
        assert_eq!(rings.in_flight(), 1, "its first descriptor is still the card's");
        ram.write(tx + flags as u64, &[0x02]).unwrap();
        rings.reap().unwrap();
        assert_eq!(rings.in_flight(), 0);
        // Receive 64 bytes with FCS into the first buffer.
        let first = bytes(&ram, rx, size as usize);
        assert_eq!(first[flags], 0x80);
        assert_eq!(i16::from_le_bytes([first[length], first[length + 1]]), -1544);
        ram.write(rx + message, &64u16.to_le_bytes()).unwrap();
        ram.write(rx + flags as u64, &[0x03]).unwrap();
        assert_eq!(rings.pop(&ram).unwrap().unwrap().bytes.len(), 60);
        assert_eq!(bytes(&ram, rx + flags as u64, 1), [0x80], "given back");
        ram.write(rx + size + flags as u64, &[0x43]).unwrap();
        assert!(rings.drain().is_err(), "an error status");
    }
}

#[test]
fn group_filter_bits() {
    // From the tables of well-known drivers: all hosts 224.0.0.1 is bit 59 (0x3b) of the logical address filter.
    let bit = group_bit(Mac([0x01, 0x00, 0x5e, 0, 0, 1]));
    assert!(bit < 64);
    assert_ne!(bit, group_bit(Mac([0x33, 0x33, 0, 0, 0, 1])));
    // CRC-32 of six zero bytes, not inverted at the end, is !0xb1c2a1a3 (the check value of zlib's crc32).
    assert_eq!(group_bit(Mac([0; 6])), !0xb1c2_a1a3u32 >> 26);
}
