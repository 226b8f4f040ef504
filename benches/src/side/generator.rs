//! The generator: `vswitch bench`, which knows nothing of whose ports it drives.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::{run, run_within};

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
    frames_in(None, stations, extra, seconds, control)
}

/// As [`frames`], the generator being in network namespace `namespace`.
///
/// # Errors
/// As there.
pub fn frames_in(
    namespace: Option<&str>,
    stations: [&str; 2],
    extra: &[String],
    seconds: f64,
    control: Option<&Path>,
) -> Result<Value> {
    let program = program()?.display().to_string();
    let limit = Duration::from_secs_f64(seconds + 60.0);
    let seconds = seconds.to_string();
    let mut args = vec!["netns", "exec", namespace.unwrap_or_default(), &program];
    args.extend(["bench", "--a", stations[0], "--b", stations[1], "--seconds", &seconds]);
    args.extend(["--warmup", "0.5", "--cpu", "0", "--json"]);
    args.extend(extra.iter().map(String::as_str));
    let socket = control.map(|c| c.display().to_string());
    if let Some(socket) = &socket {
        args.extend(["--socket", socket]);
    }
    let text = match namespace {
        Some(_) => run_within(limit, "ip", &args, &[])?,
        None => run_within(limit, &program, &args[4..], &[])?,
    };
    let document: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    if let Some(ledger) = document.get("ledger").and_then(Value::as_str)
        && ledger != "ok"
    {
        bail!("frames are not all accounted for: {ledger}");
    }
    Ok(document)
}

/// Waits until the switch behind `control` accounts for every frame it has seen (invariant 2: what came in is what
/// went out and what was dropped), which it does once traffic rests.
///
/// # Errors
/// When it does not within five seconds: with what is missing.
pub fn accounted(control: &Path) -> Result<()> {
    let program = program()?.display().to_string();
    let socket = control.display().to_string();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match run(&program, &["show", "--check", "--json", "--socket", &socket], &[]) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            // Its last words, not the whole status.
            Err(error) => {
                let text = error.to_string();
                let words = text.lines().find(|l| l.contains("accounted")).unwrap_or(&text);
                bail!("{}", words.trim_end_matches('{').trim());
            }
        }
    }
}

/// A number of the document, by its path.
///
/// # Errors
/// When it is not there.
pub fn number(document: &Value, pointer: &str) -> Result<f64> {
    document.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {document}"))
}
