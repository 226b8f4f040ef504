#!/bin/bash
# Formatting, clippy with warnings denied, licences and sources of dependencies, and the shape of the house (dependency
# arrows, where unsafe stands, file and function lengths), and instructions per frame against their baselines.
#   --counts        only that last part
#   --take-counts   only that, and makes what it counts the new baselines
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
run() { echo "lint: $*"; "$here/with-tools" "$@"; }

# Instructions per frame of each stage, under callgrind, and benches/baselines/instructions.toml; "$1" is compare or take.
count_instructions() {
    local version out
    if ! command -v valgrind >/dev/null; then
        echo "lint: installing valgrind"
        local sudo=""
        [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq update
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends valgrind >target/valgrind-apt.log 2>&1 ||
            { cat target/valgrind-apt.log >&2; exit 1; }
    fi
    # The benches and their runner are of one version.
    version=$(sed -n '/^name = "gungraun"$/{n;s/^version = "\(.*\)"/\1/p}' Cargo.lock)
    if [ "$(target/tools/bin/gungraun-runner --version 2>/dev/null)" != "gungraun-runner $version" ]; then
        echo "lint: installing gungraun-runner $version (once, some minutes)"
        "$here/with-tools" cargo install --quiet --locked --force --root target/tools --version "$version" gungraun-runner
    fi
    # The benches look for their runner in the PATH.
    export PATH="$PWD/target/tools/bin:$PATH"
    out=${CARGO_TARGET_DIR:-target}
    if ! run cargo bench --locked --quiet -p vswitch-benches --bench instructions -- --output-format=json \
        >target/instructions.json 2>target/instructions.log; then
        cat target/instructions.log >&2
        exit 1
    fi
    run "$out/release/counts" benches/baselines/instructions.toml "$1" <target/instructions.json
}

mkdir -p target
case ${1:-} in
    "") ;;
    --counts) count_instructions compare; exit 0 ;;
    --take-counts) count_instructions take; exit 0 ;;
    *) echo "lint: unknown option $1; known: --counts, --take-counts" >&2; exit 2 ;;
esac

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
count_instructions compare
echo "lint: ok"
