//! Addresses behind ports that learn, as a plain map: what the model knows of them.

use std::collections::BTreeMap;

use wire::Mac;

/// An address nobody has sent from for longer than so many seconds is forgotten (`docs/mac-learning.md`).
pub const AGE: u32 = 600;
/// A note this many seconds old need not be written anew.
const REFRESH: u32 = 1;
/// Most addresses of one port.
pub const PER_PORT: usize = 4096;

/// VLAN and address, to the port and when that was noted.
#[derive(Clone, Default)]
pub struct Learnt {
    notes: BTreeMap<(u16, Mac), (usize, u32)>,
    now: u32,
}

impl Learnt {
    /// Lets time pass.
    pub fn wait(&mut self, seconds: u32) {
        self.now += seconds;
        self.notes.retain(|_, (_, noted)| self.now - *noted <= AGE);
    }

    pub fn now(&self) -> u32 {
        self.now
    }

    /// The port that was heard to send from the address, lately enough.
    pub fn port(&self, vid: u16, mac: Mac) -> Option<usize> {
        self.notes.get(&(vid, mac)).map(|(port, _)| *port)
    }

    /// VLAN, address, port and age of each note, in their order.
    pub fn notes(&self) -> impl Iterator<Item = (u16, Mac, usize, u32)> {
        self.notes.iter().map(|((vid, mac), (port, noted))| (*vid, *mac, *port, self.now - noted))
    }

    /// `port` sends from the address: it is there now, wherever it was before.
    pub fn note(&mut self, vid: u16, mac: Mac, port: usize) {
        match self.notes.get(&(vid, mac)) {
            Some((at, noted)) if *at == port && self.now - noted <= REFRESH => {}
            _ => _ = self.notes.insert((vid, mac), (port, self.now)),
        }
    }

    /// All notes of a port that goes.
    pub fn forget_port(&mut self, port: usize) {
        self.notes.retain(|_, (at, _)| *at != port);
    }

    /// Takes back one note, which the switch had no room for: which those are of a crowd is the switch's choice.
    pub fn forget(&mut self, vid: u16, mac: Mac) {
        self.notes.remove(&(vid, mac));
    }
}
