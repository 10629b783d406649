#!/bin/sh
# Builds lighter as one static program: no libraries, no interpreter, runs on any Linux of its architecture.
#
#   packaging/build.sh [DIR]          DIR: target/dist; the program is DIR/lighter
#
# It is linked with glibc's static archive (Debian package libc6-dev), because that needs no second toolchain.
# Names of hosts are then resolved from /etc/hosts and DNS only, not through other NSS modules.
set -eu
cd "$(dirname "$0")/.."

LIMIT=25000000 # bytes: what README promises
dest=${1:-target/dist}
triple=$(rustc -vV | sed -n 's/^host: //p')
case $triple in
    *-linux-gnu | *-linux-musl) ;;
    *) printf 'build.sh: lighter is for Linux, and this is %s\n' "$triple" >&2; exit 1 ;;
esac

# With --target, the flags do not reach build scripts and procedural macros, which cannot be static.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --profile dist --package cli --bin lighter --target "$triple" --target-dir "$dest/build" --locked
cp "$dest/build/$triple/dist/lighter" "$dest/lighter"

# ldd names libraries, or says "statically linked".
if ldd "$dest/lighter" 2>/dev/null | grep -q '\.so'; then
    printf 'build.sh: %s still wants libraries:\n' "$dest/lighter" >&2
    ldd "$dest/lighter" >&2
    exit 1
fi
size=$(wc -c <"$dest/lighter")
if [ "$size" -gt $LIMIT ]; then
    printf 'build.sh: %s has %s bytes, more than %s\n' "$dest/lighter" "$size" $LIMIT >&2
    exit 1
fi
"$dest/lighter" --version >/dev/null
printf '%s: %s bytes, static\n' "$dest/lighter" "$size"
