#!/bin/bash
# Formatting, clippy with warnings denied, licences and sources of dependencies, and the shape of the house (dependency
# arrows, where unsafe stands, file and function lengths).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
run() { echo "lint: $*"; "$here/with-tools" "$@"; }

run cargo fmt --all --check
run cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
if [ ! -x target/tools/bin/cargo-deny ]; then
    echo "lint: installing cargo-deny (once, some minutes)"
    "$here/with-tools" cargo install --quiet --locked --root target/tools cargo-deny
fi
export PATH="$PWD/target/tools/bin:$PATH"
run cargo deny --workspace --log-level error check licenses bans sources
# Advisories need the advisory database from the network; without it, say so rather than pass in silence.
if ! run cargo deny --workspace --log-level error check advisories 2>target/advisories.log; then
    if grep -qE 'failed to (fetch|clone|load)|unable to (fetch|load)' target/advisories.log; then
        echo "lint: advisories NOT checked: the advisory database cannot be fetched from here"
    else
        cat target/advisories.log >&2
        exit 1
    fi
fi
run cargo test --quiet --locked --test house
echo "lint: ok"
