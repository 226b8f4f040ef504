# A QEMU with vfio-user-pci (10.1 or newer), called as target/guest/qemu.

install_qemu() {
    if "$guest/qemu" -device help 2>/dev/null | grep -q '"vfio-user-pci"'; then
        return 0
    fi
    if qemu-system-x86_64 -device help 2>/dev/null | grep -q '"vfio-user-pci"'; then
        say "using this machine's QEMU"
        printf '#!/bin/sh\nexec qemu-system-x86_64 "$@"\n' >"$scratch/qemu"
    else
        fetch_qemu
        qemu_wrapper >"$scratch/qemu"
    fi
    chmod +x "$scratch/qemu"
    mv "$scratch/qemu" "$guest/qemu"
    "$guest/qemu" -device help 2>&1 | grep -q '"vfio-user-pci"' || die "the QEMU of target/guest does not run or has no vfio-user-pci"
}

fetch_qemu() {
    say "this machine has no QEMU with vfio-user-pci; unpacking one from trixie-backports under target/guest"
    private_apt "$scratch/qemu-apt" trixie trixie-backports ||
        die "no Debian mirror in this machine's apt sources has trixie-backports; install QEMU >= 10.1 by hand"
    private_unpack "$scratch/qemu-apt" "$scratch/qemu-root" -t trixie-backports qemu-system-x86 || die "could not fetch QEMU"
    rm -rf "$guest/qemu-root" "$scratch"/qemu-root/usr/share/{doc,man,locale,i18n}
    mv "$scratch/qemu-root" "$guest/qemu-root"
}

# QEMU runs with its own root's loader, libraries and firmware, but sees this machine's files: paths mean what they say.
qemu_wrapper() {
    cat <<'EOF'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/qemu-root
export QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu"
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/seabios" -L "$root/usr/share/qemu" "$@"
EOF
}
