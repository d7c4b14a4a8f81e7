"""Read a run file, apply overrides, check everything, and say all that is wrong at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from heterotune.config.cross_checks import cross_field_problems
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.explain import shown, validation_problems
from heterotune.config.heterotune_options import settled_among
from heterotune.config.overrides import apply_override
from heterotune.config.schema import BEGUN, RunConfig
from heterotune.config.yaml_text import read_yaml, write_yaml
from heterotune.errors import ConfigError
from heterotune.plain_files import MAX_YAML_BYTES, read_small_text

HPZ_KEY = "zero_hpz_partition_size"


def load_run(path: str | Path, overrides: Sequence[str] = (), *, begun: bool = False) -> RunConfig:
    """Read and check a run file and the DeepSpeed JSON that it names.

    Args:
        path: A YAML file in UTF-8.
        overrides: `a.b=c` each, applied in order; list entries by number.
        begun: As for `parse_run`.

    Returns:
        The checked run. Relative paths in it are left relative to the working directory.

    Raises:
        ConfigError: With every problem of file, overrides and DeepSpeed JSON.
    """
    run, problems = read_yaml(_read_text(path), str(path))
    if run is None:
        raise ConfigError([f"{path}: the file is empty. Write a run, e.g. from a copy of launch/runs/demo.yaml."])
    for override in overrides:
        try:
            run = apply_override(run, override)
        except ConfigError as error:
            problems += error.problems
    problems += _ds_config_problems(run)
    try:
        config = parse_run(run, begun=begun)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return config


def parse_run(run: Mapping[str, Any], *, begun: bool = False) -> RunConfig:
    """Check plain values as YAML would give them (dicts, lists, scalars).

    Args:
        run: The whole run. Not changed.
        begun: It is that of a run folder, and stays what it was: what nobody should begin with is no problem any more.

    Returns:
        The checked run; the DeepSpeed JSON that it names has not been read.

    Raises:
        ConfigError: With every problem: those of single keys, then those between the sections that are sound.
    """
    run = dict(run) if isinstance(run, Mapping) else run
    try:
        return RunConfig.model_validate(run, context={BEGUN: begun})
    except ValidationError as error:
        problems = validation_problems(error, run, RunConfig)
        # pydantic checks across sections only when every section is sound, so the sound ones are checked here.
        if isinstance(run, dict) and not any(item["type"] == "cross_field" for item in error.errors()):
            problems += cross_field_problems(_sound_sections(run), begun=begun)
        raise ConfigError(problems) from None


def dump_run(config: RunConfig) -> str:
    """Write a run as YAML text, every default spelt out, that `load_run` reads back equal."""
    return write_yaml(config.model_dump(mode="json"))


def _read_text(path: str | Path) -> str:
    """Read the file, or say why it cannot be read."""
    try:
        return read_small_text(path, MAX_YAML_BYTES)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}). Check the path."]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8."]) from None


def _ds_config_problems(run: Any) -> list[str]:
    """Check the DeepSpeed JSON that a run names, as far as the run can be read."""
    backbone = run.get("backbone", {}) if isinstance(run, dict) else None
    name = backbone.get("ds_config", _default_ds_config()) if isinstance(backbone, dict) else None
    if not isinstance(name, str) or name in ("", NO_DEEPSPEED):
        return []
    try:
        ds_config = read_ds_config(name)
    except ConfigError as error:
        return [f"backbone.ds_config: {problem}" for problem in error.problems]
    return _two_kinds_of_group(ds_config["zero_optimization"].get(HPZ_KEY, 1), backbone.get("group", "world"))


def _two_kinds_of_group(hpz_ranks: int, group: Any) -> list[str]:
    """DeepSpeed's secondary shards are for ranks that all share one copy."""
    if hpz_ranks <= 1 or group == "world":
        return []
    text = f"backbone.group = {shown(group)} and {HPZ_KEY} = {hpz_ranks} of the DeepSpeed JSON both divide the ranks"
    return [f"{text}. Drop one of the two."]


def _default_ds_config() -> str:
    """The schema's default."""
    return RunConfig.model_fields["backbone"].get_default().ds_config


@functools.cache
def _section_adapters() -> dict[str, TypeAdapter]:
    """One validator per top-level key; built when a run is wrong for the first time."""
    return {name: TypeAdapter(Annotated[info.annotation, info]) for name, info in RunConfig.model_fields.items()}


def _sound_sections(run: dict) -> dict[str, Any]:
    """Validate each section alone; leave out those that fail or are missing; settle heterotune's "auto"."""
    sound = {}
    for name, info in RunConfig.model_fields.items():
        if name not in run:
            sound |= {} if info.is_required() else {name: info.get_default()}
            continue
        try:
            sound[name] = _section_adapters()[name].validate_python(run[name])
        except ValidationError:
            continue
    if {"heterotune", "data", "fleet", "local"} <= sound.keys():
        sound["heterotune"] = settled_among(sound)
    return sound
