"""The bytes of a plan are those of the ledger of a real run, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from heterotune.collective.codecs import CODECS
from heterotune.collective.wire import encode, message_bytes
from heterotune.config.load import load_run
from heterotune.planning.calibration import CPU_CORE
from heterotune.planning.client_bytes import federation_bytes
from heterotune.planning.cluster import Cluster
from heterotune.planning.plan import setting_of
from heterotune.randomness import generator

ENGINE = Path(__file__).parents[3] / "engine"
RUN = """
name: tiny
rounds: 3
fleet:
  - {name: small, model: "embedded:small", clients: 2}
  - {name: wide, model: "random:hidden_size=48,num_hidden_layers=1,num_attention_heads=4", clients: 3}
data: {source: "embedded:stdlib", max_tokens: 16, max_rows_per_client: 4}
cohort: {fraction: 0.5}
local: {steps: 1, batch_size: 1}
heterotune: {adapter_rank: 2, head_rank: 4, head_basis: 8, align_tokens: 64, personal_rank: 1, realign_every: 1}
backbone: {ds_config: none}
chunk: {clients: 2}
evaluate: {max_rows: 2}
"""
PHONE = "{flops_per_second: 1.0e9, memory_gib: 4.0, down_mbit_per_second: 1.0, up_mbit_per_second: 1.0}"
DEVICES = [f"devices.profiles.phone={PHONE}", "devices.assign.small=phone", "devices.assign.wide=phone"]
BUFFERED = ["clock.mode=buffered", "clock.concurrency=5", "cohort.fraction=1.0"]


def test_a_plan_knows_the_ledger_of_a_run(tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    folder = tmp_path / "run"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "heterotune.worker", str(tmp_path / "run.yaml"), "--run-dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ENGINE), "HETEROTUNE_NUM_RANKS": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    told = federation_bytes(setting_of(load_run(tmp_path / "run.yaml"), Cluster(), CPU_CORE))
    assert sum(entry["bytes"] for entry in entries) == told.total_bytes
    for entry in entries:
        name, group = entry["model_type"], entry["group"]
        of_direction = told.up if entry["direction"] == "up" else told.down
        assert entry["bytes"] == of_direction[name].get(group, told.down_once[name].get(group)), entry
    by_direction = Counter()
    for entry in entries:
        if entry["round"] == 2 and entry["group"] in told.up[entry["model_type"]]:
            by_direction[entry["direction"]] += entry["bytes"]
    assert by_direction == {"up": told.round_up_bytes, "down": told.round_down_bytes}


def test_a_round_of_a_clock_sends_out_more_or_fewer(tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace(", realign_every: 1", ""))

    def told(*changes: str) -> tuple[int, int, int]:
        setting = setting_of(load_run(tmp_path / "run.yaml", [*DEVICES, *changes]), Cluster(), CPU_CORE)
        counts = sum(setting.cohort_counts.values()), sum(setting.later_counts.values())
        return *counts, federation_bytes(setting).round_up_bytes

    sent_out, later, up_bytes = told("clock.mode=synchronous")
    assert (sent_out, later) == (3, 3)
    assert told("clock.mode=over_selection", "clock.over_select=1.5")[:2] == (5, 5)
    buffered = told(*BUFFERED, "clock.buffer=2")
    assert buffered[:2] == (5, 2) and buffered[2] < up_bytes


def test_a_buffer_of_one_takes_turns_among_model_types(tmp_path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace(", realign_every: 1", ""))
    setting = setting_of(load_run(tmp_path / "run.yaml", [*DEVICES, *BUFFERED, "clock.buffer=1"]), Cluster(), CPU_CORE)
    told = federation_bytes(setting)
    small, wide = (sum(told.up[name].values()) for name in ("small", "wide"))
    assert told.round_up_bytes == round(0.4 * small + 0.6 * wide)
    both = (2 + 0.4 * 2, 3 + 0.6 * 2)  # of the first round and two later ones
    sent = sum(
        n * (sum(told.up[name].values()) + sum(told.down[name].values())) for n, name in zip(both, told.up, strict=True)
    )
    once = sum(n * sum(told.down_once[name].values()) for n, name in zip((2, 3), told.up, strict=True))
    assert told.total_bytes == round(sent + once)
    types = [[client.model_type for client in setting.cohort_of(number)] for number in range(2, 500)]
    assert {len(each) for each in types} == {1} and 0.3 < types.count([0]) / len(types) < 0.5


def test_a_message_is_as_long_as_the_wire_makes_it() -> None:
    import numpy as np

    for codec in CODECS:
        message = encode(np.zeros(1000, np.float32), codec.name, generator(0, 0, 0, "wire"), topk_share=0.3)
        assert message_bytes(1000, codec.name, topk_share=0.3) == len(message)
