//! `vswitch lab`: hosts, physical switches and cables out of network namespaces, from one small file.
//!
//! Only the command line and what it prints are here; labs are made in `testbed::topology`. A lab belongs to no
//! process: every command finds it by its name.

mod show;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use testbed::topology::{self, Error, RunningLab};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Build the lab a file describes, and leave it standing.
    Up {
        /// The lab's file, in TOML.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a command in a host or a switch of a lab; its exit code is this one's.
    Exec {
        /// The lab.
        lab: String,
        /// The host or switch.
        host: String,
        /// The command and its words.
        #[arg(last = true, required = true, value_name = "CMD")]
        words: Vec<String>,
    },
    /// Cut a cable: both sides lose their link; or lose one direction or one VLAN only, links up.
    Cut {
        #[command(flatten)]
        cable: Cable,
        /// Lose only what this end sends: a host, a switch, or A or B, the cable's first or second end.
        #[arg(long, value_name = "END")]
        one_way: Option<String>,
        /// Lose only the frames of this VLAN.
        #[arg(long, value_name = "ID", conflicts_with = "one_way")]
        vlan: Option<u16>,
    },
    /// Mend a cable that was cut.
    Heal(Cable),
    /// Take a cable's port out of its switch while its link stays up: a failure further up the network.
    Unplug(SwitchPath),
    /// Put a port back into its switch.
    Plug(SwitchPath),
    /// Show a lab: what there is, and how each cable is.
    Show {
        /// The lab.
        lab: String,
    },
    /// End everything that runs in a lab and remove it, or what a killed `up` has left.
    Down {
        /// The lab.
        lab: String,
    },
    /// List the labs that stand.
    List,
}

#[derive(clap::Args)]
struct Cable {
    /// The lab.
    lab: String,
    /// The cable.
    cable: String,
}

#[derive(clap::Args)]
struct SwitchPath {
    #[command(flatten)]
    cable: Cable,
    /// The switch whose port is meant, for a cable between two.
    #[arg(long, value_name = "SWITCH")]
    at: Option<String>,
}

/// Carries a command out; what is to be printed. `exec` only returns when it fails.
pub(crate) fn run(args: &Args) -> Result<String, Error> {
    match &args.command {
        Command::Up { config } => {
            let lab = topology::up(config)?;
            Ok(format!("lab {} is up: {}\n", lab.topology().name, lab.topology().counts()))
        }
        Command::Exec { lab, host, words } => Err(exec(lab, host, words)),
        Command::Cut { cable, one_way, vlan } => changed(cable, |lab, name| match (one_way, vlan) {
            (Some(sender), _) => lab.cut_one_way(name, sender),
            (None, Some(vlan)) => lab.cut_vlan(name, *vlan),
            (None, None) => lab.cut(name),
        }),
        Command::Heal(cable) => changed(cable, RunningLab::heal),
        Command::Unplug(path) => changed(&path.cable, |lab, name| lab.unplug(name, path.at.as_deref())),
        Command::Plug(path) => changed(&path.cable, |lab, name| lab.plug(name, path.at.as_deref())),
        Command::Show { lab } => show::lab(&topology::open(lab)?).map_err(|error| damaged(lab, error)),
        Command::Down { lab } => Ok(match topology::down(lab)? {
            true => format!("lab {lab} is gone\n"),
            false => format!("there is no lab {lab}, and nothing left of one\n"),
        }),
        Command::List => topology::list().map(|labs| show::list(&labs)),
    }
}

/// Does `work` to a cable, and tells how the cable is then.
fn changed(cable: &Cable, work: impl FnOnce(&RunningLab, &str) -> Result<(), Error>) -> Result<String, Error> {
    let lab = topology::open(&cable.lab)?;
    let state = work(&lab, &cable.cable).and_then(|()| lab.state(&cable.cable));
    let state = state.map_err(|error| damaged(&cable.lab, error))?;
    Ok(format!("cable {}: {state}\n", cable.cable))
}

/// What the kernel refuses in a lab that stood: somebody took a part of it away.
fn damaged(lab: &str, error: Error) -> Error {
    let Error::Failure(_) = error else { return error };
    anyhow::anyhow!("lab {lab} is damaged ({error}); take it down by `vswitch lab down {lab}` and build it again")
        .into()
}

/// Becomes the command, inside the host.
fn exec(lab: &str, host: &str, words: &[String]) -> Error {
    let namespace = match topology::open(lab).and_then(|lab| lab.host(host)) {
        Ok(host) => host.namespace().to_owned(),
        Err(error) => return error,
    };
    let error = std::process::Command::new("ip").args(["netns", "exec", &namespace]).args(words).exec();
    anyhow::anyhow!("ip, which enters namespaces, cannot be started ({error}); install iproute2").into()
}
