# The guest's kernel, its modules and busybox: Debian packages, unpacked under target/guest/kernel-root.

# unpack_image BZIMAGE ELF: QEMU boots an ELF kernel by PVH without the guest having to decompress it, which takes an
# emulated CPU longer than all the rest of the boot.
unpack_image() {
    local magic tool at
    while read -r magic tool; do
        command -v "$tool" >/dev/null || continue
        at=$(LC_ALL=C grep -obUaP -m 1 "$magic" "$1" | head -n 1 | cut -d: -f1) || true
        [ -n "$at" ] || continue
        # The payload is followed by the rest of the image, which the tools complain about after having done their work.
        tail -c +$((at + 1)) "$1" | "$tool" -dc >"$scratch/elf" 2>/dev/null || true
        if [ "$(head -c 4 "$scratch/elf" | tail -c 3)" = ELF ] && [ "$(stat -c %s "$scratch/elf")" -gt 16000000 ]; then
            mv "$scratch/elf" "$2"
            return 0
        fi
    done <<'EOF'
\xfd7zXZ\x00 xz
\x28\xb5\x2f\xfd zstd
\x1f\x8b\x08 gzip
EOF
    return 1
}

install_kernel() {
    if [ -s "$guest/kernel" ] && [ -s "$guest/kernel-version" ] && [ -d "$guest/kernel-root/modules" ] && [ -x "$guest/busybox" ]; then
        return 0
    fi
    local suite packages image
    # The kernel of the machine's own suite; where that is no Debian suite, bookworm's.
    suite=${VSWITCH_GUEST_SUITE:-$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}")} || true
    suite=${suite:-bookworm}
    say "fetching a guest kernel and busybox from $suite"
    private_apt "$scratch/kernel-apt" "$suite" || die "no Debian mirror in this machine's apt sources has $suite"
    # linux-image-amd64 names the versioned package; newer kernels are split further.
    packages=$(APT_CONFIG=$scratch/kernel-apt/apt.conf apt-cache depends --recurse linux-image-amd64 |
        grep -oE '^linux-(image|binary|modules)-[0-9][^ ]*' | grep -v -- -unsigned | sort -u)
    [ -n "$packages" ] || die "$suite has no linux-image-amd64"
    # shellcheck disable=SC2086
    private_fetch "$scratch/kernel-apt" "$scratch/kernel" $packages busybox-static || die "could not fetch $packages"
    image=$(find "$scratch/kernel" -name 'vmlinuz*' -type f -print -quit)
    [ -n "$image" ] || die "no kernel image in $packages"
    mkdir -p "$guest/kernel-root"
    rm -rf "$guest/kernel-root/modules"
    mv "$(find "$scratch/kernel" -path '*lib/modules/*' -type d -print -quit)" "$guest/kernel-root/modules"
    mv "$(find "$scratch/kernel" -name busybox -type f -perm -u+x -print -quit)" "$guest/busybox"
    echo "${packages%%$'\n'*}" | sed 's/^linux-[a-z]*-//' >"$guest/kernel-version"
    if ! unpack_image "$image" "$guest/kernel"; then
        say "the kernel image stays compressed; guests boot a second or two slower"
        mv "$image" "$guest/kernel"
    fi
}
