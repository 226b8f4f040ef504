//! The table cases: a frame in, a policy, the expected ports and bytes.
//!
//! Each file in `tests/cases` is one topic; `switches.toml` holds the switches they name and `README.md` says
//! how to write a case. Every case also asserts that the sums hold and that nothing but what it lists came out
//! or was dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dataplane::HEARD_MAX;
use serde::Deserialize;
use wire::Mac;

use crate::frames::{Ends, Kind, PLAIN, Shape, seen_tag};
use crate::spec::{SwitchSpec, Switches, tag};
use crate::switch::Switch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Topic {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    switch: String,
    /// The port the frame comes in by.
    from: String,
    frame: FrameSpec,
    /// How many times.
    #[serde(default = "once")]
    times: usize,
    #[serde(default)]
    out: Vec<Out>,
    #[serde(default)]
    drop: Vec<Drop>,
    /// Handed to the switch itself.
    #[serde(default)]
    heard: Vec<Hearing>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameSpec {
    /// An address, a port's name, or `outside`, `stranger`, `broadcast`.
    dst: String,
    /// As `dst`; the sending port's own address unless told, `outside` on an uplink.
    src: Option<String>,
    tag: Option<String>,
    #[serde(default)]
    in_band: bool,
    inner: Option<String>,
    /// Bytes after the Ethernet header, or of TCP payload.
    #[serde(default = "small")]
    payload: usize,
    /// TCP over IPv4 (or v6) whose checksum is to be filled in.
    #[serde(default)]
    tcp: bool,
    #[serde(default)]
    v6: bool,
    /// The IP addresses of a TCP frame, source first.
    ip: Option<(IpAddr, IpAddr)>,
    /// EtherType of a frame that is not TCP.
    ethertype: Option<u16>,
    /// Bytes of TCP payload per segment: makes it TCP.
    mss: Option<u16>,
    /// Cuts the frame off after so many bytes.
    cut: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Out {
    port: String,
    tag: Option<String>,
    /// Bytes of the frame as the port's peer has it, with a tag that stands in it.
    len: usize,
    #[serde(default = "once")]
    times: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drop {
    port: String,
    /// `in` or `out`.
    way: String,
    reason: String,
    #[serde(default = "one")]
    times: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hearing {
    uplink: String,
    #[serde(default)]
    vlan: u16,
    /// Bytes of the untagged frame that were kept.
    len: usize,
    #[serde(default = "once")]
    times: usize,
}

fn once() -> usize {
    1
}

fn one() -> u64 {
    1
}

fn small() -> usize {
    100
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap();
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn address(text: &str, spec: &SwitchSpec) -> Mac {
    match text {
        "broadcast" => Mac::BROADCAST,
        "outside" => Mac([0x02, 0, 0, 0, 0, 0xaa]),
        "stranger" => Mac([0x02, 0, 0, 0, 0, 0xbb]),
        _ => match spec.vnics.iter().find(|v| v.name == text) {
            Some(vnic) => vnic.mac,
            None => text.parse().unwrap_or_else(|e| panic!("\"{text}\" is no port, and {e}")),
        },
    }
}

impl Case {
    fn shape(&self, spec: &SwitchSpec) -> Shape {
        let f = &self.frame;
        let own = if spec.vnics.iter().any(|v| v.name == self.from) { &self.from } else { "outside" };
        let ends = match f.ip {
            None => Ends::any(f.v6),
            Some((IpAddr::V4(from), IpAddr::V4(to))) => Ends::V4(from.octets(), to.octets()),
            Some((IpAddr::V6(from), IpAddr::V6(to))) => Ends::V6(from.octets(), to.octets()),
            Some(ends) => panic!("{}: {ends:?} are of two kinds", self.name),
        };
        let kind = match f.tcp || f.ip.is_some() || f.mss.is_some() {
            true => Kind::Tcp { ends, mss: f.mss },
            false => f.ethertype.map_or(PLAIN, Kind::Plain),
        };
        let tag_of = |text: &Option<String>| text.as_ref().map(|t| tag(t).unwrap_or_else(|| panic!("tag {t}")));
        Shape {
            dst: address(&f.dst, spec),
            src: address(f.src.as_deref().unwrap_or(own), spec),
            tag: tag_of(&f.tag),
            in_band: f.in_band,
            inner: tag_of(&f.inner),
            payload: f.payload,
            kind,
            id: (1, 2),
        }
    }

    fn run(&self, switches: &Switches) -> Result<(), String> {
        let spec = switches.get(&self.switch).ok_or_else(|| format!("no switch {}", self.switch))?;
        let mut switch = Switch::new(spec, 1);
        let shape = self.shape(spec);
        let mut sent = shape.sent(vec![60, 14]);
        sent.bytes.truncate(self.frame.cut.unwrap_or(usize::MAX));
        let from = switch.index(&self.from);
        let done = switch.send(from, 0, std::iter::repeat_n(sent, self.times));
        switch.run(&[done]);
        switch.check_sums()?;
        self.check_out(&switch)?;
        self.check_drops(&switch)?;
        self.check_heard(&switch, &shape)?;
        let entered = switch.totals(from).in_frames;
        if entered != self.times as u64 {
            return Err(format!("{entered} frames came in"));
        }
        self.check_bytes(&switch, &shape)
    }

    fn check_out(&self, switch: &Switch) -> Result<(), String> {
        let mut want: BTreeMap<&str, Vec<(Option<u16>, usize)>> = BTreeMap::new();
        for out in &self.out {
            let one = (out.tag.as_ref().map(|t| tag(t).unwrap_or_else(|| panic!("tag {t}")).0), out.len);
            want.entry(&out.port).or_default().extend(std::iter::repeat_n(one, out.times));
        }
        let mut got = BTreeMap::new();
        for (index, port) in switch.ports.iter().enumerate() {
            let frames = switch.received(index);
            if !frames.is_empty() {
                let list: Vec<_> = frames.iter().map(|f| (seen_tag(f).map(|t| t.0), f.bytes.len())).collect();
                got.insert(&*port.name, list);
            }
        }
        if got == want { Ok(()) } else { Err(format!("out (tag, length): {got:?}\n      expected: {want:?}")) }
    }

    fn check_drops(&self, switch: &Switch) -> Result<(), String> {
        let mut got: Vec<String> =
            switch.drops().iter().map(|(port, way, reason, n)| format!("{port} {way} {reason} {n}")).collect();
        let mut want: Vec<String> =
            self.drop.iter().map(|d| format!("{} {} {} {}", d.port, d.way, d.reason, d.times)).collect();
        got.sort();
        want.sort();
        if got == want { Ok(()) } else { Err(format!("dropped: {got:?}\n      expected: {want:?}")) }
    }

    /// The switch heard what was sent, and was called once for all of it.
    fn check_heard(&self, switch: &Switch, shape: &Shape) -> Result<(), String> {
        let whole = shape.untagged();
        let kept = &whole[..whole.len().min(HEARD_MAX).min(self.frame.cut.unwrap_or(usize::MAX))];
        let heard = switch.heard();
        if let Some(other) = heard.iter().find(|h| h.bytes[..] != *kept) {
            return Err(format!("heard {:?}", other.bytes));
        }
        let name = |id| &*switch.ports.iter().find(|p| p.id == id).expect("a port").name;
        let got: Vec<_> = heard.iter().map(|h| (name(h.uplink), h.vlan, h.bytes.len())).collect();
        let repeat = |h: &'_ Hearing| std::iter::repeat_n((h.uplink.clone(), h.vlan, h.len), h.times);
        let want: Vec<_> = self.heard.iter().flat_map(repeat).collect();
        if !got.iter().copied().eq(want.iter().map(|(uplink, vlan, len)| (uplink.as_str(), *vlan, *len))) {
            return Err(format!("heard: {got:?}\n      expected: {want:?}"));
        }
        match (switch.wakes(), !want.is_empty()) {
            (1, true) | (0, false) => Ok(()),
            (n, _) => Err(format!("called {n} times for {} frames heard", want.len())),
        }
    }

    /// Each copy is what was sent, to the byte. (Of a segmented frame whose segments did not all find room there is
    /// nothing to put together; tag and length of those that did are checked like all.)
    fn check_bytes(&self, switch: &Switch, shape: &Shape) -> Result<(), String> {
        for out in &self.out {
            let index = switch.index(&out.port);
            let got = switch.received(index);
            let torn = switch.totals(index).out_drops.iter().any(|n| *n > 0) && !matches!(shape.kind, Kind::Plain(_));
            if torn {
                continue;
            }
            let delivered = out.tag.as_deref().and_then(tag).filter(|_| !self.is_inner(out));
            let per_frame = if matches!(shape.kind, Kind::Plain(_)) { 1 } else { got.len() / self.times };
            for copy in got.chunks(per_frame) {
                match self.frame.cut {
                    Some(_) if copy[0].bytes == shape.untagged()[..out.len] => Ok(()),
                    Some(_) => Err("not the bytes before the cut".to_owned()),
                    None => shape.check(copy, switch.ports[index].egress.caps(), delivered),
                }
                .map_err(|e| format!("{}: {e}", out.port))?;
            }
        }
        Ok(())
    }

    /// True when the tag the receiver sees is the frame's own second one.
    fn is_inner(&self, out: &Out) -> bool {
        self.frame.inner.is_some() && self.frame.inner == out.tag && self.frame.tag != out.tag
    }
}

#[test]
fn table_cases() {
    let switches: Switches = read(&folder().join("switches.toml"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && !path.ends_with("switches.toml"))
        .collect();
    files.sort();
    let (mut failures, mut count) = (Vec::new(), 0);
    for path in &files {
        for case in read::<Topic>(path).case {
            count += 1;
            if let Err(error) = case.run(&switches) {
                failures.push(format!("{}: {}\n      {error}", path.file_name().unwrap().display(), case.name));
            }
        }
    }
    println!("{count} cases in {} files", files.len());
    assert!(count > 0 && failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}
