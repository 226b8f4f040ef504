//! Soft guests that misbehave: they break their own port, and nothing else.

mod rig;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portgroups::VlanMode;
use rig::{LIMIT, Rig, SHORT, frame, mac, vlance, vmxnet3};
use testbed::soft::{Client, InterruptKind, Noise, SoftGuest, SoftVlance, SoftVmxnet3, VlanceOptions, Vmxnet3Options};

fn vmx(rig: &Rig, index: usize) -> SoftVmxnet3 {
    SoftVmxnet3::connect(&rig.socket(index), Vmxnet3Options::default()).unwrap()
}

fn lance(rig: &Rig, index: usize) -> SoftVlance {
    SoftVlance::connect(&rig.socket(index), VlanceOptions::default()).unwrap()
}

/// Ports 0 and 1 (vmxnet3) are the innocent, 2 (vmxnet3) and 3 (vlance) misbehave.
fn rig() -> Rig {
    let est = VlanMode::Est;
    Rig::new(1500, &[vmxnet3(est.clone()), vmxnet3(est.clone()), vmxnet3(est.clone()), vlance(est)])
}

/// Innocent traffic that checks itself, beside whatever the test does.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    rounds: Arc<AtomicU64>,
}

impl Traffic {
    fn start(rig: &Rig) -> Traffic {
        let (mut a, mut b) = (vmx(rig, 0), vmx(rig, 1));
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.fetch_add(1, Ordering::Relaxed) as u32;
                // The misbehaving ones may flood: only these frames count.
                let sent = frame(mac(1), mac(0), 60 + number as usize % 1400, number);
                a.send(&sent).unwrap();
                loop {
                    let got = b.recv(LIMIT).unwrap().expect("the innocent go on").bytes;
                    if got[6..12] == mac(0).0 {
                        assert!(got == sent);
                        break;
                    }
                }
                a.drain().unwrap();
            }
        });
        Traffic { stop, thread: Some(thread), rounds }
    }

    fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        let deadline = std::time::Instant::now() + LIMIT;
        while self.rounds.load(Ordering::Relaxed) < before + 20 {
            assert!(std::time::Instant::now() < deadline, "the innocent stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(mut self) {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn disconnected_and_unmapped_under_load() {
    let rig = rig();
    let traffic = Traffic::start(&rig);
    for round in 0..10u32 {
        let (mut bad, mut old) = (vmx(&rig, 2), lance(&rig, 3));
        let template = frame(mac(3), mac(2), 60, round);
        for _ in 0..20 {
            bad.send_burst(&template, 500).unwrap();
            old.send_burst(&frame(mac(2), mac(3), 60, round), 16).unwrap();
        }
        if round % 2 == 0 {
            bad.card().disconnect().unwrap();
            old.card().disconnect().unwrap();
        } else {
            bad.card().unmap_ram().unwrap();
            old.card().unmap_ram().unwrap();
            // When the answer is there, the switch has let go: nothing changes any more.
            let (sent, got) = (bad.in_flight().unwrap(), old.in_flight().unwrap());
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!((bad.in_flight().unwrap(), old.in_flight().unwrap()), (sent, got));
            bad.card().map_ram().unwrap();
            old.card().map_ram().unwrap();
        }
        drop((bad, old));
        rig.wait_until("the ports are free", || !rig.started(2) && !rig.started(3));
    }
    traffic.end();
    rig.check_sums();
    let (mut bad, mut old) = (vmx(&rig, 2), lance(&rig, 3));
    bad.send(&frame(mac(3), mac(2), 64, 1)).unwrap();
    assert!(old.recv(LIMIT).unwrap().is_some(), "the ports serve new guests");
}

#[test]
fn memory_comes_back_after_an_unmap() {
    let rig = rig();
    let (mut a, mut b) = (vmx(&rig, 2), vmx(&rig, 1));
    a.card().unmap_ram().unwrap();
    assert_eq!(a.send_burst(&frame(mac(1), mac(2), 60, 0), 10).unwrap(), 10);
    assert_eq!(b.recv(SHORT).unwrap(), None);
    a.card().map_ram().unwrap();
    for _ in 0..10 {
        assert!(b.recv(LIMIT).unwrap().is_some(), "QEMU remaps RAM while a card runs");
    }
    a.flush().unwrap();
    rig.check_sums();
}

#[test]
fn files_cut_short() {
    let rig = rig();
    let traffic = Traffic::start(&rig);
    for keep in [0, 1 << 20] {
        let (mut bad, mut old) = (vmx(&rig, 2), lance(&rig, 3));
        bad.send_burst(&frame(mac(3), mac(2), 60, 0), 500).unwrap();
        bad.card().ram().truncate(keep).unwrap();
        old.card().ram().truncate(keep >> 6).unwrap();
        // From here the guests' own accesses fault as well; sharedmem's guard keeps this process alive.
        let _ = bad.send_burst(&frame(mac(3), mac(2), 60, 0), 500);
        let _ = old.send_burst(&frame(mac(2), mac(3), 60, 0), 10);
        traffic.goes_on();
        drop((bad, old));
        rig.wait_until("the ports are free", || !rig.started(2) && !rig.started(3));
    }
    traffic.end();
    rig.check_sums();
}

#[test]
fn descriptors_of_noise() {
    let rig = rig();
    let traffic = Traffic::start(&rig);
    for seed in 0..40 {
        let mut noise = Noise::new(seed);
        let mut bad = vmx(&rig, 2);
        match seed % 4 {
            0 => bad.garbage_tx(&mut noise, 400).unwrap(),
            1 => bad.garbage_rx(&mut noise).unwrap(),
            2 => _ = bad.garbage_shared(&mut noise).unwrap(),
            _ => {
                bad.garbage_rx(&mut noise).unwrap();
                bad.garbage_tx(&mut noise, 511).unwrap();
            }
        }
        let mut old = lance(&rig, 3);
        old.garbage_rings(&mut noise).unwrap();
        old.send_burst(&frame(mac(2), mac(3), 60, 0), 16).ok();
        bad.queue_status().unwrap();
        traffic.goes_on();
        // A reset mends it.
        bad.reset().unwrap();
        bad.activate().unwrap();
        old.open().unwrap();
        bad.send(&frame(mac(3), mac(2), 64, 9)).unwrap();
        let got = old.recv(LIMIT).unwrap();
        assert!(got.is_some(), "seed {seed}");
        drop((bad, old));
        rig.wait_until("the ports are free", || !rig.started(2) && !rig.started(3));
    }
    traffic.end();
    rig.check_sums();
}

#[test]
fn memory_that_is_not_shared() {
    let rig = rig();
    let traffic = Traffic::start(&rig);
    let options = Vmxnet3Options { shared: false, activate: false, ..Vmxnet3Options::default() };
    let mut bad = SoftVmxnet3::connect(&rig.socket(2), options).unwrap();
    assert!(bad.activate().is_err(), "a card whose rings cannot be reached does not start");
    let options = VlanceOptions { shared: false, interrupts: InterruptKind::None, ..VlanceOptions::default() };
    let started = std::time::Instant::now();
    let old = SoftVlance::connect(&rig.socket(3), options);
    assert!(old.is_err() && started.elapsed() < Duration::from_secs(8));
    traffic.end();
    drop(bad);
    rig.wait_until("the port is free", || !rig.started(2));
    vmx(&rig, 2);
}

#[test]
fn a_second_vmm_is_turned_away() {
    let rig = rig();
    let (mut a, mut b) = (vmx(&rig, 2), vmx(&rig, 1));
    assert!(Client::connect(&rig.socket(2), Duration::from_secs(2)).is_err());
    a.send(&frame(mac(1), mac(2), 64, 1)).unwrap();
    assert!(b.recv(LIMIT).unwrap().is_some(), "the first is not disturbed");
}

#[test]
fn noise_on_the_socket() {
    let rig = rig();
    let traffic = Traffic::start(&rig);
    for seed in 0..30 {
        let mut noise = Noise::new(seed);
        let mut client = Client::connect(&rig.socket(2), LIMIT).unwrap();
        // Commands of noise, whole: each is answered.
        for _ in 0..20 {
            let command = noise.next_u32() as u16 % 24;
            let payload: Vec<u8> = (0..noise.next_u32() % 64).map(|_| noise.next_u32() as u8).collect();
            if let Err(error) = client.call(command, &payload, &[]) {
                let refused = error.errno().is_some_and(|e| e > 0);
                assert!(refused, "seed {seed}, command {command}: {error}");
            }
        }
        // Then bytes of noise, and a hang-up in the middle of something.
        let bytes: Vec<u8> = (0..200).map(|_| noise.next_u32() as u8).collect();
        let _ = client.stream().write_all(&bytes);
        drop(client);
        traffic.goes_on();
    }
    traffic.end();
    vmx(&rig, 2);
}
