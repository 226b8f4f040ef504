//! What a configuration may say but this version does not carry out yet.
//!
//! Nothing is accepted and then ignored: each line here is a refusal, and goes when the feature comes.

use super::problem::{At, Report};

/// Key, value, and what to write instead.
const NOT_YET: &[(&str, &str, &str)] = &[("adapter", "tap", "use \"netdev\" with one end of a veth pair")];

/// Reports `key = value` of `what` when this version does not carry it out.
pub(super) fn check(report: &mut Report<'_>, key: &str, value: &str, what: &str, at: At) {
    if let Some((_, _, mend)) = NOT_YET.iter().find(|(k, v, _)| *k == key && *v == value) {
        report.add(at, format!("{key} = \"{value}\" in {what} is not supported by this version; {mend}"));
    }
}
