"""Run folders with made-up adapters in them, our own logits for them, and what stock libraries make of the exports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter, head_features
from heterotune.adapters.bank import Bank
from heterotune.adapters.tables import adapter_layout
from heterotune.backbone.frozen_lm import FrozenLM
from heterotune.backbone.load import read_model
from heterotune.client_store import CLIENTS_FOLDER, ClientStore
from heterotune.config.load import parse_run
from heterotune.export.command import ExportForm, export_adapter
from heterotune.export.run_adapter import Choice, RunAdapter, read_run_adapter
from heterotune.fleet.model_types import read_model_types
from heterotune.run_folder import RunFolder

FLEET = [
    {"name": "small", "model": "embedded:small", "clients": 2},
    {"name": "large", "model": "embedded:large", "clients": 2},
    {"name": "large-3q", "model": "embedded:large-3q", "siblings_of": "large", "clients": 2},
    {"name": "large-2q", "model": "embedded:large-2q", "siblings_of": "large", "clients": 2},
]
TINY = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,initializer_range=0.2"
UNTIED = [{"name": "untied", "model": f"{TINY},tie_word_embeddings=false", "clients": 2}]


def write_run(folder: Path, fleet: list[dict[str, Any]], **options: Any) -> RunFolder:
    """Make the folder of a run that has ended: every tensor somewhere away from its first value."""
    run = {"name": "tried", "rounds": 3, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
    run |= {"backbone": {"ds_config": "none", "dtype": "fp32"}, **options}
    config = parse_run(run)
    run_folder = RunFolder.create(config, folder, config.name)
    draw = torch.Generator().manual_seed(5)
    model_types = read_model_types(config.fleet)
    common: dict[str, Tensor] = {}
    for model_type in model_types:
        layout = adapter_layout(config.strategy, config, model_type, model_types)
        tensors = {
            spec.name: common.setdefault(spec.key, torch.randn(spec.shape, generator=draw) * 0.05)
            for spec in layout.tensors
            if spec.scope != "client"
        }
        tensors |= {f"{site.module}.base": torch.randn(site.shape, generator=draw) * 0.01 for site in layout.base}
        if layout.head is not None:
            head, width = layout.head, model_type.width
            tensors["head.V"] = (
                torch.randn(head.head_rank, width, generator=draw) / width
            )  # logits as large as a model's
            tensors["head.mean"] = torch.randn(width, generator=draw)
            tensors["head.Q"] = common.setdefault(
                "Q", torch.randn(head.basis_rank, model_type.vocab_size, generator=draw)
            )
        with run_folder.writing(f"adapters/{model_type.name}.safetensors") as path:
            save_file(tensors, path)
    for client in range(config.num_clients):
        owner = model_types[client // 2 if len(model_types) > 1 else 0]
        layout = adapter_layout(config.strategy, config, owner, model_types)
        store = ClientStore(run_folder.path / CLIENTS_FOLDER, run_seed=config.seed)
        store.save(client, layout, torch.randn(layout.num_columns, generator=draw) * 0.05)
        store.flush()
    return run_folder


@torch.no_grad()
def our_logits(adapter: RunAdapter, input_ids: Tensor) -> Tensor:
    """Return what a run's own backbone, with the adapter attached, says."""
    with_weights = read_model_types(adapter.config.fleet)[adapter.model_type.index]
    lm = FrozenLM(read_model(with_weights, "fp32").eval())
    attached = AttachedAdapter(adapter.layout, lm.llama)
    values_KP = torch.zeros(1, adapter.layout.num_columns)
    for spec in adapter.layout.tensors:
        values_KP[0, adapter.layout.columns[spec.name]] = adapter.values[spec.name].flatten()
    bank = Bank(adapter.layout, values_KP, adapter.frame, base=adapter.base_change)
    with attached.use(bank):
        hidden = lm(input_ids, None)
        weight = lm.head.weight
        if adapter.layout.output_embedding is not None:
            weight = weight + bank[adapter.layout.output_embedding][0]
        logits, features = hidden @ weight.T, head_features(hidden, bank)
    return logits if features is None else logits + features @ adapter.frame.basis_QV


@dataclass(frozen=True)
class Exported:
    """An export and what it should say."""

    out: Path
    adapter: RunAdapter
    ours: Tensor


@pytest.fixture(scope="session")
def input_ids() -> Tensor:
    """Tokens of the embedded vocabulary."""
    return torch.randint(0, 2048, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, input_ids: Tensor) -> dict[str, Exported]:
    """One export of every kind, by name."""
    root = tmp_path_factory.mktemp("exports")
    default = write_run(root, FLEET).path
    mixed = write_run(
        root, FLEET, heterotune={"lora_scope": "split", "gates": "trained", "personal_rank": 2, "targets": ["q_proj"]}
    ).path
    fedavg = write_run(root, FLEET, strategy="fedavg_lora").path
    full = write_run(root, FLEET[:1], strategy="fedavg_full").path
    untied_full = write_run(root, UNTIED, strategy="fedavg_full").path
    untied = write_run(root, UNTIED).path
    fedex = write_run(root, FLEET[:1], strategy="fedex_lora").path
    curved = write_run(root, FLEET[:1], heterotune={"activation": "silu", "personal_rank": 2}).path
    merged = ExportForm(merge=True)
    wanted = {name: (default, Choice(name), ExportForm()) for name in ("small", "large", "large-3q", "large-2q")}
    wanted |= {
        "split, gates, client 4": (mixed, Choice("large-3q", client=4), ExportForm()),
        "fedavg_lora": (fedavg, Choice("large"), ExportForm()),
        "fedex_lora": (fedex, Choice("small"), ExportForm()),
        "fedex_lora merged": (fedex, Choice("small"), merged),
        "untied": (untied, Choice("untied"), ExportForm()),
        "fedavg_lora merged": (fedavg, Choice("small"), merged),
        "fedavg_full merged": (full, Choice("small"), merged),
        "untied fedavg_full merged": (untied_full, Choice("untied"), merged),
        "merged without bias": (default, Choice("small"), ExportForm(merge=True, head="no-bias")),
        "merged without head": (default, Choice("small"), ExportForm(merge=True, head="without")),
        "silu": (curved, Choice("small", client=1), ExportForm()),
    }
    found = {}
    for name, (run_dir, choice, form) in wanted.items():
        out = root / name.replace(" ", "-")
        export_adapter(run_dir, out, choice, form)
        adapter = read_run_adapter(run_dir, choice)
        found[name] = Exported(out, adapter, our_logits(adapter, input_ids))
    return found


@pytest.fixture(scope="session")
def stock(exports: dict[str, Exported], input_ids: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers, peft and lm_eval make of the exports in a process without heterotune; see stock_process.py."""
    folder = tmp_path_factory.mktemp("stock")
    save_file({"input_ids": input_ids}, folder / "input_ids.safetensors")
    outs = {name: str(exported.out) for name, exported in exports.items()}
    (folder / "outs.json").write_text(json.dumps(outs))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "stock_process.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((folder / "found.json").read_text())
    return found | {"logits": load_file(folder / "logits.safetensors"), "folder": folder}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """`write_run` in a folder of this test."""
    return lambda fleet=FLEET[:1], **options: write_run(tmp_path, fleet, **options)


@pytest.fixture(scope="session")
def ours_of() -> Callable[[RunAdapter, Tensor], Tensor]:
    """`our_logits`."""
    return our_logits
