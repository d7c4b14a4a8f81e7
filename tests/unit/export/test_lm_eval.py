"""lm_eval on an export scores as we do: a tiny multiple-choice task on disk, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
    """The command of docs/export.md, with a task on disk."""
    exported = exports["small"]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "imports.yaml").write_text(TASK.format(data=json.dumps(str(data))))
    base = json.loads((exported.out / "adapter_config.json").read_text())["base_model_name_or_path"]
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "imports"]
    command += ["--model_args", f"pretrained={base},peft={exported.out},dtype=float32"]
    command += ["--include_path", str(tmp_path), "--device", "cpu", "--output_path", str(tmp_path / "found")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [*command, "--log_samples"], env=os.environ | offline, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(next((tmp_path / "found").rglob("results_*.json")).read_text())["results"]["imports"]
    lines = next((tmp_path / "found").rglob("samples_imports_*.jsonl")).read_text().splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    theirs = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
    ours = our_scores(exported, ours_of)
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours), rtol=1e-5, atol=1e-4)
    right = [scores.index(max(scores)) == each["label"] for scores, each in zip(ours, QUESTIONS, strict=True)]
    assert results["acc,none"] == sum(right) / len(right)
    assert 0 < sum(right) < len(right)
