//! AF_XDP: frames pass between the driver and memory of ours, past the kernel's network stack.
//!
//! Each receive queue of the interface has a socket with rings and memory of its own. A small XDP program, held by
//! a BPF link, hands each frame to the socket of its queue (see [`bpf`]). How it runs is the best rung that the
//! driver offers; see [`ladder`].
//!
//! What AF_PACKET gives and AF_XDP does not:
//! * The host does not see the interface's frames any more: its own addresses there are unreachable.
//! * There is no word beside the frame: a veth peer's unfinished checksums and oversized segments come in as they
//!   are. Peers must be told to finish their frames: `ethtool -K PEER tx off`.
//! * The same goes for VLAN tags. Cards are told to leave them in the frame. A veth keeps beside the frame the tag of
//!   one that a bridge or a VLAN interface sent; the XDP program asks for it and puts it back (Linux 6.8). Before
//!   that, and in generic mode on virtual interfaces, such a frame comes in as if it had no tag, and the peer must
//!   be told: `ethtool -K PEER txvlan off tx-vlan-stag-hw-insert off`.
//!
//! So `driver = "auto"` stays with AF_PACKET on everything that is not a card.

mod bpf;
mod btf;
pub(crate) mod ladder;
mod queue;
mod rx;
mod tx;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::{Arm, Burst, Delivery, Sink, Tally};
use xsk_rs::config::BindFlags;

use crate::af_packet::socket::hold_promiscuous;
use crate::ethtool::{self, Suspended};
use crate::life::{Counts, Taken};
use crate::netlink::LinkEvent;
use bpf::{Hook, Link, SocketMap};
use ladder::{Demand, Step};
use queue::Queue;

pub use queue::{XDP_RX_FRAMES, XDP_TX_FRAMES};

/// Times, and pauses between them, that something busy is tried: the kernel takes apart in the background what was
/// closed a moment ago.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// Which of the queues a worker looks after, and at which it looks first.
pub(crate) struct Lane<'t> {
    pub(crate) index: usize,
    pub(crate) of: usize,
    pub(crate) turn: &'t mut usize,
}

/// The sockets of one life of an interface. The order of the fields is that of their end: first no more frames come.
pub(crate) struct Rings {
    link: Link,
    _promiscuous: OwnedFd,
    queues: Vec<Queue>,
    _map: SocketMap,
    _offloads: Suspended,
    fragments: bool,
    /// False when the rings were made for frames that fit into one chunk.
    made_for_long: bool,
    rung: String,
}

/// Why an interface takes no AF_XDP sockets.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The reason, half a sentence.
    pub(crate) reason: String,
    /// What the system said, where it alone is the reason.
    pub(crate) error: Option<io::Error>,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { reason: reason(&error), error: Some(error) }
    }
}

impl Rings {
    /// Opens a socket for each receive queue of `link`, on the best rung.
    pub(crate) fn open(link: &LinkEvent, demand: Demand) -> Result<Rings, Refusal> {
        let count = ethtool::rx_queues(&link.name);
        let map = SocketMap::new(count)?;
        let mut offloads = Suspended::new(&link.name, link.index);
        offloads.rxvlan().map_err(|error| Refusal {
            reason: format!("it takes VLAN tags out of frames and cannot be told not to: {}", reason(&error)),
            error: None,
        })?;
        let promiscuous = hold_promiscuous(link.index)?;
        let mut refused = Vec::new();
        for step in ladder::steps(link.mtu, demand) {
            if step.hook == Hook::Generic {
                offloads.gro()?;
            }
            let attached =
                patiently(|| Link::attach(link.index, &map, step.hook, step.fragments, !link.kind.is_empty()));
            let at_work = match attached {
                Ok(at_work) => at_work,
                Err(error) if is_taken(&error) => {
                    return Err(Refusal { reason: "another XDP program is at work on it".into(), error: None });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error.into()),
                Err(error) => {
                    refused.push(format!("{} refused: {}", step.place(), reason(&error)));
                    continue;
                }
            };
            for &zero_copy in step.bindings() {
                match patiently(|| open_queues(&link.name, count, step, zero_copy)) {
                    Ok(queues) => {
                        for (number, queue) in queues.iter().enumerate() {
                            map.insert(number, queue.fd())?;
                        }
                        return Ok(Rings {
                            link: at_work,
                            _promiscuous: promiscuous,
                            queues,
                            _map: map,
                            _offloads: offloads,
                            fragments: step.fragments,
                            made_for_long: ladder::needs_fragments(link.mtu),
                            rung: rung(step.name(zero_copy), &refused),
                        });
                    }
                    Err(error) => refused.push(format!("{} refused: {}", step.name(zero_copy), reason(&error))),
                }
            }
        }
        Err(Refusal { reason: refused.join("; "), error: None })
    }

    /// The rung in use, and what came before it and why not.
    pub(crate) fn rung(&self) -> &str {
        &self.rung
    }

    /// True when frames the interface takes are dropped because they do not fit into one chunk.
    pub(crate) fn cramped(&self) -> bool {
        self.made_for_long && !self.fragments
    }

    /// True when a VLAN tag that a virtual interface keeps beside the frame is put back.
    pub(crate) fn restores_tags(&self) -> bool {
        self.link.restores_tags
    }

    pub(crate) fn outgrown(&self, mtu: u32) -> bool {
        !self.made_for_long && ladder::needs_fragments(mtu)
    }

    pub(crate) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Looks once at the lane's queues in turn, until one has frames.
    pub(crate) fn poll(&self, lane: &mut Lane<'_>, up: bool, counts: &Counts, sink: &mut dyn Sink) -> usize {
        let mine = self.queues.len().saturating_sub(lane.index).div_ceil(lane.of.max(1));
        for _ in 0..mine {
            let Some(queue) = self.queues.get(lane.index + *lane.turn % mine * lane.of) else { return 0 };
            *lane.turn = (*lane.turn + 1) % mine;
            if up {
                tx::nudge(queue, counts);
            }
            let taken = rx::poll(queue, sink);
            if taken > 0 {
                return taken;
            }
        }
        0
    }

    /// How a worker that sleeps on lane `lane` of `lanes` learns of frames: the socket is readable while its ring holds
    /// any. A lane with several queues would need several sockets.
    pub(crate) fn arm(&self, lane: usize, lanes: usize) -> Arm {
        match (self.queues.get(lane), self.queues.get(lane + lanes)) {
            (None, _) => Arm::Quiet,
            (Some(queue), None) if !queue.again.load(Ordering::Relaxed) => Arm::Kick(queue.kick.clone()),
            _ => Arm::Cannot,
        }
    }

    /// Sends `list` by the queue of `worker`; frames with more than `mtu` bytes of payload are dropped.
    pub(crate) fn deliver(
        &self,
        worker: usize,
        burst: &Burst<'_>,
        list: &[Delivery],
        mtu: usize,
        counts: &Counts,
        tally: &mut Tally,
    ) {
        // There is one at least.
        if let Some(queue) = self.queues.get(worker % self.queues.len().max(1)) {
            tx::deliver(queue, self.fragments, burst, list, mtu, counts, tally);
        }
    }

    /// Frames with the kernel that it has not sent yet.
    pub(crate) fn waiting(&self) -> u64 {
        let waits = |queue: &Queue| {
            let mut side = queue.tx.lock().unwrap_or_else(PoisonError::into_inner);
            side.reclaim();
            side.out
        };
        self.queues.iter().map(waits).sum()
    }

    pub(crate) fn take_statistics(&self) -> Taken {
        let mut sum = Taken::default();
        for taken in self.queues.iter().map(Queue::take_statistics) {
            sum.rx_frames += taken.rx_frames;
            sum.rx_drops += taken.rx_drops;
            sum.tx_refused += taken.tx_refused;
        }
        sum
    }
}

fn open_queues(device: &str, count: usize, step: Step, zero_copy: bool) -> io::Result<Vec<Queue>> {
    let mut bind = BindFlags::XDP_USE_NEED_WAKEUP;
    bind |= if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
    if step.fragments {
        bind |= BindFlags::XDP_USE_SG;
    }
    (0..count).map(|number| Queue::open(device, number, bind)).collect()
}

fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

/// True when somebody else's program is in the way: of the same mode, or of the other.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn rung(name: &str, refused: &[String]) -> String {
    if refused.is_empty() { name.to_owned() } else { format!("{name}: {}", refused.join("; ")) }
}

/// What the system said, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
