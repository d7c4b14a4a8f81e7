#!/usr/bin/env bash
# Makes or refreshes .venv at the top of the repository; other scripts source this file, and then $VENV_BIN holds its commands.
# Nothing is installed when pyproject.toml and constraints.txt are as they were the last time. A script that sets
# venv_extras="[test,...]" before gets what these extras need, too; without it the engine's own packages do.

repo_root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV_BIN="$repo_root/.venv/bin"

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$candidate"
            return 0
        fi
    done
    echo "heterotune needs Python 3.11 or newer; none of python3, python3.11 ... python3.14 on PATH is. Install one." >&2
    return 1
}

wanted_stamp() {
    cat "$repo_root/pyproject.toml" "$repo_root/constraints.txt" | cksum
    echo "$repo_root"
}

# Whether .venv is what the files ask for; one with extras has all that the engine needs.
is_set_up() {
    local stamp
    for stamp in "$@"; do
        [[ -f "$stamp" && -x "$VENV_BIN/python" && "$(cat "$stamp")" == "$(wanted_stamp)" ]] && return 0
    done
    return 1
}

setup_venv() {
    local with_extras="$repo_root/.venv/heterotune-stamp" alone="$repo_root/.venv/heterotune-stamp-engine"
    local stamps=("$with_extras" "$alone")
    [[ -n "${venv_extras:-}" ]] && stamps=("$with_extras")
    is_set_up "${stamps[@]}" && return 0
    local python
    python="$(find_python)" || return 1
    if [[ ! -x "$VENV_BIN/python" ]] || ! "$VENV_BIN/python" -m pip --version >/dev/null 2>&1; then
        echo "Making .venv with $("$python" --version) ..." >&2
        if ! "$python" -m venv --clear "$repo_root/.venv"; then
            echo "python -m venv failed. On Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    echo "Installing pinned packages into .venv (once; some minutes) ..." >&2
    (cd "$repo_root" && "$VENV_BIN/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${venv_extras:-}") || return 1
    wanted_stamp >"${stamps[-1]}"
}

setup_venv
