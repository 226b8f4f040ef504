//! What a guest is made of, and the QEMU arguments that say so.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Env;

/// A network card of a guest. Cards become `eth0`, `eth1`, ... in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nic {
    /// A device served by another process over a vfio-user socket.
    VfioUser {
        /// The socket that process listens on; it must do so before the guest boots.
        socket: PathBuf,
    },
    /// QEMU's own virtio card, its queues served by another process over a vhost-user socket. It becomes the next
    /// `ethN` only among its like: the guest's kernel names cards driver by driver.
    VhostUser {
        /// The socket that process listens on, or QEMU does.
        socket: PathBuf,
        /// The card's address.
        mac: String,
        /// Whether QEMU listens on the socket.
        listens: bool,
        /// Queue pairs.
        queues: usize,
    },
    /// QEMU arguments as they are, such as `-netdev` and `-device` for QEMU's own device models.
    Raw(Vec<String>),
}

/// A guest to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSpec {
    /// The guest's hostname, also the name of its log files.
    pub name: String,
    /// RAM. 192 is the least that boots.
    pub memory_mib: u32,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Whether the RAM is shared with device processes. vfio-user needs it; `false` is for seeing what happens without.
    pub shared_memory: bool,
    /// Further words for the kernel's command line. `skip=vmxnet3` keeps a driver from being loaded.
    pub kernel_args: String,
    /// Further QEMU arguments.
    pub extra_args: Vec<String>,
    /// Where the console and QEMU's messages are logged and kept. By default under `target/guest/logs`, and kept
    /// only when the test panics.
    pub log_dir: Option<PathBuf>,
}

impl GuestSpec {
    /// A guest with 256 MiB of shared RAM and no network card.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 256,
            nics: Vec::new(),
            shared_memory: true,
            kernel_args: String::new(),
            extra_args: Vec::new(),
            log_dir: None,
        }
    }

    /// Adds a network card.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Has QEMU's own virtio cards offer packed rings, as they do not by themselves.
    #[must_use]
    pub fn packed_rings(mut self) -> Self {
        self.extra_args.extend(["-global".to_owned(), "virtio-net-pci.packed=on".to_owned()]);
        self
    }

    /// The QEMU arguments of this guest. Its agent is on standard input and output, its console in the file `console`.
    pub fn qemu_args(&self, env: &Env, console: &Path) -> Result<Vec<String>> {
        // Without the crypto self-tests the kernel boots half a second sooner.
        let append = format!("console=ttyS0 quiet cryptomgr.notests guest={} {}", self.name, self.kernel_args);
        let share = if self.shared_memory { "memory-backend-memfd,share=on" } else { "memory-backend-ram,share=off" };
        let mut args: Vec<String> =
            ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "max"]
                .map(str::to_owned)
                .into();
        args.extend(
            [
                ["-M", "q35,memory-backend=mem"],
                ["-object", &format!("{share},id=mem,size={}M", self.memory_mib)],
                ["-m", &format!("{}M", self.memory_mib)],
                ["-kernel", text(&env.kernel)?],
                ["-initrd", text(&env.initrd)?],
                ["-append", append.trim()],
                ["-serial", &format!("file:{}", text(console)?)],
                ["-chardev", "stdio,id=agent,signal=off"],
                ["-serial", "chardev:agent"],
            ]
            .iter()
            .flatten()
            .map(|&arg| arg.to_owned()),
        );
        for (number, nic) in self.nics.iter().enumerate() {
            match nic {
                Nic::VfioUser { socket } => args.extend(["-device".to_owned(), vfio_user_device(socket)?]),
                Nic::VhostUser { socket, mac, listens, queues } => {
                    args.extend(vhost_user_device(number, text(socket)?, mac, *listens, *queues));
                }
                Nic::Raw(words) => args.extend_from_slice(words),
            }
        }
        args.extend_from_slice(&self.extra_args);
        Ok(args)
    }
}

/// The `-device` argument for a vfio-user socket.
fn vfio_user_device(socket: &Path) -> Result<String> {
    let path = text(socket)?.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!(r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{path}"}}}}"#))
}

/// The arguments for a virtio card on a vhost-user socket. A VMM that does not listen finds the other process again
/// when that has been restarted. Two vectors more than queues: for the configuration and the control queue.
fn vhost_user_device(number: usize, path: &str, mac: &str, listens: bool, queues: usize) -> [String; 6] {
    let path = path.replace(',', ",,");
    let how = if listens { "server=on,wait=off" } else { "reconnect-ms=200" };
    let several = if queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
    [
        "-chardev".to_owned(),
        format!("socket,id=vhost{number},path={path},{how}"),
        "-netdev".to_owned(),
        format!("vhost-user,id=net{number},chardev=vhost{number},queues={queues}"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=net{number},mac={mac},romfile={several}"),
    ]
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not UTF-8, QEMU arguments have to be", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(spec: &GuestSpec) -> String {
        let env = Env {
            dir: "/g".into(),
            qemu: "/g/qemu".into(),
            kernel: "/g/kernel".into(),
            initrd: "/g/initrd.gz".into(),
            guest_tool: "/g/guest-tool".into(),
        };
        spec.qemu_args(&env, Path::new("/log/console")).unwrap().join(" ")
    }

    #[test]
    fn a_vfio_user_card_names_its_socket() {
        let line = args(&GuestSpec::new("a").nic(Nic::VfioUser { socket: "/run/a \"b\".sock".into() }));
        assert!(
            line.ends_with(r#"-device {"driver":"vfio-user-pci","socket":{"type":"unix","path":"/run/a \"b\".sock"}}"#),
            "{line}"
        );
        assert!(line.contains("memory-backend-memfd,share=on,id=mem,size=256M"), "{line}");
    }

    #[test]
    fn a_vhost_user_card_names_socket_address_and_queues() {
        let nic = |listens, queues| Nic::VhostUser {
            socket: "/run/a,b.sock".into(),
            mac: "00:50:56:00:00:01".into(),
            listens,
            queues,
        };
        let line = args(&GuestSpec::new("a").nic(nic(false, 1)).nic(nic(true, 2)));
        for words in [
            "-chardev socket,id=vhost0,path=/run/a,,b.sock,reconnect-ms=200 ",
            "-netdev vhost-user,id=net0,chardev=vhost0,queues=1 ",
            "-device virtio-net-pci,netdev=net0,mac=00:50:56:00:00:01,romfile= ",
            "-chardev socket,id=vhost1,path=/run/a,,b.sock,server=on,wait=off ",
        ] {
            assert!(line.contains(words), "{words} is missing from {line}");
        }
        assert!(line.ends_with(",romfile=,mq=on,vectors=6"), "{line}");
        let line = args(&GuestSpec::new("a").nic(nic(false, 1)).packed_rings());
        assert!(line.ends_with(",romfile= -global virtio-net-pci.packed=on"), "{line}");
    }

    #[test]
    fn private_memory_is_not_shared() {
        let line = args(&GuestSpec { shared_memory: false, ..GuestSpec::new("a") });
        assert!(line.contains("memory-backend-ram,share=off") && !line.contains("memfd"), "{line}");
    }
}
