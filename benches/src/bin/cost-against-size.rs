//! cost-against-size [--rounds N] [--seconds S] [--only WORD] [--count yes] [--out DIR]: frames per second by size; writes
//! a chapter of SIZE.md, and size.svg. With `--count yes`, instructions too, by valgrind. With `--one AXIS:SIZE`, nothing
//! but some rounds of that size, for a profiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use benches::size::{self, AXES, Case, Results, Site};

/// Bytes of a frame without the CRC.
const FRAME: usize = 60;

fn main() -> Result<()> {
    let (mut rounds, mut seconds, mut only, mut count, mut out) =
        (5, 0.2, String::new(), false, PathBuf::from("benches"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--only" => only = value()?,
            "--count" => count = value()? == "yes",
            "--out" => out = value()?.into(),
            "--one" => return one(&value()?),
            other => bail!("{other} is unknown; known: --rounds, --seconds, --only, --count, --out, --one"),
        }
    }
    let named = AXES.iter().filter(|(axis, _)| axis.name().contains(&only));
    let cases: Vec<Case> = named.flat_map(|(axis, l)| l.iter().map(|size| Case { axis: *axis, size: *size })).collect();
    let mut results = Results::default();
    for round in 1..=rounds {
        for case in &cases {
            let mut site = Site::new(*case, FRAME);
            let ns = site.measure(seconds);
            results.add(*case, ns);
            results.unaccounted += usize::from(!site.accounted());
            println!("round {round}/{rounds}: {} {}: {:.2} Mpps, {ns:.1} ns", case.axis.name(), case.size, 1000.0 / ns);
        }
    }
    for case in cases.iter().filter(|_| count) {
        let instructions = instructions(*case, &out)?;
        println!("{} {}: {instructions:.0} instructions per frame", case.axis.name(), case.size);
        results.set_instructions(*case, instructions);
    }
    std::fs::create_dir_all(&out)?;
    size::put(&out.join("SIZE.md"), "Cost against size", &size::sizes(&results, rounds, FRAME))?;
    size::plot(&out.join("size.svg"), &results)
}

/// Rounds that make a profile.
const ROUNDS: usize = 40;

fn one(case: &str) -> Result<()> {
    let (axis, size) = case.split_once(':').context("AXIS:SIZE")?;
    let (axis, _) = AXES.iter().find(|(a, _)| format!("{a:?}") == axis).context("no such axis")?;
    let mut site = Site::new(Case { axis: *axis, size: size.parse()? }, FRAME);
    site.settle();
    let frames: usize = (0..ROUNDS).map(|_| site.round().0).sum();
    println!("frames {frames} {}", site.accounted());
    Ok(())
}

/// Instructions per frame in the worker's turns.
fn instructions(case: Case, out: &Path) -> Result<f64> {
    let file = out.join("callgrind.size");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*Site*turn*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(["--one", &format!("{:?}:{}", case.axis, case.size)])
        .output()
        .context("valgrind")?;
    let _ = std::fs::remove_file(&file);
    let (told, log) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let frames = told.split("frames ").nth(1).and_then(|t| t.split(' ').next()).context("no frames told")?;
    let collected = log.split("Collected : ").nth(1).and_then(|t| t.split_whitespace().next());
    Ok(collected.with_context(|| log.to_string())?.parse::<f64>()? / frames.parse::<f64>()?)
}
