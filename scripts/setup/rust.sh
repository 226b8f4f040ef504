# Rust: the machine's own where it is new enough, else by the distribution's rustup package.

rust_minimum() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1; }

# Prints the directory of a cargo and rustc that are new enough.
rust_bin() {
    local minimum cargo version dir
    minimum=$(rust_minimum)
    for cargo in "$(command -v cargo || true)" "${HOME:-/root}/.cargo/bin/cargo" "$repo/target/rust/bin/cargo"; do
        [ -x "$cargo" ] || continue
        dir=$(dirname "$cargo")
        version=$("$dir/rustc" --version 2>/dev/null | cut -d' ' -f2) || continue
        if [ -n "$version" ] && [ "$(printf '%s\n' "${minimum:-0}" "$version" | sort -V | head -n 1)" = "${minimum:-0}" ]; then
            echo "$dir"
            return 0
        fi
    done
    return 1
}

# Installs the stable toolchain under target/rust; "$@" runs rustup.
rust_toolchain() {
    local home=$repo/target/rust
    mkdir -p "$home"
    say "installing the stable Rust toolchain under target/rust"
    RUSTUP_HOME=$home CARGO_HOME=$home/cargo "$@" toolchain install stable --profile minimal \
        --component clippy --component rustfmt --no-self-update >"$scratch/rustup.log" 2>&1 ||
        die "rustup failed: $(tail -n 3 "$scratch/rustup.log")"
    ln -sfn "$(basename "$(dirname "$home"/toolchains/stable-*/bin)" | sed 's,^,toolchains/,')/bin" "$home/bin"
}

install_rust() {
    if rust_bin >/dev/null; then
        return 0
    fi
    if command -v rustup >/dev/null; then
        rust_toolchain rustup
    elif [ -n "$(apt-cache madison rustup 2>/dev/null)" ]; then
        apt_install rustup
        rust_toolchain rustup
    else
        say "this suite has no rustup package; using the one of trixie from under target/"
        private_apt "$scratch/rust-apt" trixie || die "no Debian mirror in this machine's apt sources has trixie; install Rust >= $(rust_minimum) by hand"
        private_unpack "$scratch/rust-apt" "$scratch/rustup" rustup || die "could not fetch the rustup package"
        rust_toolchain run_from "$scratch/rustup" /usr/bin/rustup
    fi
    rust_bin >/dev/null || die "the stable Rust toolchain is older than $(rust_minimum)"
}
