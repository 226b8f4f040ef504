//! What is printed.

use serde_json::{Value, json};
use testbed::generator::{Outcome, SideOutcome};

/// The keys that sum a run up: the last line of a report for people.
const SUMS: [&str; 4] = ["sent", "received", "lost", "foreign"];

/// Times in nanoseconds.
pub(super) type Times = hdrhistogram::Histogram<u64>;

pub(super) fn outcome(outcome: &Outcome) -> Value {
    let [a, b] = &outcome.sides;
    json!({
        "sent": outcome.sent,
        "received": outcome.received,
        "lost": outcome.lost(),
        "foreign": outcome.foreign(),
        "seconds": outcome.seconds,
        "sent_mpps": outcome.sent as f64 / outcome.seconds / 1e6,
        "received_mpps": outcome.mpps(),
        "gbits": outcome.gbits(),
        "a": side(a, b),
        "b": side(b, a),
    })
}

/// One side; what it sent and `other` did not receive is its loss.
fn side(side: &SideOutcome, other: &SideOutcome) -> Value {
    json!({
        "sent": side.sent,
        "received": side.received,
        "lost": side.sent.saturating_sub(other.received),
        "foreign": side.foreign,
    })
}

/// Adds how long frames took.
pub(super) fn add_times(document: &mut Value, times: &Times) {
    let at = |percent: f64| times.value_at_quantile(percent / 100.0) as f64 / 1e3;
    document["frames"] = times.len().into();
    document["latency_us"] =
        json!({"p50": at(50.0), "p99": at(99.0), "p999": at(99.9), "max": times.max() as f64 / 1e3});
}

/// For people: what was measured, and the sums at the end.
pub(super) fn text(document: &Value) -> String {
    let mut lines = Vec::new();
    for (key, value) in document.as_object().into_iter().flatten().filter(|(key, _)| !SUMS.contains(&key.as_str())) {
        let value = match value {
            Value::Object(parts) => parts.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join("  "),
            Value::String(words) => words.clone(),
            other => other.to_string(),
        };
        lines.push(format!("{key:>14}  {value}"));
    }
    let sums = SUMS.map(|key| format!("{key} {}", document.get(key).unwrap_or(&Value::from(0))));
    lines.push(format!("{:>14}  {}", "frames", sums.join("  ")));
    lines.join("\n")
}
