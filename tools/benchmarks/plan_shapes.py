"""The runs on which the plan is checked against the resident memory that a real worker measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shape:
    """One run: a model type, how it is trained, on how many ranks.

    Attributes:
        name: In the table.
        model: Fields of a `random:` model.
        num_ranks: MPI ranks.
        ds_config: As in the run file.
        max_tokens: Longest row.
        batch_size: Rows of a client's step.
        clients: Clients of a chunk; the fleet has one chunk for each rank.
        checkpointing: As in the run file.
        strategy: The method.
    """

    name: str
    model: dict[str, int] = field(hash=False)
    num_ranks: int = 1
    ds_config: str = "none"
    max_tokens: int = 128
    batch_size: int = 4
    clients: int = 2
    checkpointing: bool = False
    strategy: str = "heterotune"

    def run(self) -> dict[str, Any]:
        """Return the run file's values."""
        model = "random:" + ",".join(f"{key}={value}" for key, value in self.model.items())
        fleet = [{"name": "model", "model": model, "clients": self.clients * self.num_ranks}]
        return {
            "name": self.name,
            "seed": 17,
            "rounds": 2,
            "fleet": fleet,
            "data": {"source": "embedded:stdlib", "max_tokens": self.max_tokens, "max_rows_per_client": 16},
            "local": {"steps": 3, "batch_size": self.batch_size},
            "strategy": self.strategy,
            "backbone": {"ds_config": self.ds_config, "checkpointing": self.checkpointing},
            "chunk": {"clients": self.clients},
            "evaluate": {"every_rounds": 2, "max_rows": 8, "batch_size": 4},
        }


def llama(width: int, num_layers: int, vocab_size: int, *, num_heads: int = 8, **fields: int) -> dict[str, int]:
    """Return the fields of a LLaMA whose inner width is 8/3 of its width, as LLaMA's is."""
    return {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3 // 16 * 16,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "vocab_size": vocab_size,
        **fields,
    }


CALIBRATION = Shape("tiny", llama(64, 2, 2048, num_heads=4), max_tokens=16, batch_size=1, clients=1)
"""What the memory of a bare rank is measured on."""

MIDDLE = Shape("middle", llama(384, 5, 4096), max_tokens=192, batch_size=3, strategy="fedavg_lora")
"""What the speed and the heap of a machine are measured on."""

SHAPES = (
    Shape("narrow-long", llama(64, 4, 2048, num_heads=4), max_tokens=1024, batch_size=8),
    Shape("narrow-short-many", llama(128, 8, 2048), max_tokens=32, clients=16),
    Shape("mid-vocab32k", llama(256, 6, 32000), max_tokens=256, strategy="fedavg_lora"),
    Shape("mid-zero3", llama(256, 8, 8192), ds_config="zero3_cpu", max_tokens=256),
    Shape("mid-zero3-2", llama(512, 6, 4096), num_ranks=2, ds_config="zero3_cpu", max_tokens=128),
    Shape("mid-zero3-2-ckpt", llama(512, 6, 32000), num_ranks=2, ds_config="zero3_cpu", max_tokens=256, batch_size=2,
          checkpointing=True),
    Shape("wide", llama(1024, 4, 8192), max_tokens=128),
    Shape("wide-ckpt", llama(1024, 4, 2048), max_tokens=512, batch_size=1, checkpointing=True, strategy="fedavg_lora"),
    Shape("wide-2", llama(1024, 4, 16000, num_key_value_heads=2), num_ranks=2, max_tokens=64, batch_size=2),
)  # fmt: skip
