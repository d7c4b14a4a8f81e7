#!/usr/bin/env bash
# The headline experiment: whole models, LoRA and HeteroTune on one federation; bytes, memory and quality side by side.
# Sets up .venv. `bash tools/experiments/headline.sh --quick` shows that everything runs; what is done is not done again.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../../launch/setup_venv.sh"
cd "$repo_root"
exec "$VENV_BIN/python" tools/experiments/headline.py "$@"
