//! Where frames go in and come out.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use wire::Mac;

use super::Load;
use crate::soft::{
    Drained, SoftGuest, SoftVirtio, SoftVlance, SoftVmxnet3, VirtioOptions, VlanceOptions, Vmxnet3Options,
};

/// One end.
pub trait Station {
    /// Its address.
    fn mac(&self) -> Mac;

    /// Makes ready to send `load` to `to`.
    ///
    /// # Errors
    /// When the station cannot send such frames.
    fn prepare(&mut self, load: &Load, to: Mac) -> Result<()>;

    /// Different frames it sends before they repeat.
    fn variety(&self) -> usize;

    /// Sends up to `count` frames, as many as there is room for; returns how many.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    fn post(&mut self, count: usize) -> Result<usize>;

    /// Takes what has come.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    fn take(&mut self) -> Result<Drained>;
}

/// A station by its kind and place: `virtio:SOCKET,mac=MAC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StationSpec {
    /// `virtio`, `vmxnet3`, `vlance`.
    pub kind: Kind,
    /// The port's socket.
    pub socket: PathBuf,
    /// Its address.
    pub mac: Option<Mac>,
}

/// What kind of station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guest with a virtio card, on a vhost-user socket of any switch.
    Virtio,
    /// A guest with a vmxnet3 card.
    Vmxnet3,
    /// A guest with a vlance card.
    Vlance,
}

impl FromStr for StationSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<StationSpec, String> {
        let shape =
            || format!("\"{text}\" is no station; write KIND:SOCKET[,mac=MAC] as in virtio:/run/vswitch/web1.sock");
        let (kind, rest) = text.split_once(':').ok_or_else(shape)?;
        let kind = match kind {
            "virtio" => Kind::Virtio,
            "vmxnet3" => Kind::Vmxnet3,
            "vlance" => Kind::Vlance,
            other => return Err(format!("station kind \"{other}\" is unknown; known: virtio, vmxnet3, vlance")),
        };
        let mut parts = rest.split(',');
        let socket = parts.next().filter(|s| !s.is_empty()).ok_or_else(shape)?.into();
        let mut spec = StationSpec { kind, socket, mac: None };
        for part in parts {
            match part.split_once('=') {
                Some(("mac", mac)) => spec.mac = Some(mac.parse().map_err(|e| format!("{text}: {e}"))?),
                _ => return Err(format!("\"{part}\" of station {text} is unknown; known: mac=MAC")),
            }
        }
        Ok(spec)
    }
}

/// Opens a station; `pool` and `ring` are for virtio, `fallback` is its address without another word.
///
/// # Errors
/// When its port cannot be reached.
pub fn open(spec: &StationSpec, pool: usize, ring: u16, fallback: Mac) -> Result<Box<dyn Station>> {
    let mac = spec.mac.unwrap_or(fallback);
    Ok(match spec.kind {
        Kind::Virtio => Box::new(SoftVirtio::connect(&spec.socket, VirtioOptions { mac, ring, pool })?),
        Kind::Vmxnet3 => {
            let guest = SoftVmxnet3::connect(&spec.socket, Vmxnet3Options::default())?;
            Box::new(Guest { guest: Box::new(guest), frame: Vec::new() })
        }
        Kind::Vlance => {
            let guest = SoftVlance::connect(&spec.socket, VlanceOptions::default())?;
            Box::new(Guest { guest: Box::new(guest), frame: Vec::new() })
        }
    })
}

impl Station for SoftVirtio {
    fn mac(&self) -> Mac {
        SoftVirtio::mac(self)
    }

    fn prepare(&mut self, load: &Load, to: Mac) -> Result<()> {
        for n in 0..self.pool() {
            let frame = load.frame(n, SoftVirtio::mac(self), to);
            self.lay(n, &frame)?;
        }
        Ok(())
    }

    fn variety(&self) -> usize {
        self.pool()
    }

    #[inline]
    fn post(&mut self, count: usize) -> Result<usize> {
        SoftVirtio::post(self, count)
    }

    #[inline]
    fn take(&mut self) -> Result<Drained> {
        SoftVirtio::take(self)
    }
}

/// A soft guest that sends one and the same frame.
struct Guest {
    guest: Box<dyn SoftGuest>,
    frame: Vec<u8>,
}

impl Station for Guest {
    fn mac(&self) -> Mac {
        self.guest.mac()
    }

    fn prepare(&mut self, load: &Load, to: Mac) -> Result<()> {
        if load.variety() > 1 {
            bail!(
                "a {} station sends one kind of frame; use virtio stations for mixes, flows and addresses",
                self.guest.name()
            );
        }
        self.frame = load.frame(0, self.guest.mac(), to);
        Ok(())
    }

    fn variety(&self) -> usize {
        1
    }

    fn post(&mut self, count: usize) -> Result<usize> {
        self.guest.send_burst(&self.frame, count)
    }

    fn take(&mut self) -> Result<Drained> {
        self.guest.drain()
    }
}
