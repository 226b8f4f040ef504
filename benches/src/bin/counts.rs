//! counts BASELINES compare|take: reads what the instruction benches print as JSON, a benchmark to a line, and compares
//! it with the stored baselines, or stores it. Run by `scripts/lint.sh`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use benches::stages::{COUNTED_ROUNDS, FRAMES};
use serde_json::Value;

/// More than this above its baseline, in parts of it, is a regression.
const LIMIT: f64 = 0.03;
/// The same where another compiler made the code: it inlines and orders otherwise, and only what is gross can be told.
const LIMIT_OF_ANOTHER_COMPILER: f64 = 0.15;

/// Instructions per frame, by stage.
type Counts = BTreeMap<String, f64>;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, what] = args.as_slice() else { bail!("usage: counts BASELINES compare|take") };
    let counts = counted()?;
    let compiler = compiler()?;
    match what.as_str() {
        "take" => {
            std::fs::write(path, written(&compiler, &counts)).with_context(|| format!("writing {path}"))?;
            println!("counts: {} stages are in {path}", counts.len());
            Ok(ExitCode::SUCCESS)
        }
        "compare" => compare(path, &compiler, &counts),
        other => bail!("\"{other}\" is neither compare nor take"),
    }
}

/// What the benches printed.
fn counted() -> Result<Counts> {
    let mut counts = Counts::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if !line.starts_with('{') {
            continue;
        }
        let summary: Value = serde_json::from_str(&line).context("a summary in JSON")?;
        let stage = summary["id"].as_str().context("a benchmark without a name")?;
        let instructions = instructions(&summary).with_context(|| format!("no instructions of {stage}"))?;
        // Nothing was counted: the function to count was not found by its name.
        ensure!(instructions > 0, "{stage} counts no instruction");
        counts.insert(stage.to_owned(), instructions as f64 / (COUNTED_ROUNDS as f64 * FRAMES as f64));
    }
    ensure!(!counts.is_empty(), "the benches printed no counts");
    Ok(counts)
}

/// Instructions of the run that `summary` is of; those of an earlier run may stand beside them, as `old`.
fn instructions(summary: &Value) -> Option<u64> {
    summary.pointer("/profiles/0/data/total/metrics/Ir/values/new")?.as_u64()
}

/// The compiler's version, as it says it.
fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("asking rustc for its version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn written(compiler: &str, counts: &Counts) -> String {
    let mut text = format!(
        "# Instructions per frame of each stage; see benches/INSTRUCTIONS.md. Taken by scripts/lint.sh --take-counts.\n\
         compiler = \"{compiler}\"\n\n[instructions]\n"
    );
    for (stage, count) in counts {
        let _ = writeln!(text, "{stage} = {count:.2}");
    }
    text
}

fn compare(path: &str, compiler: &str, counts: &Counts) -> Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let table: toml::Table = text.parse().with_context(|| format!("in {path}"))?;
    let taken_with = table.get("compiler").and_then(toml::Value::as_str).context("the baselines name no compiler")?;
    let stored = table.get("instructions").and_then(toml::Value::as_table).context("no [instructions]")?;
    let limit = if taken_with == compiler { LIMIT } else { LIMIT_OF_ANOTHER_COMPILER };
    if taken_with != compiler {
        println!("counts: the baselines are of {taken_with}, this is {compiler}: only {:.0} % is told", limit * 100.0);
    }
    let mut failed = false;
    for stage in counts.keys().chain(stored.keys().filter(|s| !counts.contains_key(*s))) {
        let now = counts.get(stage).copied();
        let before = stored.get(stage).and_then(|b| b.as_float().or_else(|| b.as_integer().map(|n| n as f64)));
        failed |= tell(stage, now, before, limit);
    }
    if !failed {
        return Ok(ExitCode::SUCCESS);
    }
    println!("counts: where it is meant to be so, take new baselines with scripts/lint.sh --take-counts");
    Ok(ExitCode::FAILURE)
}

/// Prints one line of the comparison; true when it is one to fail for.
fn tell(stage: &str, now: Option<f64>, before: Option<f64>, limit: f64) -> bool {
    let (text, failed) = match (now, before) {
        (Some(now), Some(before)) => {
            let change = now / before - 1.0;
            let verdict = if change > limit { "REGRESSION" } else { "" };
            (format!("{now:9.2} {before:9.2} {:+6.1} % {verdict}", change * 100.0), change > limit)
        }
        (Some(now), None) => (format!("{now:9.2} has no baseline"), true),
        (None, _) => ("was not counted".to_owned(), true),
    };
    println!("counts: {stage:<18} {}", text.trim_end());
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_and_a_gap_fail_and_an_improvement_does_not() {
        assert!(tell("s", Some(103.1), Some(100.0), LIMIT));
        assert!(!tell("s", Some(102.9), Some(100.0), LIMIT));
        assert!(!tell("s", Some(50.0), Some(100.0), LIMIT));
        assert!(tell("s", Some(1.0), None, LIMIT));
        assert!(tell("s", None, Some(1.0), LIMIT));
    }

    #[test]
    fn the_new_count_is_taken_and_not_the_old() {
        let summary = serde_json::json!({ "profiles": [{ "data": { "total": { "metrics": {
            "Ir": { "values": { "new": 7, "old": 9 } }
        } } } }] });
        assert_eq!(instructions(&summary), Some(7));
        assert_eq!(instructions(&serde_json::json!({ "profiles": [] })), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let counts = Counts::from([("poll_64".to_owned(), 42.126)]);
        let table: toml::Table = written("rustc 1.2.3", &counts).parse().expect("TOML");
        assert_eq!(table["compiler"].as_str(), Some("rustc 1.2.3"));
        assert_eq!(table["instructions"]["poll_64"].as_float(), Some(42.13));
    }
}
