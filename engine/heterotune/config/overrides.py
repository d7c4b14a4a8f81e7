"""`--set a.b=c`: change one value of a run before it is checked."""

from __future__ import annotations

from typing import Any

from heterotune.config.explain import shown
from heterotune.config.yaml_text import read_yaml
from heterotune.errors import ConfigError


def apply_override(run: Any, override: str) -> Any:
    """Return a run with one value replaced or added.

    Args:
        run: Plain values as read from YAML. Not changed.
        override: `path=value`: names and list indices between dots, then a YAML value ("fleet.0.clients=3").

    Returns:
        A new run that shares what did not change with the old one.

    Raises:
        ConfigError: If the override cannot be read or its path leads nowhere.
    """
    origin = f"--set {override if override.isprintable() else shown(override)}"
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"{origin}: not of the form a.b=value. Write it like --set fleet.0.clients=3."])
    value, repeated = read_yaml(text, origin)
    if repeated:
        raise ConfigError(repeated)
    return _replaced(run, keys, value, origin)


def _replaced(node: Any, keys: list[str], value: Any, origin: str) -> Any:
    """Copy the containers along the path, so that YAML aliases elsewhere keep their value."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        index = _index(node, key, origin)
        return [*node[:index], _replaced(node[index], rest, value, origin), *node[index + 1 :]]
    if node is None or isinstance(node, dict):
        node = node or {}
        return {**node, key: _replaced(node.get(key), rest, value, origin)}
    text = f"{'.'.join(keys)} would be inside {shown(node)}, which has no keys"
    raise ConfigError([f"{origin}: {text}. Leave it out of the path, or set what it would be in."])


def _index(node: list, key: str, origin: str) -> int:
    """Read a list index, or say what the list holds."""
    if key.isascii() and key.isdigit() and int(key) < len(node):
        return int(key)
    names = [entry["name"] for entry in node if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
    if key in names:
        raise ConfigError([f"{origin}: entries go by number. Use {names.index(key)} for {key}."])
    numbers = f"Use a number from 0 to {len(node) - 1}." if node else "Give the whole list instead."
    raise ConfigError([f"{origin}: {key} is not one of the list's {len(node)} entries. {numbers}"])
