//! Names, labels and interface names: what may be called what.

use super::problem::{Located, Report};

/// Longest name of a vNIC or uplink in bytes; with the directory it must fit a socket address too.
const MAX_NAME: usize = 64;
/// Longest label of a switch or port group in bytes, as in ESX.
const MAX_LABEL: usize = 80;
/// Longest name of a Linux interface in bytes (IFNAMSIZ less the final zero).
const MAX_DEVICE: usize = 15;

/// Reports a name that cannot be a file's. `what` is the thing named, such as `vnic "a/b"`.
pub(super) fn check_name(report: &mut Report<'_>, name: &Located<String>, what: &str) {
    let wrong = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let sentence = if name.is_empty() {
        format!("the name of {what} is empty; give it one of letters, digits, '-', '_' and '.'")
    } else if let Some(c) = name.chars().find(wrong) {
        format!("the name of {what} holds {c:?}; use letters, digits, '-', '_' and '.' only")
    } else if name.len() > MAX_NAME {
        format!("the name of {what} is {} bytes long; use at most {MAX_NAME}", name.len())
    } else if name.starts_with(['.', '-']) {
        format!("the name of {what} does not begin with a letter, a digit or '_'; choose one that does")
    } else {
        return;
    };
    report.add(name.at, sentence);
}

/// Reports a label that would not print well. `what` is the thing labelled.
pub(super) fn check_label(report: &mut Report<'_>, label: &Located<String>, what: &str) {
    let sentence = if label.trim().is_empty() {
        format!("the name of {what} is empty; give it one")
    } else if let Some(c) = label.chars().find(|c| c.is_control()) {
        format!("the name of {what} holds the control character {c:?}; take it out")
    } else if label.len() > MAX_LABEL {
        format!("the name of {what} is {} bytes long; use at most {MAX_LABEL}", label.len())
    } else if label.trim().len() != label.len() {
        format!("the name of {what} begins or ends with a space; take it off")
    } else {
        return;
    };
    report.add(label.at, sentence);
}

/// Reports what cannot be the name of a Linux interface.
pub(super) fn check_device(report: &mut Report<'_>, device: &Located<String>, what: &str) {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    let name = device.escape_debug();
    let why = if device.is_empty() {
        "is empty".to_owned()
    } else if device.len() > MAX_DEVICE {
        format!("is longer than the {MAX_DEVICE} bytes Linux allows")
    } else if device.contains(wrong) || matches!(device.as_str(), "." | "..") {
        "is no name Linux gives an interface".to_owned()
    } else {
        return;
    };
    report.add(device.at, format!("device \"{name}\" of {what} {why}; `ip link` lists the interfaces"));
}

/// Reports each thing whose key another one before it has. `sentence` gets the later and the earlier.
pub(super) fn check_unique<'a, T, K: PartialEq + 'a>(
    report: &mut Report<'_>,
    things: &'a [T],
    key: impl Fn(&'a T) -> &'a Located<K>,
    sentence: impl Fn(&'a T, &'a T) -> String,
) {
    let mut seen: Vec<&'a T> = Vec::new();
    for thing in things {
        // Line 0 marks a value that was missing or wrong and is told already.
        if key(thing).at.line == 0 {
            continue;
        }
        match seen.iter().find(|s| key(s).value == key(thing).value) {
            Some(first) => report.add(key(thing).at, sentence(thing, first)),
            None => seen.push(thing),
        }
    }
}
