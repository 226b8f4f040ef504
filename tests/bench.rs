//! The packet generator against the real program: what it says it sent and received is what the switch counted.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use common::{Net, alone, portgroup, program, vnic};
use serde_json::{Value, json};
use testbed::netns::{Host, Lab, VethOptions};

/// A switch with two ports, and the stations at them.
fn ports(adapter: &str) -> Result<(Net, [String; 2])> {
    let learning = "mac_learning = true\n[portgroup.security]\nforged_transmits = true\n";
    let tables =
        portgroup("Bench", "10") + learning + &vnic("a", "Bench", adapter, 1) + &vnic("b", "Bench", adapter, 2);
    let net = Net::start(None, "", &tables)?;
    let stations = ["a", "b"].map(|name| format!("{adapter}:{}", net.switch.socket(name).display()));
    Ok((net, stations))
}

/// Runs `vswitch bench` between two ports of one switch and returns its document.
fn bench(adapter: &str, options: &[&str]) -> Result<(Net, Value)> {
    let (net, [a, b]) = ports(adapter)?;
    let control = net.switch.control_socket();
    let control = control.to_str().context("a name in UTF-8")?;
    let output = direct(None, &[&["--a", &a, "--b", &b, "--json", "--socket", control], options].concat())?;
    Ok((net, document(&output)?))
}

fn number(document: &Value, key: &str) -> Result<u64> {
    document[key].as_u64().with_context(|| format!("no {key} in {document}"))
}

#[test]
fn every_adapter_is_benched_and_every_frame_accounted_for() -> Result<()> {
    let _alone = alone();
    let cases: [(&str, &[&str]); 7] = [
        ("virtio", &[]),
        ("virtio", &["--size", "imix", "--flows", "64", "--macs", "16", "--bidirectional"]),
        ("virtio", &["--rate", "20000", "--broadcast", "10", "--size", "1518"]),
        ("vmxnet3", &["--size", "512"]),
        ("vlance", &[]),
        ("vmxnet3", &["--size", "imix", "--flows", "8", "--check", "1"]),
        ("vlance", &["--size", "imix", "--macs", "2", "--bidirectional", "--check", "1"]),
    ];
    for (adapter, options) in cases {
        let (net, document) = bench(adapter, options)?;
        let count = |key| number(&document, key);
        ensure!(count("received")? > 100, "{adapter} {options:?}: {document}");
        ensure!(count("sent")? == count("received")? + count("lost")?, "{adapter} {options:?}: {document}");
        ensure!(document["ledger"] == "ok", "{adapter} {options:?}: {document}");
        ensure!(count("foreign")? == 0, "{adapter} {options:?}: {document}");
        sides_add_up(&document, options.contains(&"--bidirectional"))?;
        net.finish()?;
    }
    Ok(())
}

/// The sides' counts make the whole's; what one sent the other received or it was lost.
fn sides_add_up(document: &Value, both: bool) -> Result<()> {
    let side = |name: &str, key| number(&document[name], key);
    for key in ["sent", "received", "lost", "foreign"] {
        ensure!(side("a", key)? + side("b", key)? == number(document, key)?, "{key}: {document}");
    }
    ensure!(side("a", "sent")? == side("b", "received")? + side("a", "lost")?, "{document}");
    ensure!((side("b", "sent")? > 0) == both && (side("a", "received")? > 0) == both, "{document}");
    Ok(())
}

/// Runs the program as it is, in the host's namespace if one is given.
fn direct(host: Option<&Host>, options: &[&str]) -> Result<Output> {
    let mut command = match host {
        Some(host) => {
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", host.namespace()]).arg(program());
            ip
        }
        None => Command::new(program()),
    };
    Ok(command.args(["bench", "--seconds", "0.5", "--warmup", "0.1"]).args(options).output()?)
}

fn document(output: &Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bench ended with {}: {text}", output.status);
    serde_json::from_slice(&output.stdout).context("a document")
}

/// The bench's own switch: every frame is accounted for, tagged and measured under load too, and nothing stays behind.
#[test]
fn a_switch_of_its_own() -> Result<()> {
    let _alone = alone();
    let scratch = tempfile::tempdir()?;
    let cases: [&[&str]; 4] = [
        &["--self", "--bidirectional", "--rate", "5000", "--latency"],
        &["--self", "vmxnet3", "--vlan", "12", "--check", "1"],
        &["--self", "vlance", "--macs", "3", "--rate", "500"],
        &["--self", "--search", "--precision", "0.4", "--loss", "0.1", "--seconds", "0.1"],
    ];
    for options in cases {
        let options = [options, &["--json"]].concat();
        let mut command = Command::new(program());
        command.arg("bench").args(&options).env("TMPDIR", scratch.path());
        if !options.contains(&"--seconds") {
            command.args(["--seconds", "0.5"]);
        }
        let document = document(&command.args(["--warmup", "0.1"]).output()?)?;
        ensure!(document["ledger"] == "ok", "{options:?}: {document}");
        ensure!(number(&document, "received")? > 50 && number(&document, "foreign")? == 0, "{options:?}: {document}");
        if options.contains(&"--search") {
            found_rate_was_tried(&document, 0.1)?;
        }
        if options.contains(&"--latency") {
            let at = |key: &str| document["latency_us"][key].as_f64().with_context(|| format!("{key}: {document}"));
            ensure!(number(&document, "frames")? > 100, "{document}");
            ensure!(0.0 < at("p50")? && at("p50")? <= at("p999")? && at("p999")? <= at("max")?, "{document}");
            sides_add_up(&document, true)?;
        }
        ensure!(std::fs::read_dir(scratch.path())?.next().is_none(), "its directory stays behind: {options:?}");
    }
    Ok(())
}

/// The rate a search found is that of a trial, whose counts are told: nearly all that was due was sent, and no more of it
/// lost than is allowed.
fn found_rate_was_tried(document: &Value, loss: f64) -> Result<()> {
    let at = |key: &str| document[key].as_f64().with_context(|| format!("no {key} in {document}"));
    let (rate, sent) = (at("rate_pps")?, at("sent")?);
    ensure!(rate > 0.0 && sent >= 0.98 * rate * at("seconds")?, "it was sent at this rate: {document}");
    ensure!(at("lost")? <= loss * sent && at("sent")? == at("received")? + at("lost")?, "{document}");
    sides_add_up(document, false)
}

/// A control socket at `path` whose switch tells bad sums `bad` times, and good ones from then on.
fn switch_with_bad_sums(path: &Path, bad: usize) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let status = |offered: u64| {
        json!({
            "switch": {"name": "vSwitch0", "mtu": 1500, "workers": []},
            "ports": [{"name": "a", "role": "vnic", "connected": true, "link": "up",
                       "in": {"frames": 7, "bytes": 420, "forwarded": 7, "copies": 7},
                       "out": {"frames": 7, "bytes": 420, "offered": offered}, "drops": {}}],
            "team": {"load_balancing": "port-id", "failure_detection": "link", "shotgun": false, "uplinks": []}
        })
    };
    // It ends with the test.
    thread::spawn(move || {
        for (count, stream) in listener.incoming().flatten().enumerate() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let answer = json!({"id": 1, "result": status(if count < bad { 8 } else { 7 })});
            let _ = (&stream).write_all(format!("{answer}\n").as_bytes());
        }
    });
    Ok(())
}

/// Sums that do not hold at once may later; those that never do, and a switch that does not answer, fail the bench, whose
/// report comes all the same.
#[test]
fn sums_of_a_switch_that_do_not_hold() -> Result<()> {
    let _alone = alone();
    let (net, [a, b]) = ports("virtio")?;
    let cases = [
        (Some(3), 0, "ok", ""),
        (Some(usize::MAX), 1, "a: 8 frames offered are not 7 out and 0 dropped", "frames are not all accounted for"),
        (None, 1, "no switch answers", "frames are not all accounted for"),
    ];
    for (number_of, (bad, code, ledger, words)) in cases.into_iter().enumerate() {
        let socket = net.dir().join(format!("bad-{number_of}.sock"));
        if let Some(bad) = bad {
            switch_with_bad_sums(&socket, bad)?;
        }
        let socket = socket.to_str().context("a name in UTF-8")?;
        let output = direct(None, &["--a", &a, "--b", &b, "--rate", "2000", "--json", "--socket", socket])?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code) && text.contains(words), "{ledger}: {text}");
        let document: Value = serde_json::from_slice(&output.stdout).context("a document")?;
        ensure!(document["ledger"].as_str().is_some_and(|told| told.contains(ledger)), "{document}");
        ensure!(number(&document, "received")? > 100, "{document}");
    }
    net.finish()
}

/// The report for people ends with the sums.
#[test]
fn a_report_ends_with_the_sums() -> Result<()> {
    let _alone = alone();
    let output = direct(None, &["--self", "--rate", "1000"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    ensure!(output.status.success() && text.contains("ledger  ok"), "{text}");
    ensure!(["sent", "received", "lost", "foreign 0"].iter().all(|word| last.contains(word)), "{text}");
    Ok(())
}

/// The seconds and rates that a line told on a terminal, each in the place of the one before.
fn told(terminal: &str) -> Result<Vec<(f64, f64)>> {
    let lines = terminal.split('\r').filter(|line| line.contains("Mpps"));
    let numbers = lines.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [seconds, "s", mpps, "Mpps", _, "lost"] => Ok((seconds.parse()?, mpps.parse()?)),
            _ => Err(anyhow::anyhow!("{line:?} in {terminal:?}")),
        }
    });
    numbers.collect()
}

/// Where somebody looks on, a line that changes tells how it goes; it is not in the report, whatever that is for. A pipe
/// gets the report alone.
#[test]
fn a_terminal_is_told_how_it_goes() -> Result<()> {
    let _alone = alone();
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("report");
    let bench = format!("{} bench --self --seconds 2.5 --warmup 0.1", program().display());
    let people = |text: &str| text.lines().last().is_some_and(|line| line.contains("foreign 0"));
    for options in ["--rate 20000", "--rate 20000 --json", "--latency --json"] {
        // `script` gives what it runs a terminal, and prints what comes out at it.
        let line = format!("exec {bench} {options} >{}", file.display());
        let output =
            Command::new("script").args(["-q", "-e", "-c", &line, "/dev/null"]).stdin(Stdio::null()).output()?;
        let terminal = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{options}: {terminal}");
        let (told, report) = (told(&terminal)?, std::fs::read_to_string(&file)?);
        println!("{options}: {told:?}");
        let between = |(seconds, mpps): &(f64, f64)| (1.0..=2.5).contains(seconds) && *mpps > 0.0;
        ensure!(!told.is_empty() && told.iter().all(between), "while it runs: {terminal:?}");
        ensure!(told.is_sorted_by(|a, b| a.0 <= b.0) && terminal.ends_with('\n'), "{terminal:?}");
        ensure!(!report.contains('\r') && report.matches("Mpps").count() == 0, "{options}: {report:?}");
        if options.contains("--json") {
            let document: Value = serde_json::from_str(&report).with_context(|| format!("one document: {report:?}"))?;
            ensure!(document["ledger"] == "ok" && report.lines().count() == 1, "{report:?}");
        } else {
            ensure!(people(&report), "{report:?}");
        }
    }
    for options in [&["--rate", "2000"][..], &["--rate", "2000", "--json"]] {
        let mut words = bench.split(' ');
        let mut command = Command::new(words.next().context("a program")?);
        let output = command.args(words).args(options).stdin(Stdio::null()).output()?;
        let (report, aside) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success() && aside.is_empty(), "a pipe gets nothing: {aside:?}");
        ensure!(options.contains(&"--json") == serde_json::from_str::<Value>(&report).is_ok(), "{report:?}");
    }
    Ok(())
}

/// Interfaces, bare and through a switch's `netdev` ports, by each driver; the kernel's own frames count apart.
#[test]
fn interfaces_are_benched() -> Result<()> {
    let _alone = alone();
    let lab = Lab::new("bench")?;
    let host = lab.host("gen")?;
    lab.veth((&host, "v0"), (&host, "v1"), &VethOptions { offload: false, ..VethOptions::default() })?;
    for driver in ["af-packet", "af-xdp", "auto"] {
        let [a, b] = ["v0", "v1"].map(|name| format!("if:{name},driver={driver}"));
        for options in [&["--size", "imix", "--bidirectional"][..], &["--vlan", "7", "--rate", "2000", "--latency"]] {
            let run = direct(Some(&host), &[&["--a", &a, "--b", &b, "--json"], options].concat())?;
            let document = document(&run)?;
            ensure!(number(&document, "received")? > 100, "{driver} {options:?}: {document}");
            ensure!(document["a"]["driver"].is_string(), "{document}");
            println!("bare, {driver} {options:?}: {} Mpps", document["received_mpps"]);
        }
    }

    let machine = lab.host("sw")?;
    let mut tables = portgroup("Bench", "10");
    for (n, name) in ["s0", "s1"].into_iter().enumerate() {
        lab.veth((&machine, name), (&host, &format!("p{n}")), &VethOptions::default())?;
        tables += &vnic(name, "Bench", "netdev", n as u8 + 1);
        tables += &format!("device = \"{name}\"\ndriver = \"af_packet\"\n");
    }
    let net = Net::start(Some(machine.namespace()), "", &tables)?;
    let control = net.switch.control_socket();
    let socket = control.to_str().context("a name in UTF-8")?;
    // Neighbour discovery and the like: the same frames go on while the run does.
    let mut chatter = host.spawn(&["ping", "-6", "-i", "0.05", "-I", "p0", "ff02::1"], |command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    })?;
    let run = direct(Some(&host), &["--a", "if:p0", "--b", "if:p1", "--rate", "2000", "--json", "--socket", socket])?;
    let _ = chatter.child().kill();
    let document = document(&run)?;
    ensure!(number(&document, "received")? > 100, "{document}");
    ensure!(number(&document, "received")? <= number(&document, "sent")?, "foreign frames do not count: {document}");
    net.finish()
}

/// A station that listens: the switch connects to it.
#[test]
fn the_switch_connects_to_a_station() -> Result<()> {
    let _alone = alone();
    let mut tables = portgroup("Bench", "10");
    for (name, last) in [("a", 1), ("b", 2)] {
        tables += &vnic(name, "Bench", "virtio", last);
        tables += "vhost_mode = \"client\"\n";
    }
    let net = Net::start(None, "", &tables)?;
    let [a, b] = ["a", "b"].map(|name| format!("virtio:{},server", net.switch.socket(name).display()));
    let document = document(&direct(None, &["--a", &a, "--b", &b, "--json"])?)?;
    ensure!(number(&document, "received")? > 100, "{document}");
    ensure!(!net.switch.socket("a").exists(), "the station's socket stays behind");
    net.finish()
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
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--latency", "--bidirectional"], 2, "--latency without --rate sends one frame at a time"),
        (&["--vlan", "4095"], 2, "1 to 4094"),
        (&["--search", "--precision", "0"], 2, "a precision is"),
        (&["--self"], 2, "cannot be used with"),
        (&["--flows", "59999", "--macs", "4093"], 1, "different frames"),
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
