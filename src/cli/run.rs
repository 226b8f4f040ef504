//! `vswitch run`.

use std::io::IsTerminal;
use std::path::Path;

use control::runtime;
use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;

use super::{Refusal, check};

/// What is logged: `info` by default, or a filter such as `debug` or `warn,control=trace`.
const LOG_VARIABLE: &str = "VSWITCH_LOG";

/// Serves `file` until SIGTERM or SIGINT.
pub(super) fn run(file: &Path) -> Result<(), Refusal> {
    start_log()?;
    let config = check::load(file)?;
    runtime::run(config, ready).map_err(|error| Refusal::Failure(error.to_string()))
}

fn ready() {
    // Without systemd there is nobody to tell, which is no error.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("systemd was not told that the switch serves: {error}");
    }
}

fn start_log() -> Result<(), Refusal> {
    let text = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::builder().parse(&text).map_err(|error| {
        Refusal::Input(format!(
            "vswitch: {LOG_VARIABLE} \"{}\" is no log filter ({error}); write info, debug or warn",
            text.escape_debug()
        ))
    })?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(filter)
        .init();
    Ok(())
}
