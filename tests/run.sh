#!/usr/bin/env bash
# All tests, from nothing: sets up .venv, then runs pytest. Options go on to it, e.g. `bash tests/run.sh -k cmga`.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/setup_venv.sh"
cd "$repo_root"
exec "$VENV_BIN/python" -m pytest "$@"
