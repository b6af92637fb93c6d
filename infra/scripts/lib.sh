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
