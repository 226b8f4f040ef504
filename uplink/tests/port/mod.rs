//! An opened uplink with its queues and its way out, for tests that see frames bare.
#![allow(dead_code, missing_docs)]

use std::sync::Arc;

use dataplane::{Burst, Egress, Grace, Ingress, PortState, Tally};
use uplink::{Driver, Uplink};

use crate::lab::{all, wait};

pub struct Port {
    pub uplink: Uplink,
    pub state: Arc<PortState>,
    /// The first queue, which is the only one on most interfaces.
    pub queue: Box<dyn Ingress>,
    pub others: Vec<Box<dyn Ingress>>,
    pub out: Arc<dyn Egress>,
}

impl Port {
    /// Opens `device` and waits for its link.
    pub fn open(device: &str, driver: Driver) -> Port {
        let state = Arc::new(PortState::new());
        let opened = Uplink::open_with("vmnic0", device, driver, state.clone(), Grace::new(0), 1500);
        let mut uplink = opened.expect("an uplink");
        let mut others = uplink.ingress();
        assert!(uplink.ingress().is_empty(), "given once");
        let queue = others.remove(0);
        let out = uplink.egress();
        let mut port = Port { uplink, state, queue, others, out };
        port.await_link();
        port
    }

    /// Tells the uplink how its interface is until it has link.
    pub fn await_link(&mut self) {
        let device = self.uplink.device().to_owned();
        wait("link", || {
            self.uplink.handle(&uplink::netlink::query(&device).expect("it is there"));
            self.state.link_up()
        });
    }
}

/// Delivers every frame of `burst` with its own tag.
pub fn deliver(port: &Port, burst: &Burst<'_>) -> Tally {
    let mut tally = Tally::new();
    port.out.deliver(burst, &all(burst, None), &mut tally);
    tally
}
