"""The profiles of a run's devices, whether they are in the run file or in one that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heterotune.config.device_options import DeviceProfile, DevicesConfig
from heterotune.config.explain import validation_problems
from heterotune.config.field_types import LARGEST_LIST, Name
from heterotune.config.nearest import suggestion
from heterotune.config.yaml_text import read_yaml
from heterotune.errors import ConfigError
from heterotune.plain_files import MAX_YAML_BYTES, in_home, read_small_text, shipped_places

SHIPPED_NAME = "devices"
"""In place of a path: the classes of devices that come with heterotune."""
_SHIPPED_FILES = shipped_places("devices.yaml", "launch/devices.yaml")


class _DeviceFile(BaseModel):
    """A file of profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    profiles: Annotated[dict[Name, DeviceProfile], Field(max_length=LARGEST_LIST)]
    """Name -> profile."""


def with_profiles(devices: DevicesConfig) -> DevicesConfig:
    """Return the section with all profiles, and without the file that some came from.

    Raises:
        ConfigError: If the file is missing or wrong, or a profile that is assigned is nowhere.
    """
    profiles = ({} if devices.file is None else read_profiles(devices.file)) | devices.profiles
    if problems := list(_unknown(devices, profiles)):
        raise ConfigError(problems)
    return devices.model_copy(update={"file": None, "profiles": profiles})


def read_profiles(path: Path) -> dict[str, DeviceProfile]:
    """Read a file of profiles: YAML with the one key `profiles`.

    Args:
        path: The file, which may begin with `~`; or `SHIPPED_NAME`.

    Raises:
        ConfigError: With every problem of the file.
    """
    try:
        text = read_small_text(_find(path), MAX_YAML_BYTES)
    except OSError as error:
        way_out = f"Check the path, or write {SHIPPED_NAME} for the classes that heterotune ships."
        raise ConfigError([f"devices.file = {path}: cannot be read ({error.strerror}). {way_out}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"devices.file = {path}: not UTF-8 text (byte {error.start}). Save it as UTF-8."]) from None
    values, problems = read_yaml(text, str(path))
    try:
        profiles = _DeviceFile.model_validate(values).profiles
    except ValidationError as error:
        problems += [f"{path}: {problem}" for problem in _explained(error, values)]
    if problems:
        raise ConfigError(problems)
    return profiles


def _find(path: Path) -> Path:
    """Tell the name of the shipped file from a path."""
    if str(path) == SHIPPED_NAME:
        return next((file for file in _SHIPPED_FILES if file.is_file()), _SHIPPED_FILES[0])
    return in_home(str(path))


def _explained(error: ValidationError, values: Any) -> list[str]:
    """Return the lines of a file that is no file of profiles at all, or of its keys that are wrong."""
    if not isinstance(values, dict):
        return ["a file of devices is a mapping. Write profiles: and a name for each."]
    return validation_problems(error, values, _DeviceFile)


def _unknown(devices: DevicesConfig, profiles: Mapping[str, DeviceProfile]) -> Iterator[str]:
    """Yield what is said of profiles that are nowhere."""
    for model_type, assigned in devices.assign.items():
        for name in assigned.shares:
            if name not in profiles:
                way_out = suggestion(name, profiles) if profiles else "Write it there, or name a file."
                yield f"devices.assign.{model_type} = {name} is not in devices.profiles. {way_out}"
