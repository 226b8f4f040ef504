use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::super::protocol::CAP_SPARSE_MMAP;
use super::*;

/// A server that answers each message with what `answer` says: flags, errno, payload.
fn scripted(
    answer: impl Fn(u16, &[u8]) -> (u32, u32, Vec<u8>) + Send + 'static,
) -> (tempfile::TempDir, JoinHandle<Vec<u16>>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        let mut header = [0; 16];
        while stream.read_exact(&mut header).is_ok() {
            let command = u16::from_ne_bytes([header[2], header[3]]);
            let mut payload = vec![0; get32(&header, 4).unwrap() as usize - 16];
            stream.read_exact(&mut payload).unwrap();
            seen.push(command);
            let (flags, errno, reply) = answer(command, &payload);
            let mut out = header[..4].to_vec();
            out.extend(words(&[16 + reply.len() as u32, flags, errno]));
            out.extend(reply);
            // In two pieces: a reader must put them together.
            stream.write_all(&out[..7]).unwrap();
            stream.write_all(&out[7..]).unwrap();
        }
        seen
    });
    (dir, thread)
}

fn plain(command: u16, payload: &[u8]) -> (u32, u32, Vec<u8>) {
    let reply = match command {
        command::VERSION => b"\0\0\0\0{}\0".to_vec(),
        command::GET_INFO => words(&[16, 2, 2, 3]),
        command::GET_REGION_INFO => words(&[32, 3, get32(payload, 8).unwrap(), 0, 256, 0, 0, 0]),
        command::GET_IRQ_INFO => words(&[16, 1, 0, 25]),
        command::REGION_READ => [payload, &[7, 8]].concat(),
        command::REGION_WRITE => return (FLAG_REPLY | FLAG_ERROR, 22, vec![]),
        _ => vec![],
    };
    (FLAG_REPLY, 0, reply)
}

#[test]
fn talks_as_the_specification_says() {
    let (dir, thread) = scripted(plain);
    let mut client = Client::connect(&dir.path().join("s"), Duration::from_secs(5)).unwrap();
    assert_eq!(client.capabilities(), "{}");
    assert_eq!((client.region(1).unwrap().size, client.region(2).is_none()), (256, true));
    let mut two = [0; 2];
    client.region_read(0, 4, &mut two).unwrap();
    assert_eq!(two, [7, 8]);
    assert!(matches!(client.region_read(0, 4, &mut [0; 3]), Err(CallError::Protocol { .. })));
    assert_eq!(client.irq_count(IRQ_MSIX).unwrap(), 25);
    assert_eq!(client.region_write(0, 0, &[1]).unwrap_err().errno(), Some(22));
    client.dma_map(None, 0, 0, 4096, true).unwrap();
    client.dma_unmap(0, 4096).unwrap();
    client.mask_intx(true).unwrap();
    client.reset().unwrap();
    assert_eq!(client.messages(), 12);
    drop(client);
    assert_eq!(thread.join().unwrap(), [1, 4, 5, 5, 9, 9, 7, 10, 2, 3, 8, 13]);
}

#[test]
fn a_silent_or_senseless_switch_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    assert!(matches!(Client::connect(&path, Duration::from_millis(50)), Err(CallError::Io(_))));
    let (dir, _thread) = scripted(|_, _| (FLAG_REPLY, 0, b"\0\0\0\0{}".to_vec()));
    assert!(matches!(Client::connect(&dir.path().join("s"), Duration::from_secs(5)), Err(CallError::Protocol { .. })));
    let (dir, _thread) = scripted(|_, _| (0, 0, vec![]));
    assert!(matches!(Client::connect(&dir.path().join("s"), Duration::from_secs(5)), Err(CallError::Protocol { .. })));
}

#[test]
fn sparse_areas() {
    let mut payload = words(&[64, 7, 0, 32, 4096, 0, 0, 0]);
    payload.extend(words(&[CAP_SPARSE_MMAP.into(), 0, 1, 0, 0, 0, 4096, 0]));
    assert_eq!(first_sparse_area(&payload, 32), Some(4096));
    assert_eq!(first_sparse_area(&payload, 0), None);
    assert_eq!(first_sparse_area(&payload[..60], 32), None);
    payload[32] = 9; // another capability, and the list goes nowhere
    payload[36] = 32;
    assert_eq!(first_sparse_area(&payload, 32), None);
}
