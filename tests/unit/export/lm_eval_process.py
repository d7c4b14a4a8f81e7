"""Run lm_eval on an export, as docs/export.md says. Started by test_lm_eval.py, in a process of its own.

Usage: lm_eval_process.py FOLDER BASE OUT; FOLDER holds the task. Writes FOLDER/found.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager


def main(folder: Path, base: str, out: str) -> None:
    """Write accuracy and log-likelihoods by document."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={base},peft={out},dtype=float32",
        tasks=["imports"],
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    samples = sorted(found["samples"]["imports"], key=lambda sample: sample["doc_id"])
    content = {
        "accuracy": found["results"]["imports"]["acc,none"],
        "log_likelihoods": [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples],
        "heterotune": "heterotune" in sys.modules,
    }
    (folder / "found.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
