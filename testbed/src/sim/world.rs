//! The run's state and its clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use control::policy::{Policies, Seed};

use super::faults::Fault;
use super::forward::View;
use super::hostile::Stranger;
use super::net::Arrival;
use super::report::{Failure, Report, Seen};
use super::story::{Act, Stage, Story};
use super::trace::Trace;
use super::traffic::Ledger;
use super::{Datapath, Dice, Net, Plan, Time, Truth};

/// Events after which a run is taken to go on for ever.
const ENDLESS: u64 = 3_000_000;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// The control thread wakes, unless it was asked to do so at another time since.
    Wake(u64),
    /// A frame arrives.
    Arrive(Arrival),
    /// Something breaks or is mended.
    Act(Act),
    /// Time to look, unless something changed since.
    Stage(u64, Stage),
    /// A host says something to everybody.
    Talk(usize),
    /// A stranger sends something.
    Inject,
}

struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A virtual machine as the control thread keeps it.
#[derive(Clone, Debug, Default)]
pub(super) struct GuestState {
    /// By which uplinks its address was announced last.
    pub(super) announced: Option<Vec<u16>>,
    /// When its placement changed last.
    pub(super) moved: Time,
}

/// An uplink as seen from outside the policies.
#[derive(Clone, Debug, Default)]
pub(super) struct UplinkState {
    /// The link that the policies were told.
    pub(super) told: bool,
    /// How often it went down.
    pub(super) downs: u64,
    /// Frames that came in by it and were not of our own making.
    pub(super) arrivals: u64,
}

/// A beacon that waits for the control thread.
pub(super) struct Heard {
    pub(super) uplink: usize,
    pub(super) vlan: u16,
    pub(super) bytes: Rc<[u8]>,
    pub(super) at: Time,
}

/// A run.
pub(super) struct World<D> {
    pub(super) plan: Plan,
    pub(super) net: Net,
    pub(super) truth: Truth,
    pub(super) faults: Vec<(u32, Fault)>,
    pub(super) policies: Policies,
    pub(super) datapath: D,
    pub(super) view: View,
    pub(super) guests: Vec<GuestState>,
    pub(super) uplinks: Vec<UplinkState>,
    pub(super) inbox: Vec<Heard>,
    /// The control thread does not run before.
    pub(super) stalled: Time,
    /// Number and time of the wake-up that counts.
    pub(super) wake: (u64, Time),
    pub(super) ledger: Ledger,
    pub(super) story: Story,
    pub(super) stranger: Stranger,
    /// For the way of frames, for the control thread, and for what breaks.
    pub(super) dice: [Dice; 3],
    pub(super) seen: Seen,
    pub(super) trace: Trace,
    pub(super) now: Time,
    pub(super) done: bool,
    queue: BinaryHeap<Reverse<Entry>>,
    queued: u64,
}

/// Time as the policies count it.
pub(super) fn duration(time: Time) -> Duration {
    Duration::from_nanos(time)
}

impl<D: Datapath> World<D> {
    /// The run of a seed before it begins; with `words`, events are told.
    pub(super) fn new(seed: u64, datapath: D, words: bool) -> Result<World<D>, Box<Failure>> {
        let (plan, net, mut dice) = Plan::new(seed);
        let fail = |what: String| Box::new(Failure { seed, at: 0, what, lines: Vec::new() });
        let config = plan.config().map_err(&fail)?;
        let random: [u8; 56] = std::array::from_fn(|_| dice.draw() as u8);
        let start = Seed::new("sim", "", &random);
        let policies = Policies::new(config, &start).map_err(|e| fail(e.to_string()))?;
        let mut world = World {
            truth: Truth::default(),
            faults: Vec::new(),
            policies,
            datapath,
            view: View::default(),
            guests: vec![GuestState::default(); plan.guests.len()],
            uplinks: vec![UplinkState::default(); plan.uplinks],
            inbox: Vec::new(),
            stalled: 0,
            wake: (0, Time::MAX),
            ledger: Ledger::default(),
            story: Story::default(),
            stranger: Stranger::new(start.id, &mut dice),
            dice: [dice.fork(), dice.fork(), dice.fork()],
            seen: Seen { runs: 1, ..Seen::default() },
            trace: Trace::new(words),
            now: 0,
            done: false,
            queue: BinaryHeap::new(),
            queued: 0,
            plan,
            net,
        };
        world.trace.add(0, 0, seed, || format!("{:#?}", world.plan));
        world.trace.add(0, 0, 0, || world.net.describe());
        Ok(world)
    }

    /// Plays it to its end.
    pub(super) fn play(mut self) -> Result<(Report, Vec<String>), Box<Failure>> {
        let result = self.go();
        let World { plan, trace, now, seen, .. } = self;
        match result {
            Ok(()) => {
                let report = Report { seed: plan.seed, trace: trace.hash(), events: trace.events(), time: now, seen };
                Ok((report, trace.lines().to_vec()))
            }
            Err(what) => Err(Box::new(Failure { seed: plan.seed, at: now, what, lines: trace.lines().to_vec() })),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.begin()?;
        while !self.done {
            let Some(Reverse(entry)) = self.queue.pop() else { return Err("nothing happens any more".to_owned()) };
            if entry.number > ENDLESS {
                return Err("the run does not end: the control thread spins".to_owned());
            }
            self.now = entry.at;
            match entry.event {
                Event::Wake(number) if number == self.wake.0 => self.control_wakes()?,
                Event::Wake(_) => {}
                Event::Arrive(arrival) => self.arrive(arrival)?,
                Event::Act(act) => self.act(act)?,
                Event::Stage(number, stage) => self.stage(number, stage)?,
                Event::Talk(host) => self.talk(host),
                Event::Inject => self.inject(),
            }
            if self.net.loops > 0 {
                return Err("a frame goes round and round in the physical network".to_owned());
            }
        }
        Ok(())
    }

    /// Has something happen, not earlier than now.
    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), number: self.queued, event }));
    }
}
