# Debian packages that are unpacked under target/ and never installed: a private apt beside the machine's own.
# It needs no root, no chroot and no mounts.

# The mirrors in the machine's own apt sources, the likeliest first.
debian_mirrors() {
    # The origin is only known where the lists have been fetched before.
    apt-get indextargets --format '$(ORIGIN)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' '$2 !~ /security|updates|backports/ { print ($1 == "Debian" ? 0 : 1) "|" $3 }' | sort -u | cut -d'|' -f2
}

# apt names its sources only after it has fetched their lists once; a bare container comes without.
ensure_apt_lists() {
    command -v apt-get >/dev/null || die "no apt-get here: on anything but Debian, install what setup.sh names by hand"
    if [ -z "$(debian_mirrors)" ]; then
        as_root apt-get -qq update || die "apt-get update failed"
    fi
}

# private_apt DIR SUITE...: makes DIR an apt of its own that knows the given Debian suites.
private_apt() {
    local dir=$1 mirror suite
    shift
    ensure_apt_lists
    rm -rf "$dir"
    mkdir -p "$dir"/etc/{apt.conf.d,preferences.d,trusted.gpg.d} "$dir"/state/lists/partial "$dir"/cache/archives/partial
    : >"$dir/status"
    cat >"$dir/apt.conf" <<EOF
Dir::Etc "$dir/etc";
Dir::State "$dir/state";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
Acquire::Languages "none";
EOF
    # Proxies and the like are the machine's.
    apt-config dump | grep -E '^Acquire::(https?|Retries|ForceIPv)' >>"$dir/apt.conf" || true
    for mirror in $(debian_mirrors); do
        for suite in "$@"; do
            echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
        done >"$dir/etc/sources.list"
        if APT_CONFIG=$dir/apt.conf apt-get -qq update -o APT::Update::Error-Mode=any >"$dir/log" 2>&1; then
            return 0
        fi
    done
    [ ! -e "$dir/log" ] || tail -n 3 "$dir/log" >&2
    return 1
}

# private_unpack DIR ROOT [APT-OPTION...] PACKAGE...: downloads packages with what they depend on and unpacks them into ROOT.
private_unpack() {
    local dir=$1 root=$2 deb
    shift 2
    APT_CONFIG=$dir/apt.conf apt-get -qq install -y --download-only "$@" >"$dir/log" 2>&1 || {
        tail -n 3 "$dir/log" >&2
        return 1
    }
    mkdir -p "$root"
    for deb in "$dir"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$root" || return 1
    done
}

# private_fetch DIR ROOT PACKAGE...: the same for just the named packages.
private_fetch() {
    local dir=$1 root=$2 deb
    shift 2
    mkdir -p "$root" "$dir/debs"
    (cd "$dir/debs" && APT_CONFIG=$dir/apt.conf apt-get -qq download "$@") >"$dir/log" 2>&1 || {
        tail -n 3 "$dir/log" >&2
        return 1
    }
    for deb in "$dir"/debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$root" || return 1
    done
    rm -rf "$dir/debs"
}

# run_from ROOT PROGRAM [ARGUMENT...]: runs a program of an unpacked root with that root's own loader and libraries.
run_from() {
    local root=$1 program=$2
    shift 2
    "$root/usr/lib64/ld-linux-x86-64.so.2" --argv0 "$(basename "$program")" \
        --library-path "$root/usr/lib/x86_64-linux-gnu" "$root$program" "$@"
}
