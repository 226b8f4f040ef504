//! Access ports: a host's kernel sends and receives plain frames, the switch sees them on one VLAN.
//!
//! ```text
//!   host eth0 ---veth---> p (ingress: push tag) ---> br0 ---> other ports, tagged
//!   host eth0 <--veth---- p (egress: pop tag, or drop a frame of another VLAN) <--- br0
//! ```
//!
//! Two BPF programs of a few instructions, attached by `tc` at the switch's end. There is no compiler to ask for,
//! so the object file that `tc` reads is put together here: an ELF file with one section for each program.
//!
//! Sources: instruction encoding, RFC 9669; ELF-64, System V gABI (`elf.h`); machine number, helper numbers and
//! the places in `struct __sk_buff`, `linux/bpf.h`; verdicts, `linux/pkt_cls.h`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use wire::ETHERTYPE_VLAN;

use super::build::tc;

/// Section and program that tags what the host sends.
const PUSH: &str = "push";
/// Section and program that untags what the host receives.
const POP: &str = "pop";
/// After every filter that cuts.
const PRIORITY: &str = "30000";

/// Makes `device` of `namespace`, which has a `clsact` qdisc, an access port of `vlan`.
pub(super) fn attach(namespace: &str, device: &str, vlan: u16) -> Result<()> {
    let memory = memfd_create("access-port", MemfdFlags::CLOEXEC).context("making room for a BPF object")?;
    let mut file = File::from(memory);
    file.write_all(&object(vlan))?;
    // `tc` opens the file by name: nothing is left on a disk, however this ends.
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    for (hook, section) in [("ingress", PUSH), ("egress", POP)] {
        let attach = ["filter", "add", "dev", device, hook, "prio", PRIORITY, "protocol", "all"];
        let program = ["bpf", "da", "obj", &path, "sec", section];
        tc(namespace, &[&attach[..], &program[..]].concat())
            .with_context(|| format!("making {device} an access port of VLAN {vlan}"))?;
    }
    Ok(())
}

/// One instruction: operation, destination and source register, offset, immediate.
fn instruction(operation: u8, (to, from): (u8, u8), offset: i16, immediate: i32) -> [u8; 8] {
    let mut bytes = [operation, from << 4 | to, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_le_bytes());
    bytes
}

/// Move an immediate, load a word, and, jump if equal, jump if not, call a helper, return.
const MOV: u8 = 0xb7;
const LDXW: u8 = 0x61;
const AND: u8 = 0x57;
const JEQ: u8 = 0x15;
const JNE: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Helpers; both take the frame in register 1, where it is when a program begins.
const SKB_VLAN_PUSH: i32 = 18;
const SKB_VLAN_POP: i32 = 19;
/// Places in the frame's description.
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;
/// Verdicts: drop; go on with the next filter, if any.
const DROP: i32 = 2;
const GO_ON: i32 = -1;

/// Returns `DROP` unless register 0 is zero, else `GO_ON`: a helper's verdict.
fn verdict() -> [[u8; 8]; 5] {
    [
        instruction(JEQ, (0, 0), 2, 0),
        instruction(MOV, (0, 0), 0, DROP),
        instruction(EXIT, (0, 0), 0, 0),
        instruction(MOV, (0, 0), 0, GO_ON),
        instruction(EXIT, (0, 0), 0, 0),
    ]
}

fn push_program(vlan: u16) -> Vec<u8> {
    // The protocol is passed in network byte order, which the little-endian immediate turns round.
    let protocol = i32::from(ETHERTYPE_VLAN.swap_bytes());
    let work = [
        instruction(MOV, (2, 0), 0, protocol),
        instruction(MOV, (3, 0), 0, vlan.into()),
        instruction(CALL, (0, 0), 0, SKB_VLAN_PUSH),
    ];
    [&work[..], &verdict()].concat().concat()
}

fn pop_program(vlan: u16) -> Vec<u8> {
    // The jumps lead to the second instruction of the verdict, which drops.
    let work = [
        instruction(LDXW, (2, 1), VLAN_PRESENT, 0),
        instruction(JEQ, (2, 0), 5, 0),
        instruction(LDXW, (2, 1), VLAN_TCI, 0),
        instruction(AND, (2, 0), 0, 0xfff),
        instruction(JNE, (2, 0), 2, vlan.into()),
        instruction(CALL, (0, 0), 0, SKB_VLAN_POP),
    ];
    [&work[..], &verdict()].concat().concat()
}

/// Types and flags of sections: allocated and executable, or allocated and writable.
const PROGRAM_BITS: (u32, u64) = (1, 6);
const DATA_BITS: (u32, u64) = (1, 3);
const SYMBOL_TABLE: (u32, u64) = (2, 0);
const STRING_TABLE: (u32, u64) = (3, 0);
/// `EM_BPF`, and the size of a file header, which is that of a section header too.
const MACHINE: u16 = 247;
const HEADER: usize = 64;
/// A global function.
const FUNCTION: u8 = 0x12;

/// A section, by the fields of its header.
struct Section<'b> {
    title: &'static str,
    kind: u32,
    flags: u64,
    bytes: &'b [u8],
    link: u32,
    info: u32,
    entry: u64,
}

/// An ELF object with both programs.
fn object(vlan: u16) -> Vec<u8> {
    let names = format!("\0{PUSH}\0{POP}\0license\0.strtab\0.symtab\0");
    let name = |wanted: &str| names.find(&format!("\0{wanted}\0")).map_or(0, |at| at as u32 + 1);
    let (push, pop) = (push_program(vlan), pop_program(vlan));
    let mut symbols = vec![0; 24];
    for (title, section, length) in [(PUSH, 1u16, push.len()), (POP, 2, pop.len())] {
        symbols.extend(name(title).to_le_bytes());
        symbols.extend([FUNCTION, 0]);
        symbols.extend(section.to_le_bytes());
        symbols.extend(0u64.to_le_bytes());
        symbols.extend((length as u64).to_le_bytes());
    }
    // Section 0 is empty by rule; the symbols' strings are in section 4, and the first of them is local.
    let section = |title, (kind, flags), bytes| Section { title, kind, flags, bytes, link: 0, info: 0, entry: 0 };
    let sections = [
        section(PUSH, PROGRAM_BITS, &push[..]),
        section(POP, PROGRAM_BITS, &pop),
        section("license", DATA_BITS, b"Dual MIT/GPL\0"),
        section(".strtab", STRING_TABLE, names.as_bytes()),
        Section { link: 4, info: 1, entry: 24, ..section(".symtab", SYMBOL_TABLE, &symbols) },
    ];
    let mut contents = Vec::new();
    let mut headers = vec![0; HEADER];
    for Section { title, kind, flags, bytes, link, info, entry } in &sections {
        let offset = (HEADER + contents.len()) as u64;
        contents.extend(*bytes);
        contents.resize(contents.len().next_multiple_of(8), 0);
        headers.extend(name(title).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for field in [*flags, 0, offset, bytes.len() as u64] {
            headers.extend(field.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(info.to_le_bytes());
        for field in [8, *entry] {
            headers.extend(field.to_le_bytes());
        }
    }
    let mut file = file_header((HEADER + contents.len()) as u64, sections.len() as u16 + 1);
    file.extend(contents);
    file.extend(headers);
    file
}

/// A relocatable little-endian file whose section headers begin at `offset`; the strings are in section 4.
fn file_header(offset: u64, sections: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    for field in [1, MACHINE] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(1u32.to_le_bytes());
    for field in [0, 0, offset] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for field in [HEADER as u16, 0, 0, HEADER as u16, sections, 4] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_well_formed() {
        let file = object(10);
        assert_eq!((&file[..4], file.len() % 8), (&b"\x7fELF"[..], 0));
        let table = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
        assert_eq!(file.len(), table + 6 * HEADER, "six section headers end the file");
        assert_eq!((push_program(10).len(), pop_program(10).len()), (64, 88));
        // From the first jump past five instructions, from the second past two: to the one that drops.
        let drop = instruction(MOV, (0, 0), 0, DROP);
        let pop = pop_program(10);
        assert_eq!((&pop[(1 + 1 + 5) * 8..][..8], &pop[(4 + 1 + 2) * 8..][..8]), (&drop[..], &drop[..]));
    }
}
