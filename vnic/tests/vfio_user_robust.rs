//! What no good client sends, over the real socket: every answer has a true errno, the stream stays in
//! step, and nothing of it ends the server.

#[path = "../../sharedmem/tests/huge/mod.rs"]
mod huge;
mod vfio_user_support;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::Grace;
use rustix::fs::ftruncate;
use sharedmem::{Access, Hint};
use vfio_user_support::{Raw, Served, borrowed, bytes, card, event, irqs, memfd, taken, unmap, write};
use vnic::vfio_user::{BindError, Header, MAX_MESSAGE, Server};

const INVAL: u32 = 22;
const EXIST: u32 = 17;
const NOENT: u32 = 2;
const OPNOTSUPP: u32 = 95;
const PROTO: u32 = 71;

#[test]
fn version_comes_first_once_and_whole() {
    let served = Served::start();
    let mut raw = Raw::connect(&served.path);
    assert_eq!(raw.errno(4, &bytes(&[16, 0, 0, 0]), &[]), PROTO, "a command before VERSION");
    assert_eq!(raw.errno(1, &[], &[]), INVAL);
    assert_eq!(raw.errno(1, &[0, 0, 0], &[]), INVAL);
    assert_eq!(raw.errno(1, b"\0\0\0\0{}", &[]), INVAL, "no NUL");
    assert_eq!(raw.errno(1, b"\0\0\0\0{nonsense\0", &[]), INVAL);
    assert_eq!(raw.errno(1, &[7, 0, 0, 0], &[]), OPNOTSUPP, "another major version");
    assert!(!served.state.connected());
    let (header, payload) = raw.ask(1, b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":8}}\0", &[]);
    assert_eq!(header.flags, Header::REPLY);
    assert!(payload.ends_with(b"}\0"));
    assert!(served.state.connected());
    assert_eq!(raw.errno(1, &[0, 0, 0, 0], &[]), PROTO, "a second VERSION");
    assert_eq!(raw.errno(4, &bytes(&[16, 0, 0, 0]), &[]), 0);
}

#[test]
fn unknown_commands_are_refused_and_consumed() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    for command in [0, 6, 11, 12, 14, 15, 16, 17, 18, 500, u16::MAX] {
        assert_eq!(raw.errno(command, &[0x55; 333], &[]), OPNOTSUPP, "command {command}");
    }
    assert_eq!(raw.errno(4, &bytes(&[15, 0, 0, 0]), &[]), INVAL);
    assert_eq!(raw.errno(5, &bytes(&[32, 0, 9, 0, 0, 0, 0, 0]), &[]), INVAL);
    assert_eq!(raw.errno(7, &bytes(&[16, 0, 5, 0]), &[]), INVAL);
    assert_eq!(raw.errno(13, &[1, 2, 3], &[]), 0, "a reset with something behind it");
}

#[test]
fn accesses_are_bounded() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    for (region, offset, count) in [
        (7, 0, u32::MAX),
        (7, 0, 257),
        (7, 255, 2),
        (7, 0, 0),
        (1, u64::MAX, 1),
        (1, u64::MAX - 3, 8),
        (1, 256, 1),
        (1, 253, 4),
        (4, 0, 1),
        (6, 0, 4),
        (8, 0, 4),
        (9, 0, 4),
        (u32::MAX, 0, 4),
        (1, 0xf0, 4),
    ] {
        assert_eq!(raw.read(region, offset, count), Err(INVAL), "read {region} {offset:#x} {count:#x}");
    }
    assert_eq!(raw.write(1, 253, &[0; 4]), INVAL);
    assert_eq!(raw.write(1, 0xf0, &[0; 4]), INVAL);
    let mut short = write(1, 0, &[0; 4]);
    short.truncate(19);
    assert_eq!(raw.errno(10, &short, &[]), INVAL, "less data than announced");
    assert_eq!(raw.errno(9, &[0; 15], &[]), INVAL);
    assert_eq!(raw.write(1, 1, &[1, 2, 3, 4, 5, 6, 7]), 0);
    assert_eq!(raw.read(1, 0, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    let seen = served.seen.lock().unwrap();
    assert_eq!(seen.accesses[2..], [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 0, 8)], "odd widths are cut as a bus would");
    drop(seen);
    assert_eq!(raw.read(0, 0, 4096).unwrap(), [0; 4096]);
    assert_eq!(raw.write(0, 3, &[9; 4]), 0, "misaligned, in the page");
    assert_eq!(raw.read(0, 2, 6).unwrap(), [0, 9, 9, 9, 9, 0]);
}

#[test]
fn posted_writes_are_not_answered() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    for n in 0..200u8 {
        let message = raw.message(10, &write(1, 4, &[n; 4]), Header::NO_REPLY);
        raw.send(&message, &[]);
    }
    let bad = raw.message(10, &write(1, 999, &[0; 4]), Header::NO_REPLY);
    raw.send(&bad, &[]);
    assert_eq!(raw.read(1, 4, 4).unwrap(), [199; 4], "in order, and the next answer is this one's");
}

#[test]
fn messages_in_pieces() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let fd = event();
    let set = raw.message(8, &irqs(4 | 32, 2, 0, 1, &[]), 0);
    for cut in 1..set.len() {
        // The descriptor comes with the first byte of the first piece, or of the second.
        let (first, second) = set.split_at(cut);
        let with = [fd.as_fd()];
        raw.send(first, if cut % 2 == 0 { &with } else { &[] });
        std::thread::sleep(Duration::from_millis(2));
        raw.send(second, if cut % 2 == 0 { &[] } else { &with });
        assert_eq!(raw.answer().0.error, 0, "cut at {cut}");
        served.interrupts.raise(0);
        assert_eq!(taken(&fd), 1);
    }
    for byte in &set {
        raw.send(&[*byte], &[]);
    }
    assert_eq!(raw.answer().0.error, 0, "byte by byte, and no descriptor takes the vector away");
    served.interrupts.raise(0);
    assert_eq!(taken(&fd), 0);
}

#[test]
fn descriptors_stay_with_their_message() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let fds = [event(), event()];
    // Three messages before the first answer is read: without, with one, with another descriptor.
    let mut all = Vec::new();
    for vector in 0..3u32 {
        all.push(raw.message(8, &irqs(4 | 32, 2, vector, 1, &[]), 0));
    }
    raw.send(&all[0], &[]);
    raw.send(&all[1], &[fds[0].as_fd()]);
    raw.send(&all[2], &[fds[1].as_fd()]);
    for _ in 0..3 {
        assert_eq!(raw.answer().0.error, 0);
    }
    served.interrupts.raise(1);
    assert_eq!((taken(&fds[0]), taken(&fds[1])), (1, 0));
    served.interrupts.raise(2);
    assert_eq!((taken(&fds[0]), taken(&fds[1])), (0, 1));
}

#[test]
fn surplus_descriptors_are_closed() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    for count in [1usize, 64, 65, 253] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let theirs = OwnedFd::from(theirs);
        let many: Vec<_> = (0..count).map(|_| theirs.as_fd()).collect();
        assert_eq!(raw.errno(4, &bytes(&[16, 0, 0, 0]), &many), 0);
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0, "with {count} sent, none is kept");
    }
    let events: Vec<OwnedFd> = (0..3).map(|_| event()).collect();
    assert_eq!(raw.errno(8, &irqs(4 | 32, 2, 0, 2, &[]), &borrowed(&events)), 0, "more than vectors");
    assert_eq!(raw.errno(8, &irqs(4 | 32, 2, 0, 4, &[]), &borrowed(&events)), INVAL, "fewer than vectors");
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let served = Served::start();
    let over = MAX_MESSAGE as u32 + 1;
    for (size, flags) in [(0, 0), (15, 0), (over, 0), (u32::MAX, 0), (16, 1), (16, 7)] {
        let mut raw = Raw::negotiated(&served.path);
        let header = Header { id: 1, command: 4, size, flags, error: 0 };
        raw.send(&header.encode(), &[]);
        assert!(raw.closed(), "size {size:#x}, flags {flags}");
        served.until(|s| !s.state.connected());
    }
    let mut raw = Raw::negotiated(&served.path);
    let largest = vec![0; MAX_MESSAGE - 16];
    assert_eq!(raw.errno(99, &largest, &[]), OPNOTSUPP, "the largest message");
}

#[test]
fn a_vmm_that_does_not_read_is_cut_off() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    raw.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut payload = 0u64.to_ne_bytes().to_vec();
    payload.extend(bytes(&[0, 4096]));
    let read = raw.message(9, &payload, 0);
    let cut = (0..10_000).any(|_| raw.stream.write_all(&read).is_err());
    assert!(cut);
    served.until(|s| !s.state.connected());
    drop(raw);
    Raw::negotiated(&served.path);
}

#[test]
fn a_slow_reader_gets_everything() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let mut payload = 0u64.to_ne_bytes().to_vec();
    payload.extend(bytes(&[0, 4096]));
    // More than a socket buffer holds, less than the bound.
    for _ in 0..80 {
        let read = raw.message(9, &payload, 0);
        raw.send(&read, &[]);
    }
    std::thread::sleep(Duration::from_millis(100));
    for n in 0..80 {
        let (header, data) = raw.answer();
        assert_eq!((header.id, header.error, data.len()), (n + 2, 0, 16 + 4096));
    }
}

#[test]
fn interrupts_are_validated() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let (none, boolean, eventfd, mask, unmask, trigger) = (1, 2, 4, 8, 16, 32);
    for (flags, index, start, count, data, want) in [
        (none | boolean | trigger, 2, 0, 1, &[1][..], INVAL),
        (none, 2, 0, 1, &[], INVAL),
        (none | mask | unmask, 0, 0, 1, &[], INVAL),
        (trigger, 2, 0, 1, &[], INVAL),
        (none | trigger | 64, 2, 0, 1, &[], INVAL),
        (none | trigger, 5, 0, 0, &[], INVAL),
        (none | trigger, u32::MAX, 0, 0, &[], INVAL),
        (none | trigger, 2, 25, 1, &[], INVAL),
        (none | trigger, 2, u32::MAX, 2, &[], INVAL),
        (none | trigger, 0, 0, 2, &[], INVAL),
        (none | trigger, 3, 0, 1, &[], INVAL),
        (none | unmask, 0, 0, 0, &[], INVAL),
        (eventfd | trigger, 2, 0, 0, &[], INVAL),
        (boolean | trigger, 2, 0, 3, &[1, 0], INVAL),
        (none | mask, 2, 0, 1, &[], OPNOTSUPP),
        (none | unmask, 1, 0, 1, &[], OPNOTSUPP),
        (eventfd | mask, 0, 0, 1, &[], OPNOTSUPP),
        (eventfd | unmask, 0, 0, 1, &[], 0),
        (none | trigger, 4, 0, 0, &[], 0),
    ] {
        assert_eq!(
            raw.errno(8, &irqs(flags, index, start, count, data), &[]),
            want,
            "{flags:#x} {index} {start} {count}"
        );
    }
    assert_eq!(raw.errno(8, &[0; 19], &[]), INVAL);
    let fds: Vec<OwnedFd> = (0..3).map(|_| event()).collect();
    assert_eq!(raw.errno(8, &irqs(eventfd | trigger, 2, 0, 3, &[]), &borrowed(&fds)), 0);
    assert_eq!(raw.errno(8, &irqs(boolean | trigger, 2, 0, 3, &[1, 0, 1]), &[]), 0);
    assert_eq!((taken(&fds[0]), taken(&fds[1]), taken(&fds[2])), (1, 0, 1));
    assert_eq!(raw.errno(8, &irqs(boolean | mask, 0, 0, 1, &[0]), &[]), 0, "false: not masked");
    assert_eq!(raw.errno(8, &irqs(eventfd | trigger, 0, 0, 1, &[]), &borrowed(&fds[..1])), 0);
    served.interrupts.set_level(true);
    assert_eq!(taken(&fds[0]), 1);
    assert_eq!(raw.errno(8, &irqs(boolean | unmask, 0, 0, 1, &[1]), &[]), 0);
    assert_eq!(taken(&fds[0]), 1);

    let file = memfd(64);
    let (ours, theirs) = UnixStream::pair().unwrap();
    for wrong in [file.as_fd(), theirs.as_fd()] {
        assert_eq!(raw.errno(8, &irqs(eventfd | trigger, 2, 0, 1, &[]), &[wrong]), INVAL, "no eventfd");
    }
    drop(ours);
}

#[test]
fn maps_are_checked() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let ram = memfd(0x10000);
    let with = [ram.as_fd()];
    assert_eq!(raw.map(0x1000, 0x8000, 0, 3, &with), 0);
    assert_eq!(raw.map(0x1000, 0x8000, 0, 3, &with), EXIST);
    assert_eq!(raw.map(0x8000, 0x8000, 0, 3, &[]), EXIST);
    assert_eq!(raw.map(u64::MAX, 2, 0, 3, &[]), INVAL);
    assert_eq!(raw.map(0x100_0000, 0, 0, 3, &with), INVAL);
    assert_eq!(raw.map(0x100_0000, 0x1000, 0x10000, 3, &with), INVAL, "past the end of the file");
    assert_eq!(raw.map(0x100_0000, 0x1000, u64::MAX - 5, 3, &with), INVAL);
    assert_eq!(raw.map(0x100_0000, 0x1000, 0x123, 3, &with), INVAL, "offset inside a page");
    assert_eq!(raw.map(0x100_0000, 0x1000, 0, 0, &with), INVAL);
    assert_eq!(raw.map(0x100_0000, 0x1000, 0, 0x10, &with), INVAL);
    let (socket, _peer) = UnixStream::pair().unwrap();
    assert_eq!(raw.map(0x100_0000, 0x1000, 0, 3, &[socket.as_fd()]), OPNOTSUPP, "no file");
    let proc_file = std::fs::File::open("/proc/self/maps").unwrap();
    assert_eq!(raw.map(0x100_0000, 0x1000, 0, 1, &[proc_file.as_fd()]), OPNOTSUPP, "not memory");
    assert_eq!(raw.errno(2, &[0; 31], &[]), INVAL);

    assert_eq!(raw.unmap(0x1000, 0x7000, 0), INVAL, "cuts it");
    assert_eq!(raw.unmap(0x2000, 0x8000, 0), INVAL, "cuts it");
    assert_eq!(raw.unmap(0x10_0000, 0x1000, 0), NOENT);
    assert_eq!(raw.unmap(0x1000, 0x8000, 1), OPNOTSUPP, "no dirty pages");
    assert_eq!(raw.unmap(0x1000, 0x8000, 2), INVAL, "all, with a range");
    assert_eq!(raw.unmap(0x1000, 0x8000, 8), INVAL);
    assert_eq!(raw.unmap(u64::MAX, 2, 0), INVAL);
    assert_eq!(raw.map(0x20000, 0x1000, 0, 1, &with), 0);
    assert_eq!(raw.map(0x30000, 0x1000, 0, 3, &[]), 0, "without a descriptor");
    assert_eq!(served.seen.lock().unwrap().map.as_ref().unwrap().len(), 3);
    assert_eq!(raw.unmap(0x20000, 0x20000, 0), 0, "a range of two");
    assert_eq!(served.seen.lock().unwrap().map.as_ref().unwrap().len(), 1);
    assert_eq!(raw.unmap(0, 0, 2), 0, "all");
    assert!(served.seen.lock().unwrap().map.as_ref().unwrap().is_empty());
}

/// As QEMU maps its memory on hugetlbfs: pieces that begin and end inside huge pages.
#[test]
fn maps_of_huge_pages() {
    let _pages = huge::HugePages::reserve(2);
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let ram = huge::memfd(2);
    let with = [ram.as_fd()];
    let size = 2 * huge::HUGE as u64;
    for (from, to) in [(0, 0xa0000), (0xc0000, 0xe0000), (0x10_0000, size)] {
        assert_eq!(raw.map(from, to - from, from, 3, &with), 0, "{from:#x}");
    }
    assert_eq!(raw.map(size, 4096, 0x123, 3, &with), INVAL, "offset inside an ordinary page");
    assert_eq!(raw.map(size, 4096, size, 3, &with), INVAL, "past the end of the file");
    // A look at the card, so that the maps have reached it.
    assert!(raw.read(7, 0, 4).is_ok());
    let map = served.seen.lock().unwrap().map.clone().unwrap();
    let at = |place: u64| map.slice(&mut Hint::default(), place, 8, Access::Write);
    assert!(at(0xa0000).is_err(), "nothing was mapped there");
    for place in [0, 0x9fff8, 0xc0000, 0x10_0000, size - 8] {
        assert!(at(place).unwrap().write_at(0, &place.to_ne_bytes()));
        let mut seen = [0; 8];
        assert_eq!(rustix::io::pread(&ram, &mut seen, place), Ok(8));
        assert_eq!(u64::from_ne_bytes(seen), place, "the file's byte of the same number");
    }
    ftruncate(&ram, 0).unwrap();
    let mut out = [1; 8];
    assert!(at(size - 8).unwrap().read_at(0, &mut out) && out == [0; 8]);
    let faulted = |n: usize| map.mappings()[n].region.as_ref().unwrap().faulted();
    assert!(faulted(2) && !faulted(0), "each mapping notices for itself");
    assert_eq!(raw.unmap(0, 0, 2), 0, "all");
}

#[test]
fn an_unmap_is_answered_after_the_workers_turn() {
    let grace = Grace::new(1);
    let ticker = grace.ticker(0).unwrap();
    let served = Served::with_grace(grace);
    let mut raw = Raw::negotiated(&served.path);
    let ram = memfd(0x10000);
    assert_eq!(raw.map(0, 0x10000, 0, 3, &[ram.as_fd()]), 0, "a map waits for nobody");
    let request = raw.message(3, &unmap(0, 0x10000, 0), 0);
    raw.send(&request, &[]);
    raw.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let early = raw.stream.read(&mut [0; 1]);
    assert!(early.is_err(), "answered while a worker was in its turn");
    assert!(served.seen.lock().unwrap().map.as_ref().unwrap().is_empty(), "the card lets go first");
    raw.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    ticker.tick();
    let (header, payload) = raw.answer();
    assert_eq!((header.error, payload), (0, unmap(0, 0x10000, 0)));
    drop(ticker);
}

#[test]
fn a_run_of_maps_reaches_the_card_as_few() {
    let served = Served::start();
    let mut raw = Raw::negotiated(&served.path);
    let mut run = Vec::new();
    for _ in 0..20 {
        let mut map = bytes(&[32, 3]);
        for field in [0u64, 0x1000, 0x1000] {
            map.extend_from_slice(&field.to_ne_bytes());
        }
        run.extend(raw.message(2, &map, 0));
        run.extend(raw.message(3, &unmap(0x1000, 0x1000, 0), 0));
    }
    raw.send(&run, &[]);
    for _ in 0..40 {
        assert_eq!(raw.answer().0.error, 0);
    }
    assert!(served.seen.lock().unwrap().maps < 40);
    assert!(served.seen.lock().unwrap().map.as_ref().unwrap().is_empty());
}

#[test]
fn socket_paths() {
    let dir = tempfile::tempdir().unwrap();
    let bind = |path: &Path| Server::bind(path, card(Grace::new(0)).0).map(drop);
    let path = dir.path().join("a.sock");
    drop(UnixListener::bind(&path).unwrap()); // a stale socket: std leaves it behind
    assert!(path.exists());
    let first = Server::bind(&path, card(Grace::new(0)).0).unwrap();
    let taken = bind(&path).unwrap_err();
    assert!(matches!(taken, BindError::InUse(_)), "{taken}");
    drop(first);
    assert!(!path.exists(), "the path goes with the server");

    let first = Server::bind(&path, card(Grace::new(0)).0).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = Server::bind(&path, card(Grace::new(0)).0).unwrap();
    drop(first);
    assert!(path.exists(), "somebody else's socket stays");
    drop(second);

    std::fs::write(&path, b"precious").unwrap();
    assert!(matches!(bind(&path).unwrap_err(), BindError::NotASocket(_)));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let long = dir.path().join("x".repeat(108));
    let error = bind(&long).unwrap_err();
    assert!(matches!(error, BindError::TooLong(_)) && error.to_string().contains("107 is the most"), "{error}");
    assert!(matches!(bind(&dir.path().join("none/a.sock")).unwrap_err(), BindError::NoDirectory(_)));
    let edge = dir.path().join("y".repeat(107 - dir.path().as_os_str().len() - 1));
    bind(&edge).unwrap();
}

#[test]
fn a_server_that_goes_away_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let (card, _page, seen) = card(Grace::new(0));
    let state = card.state.clone();
    let mut server = Server::bind(&path, card).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            let _ = server.ready();
            std::thread::sleep(Duration::from_millis(1));
        }
        server
    });
    let mut raw = Raw::negotiated(&path);
    assert_eq!(raw.map(0, 4096, 0, 3, &[memfd(4096).as_fd()]), 0);
    stop.store(true, Ordering::SeqCst);
    let server = thread.join().unwrap();
    assert!(server.connected());
    drop(server);
    assert!(!state.connected() && raw.closed());
    assert_eq!(seen.lock().unwrap().resets, 1);
    assert!(seen.lock().unwrap().map.as_ref().unwrap().is_empty());
}
