//! A host whose kernel knows no VLANs speaks on one: this process puts the tags on and takes them off.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use wire::{ETHERTYPE_VLAN, Tag, be16};

use super::Tap;
use super::tap::MAX_FRAME;

const ADDRESSES: usize = 12;
const TAG: usize = 4;

#[derive(Debug, Default)]
struct Counts {
    tagged: AtomicU64,
    untagged: AtomicU64,
    foreign: AtomicU64,
}

/// The shim between a host's interface and a bridge. Both interfaces go when it is dropped.
pub struct VlanShim {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    outer: String,
}

impl VlanShim {
    /// Moves frames between `inner` (untagged) and `outer` (tagged with `vlan`).
    pub(super) fn start(inner: Tap, outer: Tap, vlan: u16) -> Result<VlanShim> {
        ensure!((1..=4094).contains(&vlan), "VLAN {vlan}");
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let counts = Arc::<Counts>::default();
        let name = outer.name().to_owned();
        let (stopped, seen) = (stop.clone(), counts.clone());
        let thread = std::thread::Builder::new().name("vlan-shim".into());
        let thread = thread.spawn(move || shuttle(&inner, &outer, Tag::new(vlan, 0), &stopped, &seen))?;
        Ok(VlanShim { stop, thread: Some(thread), counts, outer: name })
    }

    /// The interface on the bridge's side, to be cut or unplugged.
    pub fn port(&self) -> &str {
        &self.outer
    }

    /// Frames that got a tag, that lost one, and that were not of this VLAN.
    pub fn counts(&self) -> (u64, u64, u64) {
        let Counts { tagged, untagged, foreign } = &*self.counts;
        (tagged.load(Ordering::Relaxed), untagged.load(Ordering::Relaxed), foreign.load(Ordering::Relaxed))
    }
}

impl Drop for VlanShim {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn shuttle(inner: &Tap, outer: &Tap, tag: Tag, stop: &OwnedFd, counts: &Counts) {
    let mut buffer = vec![0; MAX_FRAME + TAG];
    loop {
        let mut fds =
            [inner.as_fd(), outer.as_fd(), stop.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if fds[2].revents().contains(PollFlags::IN) {
            return;
        }
        // In bursts, so that neither side starves the other. A frame that cannot be written (the cable is
        // cut) is lost, as on a cable.
        for _ in 0..64 {
            let Ok(Some(len)) = inner.try_recv(&mut buffer[TAG..]) else { break };
            if put_tag(&mut buffer[..TAG + len], tag) && outer.send(&buffer[..TAG + len]).is_ok() {
                counts.tagged.fetch_add(1, Ordering::Relaxed);
            }
        }
        for _ in 0..64 {
            let Ok(Some(len)) = outer.try_recv(&mut buffer) else { break };
            if !take_tag(&mut buffer[..len], tag.vid()) {
                counts.foreign.fetch_add(1, Ordering::Relaxed);
            } else if inner.send(&buffer[TAG..len]).is_ok() {
                counts.untagged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Puts `tag` into the frame that stands after [`TAG`] free bytes; false when it is too short to be one.
fn put_tag(buffer: &mut [u8], tag: Tag) -> bool {
    if buffer.len() < TAG + ADDRESSES + 2 {
        return false;
    }
    buffer.copy_within(TAG..TAG + ADDRESSES, 0);
    buffer[ADDRESSES..ADDRESSES + TAG].copy_from_slice(&tag.bytes());
    true
}

/// Takes the tag of VLAN `vid` out of a frame, which then starts [`TAG`] bytes later; false, and nothing
/// done, when it has no such tag.
fn take_tag(frame: &mut [u8], vid: u16) -> bool {
    let tagged = be16(frame, ADDRESSES) == Some(ETHERTYPE_VLAN) && frame.len() >= ADDRESSES + TAG + 2;
    if !tagged || be16(frame, ADDRESSES + 2).is_none_or(|tci| Tag(tci).vid() != vid) {
        return false;
    }
    frame.copy_within(0..ADDRESSES, TAG);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_on_and_off() {
        let frame: Vec<u8> = (0u8..60).collect();
        let mut buffer = [&[0xee; TAG][..], &frame].concat();
        assert!(put_tag(&mut buffer, Tag::new(10, 3)));
        assert_eq!(buffer[12..18], [0x81, 0, 0x60, 10, 12, 13]);
        assert!(!take_tag(&mut buffer, 11));
        assert!(take_tag(&mut buffer, 10));
        assert_eq!(buffer[TAG..], frame);
        assert!(!take_tag(&mut frame.clone(), 10) && !put_tag(&mut [0; 17], Tag::new(1, 0)));
    }
}
