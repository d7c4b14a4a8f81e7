"""Seeded mutations of settings and of saved files: what a careless editor, a broken disk or an enemy leaves.

Tests import this by its path. `HOSTILE_SHARE=1` in the environment tries all of the 10,000 settings and 1,000 saved
files; without it, a small share of them.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

SHARE = float(os.environ.get("HOSTILE_SHARE", "0.02"))

NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"))
PATHS = (
    "../../x",
    "/dev/zero",
    "/dev/null/x",
    "/proc/self/mem",
    "~nobody-here/x",
    "a/" * 3000,
    ".",
    "..",
    "/",
    "a" * 300,
)
WORDS = (
    "auto",
    "none",
    "embedded:",
    "embedded:../..",
    "random:",
    "random:seed=1",
    "random:num_hidden_layers=9" + "9" * 17,
)
TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "\u2028",
    "\ufeff",
    "${HOME}",
    "$(reboot)",
    "%s%n",
    "x" * 20_000,
    "é",
    "true",
)
OTHERS = (None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"a": {"a": {}}}}, ["x"] * 1500)

BOMBS = (
    "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\ne: &e [*d,*d]\nf: &f [*e,*e]\nfleet: [*f,*f,*f]\n",
    "".join(f"k{n}: &k{n} {{!!merge a: [*k{n - 1},*k{n - 1}]}}\n" if n else "k0: &k0 {x: 1}\n" for n in range(40)),
    "".join(f"k{n}: &k{n} [*k{n - 1},*k{n - 1}]\n" if n else "k0: &k0 [1]\n" for n in range(60)) + "name: *k59\n",
    "fleet: &f [*f]\n",
    "name: &n {a: *n}\n",
    "data: &d\n  source: *d\n",
    "[" * 60_000,
    "{a: " * 60_000,
    "- " * 60_000,
    "? " * 60_000,
    "a: " + "9" * 60_000,
    "seed: 0x" + "f" * 60_000,
    'name: "\\UFFFFFFFF"\n',
    'name: "\\ud800"\n',
    "!!python/object/apply:os.system [reboot]\n",
    "%YAML 9.9\n---\na: 1\n",
    "a: 1\n" * 20_000,
    "---\n" * 1000,
)


def mutated_tree(tree: Any, draw: random.Random) -> Any:
    """Return a copy with one to three values replaced, removed, renamed, moved or buried."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        place = draw.choice(list(_containers(tree)))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        action = draw.choice(("replace", "replace", "replace", "remove", "rename", "add", "bury", "swap"))
        if not keys or action == "add":
            _add(place, draw)
        elif action == "remove":
            del place[draw.choice(keys)]
        elif action == "rename" and isinstance(place, dict):
            place[_renamed(draw.choice(keys), draw)] = place.pop(draw.choice(keys))
        elif action == "bury":
            place[draw.choice(keys)] = _buried(draw.choice((3, 60, 400)), draw)
        elif action == "swap":
            first, second = draw.choice(keys), draw.choice(keys)
            place[first], place[second] = place[second], place[first]
        else:
            place[draw.choice(keys)] = hostile_value(draw)
    return tree


def hostile_value(draw: random.Random) -> Any:
    """Return a value that hardly fits anywhere."""
    return copy.deepcopy(draw.choice(draw.choice((NUMBERS, PATHS, WORDS, TEXTS, OTHERS))))


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return bytes cut, flipped, doubled, or with others in between."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(content) + 1)
        action = draw.choice(("flip", "insert", "cut", "truncate", "double"))
        if action == "flip" and place < len(content):
            content[place] ^= 1 << draw.randrange(8)
        elif action == "insert":
            junk = (
                b"\x00",
                b"\xff\xfe",
                b"\xed\xa0\x80",
                b"{",
                b"[",
                b"\n- ",
                b"&a *a",
                b"\xef\xbb\xbf",
                b"!!",
                b"9" * 50,
            )
            content[place:place] = draw.choice(junk)
        elif action == "cut":
            del content[place : place + draw.randint(1, 20)]
        elif action == "truncate":
            del content[place:]
        else:
            content[place:place] = content[place : place + draw.randint(1, 200)]
    return bytes(content)


def as_json(tree: Any, draw: random.Random) -> bytes:
    """Write a tree, now and then with a key given twice or bytes changed."""
    content = json.dumps(tree, indent=draw.choice((None, 1))).encode()
    if draw.random() < 0.1:
        content = content.replace(b"{", b'{"name": 1, "name": 2, ', 1)
    return mutated_bytes(content, draw) if draw.random() < 0.3 else content


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def _add(place: Any, draw: random.Random) -> None:
    value = hostile_value(draw)
    place.update({_renamed("x", draw): value}) if isinstance(place, dict) else place.append(value)


def _renamed(key: Any, draw: random.Random) -> str:
    key = str(key)
    return draw.choice((key.upper(), key + "s", key[1:], "", "\x00", key + ".x", "__class__", "a" * 2000, "*", "<<"))


def _buried(depth: int, draw: random.Random) -> Any:
    value = hostile_value(draw)
    for _ in range(depth):
        value = [value] if draw.random() < 0.5 else {"x": value}
    return value
