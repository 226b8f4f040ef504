# The guest's initramfs: busybox, ethtool, our guest-tool, network drivers, and testbed/guest.

guest_modules="vmxnet3 pcnet32 virtio_pci virtio_net 8021q"

# module_path NAME: the file of a module, whatever its compression and spelling; empty for one built in.
module_path() {
    find "$guest/kernel-root/modules" \( -name "$1.ko*" -o -name "${1//_/-}.ko*" \) -print -quit
}

# add_module ROOT NAME: copies a module after those it depends on and notes the order.
add_module() {
    local root=$1 name=$2 file dependency
    [ ! -e "$root/modules/$name.ko" ] || return 0
    file=$(module_path "$name")
    [ -n "$file" ] || return 0
    case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -dc "$file" ;;
        *) cat "$file" ;;
    esac >"$root/modules/$name.ko"
    for dependency in $(tr '\0' '\n' <"$root/modules/$name.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
        add_module "$root" "$dependency"
    done
    echo "$name" >>"$root/modules/order"
}

# add_program ROOT FILE: a dynamically linked program of this machine with its libraries, at the same paths.
add_program() {
    local root=$1 file
    for file in "$2" $(ldd "$2" | grep -oE '/[^ ]+'); do
        mkdir -p "$root$(dirname "$file")"
        cp -L "$file" "$root$file"
    done
}

install_initrd() {
    local root=$scratch/initrd name
    say "building the guest's initramfs"
    "$(rust_bin)/rustc" --edition 2024 -C opt-level=3 -C panic=abort -C strip=symbols -C target-feature=+crt-static \
        -o "$scratch/guest-tool" "$repo/testbed/src/bin/guest-tool.rs" || die "guest-tool does not compile"
    mkdir -p "$root"/{bin,dev,proc,sys,modules,sbin,etc}
    cp "$guest/busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 755 "$repo/testbed/guest/init" "$repo/testbed/guest/agent" "$root/"
    install -m 755 "$scratch/guest-tool" "$root/bin/guest-tool"
    add_program "$root" "$(PATH=$PATH:/usr/sbin:/sbin command -v ethtool)"
    for name in $guest_modules; do
        add_module "$root" "$name"
    done
    for name in vmxnet3 pcnet32; do
        [ -e "$root/modules/$name.ko" ] || die "the guest kernel has no module $name"
    done
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$scratch/initrd.gz"
    mv "$scratch/guest-tool" "$guest/guest-tool"
    mv "$scratch/initrd.gz" "$guest/initrd.gz"
}
