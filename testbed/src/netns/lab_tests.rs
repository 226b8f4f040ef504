use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use wire::{Mac, Tag};

use super::*;

fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return vec![] };
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Two hosts on a bridge of a third: "a" 10.0.0.1, "b" 10.0.0.2, ports pa and pb of br0 in "phys".
fn pair(lab: &Lab) -> (Host, Host, Host) {
    let (a, b, phys) = (lab.host("a").unwrap(), lab.host("b").unwrap(), lab.host("phys").unwrap());
    lab.veth((&a, "eth0"), (&phys, "pa"), &VethOptions::default()).unwrap();
    lab.veth((&b, "eth0"), (&phys, "pb"), &VethOptions { offload: false, ..VethOptions::default() }).unwrap();
    lab.bridge(&phys, "br0", &["pa", "pb"], false).unwrap();
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.address("eth0", &format!("10.0.0.{number}/24")).unwrap();
        host.address("eth0", &format!("fd00::{number}/64")).unwrap();
    }
    (a, b, phys)
}

#[test]
fn cables_are_cut_and_healed() {
    let lab = Lab::new("cut").unwrap();
    let (a, _b, phys) = pair(&lab);
    assert!(a.pings("10.0.0.2").unwrap() && a.pings("fd00::2").unwrap());
    phys.cut("pb").unwrap();
    assert!(!a.pings("10.0.0.2").unwrap());
    phys.heal("pb").unwrap();
    assert!(a.pings("10.0.0.2").unwrap());
    phys.unplug("pb").unwrap();
    assert!(!a.pings("10.0.0.2").unwrap());
    phys.plug("br0", "pb").unwrap();
    assert!(a.pings("10.0.0.2").unwrap());
}

#[test]
fn nothing_is_left_behind() {
    let lab = Lab::new("gone").unwrap();
    let host = lab.host("a").unwrap();
    let name = host.namespace().to_owned();
    assert!(namespaces().contains(&name));
    let mut sleeper = host.spawn(&["sleep", "1000"], |_| {}).unwrap();
    // Dropped while a test that panics unwinds, with a program still running in it.
    let unwound = std::thread::spawn(move || {
        let _lab = lab;
        panic!("on purpose");
    });
    assert!(unwound.join().is_err());
    assert!(!namespaces().contains(&name));
    let killed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        sleeper.child().try_wait().unwrap().is_some()
    });
    assert!(killed, "what ran in the namespace is gone too");
}

#[test]
fn leftovers_of_dead_processes_are_swept() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let (old, alive) = (format!("{PREFIX}{dead}-0-x-a"), Lab::new("alive").unwrap());
    let kept = alive.host("a").unwrap();
    run("ip", &["netns", "add", &old], DEFAULT_LIMIT).unwrap().success().unwrap();
    // Another test process may sweep at the same moment.
    Lab::sweep().unwrap();
    let left = namespaces();
    assert!(!left.contains(&old) && left.contains(&kept.namespace().to_owned()));
}

#[test]
fn commands_have_a_time_limit() {
    let lab = Lab::new("limit").unwrap();
    let host = lab.host("a").unwrap();
    let output = host.exec_args(&["sleep", "60"], Duration::from_millis(200)).unwrap();
    assert_eq!((output.ok(), output.code), (false, None));
    let output = host.exec("cat /no/such/file").unwrap();
    assert!(output.code == Some(1) && output.stderr.contains("No such file"));
    assert!(lab.host("not a name").is_err() && Lab::new("../x").is_err());
}

#[test]
fn raw_sockets_and_taps_see_frames() {
    let lab = Lab::new("raw").unwrap();
    let (a, b, phys) = pair(&lab);
    let tap = lab.tap_on(&phys, "br0", 1500).unwrap();
    let mut raw_a = a.raw("eth0").unwrap();
    let mut raw_b = b.raw("eth0").unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(Tag::new(77, 5).bytes());
    frame.extend([0x88, 0xb5]);
    frame.resize(64, 0x42);
    let marked = |f: &[u8]| f.ends_with(&[0x42; 40]);
    raw_a.send(&frame).unwrap();
    let limit = Duration::from_secs(5);
    assert_eq!(tap.recv_where(limit, marked).unwrap().as_ref(), Some(&frame), "a tap sees the tag");
    let stripped = raw_b.recv_where(limit, marked).unwrap().unwrap();
    assert_eq!(stripped.len(), 60, "a raw socket does not: {stripped:x?}");
    frame[13] = 0xab; // no tag any more, but some other type of frame
    tap.send(&frame).unwrap();
    assert_eq!(raw_b.recv_where(limit, marked).unwrap(), Some(frame));
    assert_eq!(raw_b.recv_where(Duration::from_millis(20), marked).unwrap(), None);
    assert!(a.raw("nowhere").is_err());
}

#[test]
fn hosts_without_a_kernel_ping_on_their_vlan() {
    let lab = Lab::new("tagged").unwrap();
    let phys = lab.host("phys").unwrap();
    lab.bridge(&phys, "br0", &[], false).unwrap();
    let host = |number: u8, vlan| {
        let tap = lab.tap_on(&phys, "br0", 1500).unwrap();
        TaggedHost::start(tap, Mac([2, 0, 0, 0, 0, number]), Ipv4Addr::new(10, 0, 0, number), vlan).unwrap()
    };
    let (mut one, _two, _three) = (host(1, Some(10)), host(2, Some(10)), host(3, Some(20)));
    let (mut four, _five) = (host(4, None), host(5, None));
    let limit = Duration::from_secs(5);
    assert!(one.ping(Ipv4Addr::new(10, 0, 0, 2), limit).unwrap().is_some());
    assert!(four.ping(Ipv4Addr::new(10, 0, 0, 5), limit).unwrap().is_some());
    let short = Duration::from_millis(100);
    assert!(one.ping(Ipv4Addr::new(10, 0, 0, 3), short).unwrap().is_none(), "another VLAN");
    assert!(four.ping(Ipv4Addr::new(10, 0, 0, 2), short).unwrap().is_none());
}

/// Sends `len` bytes by TCP from `from` to `to` at `address` and returns what arrived and both sums.
fn transfer(from: &Host, to: &Host, address: &'static str, len: usize) -> (usize, u64, u64) {
    let fnv = |sum: u64, bytes: &[u8]| bytes.iter().fold(sum, |s, b| (s ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let listener = to.within(|| Ok(TcpListener::bind((address, 5001))?)).unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (mut buffer, mut total, mut sum) = (vec![0; 1 << 16], 0, 0);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return (total, sum),
                n => {
                    total += n;
                    sum = fnv(sum, &buffer[..n]);
                }
            }
        }
    });
    let mut stream =
        from.within(|| Ok(TcpStream::connect_timeout(&(address, 5001).into_sock(), Duration::from_secs(10))?)).unwrap();
    let (mut sent, mut sum, mut noise) = (0, 0, 1u64);
    let mut chunk = vec![0; 1 << 16];
    while sent < len {
        chunk.iter_mut().for_each(|b| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *b = (noise >> 56) as u8;
        });
        let part = chunk.len().min(len - sent);
        stream.write_all(&chunk[..part]).unwrap();
        sum = fnv(sum, &chunk[..part]);
        sent += part;
    }
    drop(stream);
    let (total, received) = receiver.join().unwrap();
    (total, sum, received)
}

trait IntoSock {
    fn into_sock(self) -> std::net::SocketAddr;
}

impl IntoSock for (&str, u16) {
    fn into_sock(self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(self.0.parse().unwrap(), self.1)
    }
}

#[test]
fn a_kernel_speaks_on_a_vlan_through_the_shim() {
    let lab = Lab::new("shim").unwrap();
    let (a, b, phys) = (lab.host("a").unwrap(), lab.host("b").unwrap(), lab.host("phys").unwrap());
    lab.bridge(&phys, "br0", &[], false).unwrap();
    let shim_a = lab.vlan_shim((&a, "eth0"), (&phys, "br0"), 10, 1500).unwrap();
    let shim_b = lab.vlan_shim((&b, "eth0"), (&phys, "br0"), 10, 1500).unwrap();
    let other = lab.host("c").unwrap();
    let _shim_c = lab.vlan_shim((&other, "eth0"), (&phys, "br0"), 20, 1500).unwrap();
    for (host, number) in [(&a, 1), (&b, 2), (&other, 3)] {
        host.address("eth0", &format!("10.0.10.{number}/24")).unwrap();
    }
    let watcher = lab.tap_on(&phys, "br0", 1500).unwrap();
    assert!(a.pings("10.0.10.2").unwrap());
    let asked = watcher.recv_where(Duration::from_secs(5), |f| f[..6] == [0xff; 6]).unwrap().unwrap();
    assert_eq!(asked[12..18], [0x81, 0, 0, 10, 8, 6], "a tagged ARP request on the wire");
    assert!(!a.pings("10.0.10.3").unwrap(), "another VLAN");
    let len = 50 << 20;
    let (total, sent, received) = transfer(&a, &b, "10.0.10.2", len);
    assert_eq!((total, received), (len, sent));
    assert!(shim_a.counts().0 > 1000 && shim_b.counts().1 > 1000);
    phys.cut(shim_b.port()).unwrap();
    assert!(!a.pings("10.0.10.2").unwrap());
    phys.heal(shim_b.port()).unwrap();
    assert!(a.pings("10.0.10.2").unwrap());
}

#[test]
fn big_frames_through_the_shim() {
    let lab = Lab::new("jumbo").unwrap();
    let (a, b, phys) = (lab.host("a").unwrap(), lab.host("b").unwrap(), lab.host("phys").unwrap());
    lab.veth((&b, "eth0"), (&phys, "pb"), &VethOptions { mtu: Some(9000), ..VethOptions::default() }).unwrap();
    lab.bridge(&phys, "br0", &["pb"], false).unwrap();
    let _shim = lab.vlan_shim((&a, "eth0"), (&phys, "br0"), 10, 9000).unwrap();
    // Behind the cable there is a switch of its own, with a shim on it: tags survive a veth and two bridges.
    let end = lab.host("end").unwrap();
    lab.bridge(&b, "br1", &["eth0"], true).unwrap();
    let _shim2 = lab.vlan_shim((&end, "eth0"), (&b, "br1"), 10, 9000).unwrap();
    a.address("eth0", "10.0.10.1/24").unwrap();
    end.address("eth0", "10.0.10.9/24").unwrap();
    assert!(a.pings("10.0.10.9").unwrap());
    let big = a.exec("ping -n -c 1 -W 2 -M do -s 8972 10.0.10.9").unwrap();
    assert!(big.ok(), "{}", big.stdout);
    let (total, sent, received) = transfer(&end, &a, "10.0.10.1", 5 << 20);
    assert_eq!((total, received), (5 << 20, sent));
}
