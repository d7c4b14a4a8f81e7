"""The operations of a training pass as the plan counts them, against torch's own count of one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import HeadFrame, stack_clients
from heterotune.adapters.layout import initial_value
from heterotune.backbone.load import load_backbone
from heterotune.config.load import parse_run
from heterotune.fleet.model_types import read_model_types
from heterotune.planning.calibration import load_calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.compute import pass_flops
from heterotune.planning.plan import setting_of
from heterotune.planning.setting import Setting
from heterotune.planning.time_model import traffic
from heterotune.randomness import NO_CLIENT
from heterotune.training.objective import ChunkBatch, client_losses

CLIENTS, ROWS, TOKENS = 2, 3, 8
MARGIN = 0.025  # torch counts neither attention nor what adds in place; the plan takes the lowest layer for the others


def setting(lora_layers: int | str, cluster: Cluster | None = None, **backbone) -> Setting:
    run = {
        "name": "planned",
        "rounds": 1,
        "fleet": [{"name": "m", "model": "embedded:large", "clients": CLIENTS}],
        "data": {"source": "embedded:stdlib", "max_tokens": TOKENS, "max_rows_per_client": ROWS},
        "local": {"steps": 1, "batch_size": ROWS},
        "chunk": {"clients": CLIENTS},
        "backbone": {"ds_config": "none", **backbone},
        "heterotune": {"lora_layers": lora_layers, "adapter_rank": 1, "head_rank": 2, "head_basis": 2},
    }
    return setting_of(parse_run(run), cluster or Cluster(), load_calibration(None, has_gpus=False))


def counted(of: Setting) -> int:
    """What torch counts of one forward and backward pass."""
    (shape,), device = of.shapes, torch.device("cpu")
    layout = shape.layout
    shared = {
        spec.key: torch.from_numpy(initial_value(spec, run_seed=0, client_id=NO_CLIENT, name=spec.key))
        for spec in layout.travelling
    }
    frame = HeadFrame(torch.ones(2, shape.width), torch.zeros(shape.width), torch.ones(2, shape.vocab_size))
    bank = stack_clients(layout, shared, [{}] * CLIENTS, device=device, head_frame=frame)
    checkpointing = of.config.backbone.checkpointing
    (model_type,) = read_model_types(of.config.fleet)  # a plan knows no files of weights
    backbone = load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=checkpointing, device=device)
    ids_RT = torch.arange(CLIENTS * ROWS * TOKENS).view(-1, TOKENS)
    batch = ChunkBatch(ids_RT, ids_RT, torch.full((CLIENTS,), ROWS * TOKENS))
    attached = AttachedAdapter(layout, backbone.llama)
    with attached.use(bank), FlopCounterMode(display=False) as counter:
        client_losses(backbone, bank, batch).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora_layers", [0, 2, "all"])
def test_a_pass_computes_what_torch_counts(lora_layers, checkpointing) -> None:
    of = setting(lora_layers, checkpointing=checkpointing)
    planned = pass_flops(of.shapes[0], CLIENTS, of)
    if checkpointing:  # the plan takes the head for a layer, but it is not computed again
        planned -= 2 * CLIENTS * ROWS * TOKENS * of.shapes[0].embedding_elements
    assert planned == pytest.approx(counted(of), rel=MARGIN)


@pytest.mark.parametrize(("checkpointing", "again"), [(False, 1), (True, 2)])
def test_weights_of_layers_without_a_backward_pass_are_gathered_once(checkpointing, again) -> None:
    cluster, backbone = Cluster(ranks_per_node=2), {"ds_config": "zero3_cpu", "checkpointing": checkpointing}
    moved = {}
    for lora_layers in (0, 2, "all"):
        of = setting(lora_layers, cluster, **backbone)
        moved[lora_layers] = traffic(of, of.chunks_by_rank({0: CLIENTS})).zero3_gather_bytes
    layer_bytes = 4 * of.shapes[0].layer_elements // 2  # the other rank's half
    assert moved["all"] == 4 * of.model_types[0].num_parameters * (1 + again) // 2
    assert moved["all"] - moved[2] == 6 * again * layer_bytes and moved["all"] - moved[0] == 8 * again * layer_bytes
