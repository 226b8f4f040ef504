//! A switch of the bench's own: `vswitch run` on a configuration made for the occasion.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::api::{Status, ledger};
use testbed::generator::{End, Kind, Place, StationSpec};
use testbed::switch::SwitchProcess;

/// How long the counts of a switch may take to agree with each other, and with the stations'.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kind of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OwnKind {
    /// vhost-user.
    Virtio,
    /// vfio-user, VMware's card.
    Vmxnet3,
    /// vfio-user, AMD's card.
    Vlance,
}

/// A running switch, ended and cleaned up when this value goes.
pub(super) struct Own {
    switch: SwitchProcess,
    // After the switch.
    _dir: tempfile::TempDir,
    kind: OwnKind,
}

/// What the switch is to be ready for.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    /// Guests put tags on their frames.
    pub tagged: bool,
    /// Guests send from more addresses than their own.
    pub learning: bool,
}

impl Own {
    /// Starts it.
    pub(super) fn start(kind: OwnKind, needs: Needs) -> Result<Own> {
        let dir = tempfile::tempdir().context("a directory for the switch")?;
        let program: PathBuf = std::env::current_exe().context("the name of this program")?;
        let socket_dir = dir.path().to_str().context("a temporary directory with a name in UTF-8")?;
        let switch = SwitchProcess::start(&program, None, dir.path(), &configuration(kind, needs, socket_dir))?;
        Ok(Own { switch, _dir: dir, kind })
    }

    /// Its two ports.
    pub(super) fn stations(&self) -> [StationSpec; 2] {
        let kind = match self.kind {
            OwnKind::Virtio => Kind::Virtio,
            OwnKind::Vmxnet3 => Kind::Vmxnet3,
            OwnKind::Vlance => Kind::Vlance,
        };
        ["a", "b"].map(|name| {
            let place = Place::Card { kind, socket: self.switch.socket(name), server: false };
            StationSpec { place, mac: None, vlan: None }
        })
    }

    /// Once traffic rests: every sum of the switch holds, and ports a and b have counted what the stations did, in
    /// frames sent and received since they were opened.
    ///
    /// # Errors
    /// What does not hold.
    pub(super) fn sums(&self, ends: &mut [End; 2]) -> Result<()> {
        settled(|| {
            // What a switch that got no time to run delivers late is no less delivered.
            ends.iter_mut().try_for_each(|end| end.collect().map(drop))?;
            let status: Status = serde_json::from_value(self.switch.show()?)?;
            Ok(holds(&status, ends))
        })
    }

    /// Ends it, as an administrator would.
    pub(super) fn end(mut self) -> Result<()> {
        let status = self.switch.stop()?;
        if !status.success() {
            bail!("the switch ended with {status}:\n{}", self.switch.log());
        }
        Ok(())
    }
}

/// Asks again until what `ask` looks at holds, for as long as frames and counts may be under way. Where it cannot ask, it
/// is not called again.
///
/// # Errors
/// What does not hold at last, or why it cannot be asked.
pub(super) fn settled(mut ask: impl FnMut() -> Result<Result<()>>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask()? {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(()) => return Ok(()),
        }
    }
}

fn holds(status: &Status, ends: &[End; 2]) -> Result<()> {
    ledger::check(status).map_err(anyhow::Error::msg)?;
    for (name, end) in ["a", "b"].into_iter().zip(ends) {
        let (counted, station) = (status.ports.iter().find(|p| p.name == name), end.totals());
        let port = counted.context("the switch has lost a port")?;
        let (input, output) = (port.input.frames, port.output.frames);
        ensure!(
            (input, output) == (station.posted, station.came),
            "{name}: the switch counted {input} frames in and {output} out, the station sent {} and received {}",
            station.posted,
            station.came
        );
    }
    Ok(())
}

fn configuration(kind: OwnKind, needs: Needs, socket_dir: &str) -> String {
    let adapter = match kind {
        OwnKind::Virtio => "virtio",
        OwnKind::Vmxnet3 => "vmxnet3",
        OwnKind::Vlance => "vlance",
    };
    let vlan = if needs.tagged { "vlan = 4095" } else { "vlan = 10" };
    let learning = match needs.learning {
        true => "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n",
        false => "",
    };
    let mut text = format!("[switch]\nname = \"bench\"\nsocket_dir = {socket_dir:?}\n");
    text += &format!("[[portgroup]]\nname = \"Bench\"\n{vlan}\n{learning}");
    for (name, last) in [("a", 1), ("b", 2)] {
        text += &format!("[[vnic]]\nname = \"{name}\"\nportgroup = \"Bench\"\nadapter = \"{adapter}\"\n");
        text += &format!("mac = \"00:50:56:00:00:{last:02x}\"\n");
    }
    text
}
