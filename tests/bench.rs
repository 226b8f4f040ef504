//! The packet generator against the real program: what it says it sent and received is what the switch counted.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Net, alone, portgroup, program, vnic};
use serde_json::Value;

/// Runs `vswitch bench` between two ports of one switch and returns its document.
fn bench(adapter: &str, options: &[&str]) -> Result<(Net, Value)> {
    let learning = "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n";
    let tables =
        portgroup("Bench", "10") + learning + &vnic("a", "Bench", adapter, 1) + &vnic("b", "Bench", adapter, 2);
    let net = Net::start(None, "", &tables)?;
    let station = |name: &str| format!("{adapter}:{}", net.switch.socket(name).display());
    let control = net.switch.control_socket();
    let mut command = std::process::Command::new(program());
    command.args(["bench", "--a", &station("a"), "--b", &station("b"), "--seconds", "0.5", "--warmup", "0.1"]);
    command.args(["--json", "--socket"]).arg(control).args(options);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "bench ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok((net, serde_json::from_str(&text).context("a document")?))
}

fn number(document: &Value, key: &str) -> Result<u64> {
    document[key].as_u64().with_context(|| format!("no {key} in {document}"))
}

#[test]
fn every_adapter_is_benched_and_every_frame_accounted_for() -> Result<()> {
    let _alone = alone();
    let cases: [(&str, &[&str]); 5] = [
        ("virtio", &[]),
        ("virtio", &["--size", "imix", "--flows", "64", "--macs", "16", "--bidirectional"]),
        ("virtio", &["--rate", "20000", "--broadcast", "10", "--size", "1518"]),
        ("vmxnet3", &["--size", "512"]),
        ("vlance", &[]),
    ];
    for (adapter, options) in cases {
        let (net, document) = bench(adapter, options)?;
        let count = |key| number(&document, key);
        ensure!(count("received")? > 100, "{adapter} {options:?}: {document}");
        ensure!(count("sent")? == count("received")? + count("lost")?, "{adapter} {options:?}: {document}");
        ensure!(document["ledger"] == "ok", "{adapter} {options:?}: {document}");
        net.finish()?;
    }
    Ok(())
}

#[test]
fn latencies_are_in_order() -> Result<()> {
    let _alone = alone();
    let (net, document) = bench("virtio", &["--latency"])?;
    let at = |key: &str| document["latency_us"][key].as_f64().with_context(|| format!("no {key} in {document}"));
    ensure!(number(&document, "frames")? > 100, "{document}");
    ensure!(0.0 < at("p50")? && at("p50")? <= at("p99")? && at("p99")? <= at("p999")? && at("p999")? <= at("max")?);
    net.finish()
}

#[test]
fn what_cannot_be_is_refused() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--ring", "100"], 2, "power of two"),
        (&["--seconds=-1"], 2, "a time is"),
        (&["--size", "12"], 2, "64 to 1522"),
        (&["--cpu", "5000"], 1, "no CPU 5000"),
        (&[], 1, "station a"),
    ];
    for (options, code, words) in cases {
        let stations = ["bench", "--a", "virtio:/nowhere/a.sock", "--b", "virtio:/nowhere/b.sock"];
        let output = std::process::Command::new(program()).args(stations).args(options).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {text}");
        assert!(text.contains(words), "{options:?}: {text}");
    }
}
