#!/usr/bin/env bash
# All evidence tables and docs/evidence.md, the most valuable cells first: bash tools/experiments/evidence.sh DATA FAMILY OUT [JOBS]
# What is done is not done again, so the same command goes on after an interruption.
set -uo pipefail # a run that fails is told, and the others go on
if [ $# -lt 3 ]; then
  echo "usage: bash tools/experiments/evidence.sh DATA FAMILY OUT [JOBS]" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export OMP_NUM_THREADS=1
python="${PYTHON:-$here/../../.venv/bin/python}"
where=(--data "$1" --family "$2" --out "$3" --jobs "${4:-2}")
run() { "$python" "$here/evidence.py" "${where[@]}" "$@"; }

for table in siblings scarce skew main; do run --table "$table" --arms within_type heterotune fedavg_lora shared; done
for table in siblings scarce skew main single forms other; do run --table "$table"; done
for table in cmga ablation rounds; do run --table "$table" --seeds 1 2 3; done
run --table tuning
"$python" "$here/evidence_cmga.py" --data "$1" --family "$2" --out "$3/cmga" --jobs "${4:-2}" --seeds 1 2 3
"$python" "$here/evidence_page.py"
