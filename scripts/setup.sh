#!/bin/bash
# Makes a machine ready to build and test: packages, Rust, a QEMU that speaks vfio-user, a guest kernel and its initramfs.
# Safe to run at any time and from several shells at once; does nothing when everything is there.
# All that is not a package of the machine itself lands under target/ and goes away with it.
set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
guest=$repo/target/guest
mkdir -p "$guest"

for part in packages apt rust qemu kernel initrd; do
    # shellcheck source=/dev/null
    . "$here/setup/$part.sh"
done

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# The stamp is a digest of everything the result depends on.
fingerprint() {
    cat "$here"/setup.sh "$here"/setup/*.sh "$repo"/testbed/guest/* "$repo/testbed/src/bin/guest-tool.rs" | sha256sum
}

complete() {
    [ "$(cat "$guest/stamp" 2>/dev/null)" = "$(fingerprint)" ] &&
        [ -x "$guest/qemu" ] && [ -s "$guest/kernel" ] && [ -s "$guest/initrd.gz" ] && [ -x "$guest/guest-tool" ] &&
        packages_present && rust_bin >/dev/null
}

if complete; then
    exit 0
fi

exec 9>"$guest/lock"
if ! flock -n 9; then
    say "another setup is running, waiting for it"
    flock 9
fi
if complete; then
    exit 0
fi

[ "$(uname -m)" = x86_64 ] || die "the test guests are x86_64; this machine is $(uname -m)"
scratch=$(mktemp -d "$guest/scratch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'die "failed at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND"' ERR

install_packages
install_rust
install_qemu
install_kernel
install_initrd
fingerprint >"$guest/stamp"
say "ready: $("$guest/qemu" --version | head -n 1), guest kernel $(cat "$guest/kernel-version"), $("$(rust_bin)/rustc" --version)"
