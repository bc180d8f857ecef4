#!/bin/sh
# Makes a base image of Debian 12 with Python 3.11 where no registry of images can be reached: make-base.sh NAME[:TAG]
# Needs root, debootstrap and a Docker engine. MIRROR and SECURITY_MIRROR say where Debian's packages are; by default
# where this machine's apt finds them. The machine's certificates come along, so that a build reaches what it reaches.
set -eu
name=${1:?usage: make-base.sh NAME[:TAG]}
suite=bookworm

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "debootstrap needs root: sudo $0 $name"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install -y debootstrap"
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || fail "no Docker engine answers"

# The first archive that apt uses for this suite and whose address holds the given word.
archive() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed 's/^ *#.*//; s/\[[^]]*\]//' \
        | grep -oE '(https?|file)://[^ ]*'"$1"'/?( |$)' | head -n 1 | tr -d ' '
}
mirror=${MIRROR:-$(archive '/debian')}
mirror=${mirror:-http://deb.debian.org/debian}
security=${SECURITY_MIRROR:-$(archive '/debian-security')}
security=${security:-http://deb.debian.org/debian-security}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
echo "debootstrap $suite from $mirror" >&2
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" "$mirror" >"$root.log" 2>&1 \
    || { tail -n 20 "$root.log" >&2; rm -f "$root.log"; fail "debootstrap failed"; }
rm -f "$root.log"

cat >"$root/etc/apt/sources.list" <<SOURCES
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
SOURCES
# How this machine's apt fetches: proxies, and whether it looks at dates.
apt-config dump Acquire 2>/dev/null | grep -iE '::proxy|::Check-|::Verify-' >"$root/etc/apt/apt.conf.d/90host" || true
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -e "$certificates" ]; then cp -L "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"; fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
: >"$root/etc/machine-id"
echo "debian" >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf"

tar -C "$root" --numeric-owner -c . | docker import --change 'ENV LANG=C.UTF-8' - "$name" >/dev/null
echo "$name" >&2
