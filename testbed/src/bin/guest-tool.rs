//! Bulk data for tests, from inside a guest or a namespace.
//!
//! Standard library only: `scripts/setup.sh` builds this one file statically and puts it into the guest's initramfs.
//! Every command prints one line of `key value` pairs on success, and one sentence on standard error with status 1 otherwise.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage:
  guest-tool send HOST PORT BYTES SEED [FILE]
                                            stream BYTES of the pseudo-random stream SEED over TCP; fewer, and
                                            report how many, once there is a FILE
  guest-tool recv PORT BYTES                accept one TCP connection and read BYTES (0: until it ends)
  guest-tool udpflood HOST PORT COUNT SIZE [PER_SECOND]
  guest-tool udprecv PORT COUNT IDLE_MS     count datagrams of udpflood until COUNT came or none for IDLE_MS
  guest-tool digest BYTES SEED              what send would print, without a network
HOST is an address; a link-local one may end in %INTERFACE.";

/// One read or write of the TCP commands.
const CHUNK: usize = 64 * 1024;
/// How long `send` waits for a listener, and for the peer to have read everything.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for this long is broken.
const STALL: Duration = Duration::from_secs(60);

type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["send", host, port, bytes, seed] => send(host, port, bytes, seed, None),
        ["send", host, port, bytes, seed, file] => send(host, port, bytes, seed, Some(Path::new(file))),
        ["recv", port, bytes] => recv(port, bytes),
        ["udpflood", host, port, count, size] => udpflood(host, port, count, size, "0"),
        ["udpflood", host, port, count, size, rate] => udpflood(host, port, count, size, rate),
        ["udprecv", port, count, idle] => udprecv(port, count, idle),
        ["digest", bytes, seed] => digest_only(bytes, seed),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// A seeded stream of bytes (xorshift64*), made eight at a time: cheap even in an emulated CPU.
struct Stream {
    state: u64,
}

impl Stream {
    fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D | 1 }
    }

    /// Fills `buffer`, whose length is a multiple of eight.
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            word.copy_from_slice(&self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
    }
}

/// A 64-bit digest over bytes however they are split; order and length count.
struct Digest {
    hash: u64,
    bytes: u64,
    tail: [u8; 8],
}

impl Digest {
    fn new() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, bytes: 0, tail: [0; 8] }
    }

    fn word(&mut self, word: [u8; 8]) {
        self.hash = (self.hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn update(&mut self, mut data: &[u8]) {
        let held = (self.bytes % 8) as usize;
        self.bytes += data.len() as u64;
        if held > 0 {
            let take = data.len().min(8 - held);
            self.tail[held..held + take].copy_from_slice(&data[..take]);
            data = &data[take..];
            if held + take < 8 {
                return;
            }
            self.word(self.tail);
        }
        let (words, rest) = data.as_chunks::<8>();
        for word in words {
            self.word(*word);
        }
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    fn finish(mut self) -> (u64, u64) {
        let held = (self.bytes % 8) as usize;
        if held > 0 {
            self.tail[held..].fill(0);
            self.word(self.tail);
        }
        self.word(self.bytes.to_le_bytes());
        (self.bytes, self.hash ^ (self.hash >> 32))
    }

    /// `bytes N digest HEX ms T`
    fn report(self, started: Instant) -> String {
        let (bytes, hash) = self.finish();
        format!("bytes {bytes} digest {hash:016x} ms {}", started.elapsed().as_millis())
    }
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what}: not a number that fits: {text}"))
}

/// An address, with `%INTERFACE` resolved through sysfs.
fn address(host: &str, port: &str) -> Result<SocketAddr, String> {
    let port: u16 = number("PORT", port)?;
    if let Some((ip, interface)) = host.split_once('%') {
        let ip: Ipv6Addr = ip.parse().map_err(|_| format!("HOST: not an IPv6 address: {ip}"))?;
        let path = format!("/sys/class/net/{interface}/ifindex");
        let index = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        return Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, number("ifindex", index.trim())?)));
    }
    let ip: IpAddr = host.parse().map_err(|_| format!("HOST: not an address: {host}"))?;
    Ok(SocketAddr::new(ip, port))
}

fn sentence(what: &str) -> impl Fn(io::Error) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// Both families where the kernel has IPv6, else IPv4.
fn any_address<T>(port: &str, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, String> {
    let port: u16 = number("PORT", port)?;
    bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
        .or_else(|_| bind(SocketAddr::from(([0, 0, 0, 0], port))))
        .map_err(|e| format!("port {port}: {e}"))
}

/// Connects, waiting a while for a listener that is not there yet.
fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(format!("connect to {to}: {e}")),
        }
    }
}

fn send(host: &str, port: &str, bytes: &str, seed: &str, enough: Option<&Path>) -> Outcome {
    let mut left: u64 = number("BYTES", bytes)?;
    let mut stream = Stream::new(number("SEED", seed)?);
    let mut peer = connect(address(host, port)?)?;
    peer.set_write_timeout(Some(STALL)).map_err(sentence("set_write_timeout"))?;
    peer.set_read_timeout(Some(STALL)).map_err(sentence("set_read_timeout"))?;
    let started = Instant::now();
    let mut digest = Digest::new();
    let mut buffer = vec![0; CHUNK];
    while left > 0 && !enough.is_some_and(Path::exists) {
        let size = left.min(CHUNK as u64) as usize;
        stream.fill(&mut buffer);
        peer.write_all(&buffer[..size]).map_err(|e| format!("send to {host}: {e} ({left} bytes were left)"))?;
        digest.update(&buffer[..size]);
        left -= size as u64;
    }
    peer.shutdown(Shutdown::Write).map_err(sentence("shutdown"))?;
    // The peer closes when it has read everything; until then the bytes may still be in flight.
    while peer.read(&mut buffer).map_err(sentence("waiting for the peer to finish"))? > 0 {}
    Ok(digest.report(started))
}

fn recv(port: &str, bytes: &str) -> Outcome {
    let wanted: u64 = number("BYTES", bytes)?;
    let listener = any_address(port, TcpListener::bind)?;
    let (mut peer, _) = listener.accept().map_err(sentence("accept"))?;
    peer.set_read_timeout(Some(STALL)).map_err(sentence("set_read_timeout"))?;
    let started = Instant::now();
    let mut digest = Digest::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let size = match peer.read(&mut buffer) {
            Ok(size) => size,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("after {} bytes: {e}", digest.bytes)),
        };
        digest.update(&buffer[..size]);
        if size == 0 {
            break;
        }
    }
    if wanted > 0 && digest.bytes != wanted {
        return Err(format!("the connection ended after {} bytes of {wanted}", digest.bytes));
    }
    Ok(digest.report(started))
}

fn digest_only(bytes: &str, seed: &str) -> Outcome {
    let mut left: u64 = number("BYTES", bytes)?;
    let mut stream = Stream::new(number("SEED", seed)?);
    let started = Instant::now();
    let mut digest = Digest::new();
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let size = left.min(CHUNK as u64) as usize;
        stream.fill(&mut buffer);
        digest.update(&buffer[..size]);
        left -= size as u64;
    }
    Ok(digest.report(started))
}

fn udpflood(host: &str, port: &str, count: &str, size: &str, rate: &str) -> Outcome {
    let to = address(host, port)?;
    let (count, rate): (u64, u64) = (number("COUNT", count)?, number("PER_SECOND", rate)?);
    let size: usize = number("SIZE", size)?;
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).map_err(sentence("bind"))?;
    socket.connect(to).map_err(sentence("connect"))?;
    let mut payload = vec![0; size];
    let started = Instant::now();
    let (mut sent, mut refused) = (0u64, 0u64);
    for sequence in 0..count {
        if let Some(head) = payload.first_chunk_mut::<8>() {
            *head = sequence.to_le_bytes();
        }
        match socket.send(&payload) {
            Ok(_) => sent += 1,
            // An ICMP answer to an earlier datagram: the flood goes on.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable) => refused += 1,
            Err(e) => return Err(format!("send to {host} after {sent}: {e}")),
        }
        let due = ((sequence + 1) * 1_000_000_000).checked_div(rate).map_or(Duration::ZERO, Duration::from_nanos);
        if let Some(early) = due.checked_sub(started.elapsed()) {
            std::thread::sleep(early);
        }
    }
    Ok(format!("sent {sent} refused {refused} ms {}", started.elapsed().as_millis()))
}

fn udprecv(port: &str, count: &str, idle: &str) -> Outcome {
    let count: u64 = number("COUNT", count)?;
    let idle = Duration::from_millis(number::<u64>("IDLE_MS", idle)?.max(1));
    let socket = any_address(port, UdpSocket::bind)?;
    socket.set_read_timeout(Some(idle)).map_err(sentence("set_read_timeout"))?;
    let mut buffer = vec![0; 65536];
    let started = Instant::now();
    let (mut received, mut bytes, mut out_of_order, mut next) = (0u64, 0u64, 0u64, 0u64);
    while received < count {
        match socket.recv(&mut buffer) {
            Ok(size) => {
                received += 1;
                bytes += size as u64;
                if let Some(head) = buffer[..size].first_chunk::<8>() {
                    let sequence = u64::from_le_bytes(*head);
                    out_of_order += u64::from(sequence < next);
                    next = next.max(sequence + 1);
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("after {received} datagrams: {e}")),
        }
    }
    Ok(format!("received {received} bytes {bytes} out-of-order {out_of_order} ms {}", started.elapsed().as_millis()))
}
