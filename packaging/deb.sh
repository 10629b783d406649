#!/bin/sh
# Makes a Debian package of a lighter that was built: the program, man pages, completions, the service of the
# registry with its user and its configuration.
#
#   packaging/deb.sh [--binary FILE] [--output DIR] [--fast]     FILE: target/dist/lighter    DIR: target/dist
#
# --fast compresses little: for tests.
#
# stdout carries the name of the package. The same input gives the same bytes; SOURCE_DATE_EPOCH is the time
# in it. Needs dpkg-deb; needs no root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=$here/../target/dist/lighter
output=$here/../target/dist
compression='-Zxz -z6'

fail() { printf 'deb.sh: %s\n' "$*" >&2; exit 1; }
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?--binary wants a file}; shift 2 ;;
        --output) output=${2:?--output wants a directory}; shift 2 ;;
        --fast) compression='-Zgzip -z1'; shift ;;
        *) fail "no such option: $1" ;;
    esac
done
[ -x "$binary" ] || fail "$binary is missing: run packaging/build.sh"
command -v dpkg-deb >/dev/null || fail "dpkg-deb is missing: install the Debian package dpkg"

version=$("$binary" --version | cut -d ' ' -f 2)
architecture=$(dpkg --print-architecture)
depends=adduser
# A program that is not static needs the libc that it was linked with.
if ldd "$binary" 2>/dev/null | grep -q '\.so'; then
    libc=$(dpkg-query -W -f '${Version}' libc6)
    depends="$depends, libc6 (>= ${libc%%-*}), libgcc-s1"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
root=$work/root
umask 022
put() { install -D -m "$1" "$2" "$root/$3"; } # MODE FILE PATH

put 0755 "$binary" usr/bin/lighter
put 0644 "$here/debian/lighter-registry.service" usr/lib/systemd/system/lighter-registry.service
put 0644 "$here/debian/registry.toml" etc/lighter/registry.toml
put 0644 "$here/debian/copyright" usr/share/doc/lighter/copyright
for guide in "$here"/../docs/*.md; do put 0644 "$guide" "usr/share/doc/lighter/$(basename "$guide")"; done
put 0644 "$here/kubernetes/registry.yaml" usr/share/doc/lighter/examples/kubernetes/registry.yaml

"$binary" man "$work/man"
for page in "$work"/man/*.1; do
    gzip -9n "$page"
    put 0644 "$page.gz" "usr/share/man/man1/$(basename "$page").gz"
done
for shell in bash zsh fish; do "$binary" completions $shell >"$work/$shell"; done
put 0644 "$work/bash" usr/share/bash-completion/completions/lighter
put 0644 "$work/zsh" usr/share/zsh/vendor-completions/_lighter
put 0644 "$work/fish" usr/share/fish/vendor_completions.d/lighter.fish

mkdir -p "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@DEPENDS@/$depends/" \
    -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f 1)/" "$here/debian/control" >"$root/DEBIAN/control"
echo /etc/lighter/registry.toml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do put 0755 "$here/debian/$script" "DEBIAN/$script"; done
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs md5sum >DEBIAN/md5sums)

# The time of everything in it: given, or that of the program.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y "$binary")}
export SOURCE_DATE_EPOCH
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$output"
package=$output/lighter_${version}_$architecture.deb
# shellcheck disable=SC2086 # two words
dpkg-deb --root-owner-group $compression --build "$root" "$package" >&2
printf '%s\n' "$package"
