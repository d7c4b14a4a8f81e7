"""Find a model type's adapter in a run folder: the global one after the last, the best or any saved round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.backbone.load import pick_dtype
from heterotune.checkpoint import checkpoint_name, newest_checkpoint, read_checkpoint
from heterotune.checkpoint_manifest import read_tensors
from heterotune.client_store import CLIENTS_FOLDER, ClientStore
from heterotune.config.field_types import StrategyName
from heterotune.config.load import load_run
from heterotune.config.nearest import suggestion
from heterotune.config.schema import RunConfig
from heterotune.errors import CheckpointError, ExportError
from heterotune.fleet.model_source import describe_model
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.randomness import NO_CLIENT
from heterotune.run_folder import CHECKPOINTS_FOLDER, RunFolder
from heterotune.server import GlobalAdapters

_FRAME = {"head.V": "down_RD", "head.mean": "mean_D", "head.Q": "basis_QV"}


@dataclass(frozen=True)
class Choice:
    """Which adapter of a run is wanted.

    Attributes:
        model_type: Name of the model type.
        strategy: Name of the strategy; None = the run's own, not one of `compare_with`.
        best: After the best round by held-out loss, instead of after the last.
        round_number: After this round, out of its checkpoint; None = as `best` says.
        client: Number of the client whose personal tensors go in, too; None = nobody's.
    """

    model_type: str
    strategy: str | None = None
    best: bool = False
    round_number: int | None = None
    client: int | None = None


@dataclass(frozen=True)
class RunAdapter:
    """One model type's adapter as a run left it.

    Attributes:
        config: The resolved run.
        folder: The strategy's folder: the run folder, or a folder in it.
        strategy: Name of the strategy.
        model_type: Whose adapter.
        layout: What it consists of.
        values: Name -> value of every tensor of the layout, float32 on the CPU, without a client axis.
        frame: The frozen part of the head branch, None without one.
        client: The client whose personal tensors are in `values`; None = they are as at the start.
        when: After which round, in words.
        base_change: Path of a frozen linear in `LlamaModel` -> what the method added to its weight, float32.
    """

    config: RunConfig
    folder: RunFolder
    strategy: StrategyName
    model_type: ModelType
    layout: AdapterLayout
    values: Mapping[str, Tensor]
    frame: HeadFrame | None
    client: int | None
    when: str
    base_change: Mapping[str, Tensor]

    @property
    def dtype(self) -> str:
        """That in which the run's frozen models computed."""
        return pick_dtype(self.config.backbone.dtype)


def read_run_adapter(run_dir: Path, choice: Choice) -> RunAdapter:
    """Read an adapter out of a run folder.

    Raises:
        LaunchError: If there is no such folder.
        ConfigError: If its config.yaml cannot be read.
        ModelError: If a model of its fleet is not here any more.
        ExportError: If the run has no such model type, strategy or client, or saved nothing of that round.
        CheckpointError: If a file is damaged.
    """
    folder = RunFolder.open(run_dir)
    config = load_run(folder.config_path, begun=True)
    strategy = _strategy(config, choice)
    if strategy != config.strategy:
        folder = RunFolder(folder.path / "compare" / strategy, folder.path)
    fleet = read_model_types(config.fleet, describe_model)
    model_type = _model_type(fleet, choice.model_type)
    _check_client(fleet, model_type, choice.client)
    layouts = [adapter_layout(strategy, config, each, fleet) for each in fleet]
    layout = layouts[model_type.index]
    if choice.best or choice.round_number is not None:
        round_number = _best_round(folder) if choice.round_number is None else choice.round_number
        shared, base, frame, clients = _of_checkpoint(folder.path, layouts, model_type.index, config, round_number)
        when = f"round {round_number}{', the best by held-out loss' if choice.best else ''}"
    else:
        shared, base, frame = _after_the_run(folder.path, layout)
        when, clients = f"round {config.rounds}, the last", folder.path / CLIENTS_FOLDER
    personal = _personal(clients, config, layout, choice.client)
    return RunAdapter(
        config, folder, strategy, model_type, layout, {**shared, **personal}, frame, choice.client, when, base
    )


def _strategy(config: RunConfig, choice: Choice) -> StrategyName:
    names = (config.strategy, *config.compare_with)
    if choice.strategy is None:
        return config.strategy
    if choice.strategy not in names:
        raise ExportError(f"--strategy {choice.strategy} is not in this run. {suggestion(choice.strategy, names)}")
    return choice.strategy


def _model_type(fleet: tuple[ModelType, ...], name: str) -> ModelType:
    by_name = {model_type.name: model_type for model_type in fleet}
    if name not in by_name:
        raise ExportError(f"--model-type {name} is not in this run's fleet. {suggestion(name, by_name)}")
    return by_name[name]


def _check_client(fleet: tuple[ModelType, ...], model_type: ModelType, client: int | None) -> None:
    """Clients are numbered in fleet order."""
    first = sum(other.num_clients for other in fleet[: model_type.index])
    last = first + model_type.num_clients - 1
    if client is not None and not first <= client <= last:
        raise ExportError(f"--client {client} holds no {model_type.name}: those are clients {first} to {last}.")


def _best_round(folder: RunFolder) -> int:
    """Return the best round by the newest checkpoint: its state is kept, with what the clients held then."""
    saved = newest_checkpoint(folder.path)
    best = None if saved is None else saved.facts.get("best")
    if not isinstance(best, dict) or type(best.get("round")) is not int:
        raise ExportError(f"{folder.path} kept no best round. See checkpoint.keep_best, or take --round N.")
    return best["round"]


def _after_the_run(path: Path, layout: AdapterLayout) -> tuple[dict[str, Tensor], dict[str, Tensor], HeadFrame | None]:
    """Read what a finished run wrote under adapters/."""
    file = path / "adapters" / f"{layout.model_type}.safetensors"
    if not file.is_file():
        rounds = ", ".join(str(number) for number in _saved_rounds(path)) or "none"
        raise ExportError(
            f"{file} is not there: the run has not ended. Take a saved round with --round N (there are: {rounds}), "
            f"or go on with `heterotune resume {path}`."
        )
    tensors = read_tensors(file)
    frame = HeadFrame(**{field: tensors[name] for name, field in _FRAME.items()}) if layout.head else None
    base = {site.module: tensors[f"{site.module}.base"] for site in layout.base if f"{site.module}.base" in tensors}
    return _common(tensors, layout, file), base, frame


def _of_checkpoint(
    path: Path, layouts: Sequence[AdapterLayout], place: int, config: RunConfig, round_number: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], HeadFrame | None, Path]:
    """Read common values, changes of frozen weights, head frame and the clients' folder of a checkpoint."""
    if round_number not in (rounds := _saved_rounds(path)):
        told = ", ".join(map(str, rounds)) or "none"
        raise ExportError(f"--round {round_number} is not saved in {path} (there are: {told}). See checkpoint.keep.")
    saved = read_checkpoint(path / CHECKPOINTS_FOLDER / checkpoint_name(round_number))
    adapters = GlobalAdapters(layouts, run_seed=config.seed)
    adapters.take_over(saved, config.collective.picked_wire_down)
    frame = None
    if layouts[place].head:
        frame = HeadFrame(**{field: saved.tensors[f"frames/{place}/{field}"] for field in _FRAME.values()})
    return adapters.of_model_type(place), adapters.base.of_model_type(place), frame, saved.clients


def _saved_rounds(path: Path) -> list[int]:
    names = (folder.name.removeprefix("round-") for folder in (path / CHECKPOINTS_FOLDER).glob("round-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _common(tensors: Mapping[str, Tensor], layout: AdapterLayout, file: Path) -> dict[str, Tensor]:
    """Return what is not a client's own; refuse other shapes than this run's: a file there may be anybody's."""
    values = {spec.name: tensors[spec.name] for spec in layout.tensors if spec.scope != "client"}
    for spec in layout.tensors:
        value = values.get(spec.name)
        if value is not None and (tuple(value.shape) != spec.shape or value.dtype != torch.float32):
            told = f"{spec.name} is {tuple(value.shape)} {value.dtype}, not {spec.shape} torch.float32"
            raise CheckpointError(f"{file}: {told}; it is not of this run.")
    return values


def _personal(clients: Path, config: RunConfig, layout: AdapterLayout, client: int | None) -> dict[str, Tensor]:
    """Return the personal tensors: a client's own, or their first values, with which the global adapter is scored."""
    store = ClientStore(clients, run_seed=config.seed)
    if client is not None:
        if not layout.trains_personal:
            raise ExportError(
                f"--client {client}: the clients of {layout.model_type} hold no tensors of their own in this run, so "
                "the global adapter is theirs. Leave --client out (heterotune.personal_rank gives them a branch)."
            )
        if not store.has_state(client):
            raise ExportError(f"--client {client} has trained nothing yet: {clients} holds nothing of it.")
    return store.load(NO_CLIENT if client is None else client, layout)
