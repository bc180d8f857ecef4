#!/bin/sh
# Makes .venv from requirements.lock and checks what the system must have. Run by `make setup`; does nothing when nothing changed.
# Installs Debian packages where it may (root and apt-get); elsewhere it prints the command that does.
set -eu
cd "$(dirname "$0")"
venv=.venv
stamp=$venv/.bootstrapped

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# install WHY PACKAGE...: with apt-get where we may, else say how; the return code tells which.
install() {
    why=$1; shift
    if may_install; then
        say "installing $* ($why)"
        [ -n "${apt_updated:-}" ] || apt-get update -qq >/dev/null; apt_updated=yes
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        say "missing: $why. To install it: sudo apt-get install -y $*"
        return 1
    fi
}

fingerprint() { cat bootstrap.sh requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1; }
[ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] && exit 0

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"; return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found; install one, or run: make PYTHON=/path/to/python3.12 setup"
}

check_system() {
    command -v git >/dev/null || install "git, which versions datasets and checkpoints" git || fail "git is needed"
    missing=
    for library in libEGL.so.1:libegl1 libGL.so.1:libgl1 libOpenGL.so.0:libopengl0 libOSMesa.so:libosmesa6; do
        ldconfig -p 2>/dev/null | grep -q "${library%%:*}" || missing="$missing ${library##*:}"
    done
    [ -e /usr/lib/"$(uname -m)"-linux-gnu/dri/swrast_dri.so ] || missing="$missing libgl1-mesa-dri"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install "OpenGL, which renders simulated cameras outside a container" $missing || true
    if docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
        say "Docker: engine $(docker version --format '{{.Server.Version}}') answers; benchmarks run in containers"
    elif ! command -v dockerd >/dev/null && [ -d /run/systemd/system ]; then
        install "Docker, which isolates benchmarks" docker.io || true
    else
        say "Docker: no engine answers; benchmarks run in their own virtual environment (start one: sudo service docker start)"
    fi
}

make_venv() {
    python=$(find_python)
    say "making $venv with $("$python" --version) ($(command -v "$python"))"
    "$python" -c 'import ensurepip' 2>/dev/null || install "Python's venv module" python3-venv || exit 1
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$(grep '^uv==' requirements.lock | cut -d' ' -f1)"
    # uv does not read pip's settings: hand over where this user's pip finds packages.
    "$venv/bin/python" -m pip config list | sed -n "s/^[^=]*\.\(find-links\|index-url\|extra-index-url\)='\(.*\)'$/\1 \2/p" \
        | while read -r option values; do
            for value in $values; do
                case $value in file://*) [ -d "${value#file://}" ] || continue ;; esac
                printf -- '--%s\n%s\n' "$option" "$value"
            done
        done >"$venv/uv-options"
    say "installing requirements.lock"
    SSL_CERT_FILE=${SSL_CERT_FILE:-${PIP_CERT:-}}; [ -n "$SSL_CERT_FILE" ] && export SSL_CERT_FILE || unset SSL_CERT_FILE
    xargs -d '\n' -a "$venv/uv-options" "$venv/bin/uv" pip install -q --python "$venv/bin/python" \
        --index-strategy unsafe-best-match -r requirements.lock
    "$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps --no-build-isolation -e .
}

check_system
make_venv
fingerprint >"$stamp"
