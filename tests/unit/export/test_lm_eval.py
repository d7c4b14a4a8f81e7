"""lm_eval on an export scores as we do: a tiny multiple-choice task on disk, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from heterotune.data.text_tokenizer import load_tokenizer

TASK = """
task: imports
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data} }} }}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
QUESTIONS = [
    {
        "query": "import os\nfor name in os.listdir(path):\n    print(",
        "choices": ["name)", "import", "class"],
        "label": 0,
    },
    {"query": "def main():", "choices": ["while\n", "return 0\n", "for\n"], "label": 1},
    {"query": "class Empty(Exception):\n    pass\n\nraise", "choices": ["Empty", "None", "def"], "label": 0},
    {"query": "if x is not", "choices": ["True:", "None:", "in:"], "label": 1},
    {"query": "from collections", "choices": ["import", "def", "self"], "label": 0},
]


def our_scores(exported, ours_of) -> list[list[float]]:
    """Return for every question the log-likelihood of each choice under the run's own backbone."""
    tokenizer, scores = load_tokenizer("embedded:small"), []
    for question in QUESTIONS:
        num_context, mine = len(tokenizer.encode(question["query"])), []
        for choice in question["choices"]:
            ids = torch.tensor([tokenizer.encode(f"{question['query']} {choice}")])
            log_probabilities = ours_of(exported.adapter, ids[:, :-1]).log_softmax(dim=-1)
            each = log_probabilities[0].gather(1, ids[0, 1:, None]).squeeze(1)
            mine.append(each[num_context - 1 :].sum().item())
        scores.append(mine)
    return scores


def test_lm_eval_scores_an_export_as_we_do(exports, ours_of, tmp_path):
    exported = exports["small"]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "imports.yaml").write_text(TASK.format(data=json.dumps(str(data))))
    base = json.loads((exported.out / "adapter_config.json").read_text())["base_model_name_or_path"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "TQDM_DISABLE": "1"}
    script = Path(__file__).parent / "lm_eval_process.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), base, str(exported.out)],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found, ours = json.loads((tmp_path / "found.json").read_text()), our_scores(exported, ours_of)
    torch.testing.assert_close(torch.tensor(found["log_likelihoods"]), torch.tensor(ours), rtol=1e-5, atol=1e-4)
    right = [
        max(range(3), key=scores.__getitem__) == each["label"] for scores, each in zip(ours, QUESTIONS, strict=True)
    ]
    assert found["accuracy"] == sum(right) / len(right)
    assert not found["heterotune"]
