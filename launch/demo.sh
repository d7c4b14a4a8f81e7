#!/usr/bin/env bash
# The main job, from nothing: sets up .venv, then runs launch/runs/demo.yaml on two MPI ranks. Options go on to
# `heterotune run`, e.g. `bash launch/demo.sh --set rounds=2`.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup_venv.sh"
cd "$repo_root"
exec "$VENV_BIN/heterotune" run launch/runs/demo.yaml --ranks 2 "$@"
