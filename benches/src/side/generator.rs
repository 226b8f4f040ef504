//! The generator: `vswitch bench`, which knows nothing of whose ports it drives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::run;

/// MAC addresses of the two stations.
pub const MACS: [&str; 2] = ["00:50:56:00:00:01", "00:50:56:00:00:02"];

/// The program `vswitch` that was built beside this one.
///
/// # Errors
/// When it was not.
pub fn program() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let path = me.with_file_name("vswitch");
    if !path.exists() {
        bail!("{} is not there; build it with `make build`", path.display());
    }
    Ok(path)
}

/// Frames from one station to the other for `seconds`; returns the generator's document.
///
/// # Errors
/// With the generator's sentence.
pub fn frames(stations: [&str; 2], extra: &[String], seconds: f64, control: Option<&Path>) -> Result<Value> {
    let program = program()?;
    let seconds = seconds.to_string();
    let mut args = vec!["bench", "--a", stations[0], "--b", stations[1], "--seconds", &seconds];
    args.extend(["--warmup", "0.5", "--cpu", "0", "--json"]);
    args.extend(extra.iter().map(String::as_str));
    let socket = control.map(|c| c.display().to_string());
    if let Some(socket) = &socket {
        args.extend(["--socket", socket]);
    }
    let text = run(&program.display().to_string(), &args, &[])?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    if let Some(ledger) = document.get("ledger").and_then(Value::as_str)
        && ledger != "ok"
    {
        bail!("frames are not all accounted for: {ledger}");
    }
    Ok(document)
}

/// A number of the document, by its path.
///
/// # Errors
/// When it is not there.
pub fn number(document: &Value, pointer: &str) -> Result<f64> {
    document.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {document}"))
}
