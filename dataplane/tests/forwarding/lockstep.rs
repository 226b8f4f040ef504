//! A switch and the model of it, step by step: workers take turns, and time passes, when they are told to. So both
//! see all frames in one order, which matters where a frame teaches the switch something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use dataplane::{LEARNED_PARTS, Seconds, Worker, Workers};

use crate::fake::Sent;
use crate::frames::{Shape, id_of};
use crate::model::Model;
use crate::properties::Books;
use crate::spec::SwitchSpec;
use crate::switch::Switch;

/// Workers, which share the ports. One learns what the other is to know.
const WORKERS: usize = 2;
/// Turns after which a worker has looked at every queue, however silent it was.
const TURNS: usize = 1000;
/// When the clock starts: late enough that nothing is taken for young because its stamp is 0.
const START: u32 = 10_000;

type Queue = Arc<Mutex<VecDeque<Sent>>>;

pub struct Lockstep<'s> {
    spec: &'s SwitchSpec,
    pub switch: Switch,
    shared: Arc<Workers>,
    workers: Vec<Worker>,
    queues: Vec<Queue>,
    pub model: Model<'s>,
    books: Books,
    /// All that was sent, in order: frame `id.1` is the one at that place.
    frames: Vec<(usize, Shape)>,
}

impl<'s> Lockstep<'s> {
    pub fn new(spec: &'s SwitchSpec) -> Lockstep<'s> {
        let mut switch = Switch::new(spec, WORKERS);
        let ports = switch.ports.len();
        let queues: Vec<Queue> = (0..ports).map(|_| Queue::default()).collect();
        for (port, queue) in queues.iter().cloned().enumerate() {
            switch.send(port, port % WORKERS, std::iter::from_fn(move || queue.lock().unwrap().pop_front()));
        }
        let shared = Workers::new(WORKERS, switch.snapshot());
        let workers = (0..WORKERS).map(|index| shared.worker(index).unwrap()).collect();
        let (model, books) = (Model::new(spec), Books::new(ports));
        let mut all = Lockstep { spec, switch, shared, workers, queues, model, books, frames: Vec::new() };
        all.wait(START);
        all
    }

    /// Lets time pass: the control thread tells the workers.
    pub fn wait(&mut self, seconds: u32) {
        self.model.learnt.wait(seconds);
        self.shared.set_clock(self.now());
    }

    fn now(&self) -> Seconds {
        Seconds(self.model.learnt.now())
    }

    /// The control thread goes over the whole table, as it does every few minutes.
    pub fn sweep(&self) {
        let learned = self.switch.learned.iter();
        learned.for_each(|learned| (0..LEARNED_PARTS).for_each(|part| learned.sweep(self.now(), part)));
    }

    /// The vNIC of a port goes, and another comes.
    pub fn forget(&mut self, port: usize) {
        self.model.learnt.forget_port(port);
        self.switch.learned.iter().for_each(|learned| learned.forget_port(self.switch.ports[port].id));
    }

    /// Sends frames in by port `from`, as a burst if there are not too many, and enters what the model says of each.
    pub fn send(&mut self, from: usize, frames: impl IntoIterator<Item = (Shape, Vec<usize>)>) {
        let first = self.put_through(from, frames);
        (first..self.frames.len()).for_each(|number| self.enter(number));
    }

    /// Sends frames without asking the model; [`Lockstep::enter`] is to follow for each. Returns the first's number.
    pub fn put_through(&mut self, from: usize, frames: impl IntoIterator<Item = (Shape, Vec<usize>)>) -> usize {
        let first = self.frames.len();
        for (mut shape, cuts) in frames {
            shape.id = (from as u16, u16::try_from(self.frames.len()).expect("fewer frames"));
            self.queues[from].lock().unwrap().push_back(shape.sent(cuts));
            self.frames.push((from, shape));
        }
        for _ in 0..TURNS {
            if self.queues[from].lock().unwrap().is_empty() {
                return first;
            }
            self.workers.iter_mut().for_each(|worker| _ = worker.turn());
        }
        panic!("the workers leave frames of port {from} where they are");
    }

    /// Enters in the books what the model says of frame `number`.
    pub fn enter(&mut self, number: usize) {
        let (from, shape) = &self.frames[number];
        self.books.enter(&mut self.model, *from, shape);
    }

    /// The ports that got each frame so far, by its number.
    pub fn reached(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut reached: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for port in 0..self.switch.ports.len() {
            let ids = self.switch.received(port).into_iter().map(|one| id_of(&one).expect("a frame of ours"));
            ids.for_each(|(_, number)| _ = reached.entry(number.into()).or_default().insert(port));
        }
        reached
    }

    /// Sends one frame, and returns the ports that got it.
    pub fn one(&mut self, from: usize, shape: Shape) -> Vec<usize> {
        self.send(from, [(shape, Vec::new())]);
        self.reached().remove(&(self.frames.len() - 1)).into_iter().flatten().collect()
    }

    /// Holds the switch to the books, and what it has learnt to what the model has.
    pub fn check(&self) -> Result<(), String> {
        self.books.check(self.spec, &self.switch, &self.frames)?;
        let Some(learned) = &self.switch.learned else { return Ok(()) };
        let index = |id| self.switch.ports.iter().position(|p| p.id == id).expect("a port of ours");
        let mut known: Vec<_> =
            learned.entries(self.now()).map(|(vid, mac, id, age)| (vid, mac, index(id), age)).collect();
        known.sort_unstable();
        let notes: Vec<_> = self.model.learnt.notes().collect();
        if known == notes { Ok(()) } else { Err(format!("learnt {known:?}\n  expected {notes:?}")) }
    }
}
