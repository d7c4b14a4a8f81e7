"""The measurements of `memory.py`; each runs in a process of its own."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from ranks import open_ranks
from torch import Tensor, nn
from torch.nn import functional as F
from training_pass import Setting, limit_pass, make_bank, make_batch, make_setting, random_model, train

from heterotune.client_store import ClientStore
from heterotune.config.method_options import LocalConfig
from heterotune.config.schema import RunConfig
from heterotune.data.tokenizing import Rows
from heterotune.federation import load_backbones
from heterotune.fleet.model_types import read_model_types
from heterotune.fleet.placement import spread
from heterotune.profiling.memory import ResidentPeak
from heterotune.training.objective import client_losses, idle_batch
from heterotune.training.optimizers import ChunkOptimizer

LOCAL = LocalConfig(steps=1, optimizer="adamw", learning_rate=1e-3)
NUM_TIMED = 5
LOSS_SHAPE = {"width": 256, "num_layers": 2, "vocab_size": 32_000, "num_clients": 8, "num_rows": 2, "num_tokens": 256}
DEEP_SHAPE = {"width": 256, "num_layers": 8, "vocab_size": 2048, "num_clients": 8, "num_rows": 2, "num_tokens": 256}
CLIENT_MODEL = random_model(128, num_layers=4, vocab_size=2048)
CLIENT_ROWS, CLIENT_TOKENS = 64, 256
"""A client's data. One client is 256 KiB of it, so that pages do not blur what one client costs."""
SHARED_MODEL = random_model(512, num_layers=8, vocab_size=2048)


class WholeLogits(nn.Module):
    """The naive loss: all logits in memory, then cross entropy. Takes the place of `HeadLoss` for comparison."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden_ND: Tensor, targets_N: Tensor, features_NQ: None, basis_QV: None) -> Tensor:
        """Return each token's negative log likelihood, float32 (N,); there is no head branch."""
        return F.cross_entropy(hidden_ND @ self.weight.T, targets_N, reduction="none")


def loss_pass(loss: str) -> dict[str, Any]:
    """Measure training passes at a vocabulary of 32,000 with `whole_logits` or `head_loss`."""
    setting = _setting(LOSS_SHAPE)
    if loss == "whole_logits":
        setting.backbone.lm.head = WholeLogits(setting.backbone.lm.head.weight)
    num_logits = LOSS_SHAPE["num_clients"] * LOSS_SHAPE["num_rows"] * LOSS_SHAPE["num_tokens"] * setting.vocab_size
    return {"loss": loss, **LOSS_SHAPE, "logits_bytes": 4 * num_logits} | _pass_figures(setting, LOSS_SHAPE)


def checkpointing_pass(switch: str) -> dict[str, Any]:
    """Measure training passes of a deeper model with checkpointing `on` or `off`."""
    setting = _setting(DEEP_SHAPE, checkpointing=switch == "on")
    return {"checkpointing": switch, **DEEP_SHAPE} | _pass_figures(setting, DEEP_SHAPE)


def clients(where: str, count: str) -> dict[str, Any]:
    """Measure what clients add to this process, in the `fleet` or in a `chunk`."""
    num_clients, setting = int(count), make_setting(CLIENT_MODEL)
    adapter_bytes = 4 * setting.layout.num_columns
    limit_pass(setting, make_batch(setting, 1, 1, 8))
    figures = _fleet_figures(setting, num_clients) if where == "fleet" else _chunk_figures(setting, num_clients)
    return {"where": where, "num_clients": num_clients, "adapter_bytes": adapter_bytes} | figures


def shared_backbone() -> dict[str, Any] | None:
    """Measure what a plain backbone adds to all ranks' PSS together; every rank must call this."""
    channel = open_ranks()
    fleet = ({"name": "shared", "model": SHARED_MODEL, "clients": 4},)
    config = RunConfig.model_validate(
        {"name": "memory", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
        | {"backbone": {"ds_config": "none"}}
    )
    model_types = read_model_types(config.fleet)
    limit_pass(make_setting(CLIENT_MODEL), make_batch(make_setting(CLIENT_MODEL), 1, 1, 8))
    channel.barrier()
    before = channel.gather_bytes(_pss_bytes().to_bytes(8, "little"))
    channel.barrier()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(channel.broadcast_bytes(scratch.encode()).decode())
        placement = spread(len(model_types), channel.num_ranks)
        backbones = load_backbones(model_types, config, channel, torch.device("cpu"), folder, placement)
    ids = idle_batch(torch.device("cpu")).input_ids_RT
    with torch.no_grad():
        backbones[0].lm(ids, ids)  # touches every page of the weights but the embeddings of other tokens
    gc.collect()
    channel.barrier()
    after = channel.gather_bytes(_pss_bytes().to_bytes(8, "little"))
    channel.barrier()
    if before is None or after is None:
        return None
    weights_bytes = 4 * model_types[0].num_parameters
    node_before, node_after = (sum(int.from_bytes(part, "little") for part in parts) for parts in (before, after))
    return {
        "num_ranks": channel.num_ranks,
        "weights_bytes": weights_bytes,
        "node_pss_before_bytes": node_before,
        "node_pss_after_bytes": node_after,
        "added_bytes": node_after - node_before,
        "added_times_weights": round((node_after - node_before) / weights_bytes, 3),
    }


def _fleet_figures(setting: Setting, num_clients: int) -> dict[str, Any]:
    """Return what clients cost that are in the fleet but not in the present chunk: their rows; states on disk."""
    data_bytes = 2 * 8 * CLIENT_ROWS * CLIENT_TOKENS + 8 * CLIENT_ROWS
    with tempfile.TemporaryDirectory() as folder:
        store = ClientStore(Path(folder), run_seed=0)
        _rows(0)  # what the first rows of a process need beside themselves is no client's
        before = _resident_bytes()
        fleet = [_rows(number) for number in range(num_clients)]
        for number in range(num_clients):
            store.save(number, setting.layout, torch.zeros(setting.layout.num_columns))
        store.flush()
        added = _resident_bytes() - before
    assert len(fleet) == num_clients
    return _per_client(added, num_clients, data_bytes, step_bytes=0, pass_bytes=0)


def _chunk_figures(setting: Setting, num_clients: int) -> dict[str, Any]:
    """Return what clients of a chunk cost: at rest between steps, and what a step and a pass need beside that."""
    batch = make_batch(setting, num_clients, 1, 8)
    before = _resident_bytes()
    bank = make_bank(setting, num_clients)
    optimizer = ChunkOptimizer(setting.layout, bank.values_KP, LOCAL, (1,) * num_clients)
    for array_KP in (bank.grads_KP, optimizer.first_KP, optimizer.second_KP):
        array_KP.fill_(0.0)  # zeros are not resident before they are written
    gc.collect()
    at_rest = _resident_bytes()
    with setting.attached.use(bank):
        pass_bytes = _peak_of(lambda: client_losses(setting.backbone, bank, batch).sum().backward())
    step_bytes = _peak_of(lambda: optimizer.step(bank.grads_KP))
    # Values, gradient and AdamW's two moments.
    owned = 4 * 4 * setting.layout.num_columns
    return _per_client(at_rest - before, num_clients, owned, step_bytes, pass_bytes)


def _per_client(added: int, num_clients: int, owned: int, step_bytes: int, pass_bytes: int) -> dict[str, Any]:
    return {
        "owned_bytes_per_client": owned,
        "added_bytes_per_client": added // num_clients,
        "added_times_owned": round(added / num_clients / owned, 3),
        "step_peak_bytes_per_client": step_bytes // num_clients,
        "pass_peak_bytes_per_client": pass_bytes // num_clients,
    }


def _setting(shape: dict[str, int], *, checkpointing: bool = False) -> Setting:
    reference = random_model(shape["width"], num_layers=shape["num_layers"], vocab_size=shape["vocab_size"])
    return make_setting(reference, checkpointing=checkpointing)


def _pass_figures(setting: Setting, shape: dict[str, int]) -> dict[str, Any]:
    """Return the peak that the first real pass adds, and the median seconds of those after it."""
    num_clients = shape["num_clients"]
    train(setting, make_batch(setting, 1, 1, 8), 1, LOCAL)  # load code and buffers that any pass needs
    batch = make_batch(setting, num_clients, shape["num_rows"], shape["num_tokens"])
    added = _peak_of(lambda: train(setting, batch, num_clients, LOCAL))
    seconds = []
    for _ in range(NUM_TIMED):
        started = time.perf_counter()
        train(setting, batch, num_clients, LOCAL)
        seconds.append(time.perf_counter() - started)
    return {"added_peak_bytes": added, "seconds_per_pass": round(median(seconds), 4)}


def _peak_of(call: Callable[[], object]) -> int:
    """Return the resident peak during a call beyond what there was before it."""
    before, peak = _resident_bytes(), ResidentPeak()
    peak.start()
    call()
    return max(0, peak.stop() - before)


def _rows(number: int) -> Rows:
    """Return rows that are this client's own memory, written throughout."""
    shape = (CLIENT_ROWS, CLIENT_TOKENS)
    ids = np.full(shape, number, dtype=np.int64)
    return Rows(input_ids=ids, targets=ids.copy(), lengths=np.full(CLIENT_ROWS, CLIENT_TOKENS))


def _resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def _pss_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("/proc/self/smaps_rollup has no Pss")
