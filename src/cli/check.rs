//! `vswitch check`.

use std::path::Path;

use control::config::{self, Config, environment};

use super::{Refusal, output};

/// Reads a configuration and looks whether this machine can carry it out.
pub(super) fn load(file: &Path) -> Result<Config, Refusal> {
    let config = config::load(file).map_err(|problems| Refusal::Input(problems.to_string()))?;
    environment::check(&config).map_err(|problems| Refusal::Input(problems.to_string()))?;
    Ok(config)
}

/// Says that `file` is in order, or what is wrong with it.
pub(super) fn check(file: &Path) -> Result<(), Refusal> {
    let config = load(file)?;
    let counts = [
        count(config.uplinks.len(), "uplink"),
        count(config.portgroups.len(), "port group"),
        count(config.vnics.len(), "vnic"),
    ];
    output::write(&format!("{}: ok: 1 switch, {}\n", config.file, counts.join(", ")))
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
