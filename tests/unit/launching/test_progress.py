"""How far a run has come, by the names of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from heterotune.launching.progress import saved_rounds, told


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    for name in ("round-000009", "round-000010", ".round-000011.unfinished", "round-x", "round-000012"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "round-000012":
            (tmp_path / "checkpoints" / name / "manifest.json").touch()
    (tmp_path / "compare" / "fedavg_lora" / "checkpoints" / "round-000002").mkdir(parents=True)
    (tmp_path / "compare" / "fedavg_lora" / "checkpoints" / "round-000002" / "manifest.json").touch()
    assert saved_rounds(tmp_path) == {".": 10, "compare/fedavg_lora": 2}
    assert told(saved_rounds(tmp_path)) == "round 10; compare/fedavg_lora: round 2"


def test_nothing_saved(tmp_path: Path) -> None:
    assert saved_rounds(tmp_path) == {}
    assert told({}) == "no round"
