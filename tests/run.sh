#!/usr/bin/env bash
# All tests, from nothing: sets up .venv, then runs pytest. Options go on to it, e.g. `bash tests/run.sh -k cmga`.
# For tests/cluster root gets Debian's Slurm and munge, where they are missing; elsewhere those tests are skipped.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/setup_venv.sh"
cd "$repo_root"
source tests/cluster/install_slurm.sh
exec "$VENV_BIN/python" -m pytest "$@"
