//! The kernel's own type information, for the number of one function.
//!
//! Format from the kernel's `Documentation/bpf/btf.rst`.

use std::sync::OnceLock;

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const KIND_FUNC: u32 = 12;

/// The number of `bpf_xdp_metadata_rx_vlan_tag` (Linux 6.8), which tells an XDP program the VLAN tag that a driver
/// keeps beside the frame; `None` where the kernel has none or does not tell.
pub(super) fn rx_vlan_tag() -> Option<u32> {
    static FOUND: OnceLock<Option<u32>> = OnceLock::new();
    *FOUND.get_or_init(|| find_function(&std::fs::read(KERNEL).ok()?, b"bpf_xdp_metadata_rx_vlan_tag"))
}

/// The number of the function called `name`.
fn find_function(btf: &[u8], name: &[u8]) -> Option<u32> {
    let word = |at: usize| btf.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b));
    if btf.first_chunk().map(|b| u16::from_ne_bytes(*b)) != Some(MAGIC) || btf.len() < HEADER {
        return None;
    }
    let header = word(4)? as usize;
    let (types, types_len) = (header.checked_add(word(8)? as usize)?, word(12)? as usize);
    let strings = btf.get(header.checked_add(word(16)? as usize)?..)?;
    let named = |at: u32| {
        let text = strings.get(at as usize..)?;
        (text.starts_with(name) && text.get(name.len()) == Some(&0)).then_some(())
    };
    let end = types.checked_add(types_len)?.min(btf.len());
    let mut at = types;
    // Types are numbered from 1.
    let mut number = 1;
    while at < end {
        let info = word(at + 4)?;
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == KIND_FUNC && named(word(at)?).is_some() {
            return Some(number);
        }
        at += 12 + extra(kind, members)?;
        number += 1;
    }
    None
}

/// Bytes that follow the 12 of every type; `None` for a kind not known, after which nothing can be found.
fn extra(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => members * 12,
        // ENUM, FUNC_PROTO.
        6 | 13 => members * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type section of a struct with two members, an int, and functions `f` and `ff`.
    fn sample() -> Vec<u8> {
        let strings = b"\0x\0ff\0f\0";
        let mut types: Vec<u32> = vec![1, 4 << 24 | 2, 8, 0, 2, 0, 0, 2, 4];
        types.extend([1, 1 << 24, 4, 32]);
        types.extend([3, 12 << 24, 0, 6, 12 << 24, 0]);
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut btf = vec![];
        btf.extend(MAGIC.to_ne_bytes());
        btf.extend([1, 0]);
        for word in [HEADER, 0, types.len(), types.len(), strings.len()] {
            btf.extend((word as u32).to_ne_bytes());
        }
        btf.extend(types);
        btf.extend(strings);
        btf
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        assert_eq!(find_function(&sample(), b"ff"), Some(3));
        assert_eq!(find_function(&sample(), b"f"), Some(4));
        assert_eq!(find_function(&sample(), b"x"), None, "no function");
        assert_eq!(find_function(&sample(), b"fff"), None);
    }

    #[test]
    fn nonsense_is_no_function() {
        for len in 0..sample().len() {
            let _ = find_function(&sample()[..len], b"ff");
        }
        let mut unknown = sample();
        unknown[HEADER + 7] = 31;
        assert_eq!(find_function(&unknown, b"ff"), None);
        for at in 0..unknown.len() {
            let mut wild = sample();
            wild[at] = 0xff;
            let _ = find_function(&wild, b"ff");
        }
    }
}
