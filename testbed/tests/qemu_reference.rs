//! The guest runner against QEMU's own device models: what it promises holds, and the stock drivers work as expected
//! without any part of the switch.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::qemu::{Guest, GuestSpec, Nic};

const BOOT: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(20);
const TRANSFER: Duration = Duration::from_secs(300);
const BYTES: u64 = 20_000_000;

/// One end of a cable between two guests, with QEMU's own model of `device` on it.
fn cable(dir: &Path, device: &str, number: u8) -> Nic {
    let end = |number: u8| dir.join(number.to_string()).display().to_string();
    let (local, remote) = (end(number), end(3 - number));
    Nic::Raw(vec![
        "-netdev".into(),
        format!("dgram,id=n0,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"),
        "-device".into(),
        format!("{device},netdev=n0,mac=00:50:56:00:00:0{number}"),
    ])
}

/// Two guests joined by a cable: 10.0.0.1, fd00::1 and 10.0.0.2, fd00::2.
fn pair(dir: &Path, device: &str) -> Result<[Guest; 2]> {
    let mut guests = [
        Guest::boot(GuestSpec::new("one").nic(cable(dir, device, 1)))?,
        Guest::boot(GuestSpec::new("two").nic(cable(dir, device, 2)))?,
    ];
    for (guest, number) in guests.iter_mut().zip(1..) {
        guest.wait_ready(BOOT)?;
        guest.sh_ok(&format!("ip addr add 10.0.0.{number}/24 dev eth0"), SHORT)?;
        guest.sh_ok(&format!("ip -6 addr add fd00::{number}/64 dev eth0"), SHORT)?;
        guest.sh_ok("ip link set eth0 up", SHORT)?;
        // Neither QEMU's pcnet nor this cable pads short frames, and Linux drops an ARP frame of 42 bytes as a runt.
        let other = 3 - number;
        guest.sh_ok(&format!("arp -s 10.0.0.{other} 00:50:56:00:00:0{other}"), SHORT)?;
    }
    Ok(guests)
}

/// `digest HEX` of a report of guest-tool.
fn digest(report: &str) -> &str {
    report.split_once("digest ").map_or(report, |(_, rest)| &rest[..16.min(rest.len())])
}

fn transfer(from: &mut Guest, to: &mut Guest, address: &str, seed: u64) -> Result<()> {
    let receiver = to.start(&format!("guest-tool recv 5000 {BYTES}"))?;
    let started = Instant::now();
    let sent = from.sh_ok(&format!("guest-tool send {address} 5000 {BYTES} {seed}"), TRANSFER)?;
    let seconds = started.elapsed().as_secs_f64();
    let received = to.wait(receiver, SHORT)?;
    ensure!(received.status == 0, "recv: {}", received.text);
    ensure!(digest(&sent) == digest(&received.text), "sent {sent}received {}", received.text);
    println!("{} -> {address}: {:.1} MB/s", from.name(), BYTES as f64 / seconds / 1e6);
    Ok(())
}

fn exercise(device: &str, driver: &str) -> Result<()> {
    let started = Instant::now();
    let dir = tempfile::tempdir()?;
    let [mut a, mut b] = pair(dir.path(), device)?;
    println!("two guests with {device} were up after {:?}", started.elapsed());
    let identity = a.sh_ok("ethtool -i eth0", SHORT)?;
    ensure!(identity.contains(&format!("driver: {driver}")), "{identity}");
    a.sh_ok("ping -c 3 -w 10 10.0.0.2", SHORT)?;
    b.sh_ok("ping -6 -c 3 -w 10 fd00::1", SHORT)?;
    transfer(&mut a, &mut b, "10.0.0.2", 1)?;
    transfer(&mut b, &mut a, "fd00::1", 2)?;
    a.poweroff(SHORT)?;
    ensure!(!a.is_running()?, "QEMU runs on after poweroff");
    Ok(())
}

#[test]
fn vmxnet3_of_qemu_carries_bulk_data() -> Result<()> {
    exercise("vmxnet3", "vmxnet3")
}

#[test]
fn pcnet_of_qemu_carries_bulk_data() -> Result<()> {
    exercise("pcnet", "pcnet32")
}

#[test]
fn a_guest_runs_commands_and_reboots() -> Result<()> {
    let mut guest = Guest::boot(GuestSpec::new("solo"))?;
    guest.wait_ready(BOOT)?;
    let output = guest.sh("echo one; echo two >&2; exit 3", SHORT)?;
    assert_eq!((output.status, output.text.as_str()), (3, "one\ntwo\n"));
    assert_eq!(guest.sh("printf unterminated", SHORT)?.text, "unterminated");
    assert_eq!(guest.sh("sleep 60", Duration::from_secs(1))?.status, 137);
    assert_eq!(guest.sh_ok("hostname", SHORT)?, "solo\n");
    assert!(guest.sh("one\ntwo", SHORT).is_err());

    let job = guest.start("echo it\\'s started; echo 'a b'; sleep 1; exit 7")?;
    let output = guest.wait(job, SHORT)?;
    assert_eq!((output.status, output.text.as_str()), (7, "it's started\na b\n"));
    let job = guest.start("ping -i 0.2 127.0.0.1")?;
    thread::sleep(Duration::from_secs(1));
    let output = guest.stop(job)?;
    assert!(output.text.contains(" 0% packet loss"), "{}", output.text);
    let job = guest.start("sleep 100")?;
    assert_eq!(guest.stop(job)?.status, 137);
    let job = guest.start("sleep 100")?;
    assert!(guest.wait(job, Duration::from_secs(1)).is_err());

    guest.sh_ok("touch /before", SHORT)?;
    guest.reboot(BOOT)?;
    assert_ne!(guest.sh("ls /before", SHORT)?.status, 0, "the file outlived a reboot");
    Ok(())
}

#[test]
fn a_guest_outlives_the_thread_that_booted_it_but_not_its_owner() -> Result<()> {
    let mut guest = thread::spawn(|| Guest::boot(GuestSpec { shared_memory: false, ..GuestSpec::new("orphan") }))
        .join()
        .expect("the booting thread panicked")?;
    guest.wait_ready(BOOT)?;
    let process = format!("/proc/{}", guest.pid());
    assert!(Path::new(&process).exists());
    guest.kill()?;
    assert!(!guest.is_running()?);
    assert!(guest.sh("true", SHORT).is_err());
    drop(guest);
    assert!(!Path::new(&process).exists());
    Ok(())
}

#[test]
fn a_qemu_that_does_not_start_is_explained() -> Result<()> {
    let nic = Nic::VfioUser { socket: "/nonexistent/web1.sock".into() };
    let mut guest = Guest::boot(GuestSpec::new("refused").nic(nic))?;
    let error = guest.wait_ready(BOOT).expect_err("there is no such socket").to_string();
    assert!(error.contains("its process has ended") && error.contains("/nonexistent/web1.sock"), "{error}");
    Ok(())
}
