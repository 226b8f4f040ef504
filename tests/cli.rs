//! The program as a user meets it: sentences, exit codes, what goes to which stream.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vswitch");

/// A directory of this test's own, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        // Not under target/: its path may be too long for a socket, and not open to other users.
        let path = std::env::temp_dir().join(format!("vswitch-cli-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn vswitch(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Refused with `code` and exactly `text` on standard error, nothing on standard output.
fn assert_refused(output: &Output, code: i32, text: &str) {
    assert_eq!(
        (output.status.code(), stderr(output), stdout(output)),
        (Some(code), format!("{text}\n"), String::new())
    );
}

const GROUP_AND_VNIC: &str = "[[portgroup]]\nname = \"Production\"\nvlan = 10\n\
    [[vnic]]\nname = \"web1\"\nportgroup = \"Production\"\nadapter = \"vmxnet3\"\nmac = \"00:50:56:00:00:01\"\n";

/// A configuration whose sockets are in `dir`; `lo` is there on every machine.
fn config(dir: &Path, device: &str) -> String {
    format!(
        "[switch]\nsocket_dir = \"{}\"\n[[uplink]]\nname = \"vmnic0\"\ndevice = \"{device}\"\n{GROUP_AND_VNIC}",
        dir.display()
    )
}

#[test]
fn check_counts_what_there_is() {
    let dir = Dir::new("counts");
    let text = format!("[switch]\nsocket_dir = \"{}\"\n{GROUP_AND_VNIC}", dir.0.display());
    let file = dir.write("net.toml", &text);
    let output = vswitch(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), format!("{}: ok: 1 switch, 0 uplinks, 1 port group, 1 vnic\n", file.display()));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn configuration_errors_name_file_line_and_mend() {
    let dir = Dir::new("errors");
    let good = config(&dir.0, "lo");
    let long = format!("/{}", "x".repeat(95));
    for (from, to, want) in [
        ("vlan", "vlna", ":8:1: unknown key \"vlna\" in port group \"Production\"; did you mean \"vlan\"?".to_owned()),
        (
            "[[vnic]]",
            "[[portgroup]]\nname = \"Production\"\n[[vnic]]",
            ":10:8: port group \"Production\" is already on line 7; a label is unique on its host, so choose another".to_owned(),
        ),
        (
            "vlan = 10",
            "vlan = 4096",
            ":8:8: VLAN 4096 of port group \"Production\" is outside 0 to 4095; \
             use 0 for untagged, 1 to 4094, or 4095 for guest tagging"
                .to_owned(),
        ),
        (
            "00:50:56:00:00:01",
            "00:50:56:1",
            ":13:7: MAC \"00:50:56:1\" of vnic \"web1\" is not six two-digit hexadecimal numbers; \
             write one as in 00:50:56:00:00:01"
                .to_owned(),
        ),
        (
            "[[vnic]]",
            "[[vnic]]\nname = \"web2\"\nportgroup = \"Production\"\nadapter = \"vlance\"\nmac = \"00:50:56:00:00:01\"\n[[vnic]]",
            ":18:7: MAC 00:50:56:00:00:01 of vnic \"web1\" is already that of vnic \"web2\" on line 13; give each vnic its own"
                .to_owned(),
        ),
        (
            "portgroup = \"Production\"",
            "portgroup = \"Produktion\"",
            ":11:13: port group \"Produktion\" of vnic \"web1\" does not exist; did you mean \"Production\"?".to_owned(),
        ),
        (
            "\"lo\"",
            "\"no-such-eth\"",
            ":5:10: interface \"no-such-eth\" of uplink \"vmnic0\" does not exist; \
             `ip link` lists those that do, in this network namespace"
                .to_owned(),
        ),
        (
            dir.0.to_str().unwrap(),
            &long,
            format!(
                ":2:14: socket path {long}/control.sock is 109 bytes long, but Linux allows 107; choose a shorter socket_dir"
            ),
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let file = dir.write("net.toml", &good.replacen(from, to, 1));
        for command in ["check", "run"] {
            let output = vswitch(&[command, "-c", file.to_str().unwrap()]);
            assert_refused(&output, 2, &format!("{}{want}", file.display()));
        }
    }
}

#[test]
fn several_problems_are_told_at_once() {
    let dir = Dir::new("several");
    let file = dir.write("net.toml", &config(&dir.0, "lo").replace("= 10", "= 4096").replace("vmxnet3", "ne2000"));
    let output = vswitch(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 2, "{}", stderr(&output));
}

/// A user without rights, whoever runs the test: root steps down to one.
#[test]
fn no_permission_is_told() {
    let dir = Dir::new("permission");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.0.join("vswitch");
    fs::copy(PROGRAM, &program).unwrap();
    let sockets = dir.0.join("sockets");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o555)).unwrap();
    let file = dir.write("net.toml", &config(&sockets, "lo"));
    let mut command = Command::new(&program);
    command.args(["check", "-c"]).arg(&file);
    let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap() == 0;
    if root {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let shown = file.display();
    assert_refused(
        &output,
        2,
        &format!(
            "{shown}:2:14: socket_dir {} may not be written by this user; choose another, or run as root\n\
             {shown}:5:10: interface \"lo\" may not be opened by this user; \
             run as root or with CAP_NET_RAW and CAP_NET_ADMIN",
            sockets.display()
        ),
    );
}

#[test]
fn usage_errors_are_one_sentence() {
    assert_refused(&vswitch(&[]), 2, "vswitch: no command was given; `vswitch --help` tells what there is");
    assert_refused(
        &vswitch(&["check", "-c", "/no/such/net.toml"]),
        2,
        "/no/such/net.toml: there is no such file; give the path of a configuration by -c FILE",
    );
    assert_refused(
        &vswitch(&["shwo"]),
        2,
        "vswitch: unrecognized subcommand 'shwo'; a similar subcommand exists: 'show'",
    );
    let help = vswitch(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("qemu-args"));
}

#[test]
fn show_without_a_switch() {
    let dir = Dir::new("nobody");
    let socket = dir.0.join("control.sock");
    assert_refused(
        &vswitch(&["show", "--socket", socket.to_str().unwrap()]),
        1,
        &format!("vswitch: no switch answers at {}; is `vswitch run` running, or give --socket PATH", socket.display()),
    );
}

const DEVICE: &str =
    "-device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"path\":\"DIR/web1.sock\",\"type\":\"unix\"}}'";

#[test]
fn qemu_args_from_a_configuration() {
    let dir = Dir::new("qemu");
    let file = dir.write("net.toml", &config(&dir.0, "lo"));
    let output = vswitch(&["qemu-args", "web1", "--memory", "1G", "-c", file.to_str().unwrap()]);
    let device = DEVICE.replace("DIR", dir.0.to_str().unwrap());
    assert_eq!(
        stdout(&output),
        format!(
            "-M q35,memory-backend=mem \\\n-m 1G \\\n-object memory-backend-memfd,id=mem,size=1G,share=on \\\n{device}\n"
        )
    );
    assert!(stderr(&output).starts_with("# QEMU 10.1"), "{}", stderr(&output));
    assert_refused(
        &vswitch(&["qemu-args", "web9", "-c", file.to_str().unwrap()]),
        2,
        "vswitch: there is no vnic \"web9\"; the vnics are web1",
    );
}

/// The lines that plug a virtio port with this socket in, by how QEMU and the switch find each other.
fn virtio_lines(name: &str, socket: &str, how: &str, queues: &str, vectors: &str) -> [String; 3] {
    [
        format!("-chardev 'socket,id=chr-{name},path={socket},{how}'"),
        format!("-netdev 'vhost-user,id=net-{name},chardev=chr-{name}{queues}'"),
        format!("-device 'virtio-net-pci,netdev=net-{name},mac=00:50:56:00:00:02{vectors}'"),
    ]
}

/// Whoever does not listen on the socket looks for the other again, so that a restart of the switch costs no VM its
/// network; queues are QEMU's as well as the switch's.
#[test]
fn qemu_args_of_virtio_ports() {
    let dir = Dir::new("a,comma");
    let socket = dir.0.join("v1.sock").display().to_string().replace(',', ",,");
    for (keys, how, queues, vectors) in [
        ("", "reconnect-ms=1000", "", ""),
        ("vhost_mode = \"server\"\nqueues = 2\n", "reconnect-ms=1000", ",queues=2", ",mq=on,vectors=6"),
        ("vhost_mode = \"client\"\n", "server=on,wait=off", "", ""),
        ("vhost_mode = \"client\"\nqueues = 8\n", "server=on,wait=off", ",queues=8", ",mq=on,vectors=18"),
    ] {
        let vnic = "[[vnic]]\nname = \"v1\"\nportgroup = \"Production\"\nadapter = \"virtio\"\n\
                    mac = \"00:50:56:00:00:02\"\n";
        let file = dir.write("net.toml", &(config(&dir.0, "lo") + vnic + keys));
        let output = vswitch(&["qemu-args", "v1", "web1", "-c", file.to_str().unwrap()]);
        let device = DEVICE.replace("DIR", dir.0.to_str().unwrap());
        let lines = virtio_lines("v1", &socket, how, queues, vectors).join(" \\\n");
        assert!(stdout(&output).ends_with(&format!("share=on \\\n{lines} \\\n{device}\n")), "{}", stdout(&output));
        assert_eq!(stderr(&output).contains("reconnect=1"), how.starts_with("reconnect"), "{}", stderr(&output));
    }
}

/// Answers every connection's first request with `status`.
fn serve(socket: &Path, status: &Value, connections: usize) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let answer = format!("{}\n", json!({"id": 1, "result": status}));
    thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "{\"id\":1,\"method\":\"show\",\"params\":{}}\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    })
}

#[test]
fn show_tables_json_and_sums() {
    let dir = Dir::new("show");
    let socket = dir.0.join("control.sock");
    let traffic =
        |frames: u64| json!({"frames": frames, "bytes": 60 * frames, "forwarded": frames, "copies": 0, "dropped": 0});
    let virtio = |name: &str, more: Value| {
        let mut port = json!({"name": name, "role": "vnic", "adapter": "virtio", "connected": true, "link": "up",
                              "mac": "00:50:56:00:00:02", "socket": format!("/run/x/{name}.sock"), "in": traffic(0),
                              "out": {"frames": 0, "bytes": 0}, "drops": {}});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        port
    };
    let status = json!({
        "switch": {"name": "vSwitch0", "mtu": 1500, "workers": [{"cpu": 1, "busy_percent": 3.0}]},
        "ports": [{"name": "web1", "role": "vnic", "connected": true, "link": "up", "socket": "/run/x/web1.sock",
                   "in": traffic(3), "out": {"frames": 1000, "bytes": 60000, "offered": 1001}, "drops": {"no-match": 0}},
                  virtio("v1", json!({})),
                  virtio("v2", json!({"queues": 4, "vhost_mode": "client"})),
                  virtio("v3", json!({"queues": 2, "vhost_mode": "server"}))],
        "team": {"load_balancing": "port-id", "failure_detection": "link", "shotgun": false, "uplinks": []}
    });
    let server = serve(&socket, &status, 6);
    let show = |args: &[&str]| vswitch(&[args, &["--socket", socket.to_str().unwrap()]].concat());

    let output = show(&["show"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("vSwitch0: MTU 1500") && stdout(&output).contains(" 1,000 "));

    let output = show(&["show", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ports"][0]["in"]["frames"], 3);

    let output = show(&["show", "drops", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ports"][0], json!({"name": "web1", "drops": {"no-match": 0}}));

    let output = show(&["show", "team", "--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "vswitch: frames are not accounted for (web1: 1001 frames offered are not 1000 out and 0 dropped; \
         switch: 0 copies in and 0 segments are not the 1001 frames offered out); ask again when traffic rests\n"
    );

    let output = show(&["qemu-args", "web1"]);
    assert!(stdout(&output).contains("/run/x/web1.sock"), "{}", stdout(&output));

    // What the switch tells of its ports, and the usual of one that is too old to tell.
    let output = show(&["qemu-args", "v1", "v2", "v3"]);
    let lines = [
        virtio_lines("v1", "/run/x/v1.sock", "reconnect-ms=1000", "", ""),
        virtio_lines("v2", "/run/x/v2.sock", "server=on,wait=off", ",queues=4", ",mq=on,vectors=10"),
        virtio_lines("v3", "/run/x/v3.sock", "reconnect-ms=1000", ",queues=2", ",mq=on,vectors=6"),
    ];
    assert!(stdout(&output).ends_with(&(lines.concat().join(" \\\n") + "\n")), "{}", stdout(&output));
    server.join().unwrap();
}
