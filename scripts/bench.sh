#!/bin/bash
# The switch beside its peers, on the same ports, by the same generator: writes benches/RESULTS.md and benches/results.svg.
# ROUNDS and SECONDS_EACH change how often and how long; ONLY=veth,tcp-tap runs the works whose names hold one of these
# words and writes to target/side-by-side instead. The peers come from Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
if [ "$(id -u)" != 0 ]; then
    echo "bench: huge pages, the peers' ports and network namespaces need root; run make bench as root" >&2
    exit 1
fi
missing=""
for package in dpdk-dev openvswitch-switch-dpdk iperf3 vde-switch user-mode-linux; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || true
    # One by one: a peer that cannot be installed is a gap in the results, said there, and the others come all the same.
    # Their services are not to start.
    for package in $missing; do
        echo "bench: installing $package"
        RUNLEVEL=1 apt-get -qq install -y --no-install-recommends "$package" >target/bench-apt.log 2>&1 ||
            echo "bench: not installed: $package: $(tail -n 1 target/bench-apt.log)"
    done
fi
out=benches
[ -z "${ONLY:-}" ] || out=target/side-by-side
"$here/with-tools" cargo build --release --locked -p vswitch -p vswitch-benches
exec "$here/with-tools" cargo run --release --locked --quiet -p vswitch-benches --bin side-by-side -- \
    --rounds "${ROUNDS:-5}" --seconds "${SECONDS_EACH:-1}" --only "${ONLY:-}" --out "$out"
