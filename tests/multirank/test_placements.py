"""Ranks dedicated to model types: the bits of ranks that hold all, fewer backbones; sums do not grow with clients."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

CASES = Path(__file__).parent / "cases"
MODEL = "random:hidden_size={},intermediate_size=24,num_hidden_layers={},num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "placements",
    "seed": 5,
    "rounds": 2,
    # Type b is the larger one: it gets ranks 1 and 2, so that the root has to ask for what only they hold.
    "fleet": [
        {"name": "a", "model": MODEL.format(16, 1), "clients": 20},
        {"name": "b", "model": MODEL.format(32, 2), "clients": 20},
    ],
    "data": {"source": "embedded:stdlib", "max_tokens": 16, "max_rows_per_client": 8, "heldout": "clients"},
    "cohort": {"clients": 4},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {
        "adapter_rank": 2,
        "head_rank": 4,
        "head_basis": 8,
        "align_tokens": 64,
        "realign_every": 2,
        "personal_rank": 1,
    },
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 3},
}


@pytest.fixture(scope="module")
def runs(run_mpi, tmp_path_factory) -> Path:
    """Folder with the run folders of `cases/placements.py` on three ranks."""
    out = tmp_path_factory.mktemp("placements")
    run_file = out / "run.yaml"
    run_file.write_text(yaml.safe_dump(RUN))
    ended = run_mpi([CASES / "placements.py", run_file, out], num_ranks=3, limit_seconds=240)
    assert ended.returncode == 0, ended.output
    return out


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def held_bytes(run: Path) -> list[int]:
    """What each rank has paged in of the backbones that it maps, when it evaluates after the last round."""
    kind = {"phase": "evaluate", "round": 2, "kind": "host_resident"}
    records = [each for each in lines(run / "memory.jsonl") if kind.items() <= each.items()]
    found = {each["mpi_rank"]: each["components"]["backbone_shards"] for each in records}
    return [found[mpi_rank] for mpi_rank in range(3)]


def test_every_placement_gives_the_same_bits_and_scores(runs) -> None:
    for kind in ("", "sharded-"):
        spread, dedicated = (summary(runs / f"{kind}{name}") for name in ("spread", "dedicated"))
        assert spread["global_adapter_sha256"] == dedicated["global_adapter_sha256"]
        assert spread["model_types"] == dedicated["model_types"]
    scores = [
        [each for each in lines(runs / name / "metrics.jsonl") if each["name"].startswith(("loss/", "alignment/"))]
        for name in ("spread", "dedicated")
    ]
    assert scores[0] == scores[1] and {"loss/personal", "alignment/gradient_cosine"} <= {e["name"] for e in scores[0]}


def test_what_auto_picked_is_written_down(runs) -> None:
    assert yaml.safe_load((runs / "many" / "config.yaml").read_text())["placement"] in ("spread", "dedicated")


def test_a_dedicated_rank_holds_its_own_backbone_only(runs) -> None:
    spread, dedicated = held_bytes(runs / "spread"), held_bytes(runs / "dedicated")
    small, *large = dedicated
    assert 0 < small < min(large) and max(large) < min(spread)


def test_the_idle_share_of_every_rank_is_told(runs) -> None:
    shares = {each["mpi_rank"]: each["idle_share"] for each in summary(runs / "dedicated")["idle_share"]}
    assert list(shares) == [0, 1, 2] and all(0.0 < share < 1.0 for share in shares.values())
    of_round = [each for each in lines(runs / "dedicated" / "metrics.jsonl") if each["name"] == "rank/idle_share"]
    assert [(each["round"], each["mpi_rank"]) for each in of_round] == [(r, k) for r in (1, 2) for k in range(3)]


def test_sums_and_broadcasts_do_not_grow_with_the_clients_of_a_round(runs) -> None:
    """The channel's real bytes, added up over ranks; what grows is the list of whose updates count."""
    moved = {}
    for name in ("spread", "many"):  # 4 and 40 clients a round
        sent: Counter[str] = Counter()
        for row in lines(runs / name / "traffic.jsonl"):
            if row["round"] == 1:
                sent[row["what"]] += row["sent_bytes"] + row["received_bytes"]
        moved[name] = sent
    grown = Counter(moved["many"])
    grown.subtract(moved["spread"])
    assert moved["many"]["sum_to_root"] == moved["spread"]["sum_to_root"] > 50_000
    assert {what for what, num_bytes in grown.items() if num_bytes} <= {"gather_bytes", "broadcast_bytes"}
    assert grown.total() < 36 * 128, grown
