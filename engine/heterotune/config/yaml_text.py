"""YAML text to plain values and back, by the YAML 1.2 core schema.

PyYAML alone follows YAML 1.1, which reads `1e-3` as text and `no` as false, and lets a repeated key win silently.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from heterotune.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 50  # a run needs four levels
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Order matters: the first pattern that fits wins.
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "|".join(_BOOL), list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


def _resolvers() -> dict[str, list]:
    """First character of a plain scalar -> tags and patterns to try in order: PyYAML's form of the core schema."""
    resolvers: dict[str, list] = {}
    for name, pattern, first_characters in _CORE_SCHEMA:
        for character in first_characters:
            resolvers.setdefault(character, []).append((_TAG + name, re.compile(rf"(?:{pattern})\Z")))
    return resolvers


class _RunLoader(yaml.SafeLoader):
    """Only maps, lists and plain scalars; remembers repeated keys."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[str, int]] = []
        self._depth = 0

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Build a dict, noting every key that is written twice."""
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    name = (key.tag, key.value)
                    self.repeated += [(key.value, key.start_mark.line + 1)] if name in seen else []
                    seen.add(name)
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Read a node, unless it is deeper than any run is."""
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {_DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys: the core schema has none, and merges of merges fill the memory from a few lines."""
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys are not supported", key.start_mark)

    def construct_number(self, node: yaml.Node) -> int | float:
        """Build an int or float as the core schema spells them."""
        text = self.construct_scalar(node)
        try:
            if node.tag == _TAG + "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        except ValueError:
            raise yaml.constructor.ConstructorError(None, None, "this is no number", node.start_mark) from None

    def construct_flag(self, node: yaml.Node) -> bool:
        """Build a bool."""
        text = self.construct_scalar(node)
        if text not in _BOOL:
            raise yaml.constructor.ConstructorError(None, None, "this is not true or false", node.start_mark)
        return _BOOL[text]

    yaml_constructors = {
        _TAG + "map": yaml.SafeLoader.construct_yaml_map,
        _TAG + "seq": yaml.SafeLoader.construct_yaml_seq,
        _TAG + "str": yaml.SafeLoader.construct_yaml_str,
        _TAG + "null": yaml.SafeLoader.construct_yaml_null,
        _TAG + "int": construct_number,
        _TAG + "float": construct_number,
        _TAG + "bool": construct_flag,
        None: yaml.SafeLoader.construct_undefined,
    }


class _RunDumper(yaml.SafeDumper):
    """Quotes what `_RunLoader` would read as something else than text."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal lists out each time."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escape what PyYAML would write raw and then read back as a line end (NEL, U+2028)."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')

    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: represent_text}


def read_yaml(text: str, origin: str) -> tuple[Any, list[str]]:
    """Read one YAML document.

    Args:
        text: The document.
        origin: What to call it in messages, e.g. the file's path.

    Returns:
        Dicts, lists, text, ints, floats, bools and None; and one line per repeated key.

    Raises:
        ConfigError: If it is not YAML; names line and column.
    """
    try:
        loader = _RunLoader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise ConfigError([f"{origin}{place}: not readable as YAML: {why}. Correct the text there."]) from None
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise ConfigError([f"{origin}: not readable as YAML: {why}. Correct the text there."]) from None
    except (ValueError, OverflowError) as error:  # PyYAML's own, for an escape such as "\\UFFFFFFFF"
        raise ConfigError([f"{origin}: not readable as YAML: {error}. Correct the text there."]) from None
    repeated = [
        f"{origin}, line {line}: the key {key!r} is already given above. Keep one of the two."
        for key, line in loader.repeated
    ]
    return value, repeated


def write_yaml(value: Any) -> str:
    """Write plain values as YAML that `read_yaml` reads back equal; innermost collections on one line."""
    return yaml.dump(value, Dumper=_RunDumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
