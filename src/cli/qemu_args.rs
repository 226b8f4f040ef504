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
    /// Take the sockets from a configuration rather than from a running switch.
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

/// Prints the arguments, one a line, to be pasted into a shell.
pub(super) fn qemu_args(args: &Args) -> Result<(), Refusal> {
    let known = sockets(args)?;
    let mut lines = vec![
        "-M q35,memory-backend=mem".to_owned(),
        format!("-m {}", args.memory),
        format!("-object memory-backend-memfd,id=mem,size={},share=on", args.memory),
    ];
    for vnic in &args.vnics {
        let Some((_, socket)) = known.iter().find(|(name, _)| name == vnic) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            let sentence =
                format!("vswitch: there is no vnic \"{}\"; the vnics are {}", vnic.escape_debug(), names.join(", "));
            return Err(Refusal::Input(sentence));
        };
        let device = json!({"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket}});
        lines.push(format!("-device {}", quote(&device.to_string())));
    }
    eprint!("{EXPLANATION}");
    output::write(&format!("{}\n", lines.join(" \\\n")))
}

/// Names and socket paths of all vNICs.
fn sockets(args: &Args) -> Result<Vec<(String, String)>, Refusal> {
    if let Some(file) = &args.config {
        let config = config::load(file).map_err(|problems| Refusal::Input(problems.to_string()))?;
        let path = |name: &str| config.vnic_socket(name).display().to_string();
        return Ok(config.vnics.iter().map(|v| (v.name.value.clone(), path(&v.name))).collect());
    }
    let status = show::status(&args.socket)?;
    let vnics = status.ports.into_iter().filter(|p| p.role == Role::Vnic);
    Ok(vnics.filter_map(|p| Some((p.name, p.socket?))).collect())
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
