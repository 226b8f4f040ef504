#!/bin/bash
# The switch beside its peers, on the same ports, by the same generator: writes benches/RESULTS.md and benches/results.svg.
# ROUNDS and SECONDS_EACH change how often and how long; the peers come from Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
if [ "$(id -u)" != 0 ]; then
    echo "bench: huge pages and the peers' ports need root; run make bench as root" >&2
    exit 1
fi
missing=""
for package in dpdk-dev openvswitch-switch-dpdk; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "bench: installing$missing"
    # A peer that cannot be installed is a gap in the results, and said there. Their services are not to start.
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || true
    # shellcheck disable=SC2086
    RUNLEVEL=1 apt-get -qq install -y --no-install-recommends $missing >target/bench-apt.log 2>&1 ||
        echo "bench: not installed: $(tail -n 1 target/bench-apt.log)"
fi
"$here/with-tools" cargo build --release --locked -p vswitch -p vswitch-benches
exec "$here/with-tools" cargo run --release --locked --quiet -p vswitch-benches --bin side-by-side -- \
    --rounds "${ROUNDS:-5}" --seconds "${SECONDS_EACH:-1}" --out benches
