//! Stations that are network interfaces, by the same drivers the switch's uplinks use.
//!
//! ```text
//!   one memory of frames --Burst of 32--> AF_PACKET / AF_XDP ring --one call--> interface
//!   interface --> AF_PACKET / AF_XDP ring --Burst--> Checker
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::{BURST, Burst, Delivery, Egress, Grace, Ingress, Offload, PortState, Sink, Tally};
use sharedmem::SharedPage;
use testbed::generator::{Checker, DriverWish, Station, Stream};
use uplink::{Driver, Uplink, netlink};
use wire::{ETH_HEADER, Mac, Tag};

/// Bytes of one frame's place.
const PLACE: usize = 2048;
/// Bursts taken from a queue before the other end has its turn.
const BURSTS: usize = 8;
/// How long an interface may take to come up.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an uplink is told that the switch's payload size is; the interface's own is what counts here.
const MTU: u16 = 1500;

/// One interface.
pub(super) struct Interface {
    // The rings close before the memory goes.
    queues: Vec<Box<dyn Ingress>>,
    out: Arc<dyn Egress>,
    _uplink: Uplink,
    device: String,
    mac: Mac,
    memory: Option<SharedPage>,
    /// Bytes of each frame, in its place.
    lens: Vec<usize>,
    next: usize,
    tag: Option<Tag>,
    stream: Option<Stream>,
}

impl Interface {
    /// Opens `device` as a station of address `mac`. Anything else that speaks on the interface goes on doing so.
    pub(super) fn open(device: &str, driver: DriverWish, mac: Mac) -> Result<Interface> {
        let state = Arc::new(PortState::new());
        let driver = match driver {
            DriverWish::Auto => Driver::Auto,
            DriverWish::AfPacket => Driver::AfPacket,
            DriverWish::AfXdp => Driver::AfXdp,
        };
        let mut uplink = Uplink::open_with("bench", device, driver, state.clone(), Grace::new(0), MTU)?;
        let deadline = Instant::now() + PATIENCE;
        while !netlink::query(device).is_ok_and(|link| link.up) {
            ensure!(Instant::now() < deadline, "interface {device} has no link; is its other end up?");
            std::thread::sleep(Duration::from_millis(10));
        }
        state.set_link_up(true);
        Ok(Interface {
            queues: uplink.ingress(),
            out: uplink.egress(),
            _uplink: uplink,
            device: device.to_owned(),
            mac,
            memory: None,
            lens: Vec::new(),
            next: 0,
            tag: None,
            stream: None,
        })
    }

    /// The driver in use and how it runs.
    pub(super) fn driver(&self) -> String {
        format!("{}, {}", self._uplink.driver(), self._uplink.rung())
    }

    /// Sends the frames in these places, in order, as many as there is room for.
    fn deliver(&self, places: impl Iterator<Item = (usize, usize)>) -> usize {
        let Some(memory) = &self.memory else { return 0 };
        let (mut burst, mut list) = (Burst::new(), [Delivery::new(0, self.tag); BURST]);
        for ((at, len), (frame, delivery)) in places.zip((0..).zip(&mut list)) {
            if let Some(piece) = memory.region().slice(at, len) {
                burst.push(&[piece], None, Offload::default());
                *delivery = Delivery::new(frame, self.tag);
            }
        }
        let mut tally = Tally::new();
        let count = burst.frames().len();
        self.out.deliver(&burst, list.get(..count).unwrap_or_default(), &mut tally);
        // What a ring has no room for is the end of a burst.
        tally.frames() as usize
    }
}

impl Station for Interface {
    fn mac(&self) -> Mac {
        self.mac
    }

    fn prepare(&mut self, stream: &Stream) -> Result<()> {
        let link = netlink::query(&self.device).with_context(|| format!("interface {}", self.device))?;
        let longest = stream.load.longest();
        if longest > link.mtu as usize + ETH_HEADER {
            bail!("a frame of {} bytes does not fit {} with its MTU of {}", longest + 4, self.device, link.mtu);
        }
        // One place more, for marked frames.
        let kinds = stream.kinds();
        let memory = SharedPage::new("bench", (kinds + 1) * PLACE).context("memory for the frames")?;
        self.lens.clear();
        for n in 0..kinds {
            let frame = stream.untagged(n, 0);
            ensure!(memory.slice().write_at(n * PLACE, &frame), "no place for frame {n}");
            self.lens.push(frame.len());
        }
        (self.memory, self.next, self.tag, self.stream) = (Some(memory), 0, stream.tag, Some(stream.clone()));
        Ok(())
    }

    fn variety(&self) -> usize {
        self.lens.len()
    }

    fn post(&mut self, count: usize) -> Result<usize> {
        let kinds = self.lens.len().max(1);
        let place = |n: usize| {
            let n = n % kinds;
            (n * PLACE, self.lens.get(n).copied().unwrap_or(0))
        };
        let sent = self.deliver((self.next..self.next + count.min(BURST)).map(place));
        self.next = (self.next + sent) % kinds;
        Ok(sent)
    }

    fn probe(&mut self, mark: u32) -> Result<bool> {
        let (Some(memory), Some(stream)) = (&self.memory, &self.stream) else { return Ok(false) };
        // The driver copies the frame before it returns.
        let frame = stream.untagged(mark as usize, mark);
        let at = self.lens.len() * PLACE;
        ensure!(memory.slice().write_at(at, &frame), "no place for a marked frame");
        Ok(self.deliver(std::iter::once((at, frame.len()))) == 1)
    }

    fn take(&mut self, checker: &mut Checker) -> Result<()> {
        let mut see = See(checker);
        for queue in &mut self.queues {
            for _ in 0..BURSTS {
                if queue.poll(&mut see) < BURST {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Shows frames to the checker.
struct See<'c>(&'c mut Checker);

impl Sink for See<'_> {
    fn forward(&mut self, burst: &Burst<'_>) {
        for frame in burst.frames() {
            self.0.see_head(frame.tag(), frame.head(), frame.len());
        }
        for (_, len) in burst.rejected() {
            self.0.see_head(None, &[], *len as usize);
        }
    }
}
