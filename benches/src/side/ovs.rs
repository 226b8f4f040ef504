//! Open vSwitch with its userspace datapath, as Debian's packages install it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use super::Machine;
use super::process::{Place, Process, run};

/// The program of openvswitch-switch-dpdk; it also has AF_XDP, taps and its own segmentation.
const PROGRAM: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// How long each of its two processes may take to start.
const START: Duration = Duration::from_secs(30);

/// A running database and switch, with a bridge `br0` that does `NORMAL` switching.
pub struct Ovs {
    dir: PathBuf,
    switch: Process,
    _db: Process,
}

impl Ovs {
    /// Starts both in network namespace `namespace`, their files in `dir`. Polling threads are on the last CPU only;
    /// `settings` are words of `ovs-vsctl set Open_vSwitch .` beside that.
    ///
    /// # Errors
    /// When they are not installed or do not start.
    pub fn start(dir: &Path, namespace: &str, settings: &[&str]) -> Result<Ovs> {
        let envs = environment(dir);
        let place = Place { dir, namespace: Some(namespace), envs: &envs };
        let at = |name: &str| dir.join(name).display().to_string();
        run("ovsdb-tool", &["create", &at("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"], &envs)?;
        let remote = format!("--remote=punix:{}", at("db.sock"));
        let args = ["--no-chdir", "--pidfile", &remote, &at("conf.db")];
        let mut db = Process::start("ovsdb-server", &args, place)?;
        db.wait_until(START, || dir.join("db.sock").exists())?;
        vsctl(dir, &["--no-wait", "init"])?;
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << (Machine::this().cpus - 1));
        let set = ["--no-wait", "set", "Open_vSwitch", ".", &mask];
        vsctl(dir, &set.into_iter().chain(settings.iter().copied()).collect::<Vec<_>>())?;
        let remote = format!("unix:{}", at("db.sock"));
        let mut switch = Process::start(PROGRAM, &["--pidfile", &remote], place)?;
        let pid_file = |name: &str| dir.join(name).exists();
        switch.wait_until(START, || pid_file("ovs-vswitchd-dpdk.pid") || pid_file("ovs-vswitchd.pid"))?;
        vsctl(dir, &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        Ok(Ovs { dir: dir.to_owned(), switch, _db: db })
    }

    /// Adds a port to the bridge; `settings` are words such as `type=tap`, none for an interface that is there.
    ///
    /// # Errors
    /// With OVS's sentence about the port.
    pub fn port(&self, name: &str, settings: &[&str]) -> Result<()> {
        let mut words = vec!["add-port", "br0", name];
        if !settings.is_empty() {
            words.extend(["--", "set", "Interface", name]);
            words.extend(settings);
        }
        vsctl(&self.dir, &words)?;
        // A port that failed is none of the command's business.
        match vsctl(&self.dir, &["get", "Interface", name, "error"])?.trim() {
            "[]" => Ok(()),
            error => bail!("OVS port {name}: {error}"),
        }
    }

    /// The process whose CPU time counts.
    pub fn pid(&self) -> u32 {
        self.switch.pid()
    }
}

fn environment(dir: &Path) -> [(&str, &Path); 3] {
    [("OVS_RUNDIR", dir), ("OVS_LOGDIR", dir), ("OVS_DBDIR", dir)]
}

/// One `ovs-vsctl` command on the database in `dir`.
fn vsctl(dir: &Path, args: &[&str]) -> Result<String> {
    let db = format!("--db=unix:{}", dir.join("db.sock").display());
    let all: Vec<&str> = ["--timeout=30", &db].into_iter().chain(args.iter().copied()).collect();
    run("ovs-vsctl", &all, &environment(dir))
}
