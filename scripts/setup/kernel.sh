# The guest's kernel, its modules and busybox: Debian packages, unpacked under target/guest/kernel-root.

install_kernel() {
    if [ -s "$guest/vmlinuz" ] && [ -s "$guest/kernel-version" ] && [ -d "$guest/kernel-root/modules" ] && [ -x "$guest/busybox" ]; then
        return 0
    fi
    local suite packages image
    # The kernel of the machine's own suite; where that is no Debian suite, bookworm's.
    suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || true
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
    mv "$image" "$guest/vmlinuz"
}
