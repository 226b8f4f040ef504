//! Whether this machine can carry a configuration out, as far as that shows before starting.

use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::problem::{Problem, Problems};
use super::{Adapter, Config, Located};

/// The device that stands for all taps.
const TUN: &str = "/dev/net/tun";

/// Looks for the interfaces, the socket directory and the permission that `config` needs.
///
/// # Errors
/// Everything that is missing, each one sentence with the place in the file and the mend.
pub fn check(config: &Config) -> Result<(), Problems> {
    let mut problems = Vec::new();
    problems.extend(check_socket_dir(&config.switch.socket_dir));
    for uplink in &config.uplinks {
        problems.extend(check_interface(&uplink.device, &format!("uplink \"{}\"", uplink.name)));
    }
    for vnic in &config.vnics {
        let Some(device) = &vnic.device else { continue };
        let what = format!("vnic \"{}\"", vnic.name);
        problems.extend(match vnic.adapter {
            Adapter::Tap => check_tun(Path::new(TUN), device, &what),
            _ => check_interface(device, &what),
        });
    }
    problems.extend(check_permission(config));
    if problems.is_empty() { Ok(()) } else { Err(Problems::new(&config.file, problems)) }
}

fn check_interface(device: &Located<String>, what: &str) -> Option<Problem> {
    let error = interface_exists(device).err()?;
    let sentence = match error {
        Errno::NODEV => format!(
            "interface \"{device}\" of {what} does not exist; `ip link` lists those that do, in this network namespace"
        ),
        other => format!("interface \"{device}\" of {what} cannot be looked up ({other}); see that `ip link` works"),
    };
    Some(Problem { at: Some(device.at), sentence })
}

/// The switch makes a tap interface itself: what it needs for that is there?
fn check_tun(tun: &Path, device: &Located<String>, what: &str) -> Option<Problem> {
    let shown = tun.display();
    let sentence = match access(tun, Access::READ_OK | Access::WRITE_OK).err()? {
        Errno::NOENT | Errno::NOTDIR => format!(
            "interface \"{device}\" of {what} cannot be made because there is no {shown}; load the module tun, and give \
             {shown} to the container if the switch runs in one"
        ),
        _ => format!(
            "interface \"{device}\" of {what} cannot be made because this user may not use {shown}; run as root"
        ),
    };
    Some(Problem { at: Some(device.at), sentence })
}

fn interface_exists(device: &str) -> Result<(), Errno> {
    // Any socket will do to ask the kernel; this asks in our own network namespace, which /sys may not
    // be mounted for.
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netdevice::name_to_index(&any, device).map(|_| ())
}

/// Opening an uplink takes CAP_NET_RAW in the namespace's owner: ask the kernel, not the mask.
fn check_permission(config: &Config) -> Option<Problem> {
    let first = config.uplinks.first()?;
    // Without a protocol the socket receives nothing.
    match socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Err(Errno::PERM | Errno::ACCESS) => {
            let sentence = format!(
                "interface \"{}\" may not be opened by this user; run as root or with CAP_NET_RAW and CAP_NET_ADMIN",
                first.device
            );
            Some(Problem { at: Some(first.device.at), sentence })
        }
        // Whatever else there is to say is said better by the uplink when it opens.
        _ => None,
    }
}

fn check_socket_dir(dir: &Located<std::path::PathBuf>) -> Option<Problem> {
    let shown = dir.display();
    let existing = dir.ancestors().find(|a| a.symlink_metadata().is_ok())?;
    let whole = existing == dir.as_path();
    let sentence = if !existing.is_dir() {
        format!("socket_dir {shown} cannot be used because {} is not a directory; choose another", existing.display())
    } else {
        match writable(existing) {
            Ok(()) => return None,
            Err(Errno::ROFS) => format!("socket_dir {shown} is on a read-only file system; choose another"),
            Err(_) if whole => {
                format!("socket_dir {shown} may not be written by this user; choose another, or run as root")
            }
            Err(_) => format!(
                "socket_dir {shown} cannot be created because this user may not write {}; choose another, or run as root",
                existing.display()
            ),
        }
    };
    Some(Problem { at: Some(dir.at), sentence })
}

fn writable(dir: &Path) -> Result<(), Errno> {
    access(dir, Access::WRITE_OK | Access::EXEC_OK)
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
