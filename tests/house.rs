//! The shape of the house: dependency arrows point downwards, `unsafe` stands in two crates only, a library kept behind
//! an adapter is named by that alone, and files and functions stay readable in one sitting.

use std::fs;
use std::path::{Path, PathBuf};

/// What each crate may depend on, of this workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("sharedmem", &[]),
    ("portgroups", &["wire"]),
    ("teaming", &["wire"]),
    ("beacon", &["wire"]),
    ("dataplane", &["wire", "sharedmem", "portgroups", "teaming"]),
    ("vnic", &["wire", "sharedmem", "dataplane"]),
    ("uplink", &["wire", "sharedmem", "dataplane"]),
    ("control", &["wire", "sharedmem", "portgroups", "teaming", "beacon", "dataplane", "vnic", "uplink"]),
    // Soft guests and labs see the switch from outside; the simulation plays its policies, which are pure.
    ("testbed", &["wire", "sharedmem", "portgroups", "teaming", "beacon", "control"]),
    // Benches take the data path by itself, and the whole program through the testbed.
    ("benches", &["wire", "sharedmem", "portgroups", "teaming", "dataplane", "vnic", "testbed"]),
    // Fuzzing goes for each thing that a guest, a VMM or a peer writes, where it is read.
    ("fuzz", &["wire", "sharedmem", "beacon", "dataplane", "vnic", "uplink", "control"]),
];

/// Crates that may contain `unsafe`.
const UNSAFE: &[&str] = &["sharedmem", "uplink"];

/// Libraries that one file adapts to the rest, and the one that may name them: so another version of such a library, or
/// another library, changes that file alone. (`testbed` plays the VMM, the other side of the protocol.)
const ADAPTED: &[(&str, &str)] = &[("vhost", "vnic/src/vhost_user/adapter.rs")];

/// Lines of code a file may have before its tests.
const FILE_LINES: usize = 400;
/// Lines a function may have.
const FUNCTION_LINES: usize = 60;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn crate_sources(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join(name).join("src"), &mut found);
    assert!(!found.is_empty(), "{name} has sources");
    found
}

/// The code of a file before its tests, without comment lines.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a readable source file");
    text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).collect::<Vec<_>>().join("\n")
}

fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.ends_with("_tests.rs") || name.starts_with("test_") || path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn arrows_point_downwards() {
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let table: toml::Table = manifest.parse().expect("TOML");
        let dependencies = table.get("dependencies").and_then(|d| d.as_table()).expect("a dependency table");
        for dependency in dependencies.keys() {
            let ours = ARROWS.iter().any(|(crate_name, _)| crate_name == dependency);
            assert!(!ours || allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_crate_of_the_workspace_is_in_the_table() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let table: toml::Table = manifest.parse().expect("TOML");
    let members = table["workspace"]["members"].as_array().expect("members");
    for member in members {
        let name = member.as_str().expect("a name");
        assert!(ARROWS.iter().any(|(n, _)| *n == name), "{name} is missing from the table of arrows");
    }
}

#[test]
fn unsafe_stands_in_two_crates_only() {
    for (name, _) in ARROWS.iter().filter(|(n, _)| !UNSAFE.contains(n)) {
        let lib = fs::read_to_string(root().join(name).join("src/lib.rs")).expect("lib.rs");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{name}/src/lib.rs forbids unsafe code");
    }
    let main = fs::read_to_string(root().join("src/main.rs")).expect("main.rs");
    assert!(main.contains("#![forbid(unsafe_code)]"), "src/main.rs forbids unsafe code");
}

#[test]
fn an_adapted_library_is_named_by_its_adapter_only() {
    let ours = ARROWS.iter().map(|(name, _)| *name).filter(|name| *name != "testbed").chain(["."]);
    let files: Vec<PathBuf> = ours.flat_map(crate_sources).filter(|path| !is_test_file(path)).collect();
    for (library, adapter) in ADAPTED {
        let names = |path: &&PathBuf| code(path).lines().any(|line| names_library(line, library));
        let naming: Vec<&PathBuf> = files.iter().filter(names).collect();
        assert_eq!(naming, [&root().join(adapter)], "who names {library}");
    }
}

/// True when a line of code names a path of the library, or the library itself to be used under another name.
fn names_library(line: &str, library: &str) -> bool {
    let whole = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let path = |at: usize| line[at + library.len()..].starts_with("::");
    let renamed = [format!("use {library} as "), format!("use {library};"), format!("extern crate {library}")];
    let found = line.match_indices(library).any(|(at, _)| whole(at) && path(at));
    !line.trim_start().starts_with("//") && (found || renamed.iter().any(|r| line.contains(r)))
}

#[test]
fn each_crate_opens_with_a_picture() {
    for (name, _) in ARROWS {
        let lib = fs::read_to_string(root().join(name).join("src/lib.rs")).expect("lib.rs");
        assert!(lib.starts_with("//!") && lib.contains("//! ```text"), "{name}/src/lib.rs opens with a picture");
    }
}

#[test]
fn files_and_functions_are_readable_in_one_sitting() {
    let mut long = Vec::new();
    let mut files: Vec<PathBuf> = ARROWS.iter().flat_map(|(n, _)| crate_sources(n)).collect();
    files.extend(crate_sources("."));
    for path in files.iter().filter(|p| !is_test_file(p)) {
        let code = code(path);
        let name = path.strip_prefix(root()).unwrap_or(path).display();
        if code.lines().count() > FILE_LINES {
            long.push(format!("{name}: {} lines", code.lines().count()));
        }
        for (line, length) in functions(&code).into_iter().filter(|(_, n)| *n > FUNCTION_LINES) {
            long.push(format!("{name}:{line}: a function of {length} lines"));
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

/// First line and length of each function, by the indentation rustfmt gives.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let starts = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        if !starts.starts_with("fn ") && !starts.starts_with("unsafe fn ") {
            continue;
        }
        // A declaration in a trait has no body.
        let opens = lines[at..].iter().find(|l| l.ends_with('{') || l.ends_with(';') || l.ends_with('}'));
        if opens.is_none_or(|l| !l.ends_with('{')) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|l| *l == close || l.ends_with(';') && l.starts_with(&close))
        {
            found.push((at + 1, length + 1));
        }
    }
    found
}
