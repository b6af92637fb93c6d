# Shared by the scripts beside this file: find a Python, make the virtual environment, install into it.
# Sourced with the repository root as the working directory.

say() { printf '%s\n' "$*"; }
note() { printf '\033[2m%s\033[0m\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Without a terminal, or where colours are not wanted, the same words in plain.
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ] || [ "${TERM:-dumb}" = dumb ]; then
    note() { printf '%s\n' "$*"; }
fi

python_fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints a Python of at least 3.11 that can make virtual environments.
find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 && python_fits "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    die "no Python of at least 3.11 with venv was found; install one, or name it: PYTHON=/path/to/python3.12 $0"
}

# install_into DIR EXTRA: a virtual environment in DIR with this repository, editable, and one of its extras.
# pip brings uv, and uv, which is many times faster, brings the rest.
install_into() {
    if ! python_fits "$1/bin/python"; then
        rm -rf "$1"
        python=$(find_python) || exit 1
        note "making a virtual environment in $1 with $("$python" --version)"
        "$python" -m venv "$1"
    fi
    if ! "$1/bin/python" -c 'import uv' >/dev/null 2>&1; then
        note "installing uv"
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9.8'
    fi
    note "installing clipper[$2]"
    "$1/bin/python" -m uv pip install --quiet --python "$1/bin/python" --editable ".[$2]"
}

# need_command COMMAND PACKAGE: make sure that a command is there, from Debian's package if it is not.
need_command() {
    ! command -v "$1" >/dev/null 2>&1 || return 0
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    if ! command -v apt-get >/dev/null 2>&1 || { [ ${#as_root[@]} -gt 0 ] && ! "${as_root[@]}" true 2>/dev/null; }; then
        die "$1 is not installed, and this script can't install it here; install it and try again"
    fi
    note "installing $2" >&2
    "${as_root[@]}" apt-get update -qq >&2
    # Without what is merely recommended: no service of these is wanted, each test starts its own.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}
