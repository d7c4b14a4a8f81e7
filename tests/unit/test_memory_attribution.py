"""Which objects of a rank count as what: replicas, mapped replicas, ZeRO-3 shards, rows, and what a strategy keeps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import NUM_COUNTERS
from heterotune.aggregation.round_sums import RoundSums
from heterotune.data.client_rows import parted
from heterotune.data.tokenizing import Rows
from heterotune.memory_attribution import attribute_federation, attribute_messages, attribute_strategy
from heterotune.profiling.components import (
    ACTIVATIONS,
    ADAPTERS,
    BACKBONE_SHARDS,
    BUFFERS,
    DATA,
    GATHERED_LAYERS,
    LOGITS,
)
from heterotune.profiling.recorder import MemoryRecorder
from heterotune.server import GlobalAdapters
from heterotune.training.objective import ChunkBatch

CPU = torch.device("cpu")


class Tied(nn.Module):
    """A body and a head that share a weight, as a LLaMA with tied embeddings does."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.body, self.head = nn.Module(), nn.Module()
        self.body.weight = self.head.weight = nn.Parameter(weight, requires_grad=False)
        self.body.bias = nn.Parameter(torch.zeros(10), requires_grad=False)


def rows(num_rows: int) -> Rows:
    ids = np.zeros((num_rows, 4), dtype=np.int64)
    return Rows(ids, ids.copy(), np.zeros(num_rows, dtype=np.int64))


def federation(lm: nn.Module, *, in_lock_step: bool = False, num_ranks: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        backbones={0: SimpleNamespace(lm=lm, in_lock_step=in_lock_step, device=CPU, is_mapped=num_ranks > 1)},
        channel=SimpleNamespace(num_ranks=num_ranks),
        device=CPU,
        data=SimpleNamespace(train=parted([rows(2), rows(0)]), heldout=rows(1)),
        data_of_type=(),
        public=rows(3),
    )


def test_a_replicas_weights_count_once_and_rows_of_all_sorts_are_data() -> None:
    memory, world = MemoryRecorder(0), federation(Tied(torch.zeros(100, 10)))
    attribute_federation(memory, world)
    lm = world.backbones[0].lm
    assert memory.modules == {lm: ACTIVATIONS, lm.head: LOGITS}
    assert memory.holdings.bytes_on("cpu") == {BACKBONE_SHARDS: 4 * 1010, DATA: 6 * (4 + 4 + 1) * 8}


def test_of_a_mapped_replica_only_touched_pages_count(tmp_path) -> None:
    save_file({"weight": torch.ones(1024, 1024)}, tmp_path / "weights.safetensors")
    memory, lm = MemoryRecorder(0), Tied(load_file(tmp_path / "weights.safetensors")["weight"])
    attribute_federation(memory, federation(lm, num_ranks=2))
    untouched = memory.holdings.bytes_on("cpu")[BACKBONE_SHARDS]
    lm.body.weight.sum()
    assert untouched < memory.holdings.bytes_on("cpu")[BACKBONE_SHARDS] == 4 * (1024 * 1024 + 10)


def sharded(lm: nn.Module, *, is_whole: bool, swapper: object = None) -> nn.Module:
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    for parameter in lm.parameters():
        parameter.ds_tensor = torch.zeros(parameter.numel() // 2)
        parameter.ds_status = ZeroParamStatus.AVAILABLE if is_whole else ZeroParamStatus.NOT_AVAILABLE
        parameter.nvme_swapper = swapper
    return lm


@pytest.mark.parametrize("is_whole", [True, False])
def test_shards_count_and_so_do_parameters_that_are_whole_beside_them(is_whole: bool) -> None:
    memory, lm = MemoryRecorder(0), sharded(Tied(torch.zeros(100, 10)), is_whole=is_whole)
    attribute_federation(memory, federation(lm, in_lock_step=True))
    found = memory.holdings.bytes_on("cpu")
    assert found[BACKBONE_SHARDS] == 4 * 505 and found[GATHERED_LAYERS] == (4 * 1010 if is_whole else 0)
    assert memory.nvme_bytes() == 0


def test_a_shard_that_is_the_whole_parameter_is_not_gathered() -> None:
    memory, lm = MemoryRecorder(0), sharded(Tied(torch.zeros(100, 10)), is_whole=True)
    for parameter in lm.parameters():
        parameter.ds_tensor = parameter.detach().view(-1)
    attribute_federation(memory, federation(lm, in_lock_step=True))
    assert memory.holdings.bytes_on("cpu")[GATHERED_LAYERS] == 0


def test_files_and_buffers_of_the_swapper(tmp_path) -> None:
    swapper = SimpleNamespace(swap_folder=str(tmp_path), buffers=torch.zeros(50))
    (tmp_path / "0_param.tensor.swp").write_bytes(bytes(700))
    (tmp_path / "other").write_bytes(bytes(9))
    memory, lm = MemoryRecorder(0), sharded(Tied(torch.zeros(100, 10)), is_whole=False, swapper=swapper)
    attribute_federation(memory, federation(lm, in_lock_step=True))
    assert memory.nvme_bytes() == 700 and memory.holdings.bytes_on("cpu")[BUFFERS] == 200


def test_what_a_strategy_keeps_between_rounds() -> None:
    memory = MemoryRecorder(0)
    adapters = GlobalAdapters([AdapterLayout("m", (TensorSpec("a", (10,), "type", "a", "g", "0"),))], run_seed=0)
    sums, held = RoundSums([10, 5]), SimpleNamespace(held_bytes=lambda: 33)
    frame = HeadFrame(torch.zeros(2, 5), torch.zeros(5), torch.zeros(3, 7))
    batch = ChunkBatch(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(1))
    attribute_strategy(memory, adapters, [frame, None], [batch])
    attribute_messages(memory, held, sums, held)
    assert memory.holdings.bytes_on("cpu") == {ADAPTERS: 40 + 4 * 36, BUFFERS: 2 * 33, DATA: 2 * 48 + 4}
    adapters.values["a"] = torch.zeros(20)  # values are replaced every round
    assert memory.holdings.bytes_on("cpu")[ADAPTERS] == 80 + 4 * 36
    sums.begin([1])  # of what is reserved only what a round has touched is in memory
    assert memory.holdings.bytes_on("cpu")[BUFFERS] == 2 * 33 + 8 * (NUM_COUNTERS + 5)
