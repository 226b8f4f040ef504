//! Where frames go in and come out.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wire::{Mac, Tag};

use super::guest::{Guest, Virtio};
use super::{Checker, Stream};
use crate::soft::{SoftVirtio, SoftVlance, SoftVmxnet3, VirtioOptions, VlanceOptions, Vmxnet3Options};

/// How long a listening station waits for the switch.
const PATIENCE: Duration = Duration::from_secs(30);

/// One end.
pub trait Station {
    /// Its address.
    fn mac(&self) -> Mac;

    /// Makes ready to send the frames of `stream`.
    ///
    /// # Errors
    /// When the station cannot send such frames.
    fn prepare(&mut self, stream: &Stream) -> Result<()>;

    /// Different frames it sends before they repeat.
    fn variety(&self) -> usize;

    /// Sends up to `count` frames, as many as there is room for; returns how many.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    fn post(&mut self, count: usize) -> Result<usize>;

    /// Sends one frame with this mark; false when there is no room.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    fn probe(&mut self, mark: u32) -> Result<bool>;

    /// Shows what has come to `checker`.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    fn take(&mut self, checker: &mut Checker) -> Result<()>;
}

/// A station by its kind and place: `virtio:SOCKET,mac=MAC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StationSpec {
    /// Where it is.
    pub place: Place,
    /// Its address.
    pub mac: Option<Mac>,
    /// The VLAN whose tag it puts on its frames, and expects on what comes.
    pub vlan: Option<u16>,
}

/// Where a station is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A guest's card on the socket of a port.
    Card {
        /// The card.
        kind: Kind,
        /// The port's socket.
        socket: PathBuf,
        /// The station listens there and the switch connects.
        server: bool,
    },
    /// A network interface.
    Interface {
        /// Its name.
        device: String,
        /// The way to it.
        driver: DriverWish,
    },
}

/// What kind of card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guest with a virtio card, on a vhost-user socket of any switch.
    Virtio,
    /// A guest with a vmxnet3 card.
    Vmxnet3,
    /// A guest with a vlance card.
    Vlance,
}

/// Which kind of socket an interface is to be driven by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverWish {
    /// AF_XDP where the interface takes it well, AF_PACKET elsewhere.
    #[default]
    Auto,
    /// AF_PACKET.
    AfPacket,
    /// AF_XDP.
    AfXdp,
}

const KINDS: &str = "virtio, vmxnet3, vlance, if";

impl FromStr for StationSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<StationSpec, String> {
        let shape = || {
            format!(
                "\"{text}\" is no station; write KIND:SOCKET[,mac=MAC] as in virtio:/run/vswitch/web1.sock, or \
                 if:INTERFACE as in if:veth0"
            )
        };
        let (kind, rest) = text.split_once(':').ok_or_else(shape)?;
        let mut parts = rest.split(',');
        let name = parts.next().filter(|s| !s.is_empty()).ok_or_else(shape)?;
        let card = |kind| Place::Card { kind, socket: name.into(), server: false };
        let place = match kind {
            "virtio" => card(Kind::Virtio),
            "vmxnet3" => card(Kind::Vmxnet3),
            "vlance" => card(Kind::Vlance),
            "if" => Place::Interface { device: name.to_owned(), driver: DriverWish::default() },
            other => return Err(format!("station kind \"{other}\" is unknown; known: {KINDS}")),
        };
        let mut spec = StationSpec { place, mac: None, vlan: None };
        for part in parts {
            spec.option(part).map_err(|why| format!("{why} (station {text})"))?;
        }
        Ok(spec)
    }
}

impl StationSpec {
    /// Takes one of the words after the place.
    fn option(&mut self, part: &str) -> Result<(), String> {
        match (part.split_once('=').unwrap_or((part, "")), &mut self.place) {
            (("mac", mac), _) => self.mac = Some(mac.parse().map_err(|error| format!("{error}"))?),
            (("vlan", vlan), _) => self.vlan = Some(parse_vlan(vlan)?),
            (("server", ""), Place::Card { kind: Kind::Virtio, server, .. }) => *server = true,
            (("driver", name), Place::Interface { driver, .. }) => {
                *driver = match name {
                    "auto" => DriverWish::Auto,
                    "af-packet" | "af_packet" => DriverWish::AfPacket,
                    "af-xdp" | "af_xdp" => DriverWish::AfXdp,
                    _ => return Err(format!("driver \"{name}\" is unknown; known: auto, af-packet, af-xdp")),
                }
            }
            (_, place) => {
                let known = match place {
                    Place::Card { kind: Kind::Virtio, .. } => "mac=MAC, vlan=N, server",
                    Place::Card { .. } => "mac=MAC, vlan=N",
                    Place::Interface { .. } => "mac=MAC, vlan=N, driver=auto|af-packet|af-xdp",
                };
                return Err(format!("\"{part}\" is unknown here; known: {known}"));
            }
        }
        Ok(())
    }

    /// The tag it puts on.
    pub fn tag(&self) -> Option<Tag> {
        self.vlan.map(|vlan| Tag::new(vlan, 0))
    }
}

/// A VLAN a frame may be tagged with.
///
/// # Errors
/// One sentence for any other number.
pub fn parse_vlan(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(vlan) if (1..=4094).contains(&vlan) => Ok(vlan),
        _ => Err(format!("a VLAN is 1 to 4094, and \"{text}\" is not")),
    }
}

/// What a station on a card is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Buffers to send from, of a virtio station.
    pub tx_pool: usize,
    /// Buffers to receive into, of a virtio station.
    pub rx_pool: usize,
    /// Descriptors of each ring, of a virtio station.
    pub ring: u16,
    /// The address of a station without another word.
    pub mac: Mac,
}

/// Opens a card on the socket of a port.
///
/// # Errors
/// When the port cannot be reached, or the station is none on a card.
pub fn open(spec: &StationSpec, opening: Opening) -> Result<Box<dyn Station>> {
    let Place::Card { kind, socket, server } = &spec.place else {
        bail!("an interface is no card");
    };
    Ok(match kind {
        Kind::Virtio => {
            let Opening { tx_pool, rx_pool, ring, mac } = opening;
            let options = VirtioOptions { mac: spec.mac.unwrap_or(mac), ring, tx_pool, rx_pool };
            let card = match server {
                true => SoftVirtio::over(accept(socket)?, options)?,
                false => SoftVirtio::connect(socket, options)?,
            };
            Box::new(Virtio::new(card))
        }
        Kind::Vmxnet3 => {
            let options = Vmxnet3Options { mac: spec.mac, ..Vmxnet3Options::default() };
            let mut card = SoftVmxnet3::connect(socket, options)?;
            if let Some(vlan) = spec.vlan {
                card.set_vlan_filter(&[vlan])?;
            }
            Box::new(Guest::new(card))
        }
        Kind::Vlance => {
            let options = VlanceOptions { mac: spec.mac, ..VlanceOptions::default() };
            Box::new(Guest::new(SoftVlance::connect(socket, options)?))
        }
    })
}

/// Waits on a socket of its own until the switch connects.
fn accept(path: &Path) -> Result<UnixStream> {
    let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    let found = wait_for_caller(&listener, path);
    // Nobody else is to find it.
    let _ = std::fs::remove_file(path);
    found
}

fn wait_for_caller(listener: &UnixListener, path: &Path) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if Instant::now() > deadline => {
                bail!("no switch has connected to {} within {} s", path.display(), PATIENCE.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stations_by_their_words() {
        let spec: StationSpec = "virtio:/run/a.sock,mac=00:50:56:00:00:07,vlan=12,server".parse().unwrap();
        assert_eq!((spec.mac, spec.vlan), (Some(Mac([0, 0x50, 0x56, 0, 0, 7])), Some(12)));
        assert_eq!(spec.place, Place::Card { kind: Kind::Virtio, socket: "/run/a.sock".into(), server: true });
        let spec: StationSpec = "if:veth0,driver=af-packet".parse().unwrap();
        assert_eq!(spec.place, Place::Interface { device: "veth0".to_owned(), driver: DriverWish::AfPacket });
        for (text, words) in [
            ("virtio", "is no station"),
            ("if:", "is no station"),
            ("e1000:/x", "known: virtio, vmxnet3"),
            ("if:veth0,driver=dpdk", "known: auto, af-packet"),
            ("if:veth0,server", "is unknown here"),
            ("vmxnet3:/x,server", "is unknown here"),
            ("virtio:/x,vlan=4095", "1 to 4094"),
            ("virtio:/x,mac=zz", "station virtio:/x"),
        ] {
            let error = text.parse::<StationSpec>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
