//! The QEMU process.

use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};

use anyhow::{Context, Result};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts QEMU with its standard streams piped (messages into `messages`). It is killed when this process ends in
/// whatever way.
pub(crate) fn spawn(qemu: &std::path::Path, args: &[String], messages: File) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(qemu).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(messages);
    let (reply, answer) = mpsc::channel();
    spawner().send((command, reply)).context("the spawning thread is gone")?;
    answer.recv().context("the spawning thread is gone")?.with_context(|| format!("cannot start {}", qemu.display()))
}

/// The kernel sends the death signal when the *thread* that started the child ends, so one thread that lasts as long as
/// the process starts them all: a guest may be booted in a helper thread and used in another.
fn spawner() -> &'static mpsc::Sender<Request> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A requester that has gone away gets no child.
                if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        requests
    })
}
