//! The command line. A refusal is one sentence on standard error (one a line where a configuration
//! has several problems) and exit code 2 for what the user wrote, 1 for everything else.

mod check;
mod output;
mod qemu_args;
mod run;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// What was refused, and by that which exit code it has.
#[derive(Debug)]
enum Refusal {
    /// The command line or a configuration is wrong: exit code 2. The text names its own place.
    Input(String),
    /// Something could not be done: exit code 1.
    Failure(String),
}

/// A poll-mode virtual switch with vmxnet3, vlance, virtio, tap and netdev ports.
#[derive(Parser)]
#[command(name = "vswitch", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration in the foreground until SIGTERM or SIGINT.
    Run(ConfigFile),
    /// Say what is wrong with a configuration on this machine.
    Check(ConfigFile),
    /// Show a running switch.
    Show(show::Args),
    /// Print the QEMU arguments that plug a VM into vNICs.
    QemuArgs(qemu_args::Args),
    /// Show the switch at work with three real VMs and a physical network of namespaces (needs root, and what
    /// `make demo` prepares).
    Demo,
    /// Generate packets between two ports of any switch, and count, pace and time them.
    Bench(crate::bench::Args),
    /// Build a physical network out of namespaces, cut and heal its cables (needs root).
    Lab(crate::lab::Args),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration, in TOML.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(clap::Args)]
struct Socket {
    /// The control socket of the switch.
    #[arg(long, value_name = "PATH", default_value = "/run/vswitch/control.sock")]
    socket: PathBuf,
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(file) => run::run(&file.config),
            Command::Check(file) => check::check(&file.config),
            Command::Show(args) => show::show(&args),
            Command::QemuArgs(args) => qemu_args::qemu_args(&args),
            Command::Lab(args) => lab(&args),
            Command::Bench(args) => bench(&args),
            Command::Demo => crate::demo::run().map_err(|error| Refusal::Failure(format!("demo: {error:#}"))),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::write(&error.to_string()),
            _ => Err(Refusal::Input(format!("vswitch: {}", usage_sentence(&error.to_string())))),
        },
    };
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Refusal::Input(text)) => (text, 2),
        Err(Refusal::Failure(text)) => (format!("vswitch: {text}"), 1),
    };
    eprintln!("{text}");
    ExitCode::from(code)
}

fn bench(args: &crate::bench::Args) -> Result<(), Refusal> {
    args.together().map_err(|text| Refusal::Input(format!("vswitch: {text}")))?;
    crate::bench::run(args).map_err(|error| Refusal::Failure(format!("bench: {error:#}")))
}

fn lab(args: &crate::lab::Args) -> Result<(), Refusal> {
    use testbed::topology::Error;
    let text = crate::lab::run(args).map_err(|error| match error {
        Error::File(problems) => Refusal::Input(problems.to_string()),
        Error::Input(text) => Refusal::Input(format!("vswitch: {text}")),
        Error::Failure(_) => Refusal::Failure(format!("lab: {error}")),
    })?;
    output::write(&text)
}

/// clap's paragraphs as one sentence: what is wrong, its tip where it has one, and where to look.
fn usage_sentence(text: &str) -> String {
    let mut paragraphs = text.trim().split("\n\n");
    let flat = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = flat(paragraphs.next().unwrap_or_default());
    let what = match first.strip_prefix("error: ") {
        Some(what) => what.to_owned(),
        None => "no command was given".to_owned(),
    };
    let tip = paragraphs.map(flat).find_map(|p| p.strip_prefix("tip: ").map(str::to_owned));
    match tip {
        Some(tip) => format!("{what}; {tip}"),
        None => format!("{what}; `vswitch --help` tells what there is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).err().expect(line);
        usage_sentence(&error.to_string())
    }

    #[test]
    fn usage_errors_are_one_sentence() {
        for (line, want) in [
            ("vswitch", "no command was given; `vswitch --help` tells what there is"),
            ("vswitch shw", "unrecognized subcommand 'shw'; a similar subcommand exists: 'show'"),
            (
                "vswitch run",
                "the following required arguments were not provided: --config <FILE>; `vswitch --help` tells what there is",
            ),
            ("vswitch show --jsn", "unexpected argument '--jsn' found; a similar argument exists: '--json'"),
            (
                "vswitch show cats",
                "invalid value 'cats' for '[WHAT]' [possible values: switch, ports, uplinks, portgroups, team, drops]; \
                 `vswitch --help` tells what there is",
            ),
        ] {
            assert_eq!(sentence(line), want, "{line}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
