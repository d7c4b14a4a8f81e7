"""Model types learn what all types together answer: the loss, what siblings share, and that it is learned."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import HeadFrame, stack_clients
from heterotune.adapters.dema import dema_layout
from heterotune.adapters.layout import initial_value
from heterotune.backbone.load import load_backbone
from heterotune.collective.single import SingleChannel
from heterotune.config.load import parse_run
from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.distillation import lesson_options, soft_objective, teach_adapters
from heterotune.fleet.model_types import read_model_types
from heterotune.fleet.placement import spread
from heterotune.randomness import NO_CLIENT
from heterotune.training.objective import ChunkBatch, log_probabilities

CPU, VOCAB, TOKENS, NUM_ROWS = torch.device("cpu"), 48, (3, 7, 11), 12
MODEL = f"random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size={VOCAB}"
RUN = {
    "name": "lesson",
    "rounds": 4,
    "fleet": [
        {"name": "deep", "model": f"{MODEL},num_hidden_layers=2", "clients": 1},
        {"name": "flat", "model": f"{MODEL},num_hidden_layers=1", "clients": 1, "siblings_of": "deep", "layers": [1]},
    ],
    "data": {"source": "a.jsonl", "fields": {"text": "text", "label": "label"}, "public": "b.jsonl"},
    "local": {"batch_size": 4, "learning_rate": 1e-2, "optimizer": "adamw", "schedule": "cosine", "epochs": 2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": len(TOKENS), "distill_learning_rate_scale": 2.0},
}


@pytest.fixture(scope="module")
def config():
    return parse_run(RUN)


@pytest.fixture(scope="module")
def public() -> Rows:
    draw = np.random.default_rng(5)
    ids, targets = draw.integers(0, VOCAB, (NUM_ROWS, 6)), np.full((NUM_ROWS, 6), IGNORED)
    lengths = draw.integers(3, 7, NUM_ROWS)
    targets[np.arange(NUM_ROWS), lengths - 1] = 0
    return Rows(ids, targets, lengths)


@pytest.fixture(scope="module")
def federation(config, public):
    """What a lesson needs of a federation, on one rank."""
    types = read_model_types(config.fleet)
    backbones = {
        place: load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=CPU)
        for place, model_type in enumerate(types)
    }
    return SimpleNamespace(
        config=config, model_types=types, backbones=backbones, channel=SingleChannel(), public=public,
        placement=spread(len(types), 1), label_tokens=TOKENS,
    )  # fmt: skip


@contextmanager
def fleet_of(config, federation):
    """Yield layouts, first values and what makes a type's adapter of values."""
    layouts = [dema_layout(config.heterotune, each, federation.model_types) for each in federation.model_types]
    draw = torch.Generator().manual_seed(4)
    specs = {spec.key: spec for layout in layouts for spec in layout.travelling}
    values = {key: torch.randn(spec.shape, generator=draw) * 0.2 for key, spec in specs.items()}
    basis = torch.nn.functional.one_hot(torch.tensor(TOKENS), VOCAB).float()
    frames = [HeadFrame(torch.randn(4, 16, generator=draw), torch.randn(16, generator=draw), basis) for _ in layouts]

    def own(layout):
        first = {spec: initial_value(spec, run_seed=7, client_id=NO_CLIENT, name=spec.name) for spec in layout.personal}
        return {spec.name: torch.from_numpy(value) for spec, value in first.items()}

    def banks(now):
        return {
            place: stack_clients(layout, now, [own(layout)], device=CPU, head_frame=frames[place])
            for place, layout in enumerate(layouts)
        }

    attached = {place: AttachedAdapter(layouts[place], each.llama) for place, each in federation.backbones.items()}
    yield SimpleNamespace(layouts=layouts, values=values, banks=banks, attached=attached)
    for each in attached.values():
        each.detach()


@pytest.fixture
def fleet(config, federation):
    with fleet_of(config, federation) as made:
        yield made


def test_the_loss_is_the_cross_entropy_among_the_classes_with_the_shares_of_all(federation, fleet, public):
    backbone, bank = federation.backbones[0], fleet.banks(fleet.values)[0]
    share_NC = torch.softmax(torch.randn(NUM_ROWS, len(TOKENS), generator=torch.Generator().manual_seed(1)), dim=1)
    picks = np.array([5, 2, 2, 9])
    batch = ChunkBatch.of_rows(public.input_ids[picks], public.targets[picks], 1, CPU, picks)
    objective = soft_objective(backbone.output_embedding(TOKENS), share_NC)
    with fleet.attached[0].use(bank):
        found = objective(backbone, bank, batch)
        logits = log_probabilities(backbone, bank, batch)[:, list(TOKENS)]
        wanted = torch.nn.functional.cross_entropy(logits, share_NC[picks])
        torch.testing.assert_close(found, wanted.unsqueeze(0))
        found.sum().backward()
    assert all(bank[spec.name].grad.abs().sum() > 0 for spec in bank.layout.tensors)


def test_what_siblings_share_moves_by_the_mean_of_their_steps(federation, fleet):
    answer_NC = torch.randn(NUM_ROWS, len(TOKENS), generator=torch.Generator().manual_seed(2))
    arguments = (federation, fleet.attached), (fleet.layouts, fleet.values, answer_NC)

    def taught(only=None):
        some = fleet.layouts if only is None else [fleet.layouts[only]]
        banks = fleet.banks(fleet.values)
        if only is not None:  # the other type's lesson has no say
            alone = SimpleNamespace(**{**vars(federation), "placement": spread(1, 1)})
            alone.backbones = {0: federation.backbones[only]}
            return teach_adapters(alone, {0: fleet.attached[only]}, {0: banks[only]}, some, fleet.values, answer_NC, 3)[
                0
            ]
        return teach_adapters(*arguments[0], banks, *arguments[1], 3)[0]

    both, deep, flat = taught(), taught(0), taught(1)
    shared = deep.keys() & flat.keys()
    assert len(shared) == 2 * 7
    for key, value in fleet.values.items():
        own = [each[key] for each in (deep, flat) if key in each]
        torch.testing.assert_close(both[key], torch.stack(own).mean(dim=0), atol=1e-6, rtol=1e-5)
        assert not torch.equal(both[key], value.flatten())


def test_lessons_are_learned(federation, fleet):
    answer_NC = 3 * torch.randn(NUM_ROWS, len(TOKENS), generator=torch.Generator().manual_seed(2))
    values, losses = fleet.values, []
    for round_number in range(3):
        values, metrics = teach_adapters(
            federation, fleet.attached, fleet.banks(values), fleet.layouts, values, answer_NC, round_number
        )
        losses.append([entry["value"] for entry in metrics])
    assert [entry["model_type"] for entry in metrics] == ["deep", "flat"]
    assert np.all(np.array(losses[-1]) < 0.9 * np.array(losses[0]))


def test_what_clients_keep_is_neither_taught_nor_in_the_way(federation):
    answer_NC = 3 * torch.randn(NUM_ROWS, len(TOKENS), generator=torch.Generator().manual_seed(2))
    found = []
    for personal_rank in (0, 2):
        options = {**RUN["heterotune"], "personal_rank": personal_rank}
        run = parse_run(
            {**RUN, "heterotune": options, "local": {**RUN["local"], "clip_norm": 0.1, "weight_decay": 0.1}}
        )
        school = SimpleNamespace(**{**vars(federation), "config": run})
        with fleet_of(run, federation) as fleet:
            banks, untaught = fleet.banks(fleet.values), fleet.banks(fleet.values)
            arguments = fleet.attached, banks, fleet.layouts, fleet.values, answer_NC, 3
            found.append(teach_adapters(school, *arguments))
            for place, layout in enumerate(fleet.layouts):
                assert layout.trains_personal == bool(personal_rank)
                for spec in layout.tensors:
                    same = torch.equal(banks[place][spec.name], untaught[place][spec.name])
                    assert same == (spec.scope == "client"), spec.name
    (values, metrics), (beside_personal, metrics_too) = found
    assert [each["value"] for each in metrics] == pytest.approx([each["value"] for each in metrics_too], rel=1e-6)
    for key, value in values.items():
        torch.testing.assert_close(beside_personal[key], value, atol=1e-6, rtol=1e-5)


def test_steps_are_adamw_at_a_constant_rate_with_the_clients_batches(config):
    options = lesson_options(config)
    assert (options.optimizer, options.schedule, options.epochs, options.steps) == ("adamw", "constant", None, 32)
    assert (options.learning_rate, options.batch_size) == (2e-2, 4)


def test_a_run_that_began_with_lessons_beside_another_optimiser_goes_on_with_them():
    earlier = {**RUN, "local": {"optimizer": "sgd"}, "heterotune": {**RUN["heterotune"], "distill_steps": 32}}
    options = lesson_options(parse_run(earlier, begun=True))
    assert (options.optimizer, options.steps) == ("adamw", 32)
