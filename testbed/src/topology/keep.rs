//! Labs that outlive the process that built them.
//!
//! ```text
//!   up:   <lab>.building is written (the lab's file, word for word) -> everything is built -> <lab>.toml
//!   down: every namespace vlab.<lab>.*  -> both files
//! ```
//!
//! So whatever ends an `up`, its traces carry the lab's name, and `down` finds them. A command that changes
//! what stands holds a lock on the directory, which the kernel lets go of however the command ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use super::build::{build, need_root};
use super::check::is_name;
use super::{Error, Problems, RunningLab, Topology};
use crate::netns::{Lab, NETNS_DIR, remove};

const DIRECTORY: &str = "/run/vswitch-lab";
/// Not the prefix of labs that belong to a process, which are swept when that is gone.
const PREFIX: &str = "vlab.";
/// An `ip` that a killed `up` had started may still be making a namespace: looked for again after this.
const LATE: Duration = Duration::from_millis(200);

/// A lab that stands, or what is left of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it consists of; `None` when its `up` did not end, or its file is gone.
    pub topology: Option<Topology>,
}

fn prefix(lab: &str) -> String {
    // No name has a dot, so no lab's namespaces look like another's.
    format!("{PREFIX}{lab}.")
}

fn file(lab: &str, suffix: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{lab}.{suffix}"))
}

/// Makes the directory if need be and waits for whoever changes something in it.
fn lock() -> Result<File> {
    fs::create_dir_all(DIRECTORY).with_context(|| format!("making {DIRECTORY}"))?;
    let directory = File::open(DIRECTORY).with_context(|| format!("opening {DIRECTORY}"))?;
    flock(&directory, FlockOperation::LockExclusive).with_context(|| format!("locking {DIRECTORY}"))?;
    Ok(directory)
}

/// Namespaces of kept labs: the lab each belongs to, and its full name.
fn namespaces() -> Vec<(String, String)> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|full| {
            let (lab, _) = full.strip_prefix(PREFIX)?.split_once('.')?;
            Some((lab.to_owned(), full))
        })
        .collect()
}

/// Builds the lab of `path` and leaves it standing.
///
/// # Errors
/// What is wrong with the file, a lab of this name that is there already, and what could not be made; then what
/// was made is taken down.
pub fn up(path: &Path) -> Result<RunningLab, Error> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        Problems::of_file(&shown, &format!("it cannot be read ({error}); give the path of a lab's file by -c FILE"))
    })?;
    let topology = Topology::parse(&shown, &text)?;
    need_root()?;
    let _lock = lock()?;
    let name = &topology.name.clone();
    if file(name, "toml").exists() {
        let sentence = format!(
            "lab {name} is up already; take it down by `vswitch lab down {name}`, or change the name in {shown}"
        );
        return Err(Error::Input(sentence));
    }
    if file(name, "building").exists() || namespaces().iter().any(|(lab, _)| lab == name) {
        let sentence = format!("lab {name} was left half built; clean up by `vswitch lab down {name}`");
        return Err(Error::Input(sentence));
    }
    fs::write(file(name, "building"), &text).with_context(|| format!("writing to {DIRECTORY}"))?;
    let lab = Lab::with_prefix(prefix(name));
    let built = build(&topology, &lab).and_then(|()| {
        fs::rename(file(name, "building"), file(name, "toml")).with_context(|| format!("writing to {DIRECTORY}"))
    });
    if let Err(error) = built {
        drop(lab);
        // It is only a mark: without the namespaces nothing is left but a sentence that tells to clean up.
        let _ = fs::remove_file(file(name, "building"));
        return Err(error.context(format!("lab {name} is not built, and what was begun is gone again")).into());
    }
    lab.keep();
    Ok(RunningLab::new(topology, prefix(name), None))
}

/// A lab that stands.
///
/// # Errors
/// When none of this name does.
pub fn open(name: &str) -> Result<RunningLab, Error> {
    need_root()?;
    let shown = name.escape_debug();
    let path = if is_name(name) { file(name, "toml") } else { PathBuf::new() };
    let Ok(text) = fs::read_to_string(&path) else {
        if is_name(name) && list()?.iter().any(|listed| listed.name == name) {
            return Err(Error::Input(format!("lab {shown} is half built; clean up by `vswitch lab down {shown}`")));
        }
        let sentence = format!("there is no lab \"{shown}\"; `vswitch lab list` tells which there are");
        return Err(Error::Input(sentence));
    };
    let topology = Topology::parse(&path.display().to_string(), &text)?;
    Ok(RunningLab::new(topology, prefix(name), None))
}

/// Ends everything that runs in a lab and removes it, or what is left of it; false when there was nothing.
///
/// # Errors
/// When something stays.
pub fn down(name: &str) -> Result<bool, Error> {
    need_root()?;
    if !is_name(name) {
        let shown = name.escape_debug();
        return Err(Error::Input(format!(
            "\"{shown}\" can be no lab's name; `vswitch lab list` tells which there are"
        )));
    }
    let _lock = lock()?;
    let half_built = file(name, "building").exists();
    let own = || namespaces().into_iter().filter(|(lab, _)| lab == name).map(|(_, full)| full).collect::<Vec<_>>();
    let mut found = half_built || file(name, "toml").exists();
    for pass in 0..if half_built { 2 } else { 1 } {
        if pass > 0 {
            std::thread::sleep(LATE);
        }
        for namespace in own() {
            found = true;
            remove(&namespace);
        }
    }
    if let Some(left) = own().first() {
        return Err(Error::Failure(anyhow::anyhow!("namespace {left} stays; see what `ip netns del {left}` says")));
    }
    for suffix in ["toml", "building"] {
        match fs::remove_file(file(name, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(error).context(format!("removing lab {name}'s file")).into());
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The labs that stand and those that are half built, by name.
///
/// # Errors
/// When the directory cannot be read.
pub fn list() -> Result<Vec<Listed>, Error> {
    let mut labs: Vec<Listed> = Vec::new();
    let mut add = |name: String, topology: Option<Topology>| {
        if !labs.iter().any(|known| known.name == name) {
            labs.push(Listed { name, topology });
        }
    };
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(anyhow::Error::new(error).context(format!("reading {DIRECTORY}")).into()),
    };
    for path in &entries {
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if path.extension().is_some_and(|suffix| suffix == "toml") {
            let text = fs::read_to_string(path).unwrap_or_default();
            add(name.to_owned(), Topology::parse(name, &text).ok());
        }
    }
    let marked = entries.iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "building"));
    let marked = marked.filter_map(|path| path.file_stem()?.to_str().map(str::to_owned));
    for name in marked.chain(namespaces().into_iter().map(|(lab, _)| lab)).collect::<Vec<_>>() {
        add(name, None);
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}
