//! An independent client, the published crate `vfio_user` that Cloud Hypervisor uses, against the server.

mod vfio_user_support;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use sharedmem::{Access, Hint, Region};
use vfio_user::{Client, Error};
use vfio_user_support::{Served, event, memfd, signal, taken};

const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

#[test]
fn regions_and_the_mapped_bar() {
    let served = Served::start();
    let mut client = Client::new(&served.path).unwrap();
    served.until(|s| s.state.connected());
    let sizes: Vec<u64> = (0..9).map(|i| client.region(i).unwrap().size).collect();
    assert_eq!(sizes, [4096, 256, 4096, 32, 0, 0, 0, 256, 0]);

    let bar0 = client.region(0).unwrap();
    assert_eq!(bar0.flags, 0xf, "read, write, mmap, caps");
    let area = bar0.sparse_areas[0];
    assert_eq!((bar0.sparse_areas.len(), area.offset, area.size), (1, 0, 4096));
    let file = bar0.file_offset.as_ref().unwrap();
    let window = Region::map(file.file().as_fd(), file.start() + area.offset, 4096, true).unwrap();
    let window = window.slice(0, 4096).unwrap();
    // VERSION, GET_INFO, nine GET_REGION_INFO and one more for the capability.
    served.until(|s| s.counters.lock().unwrap().total() == 12);
    assert!(window.store_u32(0x600, 0xdead_beef));
    assert_eq!(served.page.slice().load_u32(0x600), Some(0xdead_beef), "a store is seen by a load");
    assert_eq!(served.counters.lock().unwrap().total(), 12, "and no message was sent");
    let mut word = [0; 4];
    client.region_read(0, 0x600, &mut word).unwrap();
    assert_eq!(word, 0xdead_beef_u32.to_ne_bytes(), "a message reads the same page");
    client.region_write(0, 0x604, &7u32.to_ne_bytes()).unwrap();
    assert_eq!(window.load_u32(0x604), Some(7));
    assert!(client.region(1).unwrap().file_offset.is_none());
    assert!(client.region(1).unwrap().sparse_areas.is_empty());
}

#[test]
fn registers_config_and_reset() {
    let served = Served::start();
    let mut client = Client::new(&served.path).unwrap();
    client.region_write(1, 0x10, &[1, 2, 3, 4]).unwrap();
    let mut word = [0; 4];
    client.region_read(1, 0x10, &mut word).unwrap();
    assert_eq!(word, [1, 2, 3, 4]);
    let mut config = [0; 256];
    client.region_read(7, 0, &mut config).unwrap();
    assert_eq!((&config[..4], config[0x34]), (&[0xad, 0x15, 0xb0, 0x07][..], 0x84));
    client.region_write(7, 0x10, &[0xff; 4]).unwrap();
    client.region_read(7, 0x10, &mut word).unwrap();
    assert_eq!(word, 0xffff_f000_u32.to_le_bytes());
    let mut entry = [0; 16];
    client.region_read(2, 16, &mut entry).unwrap();
    assert_eq!(entry[12], 1, "a vector is masked after power-on");
    client.region_write(2, 16, &[9; 16]).unwrap();
    client.region_read(2, 16, &mut entry).unwrap();
    assert_eq!(entry, [9; 16]);
    client.region_read(2, 2048, &mut entry).unwrap();
    assert_eq!(entry, [0; 16], "nothing pending");
    client.reset().unwrap();
    assert_eq!(served.seen.lock().unwrap().resets, 1);
    client.region_read(1, 0x10, &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    client.region_read(7, 0x10, &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    drop(client);
    served.until(|s| !s.state.connected() && s.counters.lock().unwrap().commands[13] == 1);
    let counters = served.counters.clone();
    let counters = counters.lock().unwrap();
    assert_eq!((counters.reads[1], counters.writes[7]), (2, 1));
}

#[test]
fn memory_comes_and_goes() {
    let served = Served::start();
    let mut client = Client::new(&served.path).unwrap();
    let ram = memfd(1 << 20);
    rustix::io::pwrite(&ram, b"hello", 0x2000).unwrap();
    client.dma_map(0x1000, 0x10_0000, 0x8000, ram.as_raw_fd()).unwrap();
    let mut buf = [0; 16];
    client.region_read(1, 0, &mut buf[..4]).unwrap(); // the map is the card's before the next access is served
    let map = served.seen.lock().unwrap().map.clone().unwrap();
    let slice = map.slice(&mut Hint::default(), 0x10_1000, 5, Access::Write).unwrap();
    assert!(slice.read_at(0, &mut buf[..5]));
    assert_eq!(&buf[..5], b"hello");
    assert!(slice.write_at(0, b"world"));
    rustix::io::pread(&ram, &mut buf[..5], 0x2000).unwrap();
    assert_eq!(&buf[..5], b"world", "what the card writes is in the guest's memory");
    drop(map);
    client.dma_unmap(0x10_0000, 0x8000).unwrap();
    assert!(served.seen.lock().unwrap().map.as_ref().unwrap().is_empty(), "before the answer came");
}

#[test]
fn interrupts_of_every_kind() {
    let served = Served::start();
    let mut client = Client::new(&served.path).unwrap();
    let info: Vec<(u32, u32)> =
        (0..5).map(|i| client.get_irq_info(i).unwrap()).map(|info| (info.flags, info.count)).collect();
    assert_eq!(info, [(7, 1), (9, 4), (1, 25), (0, 0), (0, 0)]);
    let irq = &served.interrupts;

    let (intx, resample) = (event(), event());
    client.set_irqs(0, DATA_EVENTFD | TRIGGER, 0, 1, &[intx.as_raw_fd()]).unwrap();
    client.set_irqs(0, DATA_EVENTFD | UNMASK, 0, 1, &[resample.as_raw_fd()]).unwrap();
    irq.set_level(true);
    irq.set_level(true);
    assert_eq!(taken(&intx), 1, "it masks itself");
    client.set_irqs(0, DATA_NONE | UNMASK, 0, 1, &[]).unwrap();
    assert_eq!(taken(&intx), 1, "the level is still high");
    for _ in 0..3 {
        signal(&resample);
        served.until(|_| taken(&intx) == 1);
    }
    client.set_irqs(0, DATA_NONE | MASK, 0, 1, &[]).unwrap();
    irq.set_level(false);
    irq.set_level(true);
    assert_eq!(taken(&intx), 0, "masked by message");
    client.set_irqs(0, DATA_NONE | TRIGGER, 0, 0, &[]).unwrap();
    irq.set_level(true);
    signal(&resample);
    assert_eq!(taken(&intx), 0, "torn down");
    irq.set_level(false);

    let vectors: Vec<OwnedFd> = (0..16).map(|_| event()).collect();
    let raw: Vec<_> = vectors.iter().map(|fd| fd.as_raw_fd()).collect();
    client.set_irqs(2, DATA_EVENTFD | TRIGGER, 0, 16, &raw).unwrap();
    client.set_irqs(2, DATA_EVENTFD | TRIGGER, 20, 1, &raw[..1]).unwrap();
    irq.raise(15);
    irq.raise(20);
    assert_eq!((taken(&vectors[15]), taken(&vectors[0]), taken(&vectors[1])), (1, 1, 0));
    client.set_irqs(2, DATA_NONE | TRIGGER, 3, 2, &[]).unwrap();
    assert_eq!((taken(&vectors[3]), taken(&vectors[4])), (1, 1), "triggered by the VMM");
    client.set_irqs(2, DATA_EVENTFD | TRIGGER, 15, 1, &[]).unwrap();
    irq.raise(15);
    assert_eq!(taken(&vectors[15]), 0, "taken away alone");
    client.set_irqs(2, DATA_NONE | TRIGGER, 0, 0, &[]).unwrap();
    client.set_irqs(1, DATA_EVENTFD | TRIGGER, 0, 1, &raw[..1]).unwrap();
    irq.raise(2);
    assert_eq!(taken(&vectors[0]), 1, "MSI");
}

#[test]
fn one_vmm_at_a_time_and_the_next_one_after_it() {
    let served = Served::start();
    let ram = memfd(1 << 20);
    for round in 1..=3 {
        let mut client = Client::new(&served.path).unwrap();
        let line = event();
        client.dma_map(0, 0, 1 << 20, ram.as_raw_fd()).unwrap();
        client.set_irqs(0, DATA_EVENTFD | TRIGGER, 0, 1, &[line.as_raw_fd()]).unwrap();
        client.region_write(1, 0, &[1; 4]).unwrap();

        match Client::new(&served.path) {
            Err(Error::StreamRead(_) | Error::StreamWrite(_)) => {}
            Err(other) => panic!("turned away otherwise: {other}"),
            Ok(_) => panic!("a second VMM was let in"),
        }
        let mut word = [0; 4];
        client.region_read(1, 0, &mut word).unwrap();
        assert_eq!(word, [1; 4], "the first VMM noticed nothing");

        drop(client); // as a VMM that is killed; its successor does not wait
        let mut client = Client::new(&served.path).unwrap();
        client.region_read(1, 0, &mut word).unwrap();
        assert_eq!(word, [0; 4], "the card was reset in between");
        served.interrupts.set_level(true);
        assert_eq!(taken(&line), 0, "the old VMM's interrupt is forgotten");
        let seen = served.seen.lock().unwrap();
        assert_eq!(seen.resets, round * 2 - 1);
        assert!(seen.map.as_ref().unwrap().is_empty());
        drop(seen);
        drop(client);
        served.until(|s| !s.state.connected() && s.seen.lock().unwrap().resets == round * 2);
        assert!(!served.interrupts.level());
    }
}
