#!/usr/bin/env bash
# All tests, from nothing: sets up .venv, then runs pytest. Options go on to it, e.g. `bash tests/run.sh -k cmga`.
# Without options, tests of one process run side by side, one on each core, then jobs of several ranks, two at a time, and
# then those that strike processes, start Slurm, install or watch a browser, one after the other.
# Root gets what some of them drive from Debian (debian_packages.sh); elsewhere those tests are skipped.
set -euo pipefail
venv_extras="[test,privacy,eval,bnb]"
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/setup_venv.sh"
cd "$repo_root"
source tests/debian_packages.sh
if [[ $# -gt 0 ]]; then
    exec "$VENV_BIN/python" -m pytest "$@"
fi
code=0
"$VENV_BIN/python" -m pytest -n auto --dist loadfile tests/unit tests/golden tests/property || code=$?
"$VENV_BIN/python" -m pytest -n 2 --dist loadfile tests/multirank || code=$?
"$VENV_BIN/python" -m pytest tests/fault tests/cluster tests/wheel tests/browser || code=$?
exit "$code"
