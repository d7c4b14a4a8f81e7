"""A client's messages of one round at the shape of a large model: encoded for real, counted in a ledger, thrown away.

Layouts come from the model's configuration alone; tensors are made and encoded one group at a time, so that the memory
is that of the largest message and not that of the model. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "engine"))

from heterotune.adapters.layout import AdapterLayout, initial_value  # noqa: E402
from heterotune.adapters.tables import adapter_layout  # noqa: E402
from heterotune.collective.ledger import Direction, Ledger  # noqa: E402
from heterotune.collective.wire import encode  # noqa: E402
from heterotune.config.schema import RunConfig  # noqa: E402
from heterotune.fleet.model_types import ModelType, read_model_types  # noqa: E402
from heterotune.randomness import NO_CLIENT, generator  # noqa: E402

CODEC = "fp32"
CLIENT, ROUND = 0, 1


def count_round(strategy: str, model: str) -> dict[str, Any]:
    """Encode what a client gets before and sends after its first round, and return the bytes by kind.

    Args:
        strategy: A method of the run file, with its default options.
        model: `model:` of a fleet entry; no weights are read.
    """
    started = time.perf_counter()
    fleet = [{"name": "model", "model": model, "clients": 1}]
    config = RunConfig.model_validate({"name": "wire", "rounds": 1, "fleet": fleet, "data": {"source": "none"}})
    model_type = read_model_types(config.fleet)[0]
    layout = adapter_layout(strategy, config, model_type, (model_type,))
    ledger = Ledger()
    for group, columns in layout.group_columns.items():
        _send(ledger, group, "down", _first_values(layout, group))
        _send(ledger, group, "up", _made_up(group, columns.stop - columns.start))
    for group, num_elements in _frozen_groups(layout, model_type):
        _send(ledger, group, "down", _made_up(group, num_elements))
    by_kind = Counter[str]()
    for entry in ledger:
        once = entry.group not in layout.group_columns
        by_kind["down_once_bytes" if once else f"{entry.direction}_bytes"] += entry.num_bytes
    return {
        "method": strategy,
        "parameters": model_type.num_parameters,
        "trained_elements": layout.num_travelling,
        "messages": len(ledger),
        **{kind: by_kind[kind] for kind in ("up_bytes", "down_bytes", "down_once_bytes")},
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _send(ledger: Ledger, group: str, direction: Direction, values_P: np.ndarray) -> None:
    """Encode a vector and count the message."""
    ledger.add(
        round_number=ROUND,
        client_id=CLIENT,
        model_type="model",
        direction=direction,
        group=group,
        num_bytes=len(encode(values_P, CODEC)),
    )


def _first_values(layout: AdapterLayout, group: str) -> np.ndarray:
    """Return what a client downloads in round 1."""
    specs = [spec for spec in layout.travelling if spec.group == group]
    values_P = np.empty(sum(spec.num_elements for spec in specs), dtype=np.float32)
    start = 0
    for spec in specs:
        value = initial_value(spec, run_seed=0, client_id=NO_CLIENT, name=spec.key)
        values_P[start : start + value.size] = value.ravel()
        start += value.size
    return values_P


def _made_up(group: str, num_elements: int) -> np.ndarray:
    """Return numbers in place of an update or of alignment's maps."""
    return generator(0, ROUND, CLIENT, f"wire/{group}").standard_normal(num_elements, dtype=np.float32)


def _frozen_groups(layout: AdapterLayout, model_type: ModelType) -> Iterator[tuple[str, int]]:
    """Yield what a client downloads once: the frozen tensors of the head branch."""
    if layout.head is not None:
        yield "dema.head.frame", (layout.head.head_rank + 1) * model_type.width
        yield "dema.head.basis", layout.head.basis_rank * model_type.vocab_size


def main() -> None:
    """Count one method's round and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("strategy")
    parser.add_argument("model")
    parser.add_argument("--answer", type=Path, required=True)
    options = parser.parse_args()
    options.answer.write_text(json.dumps(count_round(options.strategy, options.model)))


if __name__ == "__main__":
    main()
