//! `vswitch qemu-args`.

use std::path::PathBuf;

use control::api::Role;
use control::config;
use serde_json::json;

use super::{Refusal, Socket, output, show};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The vNICs of one VM.
    #[arg(required = true, value_name = "VNIC")]
    vnics: Vec<String>,
    /// Take sockets, queues and who listens from a configuration rather than from a running switch.
    #[arg(short, long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The VM's memory.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    memory: String,
    #[command(flatten)]
    socket: Socket,
}

/// Why each argument is there; on standard error, so that standard output holds arguments only.
const EXPLANATION: &str = "\
# QEMU 10.1 or later. The guest's memory must be shared (share=on), or the switch cannot reach it, and the
# size of the memory object must be that of -m: choose it by --memory SIZE. Any machine with PCI works in
# place of q35, with memory-backend=mem. A VM with several vNICs has the memory once and a -device for each.
";

/// Of a virtio card on a socket of the switch's.
const RECONNECTS: &str = "\
# reconnect-ms=1000 has QEMU look for the switch once a second after that was restarted; a QEMU before 9.2 takes
# reconnect=1 in its place.
";

/// Milliseconds between QEMU's looks for a switch that went away.
const RECONNECT_MS: u32 = 1000;

/// Prints the arguments, one a line, to be pasted into a shell.
pub(super) fn qemu_args(args: &Args) -> Result<(), Refusal> {
    let known = sockets(args)?;
    let mut lines = vec![
        "-M q35,memory-backend=mem".to_owned(),
        format!("-m {}", args.memory),
        format!("-object memory-backend-memfd,id=mem,size={},share=on", args.memory),
    ];
    for vnic in &args.vnics {
        let Some(port) = known.iter().find(|port| port.name == *vnic) else {
            let names: Vec<&str> = known.iter().map(|port| port.name.as_str()).collect();
            let sentence =
                format!("vswitch: there is no vnic \"{}\"; the vnics are {}", vnic.escape_debug(), names.join(", "));
            return Err(Refusal::Input(sentence));
        };
        lines.extend(device(port)?);
    }
    let reconnects = lines.iter().any(|line| line.contains(",reconnect-ms="));
    eprint!("{EXPLANATION}{}", if reconnects { RECONNECTS } else { "" });
    output::write(&format!("{}\n", lines.join(" \\\n")))
}

/// A vNIC as QEMU has to know it.
struct Port {
    name: String,
    adapter: String,
    socket: Option<String>,
    mac: String,
    /// Queue pairs of a virtio card.
    queues: usize,
    /// QEMU makes the socket.
    vmm_listens: bool,
}

/// The arguments for one card.
fn device(port: &Port) -> Result<Vec<String>, Refusal> {
    let Some(socket) = &port.socket else {
        let (name, adapter) = (&port.name, &port.adapter);
        let sentence =
            format!("vswitch: vnic \"{name}\" is a {adapter} port, which no VM plugs into; it needs no arguments");
        return Err(Refusal::Input(sentence));
    };
    if port.adapter != "virtio" {
        let device = json!({"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket}});
        return Ok(vec![format!("-device {}", quote(&device.to_string()))]);
    }
    let (name, mac, queues) = (&port.name, &port.mac, port.queues);
    // QEMU takes a comma in a path for the end of it unless there are two.
    let path = socket.replace(',', ",,");
    // Whoever does not listen looks for the other again: a restart of the switch is not to cost a VM its network.
    let how = if port.vmm_listens { "server=on,wait=off".to_owned() } else { format!("reconnect-ms={RECONNECT_MS}") };
    let pairs = if queues > 1 { format!(",queues={queues}") } else { String::new() };
    // A vector for each queue, one for the configuration and one for the control queue.
    let vectors = if queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
    Ok(vec![
        format!("-chardev {}", quote(&format!("socket,id=chr-{name},path={path},{how}"))),
        format!("-netdev {}", quote(&format!("vhost-user,id=net-{name},chardev=chr-{name}{pairs}"))),
        format!("-device {}", quote(&format!("virtio-net-pci,netdev=net-{name},mac={mac}{vectors}"))),
    ])
}

/// All vNICs. Of a running switch too old to tell queues and who listens the usual is taken.
fn sockets(args: &Args) -> Result<Vec<Port>, Refusal> {
    if let Some(file) = &args.config {
        let config = config::load(file).map_err(|problems| Refusal::Input(problems.to_string()))?;
        let port = |v: &config::Vnic| Port {
            name: v.name.value.clone(),
            adapter: v.adapter.name().to_owned(),
            socket: v.device.is_none().then(|| config.vnic_socket(&v.name).display().to_string()),
            mac: v.mac.value.to_string(),
            queues: v.queues,
            vmm_listens: v.vhost_client,
        };
        return Ok(config.vnics.iter().map(port).collect());
    }
    let status = show::status(&args.socket)?;
    let port = |p: control::api::PortStatus| Port {
        name: p.name,
        adapter: p.adapter.unwrap_or_default(),
        socket: p.socket,
        mac: p.mac.unwrap_or_default(),
        queues: p.queues.map_or(1, usize::from),
        vmm_listens: p.vhost_mode.as_deref() == Some("client"),
    };
    Ok(status.ports.into_iter().filter(|p| p.role == Role::Vnic).map(port).collect())
}

/// A size as QEMU takes it: a number with K, M, G or T.
fn memory(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or("");
    match digits.parse::<u32>() {
        Ok(size) if size > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(text.to_owned()),
        _ => Err("a size is a number with K, M, G or T, as in 512M".to_owned()),
    }
}

/// `text` as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for good in ["512M", "4G"] {
            assert_eq!(memory(good).as_deref(), Ok(good));
        }
        for bad in ["512", "M", "0M", "-1M", "+1M", "1M,share=off", "1.5G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words() {
        assert_eq!(quote("{\"a\":1}"), "'{\"a\":1}'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
