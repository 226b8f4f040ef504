#!/bin/bash
# Every test, from the inside out: units and properties, soft guests over the real socket, namespaces with real kernels, real
# guests on stock QEMU. Nothing is skipped: what cannot run here fails and says why.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
if [ "$(id -u)" != 0 ]; then
    echo "test: namespaces, raw sockets and taps need root; run make test as root" >&2
    exit 1
fi
"$here/with-tools" cargo test --workspace --profile checked --locked --no-fail-fast
