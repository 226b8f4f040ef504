//! The guest's root: the initramfs of the QEMU guests, and after it an archive of what differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Modules the guest loads; those they depend on come before them.
const MODULES: [&str; 3] = ["virtio_net", "8021q", "ipv6"];
/// Where Debian's package has them, in a directory named after the kernel's version.
const MODULE_ROOT: &str = "/usr/lib/uml/modules";

/// An archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive {
    bytes: Vec<u8>,
    made: BTreeSet<PathBuf>,
    files: u32,
}

impl Archive {
    fn new() -> Archive {
        Archive { bytes: Vec::new(), made: BTreeSet::new(), files: 0 }
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.files += 1;
        let mut head = String::from("070701");
        // inode, mode, owner, group, links, time, size, device (2), device it is (2), length of the name, check sum
        let fields = [self.files, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        for field in fields {
            // Writing to a string does not fail.
            let _ = write!(head, "{field:08x}");
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A file at an absolute path, after the directories it is in.
    fn file(&mut self, path: &Path, mode: u32, data: &[u8]) -> Result<()> {
        let parents: Vec<&Path> = path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().filter(|p| p.parent().is_some()) {
            if self.made.insert(parent.to_owned()) {
                self.entry(relative(parent)?, 0o040_755, &[]);
            }
        }
        if self.made.insert(path.to_owned()) {
            self.entry(relative(path)?, 0o100_000 | mode, data);
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn relative(path: &Path) -> Result<&str> {
    path.to_str().map(|p| p.trim_start_matches('/')).with_context(|| format!("{}: not UTF-8", path.display()))
}

/// The root for `kernel`, made of the QEMU guests' `initrd`, with `programs` of this machine and their libraries.
pub(super) fn root(kernel: &Path, initrd: &Path, programs: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    add_modules(&mut archive, kernel)?;
    for program in programs {
        add_program(&mut archive, program)?;
    }
    let mut root = std::fs::read(initrd).with_context(|| format!("reading {}", initrd.display()))?;
    // The kernel looks for the next archive at multiples of four.
    root.resize(root.len().next_multiple_of(4), 0);
    root.extend_from_slice(&archive.finish());
    Ok(root)
}

fn add_modules(archive: &mut Archive, kernel: &Path) -> Result<()> {
    let said = Command::new(kernel).arg("--version").output().context("asking user-mode Linux for its version")?;
    let dir = Path::new(MODULE_ROOT).join(String::from_utf8_lossy(&said.stdout).trim());
    let list = dir.join("modules.dep");
    let list = std::fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let mut order = Vec::new();
    for module in MODULES {
        // "path: what it needs, the next one first"
        let line = list.lines().find(|l| l.split(':').next().is_some_and(|path| stem(path) == module));
        let line = line.with_context(|| format!("{} has no module {module}", dir.display()))?;
        let paths: Vec<&str> = line.split([':', ' ']).filter(|w| !w.is_empty()).collect();
        for path in paths.into_iter().rev() {
            if !order.contains(&stem(path)) {
                order.push(stem(path));
                let data = unpacked(&dir.join(path))?;
                archive.file(Path::new(&format!("/modules/{}.ko", stem(path))), 0o644, &data)?;
            }
        }
    }
    archive.file(Path::new("/modules/order"), 0o644, format!("{}\n", order.join("\n")).as_bytes())
}

/// The module's name in the path of its file.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|e| e == "xz") {
        let done = Command::new("xz").arg("-dc").arg(path).output().context("xz")?;
        ensure!(done.status.success(), "xz cannot unpack {}", path.display());
        return Ok(done.stdout);
    }
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn add_program(archive: &mut Archive, program: &Path) -> Result<()> {
    let listed = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(listed.status.success(), "ldd does not know the libraries of {}", program.display());
    let text = String::from_utf8_lossy(&listed.stdout);
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for file in std::iter::once(program).chain(libraries) {
        let data = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        archive.file(file, 0o755, &data)?;
    }
    Ok(())
}
