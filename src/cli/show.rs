//! `vswitch show`.

use std::time::Duration;

use clap::ValueEnum;
use control::api::{Role, Status, client, ledger};
use control::show::{self, What};
use serde_json::{Value, json};

use super::{Refusal, Socket, output};

/// How long a switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to show; the switch, its ports and its team when left out.
    #[arg(value_enum)]
    what: Option<Part>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
    /// Also check that every frame is accounted for; holds once traffic rests.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Switch,
    Ports,
    Uplinks,
    Portgroups,
    Team,
    Drops,
}

impl From<Part> for What {
    fn from(part: Part) -> What {
        match part {
            Part::Switch => What::Switch,
            Part::Ports => What::Ports,
            Part::Uplinks => What::Uplinks,
            Part::Portgroups => What::Portgroups,
            Part::Team => What::Team,
            Part::Drops => What::Drops,
        }
    }
}

/// The status of the switch behind `socket`.
pub(super) fn status(socket: &Socket) -> Result<Status, Refusal> {
    client::show(&socket.socket, PATIENCE).map_err(Refusal::Failure)
}

/// Prints what is asked for.
pub(super) fn show(args: &Args) -> Result<(), Refusal> {
    let status = status(&args.socket)?;
    let what = args.what.map(What::from);
    if args.json {
        output::write(&format!("{:#}\n", document(what, &status)?))?;
    } else {
        output::write(&show::render(what, &status))?;
    }
    if args.check {
        ledger::check(&status).map_err(|wrong| {
            Refusal::Failure(format!("frames are not accounted for ({wrong}); ask again when traffic rests"))
        })?;
    }
    Ok(())
}

/// The status document, or of it what belongs to the part asked for, under the same names.
fn document(what: Option<What>, status: &Status) -> Result<Value, Refusal> {
    let failed = |error| Refusal::Failure(format!("the status cannot be written as JSON ({error})"));
    let mut whole = serde_json::to_value(status).map_err(failed)?;
    let mut take = |key: &str| whole.get_mut(key).map(Value::take).unwrap_or_default();
    Ok(match what {
        None => whole,
        Some(What::Switch) => json!({"switch": take("switch")}),
        Some(What::Ports) => json!({"ports": take("ports")}),
        Some(What::Uplinks) => {
            let uplinks = status.ports.iter().filter(|p| p.role == Role::Uplink).collect::<Vec<_>>();
            json!({"ports": serde_json::to_value(uplinks).map_err(failed)?, "team": take("team")})
        }
        Some(What::Portgroups) => json!({"portgroups": take("portgroups")}),
        Some(What::Team) => {
            json!({"team": take("team"), "portgroups": take("portgroups"), "events": take("events")})
        }
        Some(What::Drops) => {
            let ports = status.ports.iter().map(|p| json!({"name": p.name, "drops": p.drops}));
            json!({"ports": ports.collect::<Vec<_>>()})
        }
    })
}
