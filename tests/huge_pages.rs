//! Guests whose memory is on huge pages: QEMU maps it in pieces that begin and end inside of them.

mod common;
#[path = "../sharedmem/tests/huge/mod.rs"]
mod huge;

use anyhow::{Result, ensure};
use common::{BOOT, Net, SHORT, address, alone, ping, portgroup, transfer, vnic};
use huge::HugePages;
use testbed::qemu::{Guest, GuestSpec, Nic};

/// Memory of a guest in MiB.
const MEMORY: u32 = 256;

/// A guest with `nic` and its memory on huge pages.
fn boot(name: &str, nic: Nic) -> Result<Guest> {
    let memory = format!("memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M,id=huge,size={MEMORY}M");
    let extra = ["-object", &memory, "-machine", "memory-backend=huge"];
    let extra_args = extra.map(str::to_owned).to_vec();
    Guest::boot(GuestSpec { memory_mib: MEMORY, extra_args, ..GuestSpec::new(name).nic(nic) })
}

/// A vmxnet3 guest and a virtio guest: echo, and bulk transfers both ways.
#[test]
fn guests_on_huge_pages() -> Result<()> {
    let _alone = alone();
    let _pages = HugePages::reserve(2 * u64::from(MEMORY) / 2);
    let tables = portgroup("Production", "10")
        + &vnic("web", "Production", "vmxnet3", 1)
        + &vnic("v2", "Production", "virtio", 2);
    let net = Net::start(None, "", &tables)?;
    let virtio = Nic::VhostUser {
        socket: net.switch.socket("v2"),
        mac: "00:50:56:00:00:02".to_owned(),
        listens: false,
        queues: 1,
    };
    let mut web = boot("web", Nic::VfioUser { socket: net.switch.socket("web") })?;
    let mut v2 = boot("v2", virtio)?;
    for (guest, number) in [(&mut web, 1), (&mut v2, 2)] {
        guest.wait_ready(BOOT)?;
        address(guest, "eth0", number)?;
    }
    ping(&mut web, "10.0.0.2")?;
    transfer(&mut web, &mut v2, "10.0.0.2", 20_000_000, 1)?;
    transfer(&mut v2, &mut web, "fd00::1", 20_000_000, 2)?;
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    ensure!(!net.switch.log().contains("refused"), "{}\n{meminfo}", net.switch.log());
    // A guest that starts over maps its memory anew.
    web.reboot(BOOT)?;
    address(&mut web, "eth0", 1)?;
    ping(&mut web, "10.0.0.2")?;
    v2.sh_ok("true", SHORT)?;
    net.finish()
}
