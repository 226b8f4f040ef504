# Packages of the machine itself.

# command:package, for what the build and the tests call
needed_commands="cc:gcc make:make ip:iproute2 ping:iputils-ping ethtool:ethtool cpio:cpio gzip:gzip xz:xz-utils
    flock:util-linux setpriv:util-linux clang:clang m4:m4 pkg-config:pkg-config
    linux.uml:user-mode-linux dpdk-testpmd:dpdk-dev stdbuf:coreutils mount:mount"
# file:package
needed_files="/usr/lib/x86_64-linux-gnu/libc.a:libc6-dev /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    /etc/ssl/certs/ca-certificates.crt:ca-certificates /usr/include/libelf.h:libelf-dev /usr/include/zlib.h:zlib1g-dev"

missing_packages() {
    local pair
    for pair in $needed_commands; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done
    for pair in $needed_files; do
        [ -e "${pair%%:*}" ] || echo "${pair#*:}"
    done
}

packages_present() { [ -z "$(missing_packages)" ]; }

# Runs a command as root, by sudo where needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: $*"
    fi
}

# Installs packages, refreshing apt's lists only when something is missing.
apt_install() {
    command -v apt-get >/dev/null || die "no apt-get here; install by hand: $*"
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update || die "apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >"$scratch/apt.log" 2>&1 ||
        die "apt-get install $* failed: $(tail -n 3 "$scratch/apt.log")"
}

install_packages() {
    local missing
    missing=$(missing_packages | sort -u)
    # shellcheck disable=SC2086
    [ -z "$missing" ] || apt_install $missing
    packages_present || die "still missing after the installation: $(missing_packages | tr '\n' ' ')"
}
