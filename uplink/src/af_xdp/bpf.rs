//! The XDP program, its map and its link, by the system call bpf(2).
//!
//! A few instructions that hand each frame to the AF_XDP socket of the queue it came in by, and before that put a
//! VLAN tag back into it that a virtual interface keeps beside it. They are held to the interface by a BPF link, which is a file descriptor: when the process ends, however it ends, the kernel closes
//! it and the program is gone from the interface. (What libxdp loads by default is attached by netlink and would
//! stay behind after a kill; and its dispatcher needs a bpffs.)
//!
//! Layouts and numbers from `linux/bpf.h`; links to XDP need Linux 5.9.

use std::ffi::c_long;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::btf;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_XDP: u32 = 37;
/// The program copes with frames in several pieces.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// The program is for one interface only, whose driver it may ask things.
const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
const XDP_DROP: i32 = 1;
/// What becomes of a frame of a queue without a socket: the host gets it, as it would without us.
const XDP_PASS: i32 = 2;
const BPF_FUNC_XDP_ADJUST_HEAD: i32 = 44;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
/// In the source register of a call: the function is the kernel's own, by its number.
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;
/// In the source register of a 64-bit load: the value is a map's descriptor.
const BPF_PSEUDO_MAP_FD: u8 = 1;
/// Offset of `rx_queue_index` in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;

/// Where the kernel runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before the kernel has made anything of the frame.
    Native,
    /// In the network stack, for drivers without XDP.
    Generic,
}

/// Parts of `union bpf_attr`: plain integers, padded by hand.
trait Attribute {}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}
impl Attribute for MapCreate {}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
impl Attribute for MapUpdate {}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}
impl Attribute for ProgLoad {}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}
impl Attribute for LinkCreate {}

/// One instruction: `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination register in the low four bits, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Operation codes (`linux/bpf_common.h`, `linux/bpf.h`).
const LOAD_64: u8 = 0x18;
const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const STORE_WORD: u8 = 0x63;
const STORE_HALF: u8 = 0x6b;
const STORE_DOUBLE_IMMEDIATE: u8 = 0x7a;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const TO_BIG_ENDIAN: u8 = 0xdc;
const JUMP: u8 = 0x05;
/// Of the lower 32 bits.
const JUMP_NOT_EQUAL_IMMEDIATE: u8 = 0x56;
const JUMP_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: src << 4 | dst, offset, immediate }
}

/// # Safety
/// Every pointer in `attribute` must be valid for what `command` does with it.
unsafe fn bpf<T: Attribute>(command: c_long, attribute: &T) -> io::Result<c_long> {
    // SAFETY: the kernel reads size_of::<T>() bytes of `attribute` and takes the rest of the union as zero; the
    // caller answers for the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// As [`bpf`], for commands that make a descriptor.
///
/// # Safety
/// As [`bpf`], and `command` must make one.
unsafe fn bpf_fd<T: Attribute>(command: c_long, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe { bpf(command, attribute)? };
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// An XSKMAP: receive queue to socket.
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    pub(super) fn new(queues: usize) -> io::Result<SocketMap> {
        let attribute = MapCreate {
            map_type: BPF_MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues as u32,
            map_name: *b"vswitch_queues\0\0",
            ..MapCreate::default()
        };
        // SAFETY: no pointers in it; the command makes a descriptor.
        unsafe { bpf_fd(BPF_MAP_CREATE, &attribute) }.map(SocketMap)
    }

    /// Frames of `queue` go to `socket` from now on, until the socket is closed.
    pub(super) fn insert(&self, queue: usize, socket: BorrowedFd<'_>) -> io::Result<()> {
        let key = queue as u32;
        let value = socket.as_raw_fd() as u32;
        let attribute = MapUpdate {
            map_fd: self.0.as_raw_fd() as u32,
            pad: 0,
            key: (&raw const key).expose_provenance() as u64,
            value: (&raw const value).expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: key and value are four bytes each, as the map was made with, and outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attribute) }.map(drop)
    }
}

/// The program at work on an interface; dropped, it is gone from there.
pub(super) struct Link {
    _link: OwnedFd,
    /// True when tags beside frames are put back, if the driver tells them.
    pub(super) restores_tags: bool,
}

impl Link {
    /// Puts the program that serves `map` on the interface numbered `index`. `fragments` says whether frames may
    /// come in several pieces, `tags_aside` whether VLAN tags may lie beside them.
    pub(super) fn attach(
        index: u32,
        map: &SocketMap,
        hook: Hook,
        fragments: bool,
        tags_aside: bool,
    ) -> io::Result<Link> {
        if let (Hook::Native, true, Some(function)) = (hook, tags_aside, btf::rx_vlan_tag()) {
            // Refused where the driver cannot be asked; the plain program may do.
            if let Ok(link) =
                load(&restoring(map, function), fragments, Some(index)).and_then(|p| link(index, &p, hook))
            {
                return Ok(Link { _link: link, restores_tags: true });
            }
        }
        let program = load(&redirecting(map), fragments, None)?;
        link(index, &program, hook).map(|_link| Link { _link, restores_tags: false })
    }
}

fn link(index: u32, program: &OwnedFd, hook: Hook) -> io::Result<OwnedFd> {
    let flags = match hook {
        Hook::Native => XDP_FLAGS_DRV_MODE,
        Hook::Generic => XDP_FLAGS_SKB_MODE,
    };
    let attribute =
        LinkCreate { prog_fd: program.as_raw_fd() as u32, target_ifindex: index, attach_type: BPF_ATTACH_XDP, flags };
    // SAFETY: no pointers in it; the command makes a descriptor.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attribute) }
}

/// `return bpf_redirect_map(map, r7, XDP_PASS)`.
fn redirect(map: &SocketMap) -> [Instruction; 6] {
    [
        // Two instructions, the second only makes room.
        insn(LOAD_64, 1, BPF_PSEUDO_MAP_FD, 0, map.0.as_raw_fd()),
        insn(0, 0, 0, 0, 0),
        insn(MOVE, 2, 7, 0, 0),
        insn(MOVE_IMMEDIATE, 3, 0, 0, XDP_PASS),
        insn(CALL, 0, 0, 0, BPF_FUNC_REDIRECT_MAP),
        insn(EXIT, 0, 0, 0, 0),
    ]
}

/// Each frame to the socket of its queue.
fn redirecting(map: &SocketMap) -> Vec<Instruction> {
    let mut program = vec![insn(LOAD_WORD, 7, 1, RX_QUEUE_INDEX, 0)];
    program.extend(redirect(map));
    program
}

/// The same, after a tag that the driver keeps beside the frame was put back into it; `tell_tag` is the number of
/// the kernel's function that tells it.
fn restoring(map: &SocketMap, tell_tag: u32) -> Vec<Instruction> {
    let mut program = vec![
        insn(MOVE, 6, 1, 0, 0),
        insn(LOAD_WORD, 7, 1, RX_QUEUE_INDEX, 0),
        // TPID at r10 - 8, in network order; TCI at r10 - 4, in the machine's.
        insn(STORE_DOUBLE_IMMEDIATE, 10, 0, -8, 0),
        insn(MOVE, 2, 10, 0, 0),
        insn(ADD_IMMEDIATE, 2, 0, 0, -8),
        insn(MOVE, 3, 10, 0, 0),
        insn(ADD_IMMEDIATE, 3, 0, 0, -4),
        insn(CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, tell_tag as i32),
        // No tag there: on to the redirection.
        insn(JUMP_NOT_EQUAL_IMMEDIATE, 0, 0, 23, 0),
        insn(MOVE, 1, 6, 0, 0),
        insn(MOVE_IMMEDIATE, 2, 0, 0, -4),
        insn(CALL, 0, 0, 0, BPF_FUNC_XDP_ADJUST_HEAD),
        // No room for it: dropped, rather than into the wrong VLAN.
        insn(JUMP_NOT_EQUAL_IMMEDIATE, 0, 0, 17, 0),
        // r2 = data, r3 = data_end; 16 bytes must be there.
        insn(LOAD_WORD, 2, 6, 0, 0),
        insn(LOAD_WORD, 3, 6, 4, 0),
        insn(MOVE, 4, 2, 0, 0),
        insn(ADD_IMMEDIATE, 4, 0, 0, 16),
        insn(JUMP_GREATER, 4, 3, 12, 0),
    ];
    // The addresses move up, then the tag goes behind them.
    for at in [0, 4, 8] {
        program.push(insn(LOAD_WORD, 5, 2, at + 4, 0));
        program.push(insn(STORE_WORD, 2, 5, at, 0));
    }
    program.extend([
        insn(LOAD_HALF, 5, 10, -8, 0),
        insn(STORE_HALF, 2, 5, 12, 0),
        insn(LOAD_HALF, 5, 10, -4, 0),
        insn(TO_BIG_ENDIAN, 5, 0, 0, 16),
        insn(STORE_HALF, 2, 5, 14, 0),
        // Over the drop.
        insn(JUMP, 0, 0, 2, 0),
        insn(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        insn(EXIT, 0, 0, 0, 0),
    ]);
    program.extend(redirect(map));
    program
}

/// Loads a program; `bound_to` the interface it may ask things of.
fn load(program: &[Instruction], fragments: bool, bound_to: Option<u32>) -> io::Result<OwnedFd> {
    // The kernel's functions are for programs under a licence that goes with the GPL, which MIT does; this is how the
    // kernel wants to hear it.
    let license = c"Dual MIT/GPL";
    let mut prog_flags = if fragments { BPF_F_XDP_HAS_FRAGS } else { 0 };
    if bound_to.is_some() {
        prog_flags |= BPF_F_XDP_DEV_BOUND_ONLY;
    }
    let attribute = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        prog_flags,
        prog_name: *b"vswitch_rx\0\0\0\0\0\0",
        prog_ifindex: bound_to.unwrap_or(0),
        expected_attach_type: BPF_ATTACH_XDP,
        ..ProgLoad::default()
    };
    // SAFETY: `insns` points to insn_cnt instructions and `license` to a C string; both outlive the call, which
    // copies them; no log is asked for. The command makes a descriptor.
    unsafe { bpf_fd(BPF_PROG_LOAD, &attribute) }
}
